"""How a training is doing, without labels: latents of a fixed set of images, measured and judged in one word.

Latents leave the encoder through a LayerNorm, so their length says nothing; what tells is how much they differ between
patches and images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from contextae.methods.method import Method

Word = Literal["healthy", "collapsing", "diverging", "data-bound"]

LEAST_RANK_SHARE = 0.5
"""Of the effective rank at the start: below, latents are collapsing."""
LEAST_SPREAD_SHARE = 0.5
"""Of the spread at the start."""
MOST_LOSS_GROWTH = 1.5
"""Of the lowest reconstruction so far: above, the training is diverging."""
MOST_WAITING = 0.3
"""Share of time spent waiting for data."""


class Health(NamedTuple):
    """Measured over all patches of the images looked at.

    `spread_*`: standard deviation of a dimension over patches and images, mean over dimensions. `effective_rank_*`:
    exponential of the entropy of the covariance's spectrum (Roy and Vetterli, EUSIPCO 2007). `alignment_over_mean`: the
    alignment as a share of what a constant prediction, the mean latent at each place of the grid, would get. `waiting`:
    share of time the training waited for data.
    """

    reconstruction: float
    alignment: float
    alignment_over_mean: float
    spread_visible: float
    spread_predicted: float
    effective_rank_visible: float
    effective_rank_predicted: float
    waiting: float


class Verdict(NamedTuple):
    """One word, and the figures it rests on."""

    word: Word
    reason: str


@torch.no_grad()
def measure(method: Method, batches: Iterable[Any], *, waiting: float) -> Health:
    """Looks at batches, always the same ones, in evaluation mode; the method is left as it was found."""
    training = method.training
    method.eval()
    visible, predicted, aligned_to, masked, losses = [], [], [], [], []
    try:
        for batch in batches:
            trace = method.trace(batch)
            visible.append(trace.visible.float())
            predicted.append(trace.predicted.float())
            aligned_to.append(trace.aligned_to.float())
            masked.append(batch.mask.masked)
            losses.append(method(batch).parts.get("reconstruction", torch.tensor(math.nan)).float().item())
    finally:
        method.train(training)
    z, guess, wanted, places = (torch.cat(parts) for parts in (visible, predicted, aligned_to, masked))
    alignment = (guess - wanted).square().mean().item()
    return Health(
        reconstruction=sum(losses) / len(losses),
        alignment=alignment,
        alignment_over_mean=alignment / max(1e-12, error_of_mean(wanted, places)),
        spread_visible=spread(z),
        spread_predicted=spread(guess),
        effective_rank_visible=effective_rank(z),
        effective_rank_predicted=effective_rank(guess),
        waiting=waiting,
    )


def spread(latents: Float[Tensor, "b s d"]) -> float:
    """Standard deviation over all patches of all images, mean over dimensions."""
    return latents.flatten(0, 1).std(dim=0).mean().item()


def effective_rank(latents: Float[Tensor, "b s d"]) -> float:
    """Between 1 and d: over how many directions the latents spread."""
    if not latents.isfinite().all():
        return math.nan
    spectrum = torch.linalg.eigvalsh(latents.flatten(0, 1).double().T.cov()).clamp(min=0)
    if spectrum.sum() < 1e-12:
        return 1.0
    shares = spectrum / spectrum.sum()
    return math.exp(-torch.xlogy(shares, shares).sum().item())


def error_of_mean(wanted: Float[Tensor, "b m d"], places: Tensor) -> float:
    """Mean squared error of predicting at each place of the grid the mean of the latents met there."""
    flat, place = wanted.flatten(0, 1), places.flatten()
    count = torch.bincount(place, minlength=int(place.max()) + 1).clamp(min=1).unsqueeze(1)
    mean = torch.zeros(len(count), flat.shape[1], device=flat.device).index_add_(0, place, flat) / count
    return (flat - mean[place]).square().mean().item()


def verdict(history: Sequence[Health]) -> Verdict:
    """Judges the last measurement by those before, the first of which is of the untrained network."""
    first, now = history[0], history[-1]
    if not all(math.isfinite(value) for value in now[:-1]):
        return Verdict("diverging", "a measurement is not a finite number")
    lowest = min(each.reconstruction for each in history)
    if now.reconstruction > MOST_LOSS_GROWTH * lowest:
        return Verdict("diverging", f"reconstruction {now.reconstruction:.3f}, after {lowest:.3f} at its best")
    for what, value, start, share in (
        (
            "effective rank of visible latents",
            now.effective_rank_visible,
            first.effective_rank_visible,
            LEAST_RANK_SHARE,
        ),
        ("spread of visible latents", now.spread_visible, first.spread_visible, LEAST_SPREAD_SHARE),
    ):
        if value < share * start:
            return Verdict("collapsing", f"{what} {value:.3g}, {start:.3g} at the start")
    if now.waiting > MOST_WAITING:
        return Verdict(
            "data-bound", f"{100 * now.waiting:.0f} % of the time spent waiting for data; raise training.workers"
        )
    return Verdict(
        "healthy",
        f"reconstruction {now.reconstruction:.3f}, alignment {now.alignment_over_mean:.2f} of the mean's, "
        f"effective rank {now.effective_rank_visible:.1f}, spread {now.spread_visible:.2f}",
    )


def score(health: Health) -> float:
    """Label-free score of a checkpoint, higher is better: minus the reconstruction of the fixed images."""
    return -health.reconstruction
