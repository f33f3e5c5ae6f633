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

LEAST_CONTENT_SHARE = 0.3
"""Of the content at the start: below, latents say where a patch is and little more."""
LEAST_RANK_SHARE = 0.5
"""Of the effective rank at the start; healthy runs raise it within an epoch."""
MOST_WEIGHT_GROWTH = 3.0
"""Of the weights' size at the start. Healthy runs of docs/results.md stay below 1.2; at a hundred times the learning
rate it is 3.7 after one epoch, while norms and clipping keep the loss from growing."""
MOST_LOSS_GROWTH = 1.5
"""Of the lowest reconstruction so far, where the method has one that is trained."""
MOST_WAITING = 0.3
"""Share of time spent waiting for data."""


class Health(NamedTuple):
    """Measured over all patches of the images looked at.

    `spread_*`: standard deviation of a dimension over patches and images, mean over dimensions. `content`: mean squared
    distance of a visible latent to the mean latent at its place of the grid, over images; without it latents only
    repeat positions. `effective_rank_*`: exponential of the entropy of the covariance's spectrum (Roy and Vetterli,
    EUSIPCO 2007). `alignment_over_mean`: the alignment as a share of what a constant prediction, the mean latent at
    each place, would get. `weights`: root mean square of all weight matrices. `waiting`: share of time the training
    waited for data.
    """

    reconstruction: float
    alignment: float
    alignment_over_mean: float
    content: float
    spread_visible: float
    spread_predicted: float
    effective_rank_visible: float
    effective_rank_predicted: float
    weights: float
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
    visible, predicted, aligned_to, losses = [], [], [], []
    seen, masked = [], []
    try:
        for batch in batches:
            trace = method.trace(batch)
            visible.append(trace.visible.float())
            predicted.append(trace.predicted.float())
            aligned_to.append(trace.aligned_to.float())
            seen.append(batch.mask.visible)
            masked.append(batch.mask.masked)
            losses.append(method(batch).parts.get("reconstruction", torch.tensor(math.nan)).float().item())
    finally:
        method.train(training)
    z, guess, wanted = (torch.cat(parts) for parts in (visible, predicted, aligned_to))
    alignment = (guess - wanted).square().mean().item()
    return Health(
        reconstruction=sum(losses) / len(losses),
        alignment=alignment,
        alignment_over_mean=alignment / max(1e-12, error_of_mean(wanted, torch.cat(masked))),
        content=error_of_mean(z, torch.cat(seen)),
        spread_visible=spread(z),
        spread_predicted=spread(guess),
        effective_rank_visible=effective_rank(z),
        effective_rank_predicted=effective_rank(guess),
        weights=size_of_weights(method),
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


def size_of_weights(method: Method) -> float:
    """Root mean square over all matrices; norms and biases left out."""
    matrices = [p.detach().float() for p in method.parameters() if p.ndim > 1]
    total = torch.stack([matrix.square().sum() for matrix in matrices]).sum()
    return (total / sum(matrix.numel() for matrix in matrices)).sqrt().item()


def verdict(history: Sequence[Health]) -> Verdict:
    """Judges the last measurement by those before, the first of which is of the untrained network."""
    first, now = history[0], history[-1]
    if not all(math.isfinite(value) for value in now):
        return Verdict("diverging", "a measurement is not a finite number")
    if now.weights > MOST_WEIGHT_GROWTH * first.weights:
        return Verdict("diverging", f"weights are {now.weights / first.weights:.1f} times as large as at the start")
    lowest = min(each.reconstruction for each in history)
    if lowest < first.reconstruction and now.reconstruction > MOST_LOSS_GROWTH * lowest:
        return Verdict("diverging", f"reconstruction {now.reconstruction:.3f}, after {lowest:.3f} at its best")
    for what, value, start, share in (
        ("content of visible latents", now.content, first.content, LEAST_CONTENT_SHARE),
        ("their effective rank", now.effective_rank_visible, first.effective_rank_visible, LEAST_RANK_SHARE),
    ):
        if value < share * start:
            return Verdict("collapsing", f"{what} {value:.3g}, {start:.3g} at the start")
    if now.waiting > MOST_WAITING:
        return Verdict("data-bound", f"{now.waiting:.0%} of the time spent waiting for data; raise training.workers")
    return Verdict(
        "healthy",
        f"reconstruction {now.reconstruction:.3f}, alignment {now.alignment_over_mean:.2f} of the mean's, "
        f"effective rank {now.effective_rank_visible:.1f}, content {now.content:.2f}",
    )


def score(health: Health) -> float:
    """Label-free score of a checkpoint, higher is better: minus the reconstruction of the fixed images."""
    return -health.reconstruction
