"""Pyramids, anchors and heads: sizes, places, gradients, and the same network as before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.evaluation.detection.made import TINY, tiny_encoder
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from contextae.encoder import EncoderConfig
from contextae.errors import UserError
from contextae.evaluation.detection.anchors import Anchors, Pooling
from contextae.evaluation.detection.network import TRUNK, Detector, _in_regions, build_detector, padded
from contextae.evaluation.detection.pyramid import PYRAMIDS, Backbone
from contextae.evaluation.trunk import Trunk


def detector(**changes: object) -> Detector:
    settings = replace(TINY, **changes)  # type: ignore[arg-type]
    return build_detector(tiny_encoder(), num_classes=2, masks=True, settings=settings, seed=0)


def targets(*, empty: bool = False) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 6, 20, 22], [30, 30, 47, 44]])
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 6:22, 4:20] = masks[1, 30:44, 30:47] = 1
    some = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    return [none if empty else some, none]


@pytest.mark.parametrize("kind", ["released", "simple"])
def test_five_maps_of_a_quarter_patch_to_four_patches(kind: str) -> None:
    trunk = Trunk(tiny_encoder(), image_size=(64, 96))
    backbone = Backbone(trunk=trunk, pyramid=PYRAMIDS[kind](width=24, channels=10), channels=10)
    maps = list(backbone(torch.randn(2, 3, 64, 96)).values())
    assert [tuple(each.shape[1:]) for each in maps] == [(10, 32, 48), (10, 16, 24), (10, 8, 12), (10, 4, 6), (10, 2, 3)]


def test_the_released_pyramid_reads_four_depths_and_the_simple_one_the_last() -> None:
    maps = [torch.randn(1, 24, 4, 4, requires_grad=True) for _ in range(4)]
    for kind, read in (("released", 4), ("simple", 1)):
        found = PYRAMIDS[kind](width=24, channels=10)(maps)
        gradients = torch.autograd.grad(sum(each.square().sum() for each in found.values()), maps, allow_unused=True)  # type: ignore[arg-type]
        assert sum(each is not None and bool(each.abs().sum() > 0) for each in gradients) == read


@pytest.mark.parametrize("learned", [False, True])
def test_another_size_is_what_a_trunk_of_that_size_sees(learned: bool) -> None:
    encoder = tiny_encoder(learned=learned)
    other = Trunk(encoder, image_size=(64, 32)).eval()
    backbone = Backbone(trunk=Trunk(encoder).eval(), pyramid=torch.nn.Identity(), channels=1)
    images = torch.randn(2, 3, 64, 32)
    for ours, wanted in zip(backbone.trunk.maps(images), other.maps(images), strict=True):
        assert torch.allclose(ours, wanted, atol=1e-5)


def test_anchors_lie_around_the_middles_of_cells() -> None:
    anchors = Anchors(patch=14, scales=(4.0, 8.0), ratios=(0.5, 2.0))
    maps = [torch.zeros(1, 1, 2 * n, 3 * n) for n in (16, 8, 4, 2, 1)]
    (found, again) = anchors(ImageList(torch.zeros(2, 3, 112, 168), [(112, 168)] * 2), maps)
    assert found is again and anchors.per_cell == 4 and len(found) == 4 * sum(m.shape[2] * m.shape[3] for m in maps)
    first = found[:4]
    middles, sides = (first[:, :2] + first[:, 2:]) / 2, first[:, 2:] - first[:, :2]
    assert torch.allclose(middles, torch.full((4, 2), 3.5 / 2), atol=1e-5)
    assert torch.allclose(sides.prod(dim=1).sqrt(), torch.tensor([14.0, 14, 28, 28]))
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 2, 0.5, 2]))
    row, column = found[8], found[4 * 48]  # two cells to the right, one cell below the first
    assert [(row[0] + row[2]) / 2, (row[1] + row[3]) / 2] == pytest.approx([3.5 * 2.5, 1.75])
    assert [(column[0] + column[2]) / 2, (column[1] + column[3]) / 2] == pytest.approx([1.75, 3.5 * 1.5])
    last = found[-1]  # of the level of four patches
    assert [(last[0] + last[2]) / 2, (last[1] + last[3]) / 2] == pytest.approx([56 * 2.5, 56 * 1.5])
    assert (last[2:] - last[:2]).prod().sqrt() == pytest.approx(8 * 56)


def test_regions_are_read_where_they_lie() -> None:
    pool = Pooling(7, patch=14)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    maps = {}
    for level in range(4):
        n = 64 >> level
        stride = 3.5 * 2**level
        maps[str(level)] = torch.stack([(columns[:n, :n] + 0.5) * stride, (rows[:n, :n] + 0.5) * stride])[None]
    boxes = torch.tensor([[30.0, 40, 44, 61], [20, 30, 120, 150], [10, 20, 200, 210]])
    values = pool(maps, [boxes], [(224, 224)])
    assert torch.allclose(values.mean(dim=(2, 3)), (boxes[:, :2] + boxes[:, 2:]) / 2, atol=1e-3)


def test_the_weight_of_the_boxes_is_that_of_the_settings() -> None:
    images, losses = torch.randn(2, 3, 64, 64), []
    for weight in (0.0, 10.0, 20.0):
        model = detector(giou_weight=weight, drop_path=0.0).train()
        torch.manual_seed(0)  # of the regions that are drawn
        losses.append(model(images, [(64, 64)] * 2, targets()).item())
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-4) and losses[0] < losses[1]


def test_masks_are_read_in_their_regions() -> None:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    masks = torch.stack([columns, rows]).to(torch.uint8)  # not 0 and 1, so that a value tells its place
    regions = torch.tensor([[4.0, 8, 32, 36], [4, 8, 32, 36]])
    across, down = _in_regions(masks, regions, torch.tensor([0, 1]))
    assert torch.allclose(across[3], torch.arange(28.0) + 4, atol=1e-4)
    assert torch.allclose(down[:, 3], torch.arange(28.0) + 8, atol=1e-4)


def test_every_weight_gets_a_gradient_and_images_without_objects_are_learned_from() -> None:
    for kind in ("released", "simple"):
        model = detector(pyramid=kind, box_convolutions=1, drop_path=0.0).train()
        images = torch.randn(2, 3, 64, 64)
        model(images, [(64, 64)] * 2, targets()).backward()
        without = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
        assert without <= {f"{TRUNK}.encoder.norm.weight", f"{TRUNK}.encoder.norm.bias"}
        model.zero_grad()
        loss = model(images, [(64, 64), (50, 40)], targets(empty=True))
        loss.backward()
        assert loss.isfinite() and all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())


def test_what_is_found_lies_in_the_image_and_is_limited() -> None:
    model = detector(least_score=0.0, detections=7).eval()
    found = model.find(torch.randn(2, 3, 64, 64), [(64, 64), (40, 50)])
    for each, (height, width) in zip(found, ((64, 64), (40, 50)), strict=True):
        assert each["boxes"].shape == (7, 4) and each["masks"].shape == (7, 28, 28)
        assert each["boxes"].min() >= 0 and (each["boxes"].amax(dim=0)[2:] <= torch.tensor([width, height])).all()
        assert set(each["labels"].tolist()) <= {1, 2}
        for of in (1, 2):
            boxes = each["boxes"][each["labels"] == of]
            assert not len(boxes) or (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.5 + 1e-6


def test_boxes_are_exact_in_bfloat16_too() -> None:
    """Its 8 bits know no coordinate beyond 256 to less than 2 pixels."""
    found = detector()
    images, sizes = torch.randn(2, 3, 512, 512), [(512, 512)] * 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = found.backbone(images)
        assert maps["0"].dtype == torch.bfloat16
        boxes, _ = found.eval().proposals(ImageList(images, sizes), maps)
        loss = found.train()(images, sizes, targets())
        seen = found.eval().find(images, sizes)
    middles = torch.cat(boxes)
    assert middles.dtype == torch.float32 and not torch.equal(middles, middles.bfloat16().float())
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(each["boxes"].dtype == each["scores"].dtype == torch.float32 for each in seen)


def test_heads_are_a_function_of_the_seed_and_the_trunk_is_a_copy() -> None:
    encoder = tiny_encoder()
    one, same, other = (
        build_detector(encoder, num_classes=2, masks=False, settings=TINY, seed=seed) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.regions.box_head.fc6.weight, other.regions.box_head.fc6.weight)
    assert torch.equal(other.backbone.trunk.encoder.patch_embed.weight, encoder.patch_embed.weight)
    assert not one.regions.has_mask() and detector().regions.has_mask()


def test_oblong_patches_are_refused() -> None:
    encoder = EncoderConfig(patch_size=(4, 8), width=8, depth=1, num_heads=1).build(image_size=(8, 16), channels=1)
    with pytest.raises(UserError, match=r"needs an encoder of images with square patches.*\(4, 8\)"):
        build_detector(encoder, num_classes=1, masks=False, settings=TINY, seed=0)
    assert [padded(length, 16) for length in (1, 64, 65, 256)] == [64, 64, 128, 256]
