"""The d-VAE as a network: a code for each place, row-major, and images of codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contextae.errors import UserError
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.frozen import Pictured, Tokenizer
from networks import largest, shake


def small(*, stride: int = 4, channels: int = 2, num_codes: int = 13) -> DVAE:
    torch.manual_seed(0)
    dvae = DVAE(channels=channels, num_codes=num_codes, stride=stride, width=12)
    shake(dvae)
    return dvae.eval()


def images(height: int = 12, width: int = 20, channels: int = 2) -> torch.Tensor:
    return torch.rand(3, channels, height, width, generator=torch.Generator().manual_seed(2))


def test_codes_are_the_likeliest_ones_row_by_row() -> None:
    dvae = small()
    assert isinstance(dvae, Tokenizer) and isinstance(dvae, Pictured)
    logits = dvae.logits(images())
    assert logits.shape == (3, 13, 3, 5)
    codes = dvae.codes(images())
    by_row = [[int(logits[b, :, i, j].argmax()) for i in range(3) for j in range(5)] for b in range(3)]
    assert codes.tolist() == by_row
    by_column = [[int(logits[b, :, i, j].argmax()) for j in range(5) for i in range(3)] for b in range(3)]
    assert codes.tolist() != by_column and len(codes.unique()) > 3, "or the order would not show"


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_any_grid_of_its_stride_gives_one_code_a_place(stride: int) -> None:
    dvae = small(stride=stride)
    for grid in ((1, 1), (3, 5), (7, 2)):
        size = dvae.input_size(grid)
        assert size == (grid[0] * stride, grid[1] * stride)
        codes = dvae.codes(images(*size))
        assert codes.shape == (3, grid[0] * grid[1]) and codes.dtype == torch.int64
        assert 0 <= codes.min() and codes.max() < 13
        decoded = dvae.decode(codes, grid)
        assert decoded.shape == (3, 2, *size)
        assert 0 <= decoded.min() and decoded.max() <= 1


def test_what_is_in_one_corner_tells_most_about_the_place_there() -> None:
    dvae, one = small(), images(24, 40)
    other = one.clone()
    other[..., -4:, :4] = 1 - other[..., -4:, :4]
    by_place = (dvae.logits(other) - dvae.logits(one)).abs().amax((0, 1))
    assert by_place.shape == (6, 10)
    assert by_place[4:, :2].amax() == by_place.amax() > 5 * by_place[:, 5:].amax()
    codes = torch.randint(13, (1, 60))
    changed = codes.clone()
    changed[0, 50] = (changed[0, 50] + 1) % 13
    difference = (dvae.decode(changed, (6, 10)) - dvae.decode(codes, (6, 10))).abs().amax((0, 1))
    assert difference[16:, :8].amax() == difference.amax() > 5 * difference[:, 20:].amax()


def test_a_longer_image_has_the_same_codes_far_from_where_it_goes_on() -> None:
    """Convolutions alone would give the same codes; norms over the whole image move the logits a little."""
    dvae = small().double()
    image = images(8, 200).double()
    for module in dvae.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    whole, part = dvae.logits(image), dvae.logits(image[..., :160])
    torch.testing.assert_close(part[..., :30], whole[..., :30])


def test_an_image_has_the_same_codes_whoever_else_is_in_the_batch() -> None:
    dvae = small()
    dvae.train()
    assert torch.equal(dvae.codes(images())[1:2], dvae.codes(images()[1:2])), "no statistics over a batch"


def test_images_of_codes_are_those_of_their_vectors_of_the_codebook() -> None:
    dvae = small()
    codes = torch.randint(13, (2, 15))
    vectors = dvae.codebook[codes].unflatten(1, (3, 5)).permute(0, 3, 1, 2)
    torch.testing.assert_close(dvae.decode(codes, (3, 5)), (dvae.decoder(vectors) + 0.5).clamp(0, 1))
    hard = F.one_hot(codes.unflatten(1, (3, 5)), 13).permute(0, 3, 1, 2).float()
    soft = dvae.images(0.25 * hard + 0.75 * hard.roll(1, dims=1))
    mixed = dvae.decoder(
        0.25 * vectors + 0.75 * dvae.codebook[(codes + 1) % 13].unflatten(1, (3, 5)).permute(0, 3, 1, 2)
    )
    torch.testing.assert_close(soft, mixed + 0.5, atol=1e-5, rtol=1e-5)


def test_codes_are_those_of_float32_under_autocast_and_carry_no_gradient() -> None:
    dvae, some = small(), images(64, 100)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = dvae.logits(some).argmax(1).flatten(1)
        codes = dvae.codes(some)
    assert torch.equal(codes, dvae.codes(some)) and not torch.equal(codes, rounded)
    assert not dvae.decode(codes, (16, 25)).requires_grad
    assert largest(dvae.logits(some)) > 0 and dvae.logits(some).requires_grad


@pytest.mark.parametrize("stride", [0, 1, 3, 6, 12, -4])
def test_a_stride_that_is_no_power_of_two_is_refused(stride: int) -> None:
    with pytest.raises(UserError, match=rf"must be a power of two, 2 at least\. Got {stride}\."):
        DVAE(channels=1, num_codes=5, stride=stride, width=8)
