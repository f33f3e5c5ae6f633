"""Heads and pyramid: shapes, what each part sees, and their behaviour in evaluation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contextae.evaluation.heads.dense import LinearDenseHead, at_size, pixel_loss
from contextae.evaluation.heads.pyramid import ViTPyramid
from contextae.evaluation.heads.upernet import FCNHead, UPerHead

MAPS = [(16, 24), (8, 12), (4, 6), (2, 3)]


def maps(width: int = 6, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, width, *size) for size in MAPS]


@pytest.mark.parametrize(("grid", "last"), [((4, 6), (2, 3)), ((5, 7), (3, 4)), ((1, 6), (1, 3))])
def test_the_pyramid_has_four_two_one_and_half_of_the_grid(grid: tuple[int, int], last: tuple[int, int]) -> None:
    pyramid = ViTPyramid(width=6)
    given = [torch.randn(2, 6, *grid) for _ in range(4)]
    found = pyramid(given)
    assert [tuple(each.shape[2:]) for each in found] == [
        (4 * grid[0], 4 * grid[1]),
        (2 * grid[0], 2 * grid[1]),
        grid,
        last,
    ]
    assert found[2] is given[2]
    assert torch.equal(found[3], F.max_pool2d(given[3], 2, ceil_mode=True))
    kinds = [type(each) for each in pyramid.up4]
    assert kinds == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.GELU, nn.ConvTranspose2d]


def test_upernet_sees_every_level_and_answers_at_the_finest() -> None:
    head = UPerHead(width=6, channels=8, num_classes=5).eval()
    given = [each.requires_grad_() for each in maps()]
    logits = head(given)
    assert logits.shape == (2, 5, 16, 24)
    logits[0, 0, 3, 3].backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in given)
    assert (given[0].grad[0, :, 12:, 12:] == 0).all(), "fine levels are seen near by"
    assert (given[3].grad[0] != 0).any(dim=0).all(), "and the coarsest as a whole"
    assert all((each.grad[1] == 0).all() for each in given), "no other image in evaluation"


def test_what_is_coarse_is_added_to_every_finer_level() -> None:
    head = UPerHead(width=6, channels=8, num_classes=5).eval()
    given, seen = maps(), []
    for smooth in head.smooth:
        smooth.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    head(given)
    for coarser in (1, 2, 3):
        seen.clear()
        head(given)
        head([torch.zeros_like(each) if level == coarser else each for level, each in enumerate(given)])
        changed = [not torch.equal(seen[level], seen[level + 3]) for level in range(3)]
        assert changed == [level <= coarser for level in range(3)]


def test_every_weight_of_the_heads_learns() -> None:
    head, auxiliary = UPerHead(width=6, channels=8, num_classes=3), FCNHead(width=6, channels=4, num_classes=3)
    given = maps()
    labels = torch.randint(3, (2, 32, 48))
    (pixel_loss(head(given), labels, -1) + pixel_loss(auxiliary(given[2]), labels, -1)).backward()
    for part in (head, auxiliary):
        for name, weight in part.named_parameters():
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_heads_in_evaluation_give_the_same_for_an_image_alone() -> None:
    head = UPerHead(width=6, channels=8, num_classes=5)
    for _ in range(3):
        head(maps())
    head.eval()
    given = maps(batch=3)
    assert torch.allclose(head(given)[1:2], head([each[1:2] for each in given]), atol=1e-6)
    assert torch.equal(head(given), head(given)), "dropout is off"


def test_the_linear_head_is_one_layer_on_whitened_latents() -> None:
    mixing = torch.randn(6, 6) * torch.tensor([10.0, 3, 1, 1, 0.3, 0.1]).reshape(-1, 1)
    latents = torch.einsum("bdhw,de->behw", torch.randn(50, 6, 4, 6), mixing) + 3
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    head = LinearDenseHead(mean=rows.mean(0), covariance=rows.T.cov(correction=0), num_classes=4, eps=1e-9)
    assert {name for name, _ in head.named_parameters()} == {"classifier.weight", "classifier.bias"}
    whitened = ((rows - rows.mean(0)) @ head.whitening.double()).T.cov(correction=0)
    assert torch.allclose(whitened, torch.eye(6, dtype=torch.float64), atol=1e-3)
    weight = head.classifier.weight[:, :, 0, 0]
    expected = (rows.float() - head.mean) @ head.whitening @ weight.T
    assert torch.allclose(head(latents).permute(0, 2, 3, 1).flatten(0, 2), expected, atol=1e-4)
    assert torch.allclose(head(latents)[3:4], head(latents[3:4]), atol=1e-5)


def test_the_loss_is_the_mean_over_pixels_that_are_not_void() -> None:
    logits, labels = torch.randn(2, 3, 4, 6), torch.randint(3, (2, 8, 12))
    labels[0, :3] = -1
    large = at_size(logits, (8, 12)).permute(0, 2, 3, 1)[labels != -1]
    assert torch.allclose(pixel_loss(logits, labels, -1), F.cross_entropy(large, labels[labels != -1]))
    nothing = pixel_loss(logits.requires_grad_(), torch.full_like(labels, -1), -1)
    nothing.backward()
    assert nothing == 0 and logits.grad is not None and (logits.grad == 0).all()
