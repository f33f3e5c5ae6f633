"""How good a tokenizer is on given images: what its codes lose, and how much of the codebook they use."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.kmeans import PatchCodebook


class Usage(NamedTuple):
    """`error`: mean squared error of the decoded images in 0..1; `error_over_variance`: as a share of the variance of
    the images around their mean colour. `used`: codes that occur at all, of `num_codes`; `perplexity`: exponential of
    the entropy of their frequencies, so that many codes used rarely count for little.
    """

    error: float
    error_over_variance: float
    used: int
    num_codes: int
    perplexity: float

    def words(self) -> str:
        """One line for the user."""
        decibels = -10 * math.log10(max(1e-12, self.error))
        return (
            f"error {self.error_over_variance:.3f} of the images' variance ({decibels:.1f} dB PSNR), {self.used:,} of "
            f"{self.num_codes:,} codes in use, perplexity {self.perplexity:.0f}"
        )


@torch.no_grad()
def measure_usage(tokenizer: DVAE | PatchCodebook, images: Float[Tensor, "b c h w"]) -> Usage:
    """Of hard codes, for images in 0..1; 64 at a time."""
    one = tokenizer.input_size((1, 1))
    size = images.shape[2] // one[0], images.shape[3] // one[1]
    counts = torch.zeros(tokenizer.num_codes, dtype=torch.long)
    squares = 0.0
    for part in images.split(64):
        codes = tokenizer.codes(part)
        counts += torch.bincount(codes.flatten().cpu(), minlength=tokenizer.num_codes)
        squares += float((tokenizer.decode(codes, size) - part).double().square().sum())
    error = squares / images.numel()
    variance = float((images - images.mean((0, 2, 3), keepdim=True)).double().square().mean())
    shares = counts.double() / counts.sum()
    perplexity = math.exp(-float(torch.xlogy(shares, shares).sum()))
    return Usage(error, error / max(1e-12, variance), int((counts > 0).sum()), tokenizer.num_codes, perplexity)
