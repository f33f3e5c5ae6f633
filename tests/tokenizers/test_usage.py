"""What `measure_usage` says, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.kmeans import PatchCodebook
from contextae.tokenizers.usage import Usage, measure_usage


def flat(*values: float, channels: int = 1) -> PatchCodebook:
    """A codebook of flat patches of 2 x 3 pixels."""
    codebook = PatchCodebook(channels=channels, patch_size=(2, 3), num_codes=len(values))
    codebook.patches.copy_(torch.tensor(values).reshape(-1, 1).expand(codebook.patches.shape))
    return codebook


def test_four_patches_by_hand() -> None:
    """Gray levels 0, 0.1, 0.4 and 1 against patches of 0, 0.5, 0.9 and 7: errors 0, 0.1, 0.1 and 0.1."""
    levels = torch.tensor([[0.0, 0.1], [0.4, 1.0]])
    image = levels.repeat_interleave(2, 0).repeat_interleave(3, 1).reshape(1, 1, 4, 6)
    usage = measure_usage(flat(0.0, 0.5, 0.9, 7.0), image)
    assert usage.error == pytest.approx(0.03 / 4, rel=1e-5)
    variance = (0.375**2 + 0.275**2 + 0.025**2 + 0.625**2) / 4
    assert usage.error_over_variance == pytest.approx(0.03 / 4 / variance, rel=1e-5)
    assert (usage.used, usage.num_codes) == (3, 4)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))  # two places have code 0
    assert usage.perplexity == pytest.approx(math.exp(entropy), rel=1e-6)


def test_the_variance_is_around_the_mean_colour_of_each_channel() -> None:
    image = torch.rand(5, 2, 4, 9, generator=torch.Generator().manual_seed(0))
    image[:, 1] += 3
    usage = measure_usage(flat(0.5, 3.5, channels=2), image)
    own = [image[:, c] - image[:, c].mean() for c in (0, 1)]
    variance = sum(float(each.double().square().mean()) for each in own) / 2
    assert usage.error_over_variance == pytest.approx(usage.error / variance, rel=1e-5)
    whole = float((image - image.mean()).square().mean())
    assert abs(variance / whole - 1) > 0.5


def test_images_are_counted_across_the_parts_it_looks_at() -> None:
    """130 images are three parts: the first 100 of one code, the others of another."""
    levels = torch.cat([torch.full((100,), 0.2), torch.full((30,), 0.7)])
    images = levels.reshape(-1, 1, 1, 1).expand(-1, 1, 2, 6)
    usage = measure_usage(flat(0.2, 0.4, 0.6), images)
    assert usage.error == pytest.approx(30 / 130 * 0.01, rel=1e-5)
    assert usage.used == 2
    shares = (100 / 130, 30 / 130)
    assert usage.perplexity == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-6)


def test_of_a_dvae_it_is_what_the_hard_codes_decode_to() -> None:
    dvae = DVAE(channels=2, num_codes=5, stride=2, width=8)
    images = torch.rand(3, 2, 6, 10)
    usage = measure_usage(dvae, images)
    codes = dvae.codes(images)
    assert usage.used == len(codes.unique())
    decoded = dvae.decode(codes, (3, 5))
    assert usage.error == pytest.approx(float((decoded - images).square().mean()), rel=1e-5)


def test_flat_images_divide_by_no_zero() -> None:
    usage = measure_usage(flat(0.5, 0.25), torch.full((2, 1, 4, 6), 0.5))
    assert usage == Usage(0.0, 0.0, 1, 2, 1.0)
    assert "error 0.000 of the images' variance (120.0 dB PSNR)" in usage.words()


def test_its_line_for_the_user() -> None:
    words = Usage(error=0.01, error_over_variance=0.2, used=1234, num_codes=8192, perplexity=876.4).words()
    assert words == ("error 0.200 of the images' variance (20.0 dB PSNR), 1,234 of 8,192 codes in use, perplexity 876")
