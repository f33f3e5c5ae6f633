"""Average precision by COCO's definition, and under resampled images: how sure it is, and how sure a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from contextae.errors import UserError
from contextae.evaluation.detection.matching import OVERLAPS, SIZES, ClassMatches
from contextae.randomness import key

RECALLS = np.linspace(0, 1, 101)
"""At which precision is averaged [COCO]."""
RESAMPLES = 1_000
AT_ONCE = 2_000_000
"""Numbers of one step of the resampling, 16 MB."""


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """Shares, 0 to 1, or None where there is no object to find: the mean over classes and overlaps of 0.5 to 0.95, at
    0.5 and at 0.75 alone, over objects of some sizes alone, and over overlaps for each class."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    per_class: tuple[float | None, ...]


def average_precision(matches: Sequence[ClassMatches]) -> AveragePrecision:
    """Of classes without an object to find nothing is counted, neither their detections nor they themselves."""
    tables = {size: _table(matches, size) for size in SIZES}
    whole = tables["all"]
    return AveragePrecision(
        ap=_mean(whole),
        ap50=_mean(whole[:1]),
        ap75=_mean(whole[5:6]),
        small=_mean(tables["small"]),
        medium=_mean(tables["medium"]),
        large=_mean(tables["large"]),
        per_class=tuple(_mean(whole[:, of]) for of in range(len(matches))),
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _table(matches: Sequence[ClassMatches], size: str) -> Float[np.ndarray, "t c"]:
    """Average precision at every overlap and of every class; NaN of classes without an object."""
    return np.stack([_under(of, size, np.ones((1, of.wanted.shape[1]), np.int64))[0] for of in matches], axis=1)


def resampled(matches: Sequence[ClassMatches], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """AP and AP50 under draws of images with replacement, each [resamples].

    The draws are a function of the seed and of the number of images, so that those of two sets of detections on the
    same images are the same and their differences are paired. A drawn image counts as often as it is drawn, with its
    detections next to each other.
    """
    num_images = matches[0].wanted.shape[1] if matches else 0
    if not num_images:
        raise UserError("An interval of the average precision needs at least one image and one class. Got none.")
    rng = np.random.default_rng(key("bootstrap", seed))
    drawn = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    tables = np.stack([_under(of, "all", drawn) for of in matches], axis=2)  # [resamples overlaps classes]
    known = ~np.isnan(tables)
    filled = np.where(known, tables, 0.0)

    def mean(part: slice) -> np.ndarray:
        return filled[:, part].sum(axis=(1, 2)) / known[:, part].sum(axis=(1, 2)).clip(min=1)

    return {"AP": mean(slice(None)), "AP50": mean(slice(1))}


def over_seeds(drawn: Sequence[Float[np.ndarray, " r"]], *, seed: int = 0) -> Float[np.ndarray, " r"]:
    """Resampled figures of one training or of several: each draw of images has as many trainings drawn, and is their
    mean."""
    values = np.stack(list(drawn))
    rng = np.random.default_rng(key("bootstrap seeds", seed))
    rows = rng.integers(len(values), size=values.shape)
    return np.take_along_axis(values, rows, axis=0).mean(axis=0)


def interval(values: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """95 % percentile interval of resampled figures, or of differences of such."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _under(of: ClassMatches, size: str, weights: Num[np.ndarray, "r n"]) -> Float[np.ndarray, "r t"]:
    """Average precision of one class where each image counts `weights` times.

    The precision at a recall is the best at that recall or beyond it; it is best where a right detection was just
    counted, so the others need not be looked at [COCO].
    """
    s = list(SIZES).index(size)
    total = weights @ of.wanted[s]  # [r]
    found = np.full((len(weights), len(OVERLAPS)), np.nan)
    rows = max(1, AT_ONCE // max(1, len(of.image)))
    for start in range(0, len(weights), rows):
        part = slice(start, start + rows)
        counts = weights[part][:, of.image].astype(np.float64)  # [r d]
        for t in range(len(OVERLAPS)):
            found[part, t] = _interpolated(counts, of.matched[s, t], of.ignored[s, t], total[part])
    found[total == 0] = np.nan
    return found


def _interpolated(counts: np.ndarray, matched: np.ndarray, ignored: np.ndarray, total: np.ndarray) -> np.ndarray:
    right = np.flatnonzero(matched & ~ignored)
    if not len(right):
        return np.zeros(len(counts))
    hits = np.cumsum(counts[:, right], axis=1)
    wrong = np.cumsum(counts * (~matched & ~ignored), axis=1)[:, right]
    precision = hits / (hits + wrong + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    recall = hits / np.maximum(total, 1)[:, None]
    places = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])
    return np.take_along_axis(best, places, axis=1).mean(axis=1)
