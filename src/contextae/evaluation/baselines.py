"""Representations that need no training: what a trained encoder has to beat to be of use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor

from contextae.evaluation.patch_kmeans import PatchKMeans
from contextae.evaluation.progress import Progress
from contextae.evaluation.representation import Representation
from contextae.hog import hog

CHUNK_PIXELS = 2**15
"""At a time: what one step leaves, the next still finds in the cache."""

WIDEST = 4_096
"""Either images or pixels are at most so many: a read-out factorises the smaller square of the two."""
MOST_VALUES = 2**28
"""Of images times pixels, 1 GiB in float32."""

HOG_PIXELS, HOG_CELLS, THUMBNAIL = 128**2, 64, 8
KMEANS_PIXELS = 48**2


@dataclass(frozen=True)
class Computed:
    """Both parts, and in words what the vectors are."""

    train: Representation
    test: Representation
    detail: str


@runtime_checkable
class Baseline(Protocol):
    """Fits, where there is something to fit, on the images of train without their labels."""

    def __call__(
        self,
        train: Real[np.ndarray, "n c h w"],
        test: Real[np.ndarray, "m c h w"],
        *,
        seed: int,
        progress: Progress | None,
    ) -> Computed: ...


def raw_pixels(
    train: Real[np.ndarray, "n c h w"], test: Real[np.ndarray, "m c h w"], *, seed: int, progress: Progress | None
) -> Computed:
    """All values of an image at the encoder's input size; averaged over squares where they would be too many."""
    n, channels, height, width = train.shape
    factor = 1
    while (d := channels * (height // factor) * (width // factor)) * n > MOST_VALUES or min(n, d) > WIDEST:
        factor += 1
    rows, columns = height // factor, width // factor
    detail = f"{channels} x {rows} x {columns} pixels" + (f", mean over {factor} x {factor}" if factor > 1 else "")
    return _computed("pixels", lambda images: shrink(images, factor).flatten(1), train, test, detail, progress)


def hog_with_thumbnail(
    train: Real[np.ndarray, "n c h w"], test: Real[np.ndarray, "m c h w"], *, seed: int, progress: Progress | None
) -> Computed:
    """Oriented gradients of about 64 square cells in blocks of 2 x 2 (Dalal and Triggs), and 8 x 8 mean colours."""
    factor = factor_for(train.shape[2:], HOG_PIXELS)
    height, width = train.shape[2] // factor, train.shape[3] // factor
    side = max(2, round((height * width / HOG_CELLS) ** 0.5))
    cell = (min(side, height), min(side, width))
    small = (min(THUMBNAIL, height), min(THUMBNAIL, width))

    def vectors(images: Tensor) -> Tensor:
        images = shrink(images, factor)
        thumbnail = F.adaptive_avg_pool2d(images / 255, small)
        return torch.cat([hog(images, cell_size=cell), thumbnail.flatten(1)], dim=1)

    detail = f"cells of {cell[0]} x {cell[1]}, thumbnail of {small[0]} x {small[1]}"
    return _computed("HOG", vectors, train, test, detail, progress)


def kmeans_patches(
    train: Real[np.ndarray, "n c h w"], test: Real[np.ndarray, "m c h w"], *, seed: int, progress: Progress | None
) -> Computed:
    """Coates, Lee and Ng (AISTATS 2011): distances of whitened patches to k-means centroids, summed over quadrants."""
    factor = factor_for(train.shape[2:], KMEANS_PIXELS)

    def chunks_of_train(positions: Tensor) -> Tensor:
        return shrink(torch.from_numpy(train[positions.numpy()]).float(), factor)

    features = PatchKMeans.of(chunks_of_train, num_images=len(train), seed=seed)
    detail = f"{len(features.centroids)} centroids of patches of {features.patch} x {features.patch}"
    return _computed("k-means", lambda images: features(shrink(images, factor)), train, test, detail, progress)


BASELINES: dict[str, Baseline] = {
    "raw pixels": raw_pixels,
    "HOG with thumbnail": hog_with_thumbnail,
    "k-means patches": kmeans_patches,
}


def shrink(images: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c _ _"]:
    """Means over squares of `factor` pixels; what is left over at the right and at the bottom is cut off."""
    return images if factor == 1 else F.avg_pool2d(images, factor)


def factor_for(size: tuple[int, ...], pixels: int) -> int:
    """The smallest factor to `shrink` an image by so that it has at most so many pixels."""
    factor = 1
    while (size[0] // factor) * (size[1] // factor) > pixels:
        factor += 1
    return factor


def _computed(
    name: str,
    vectors: Callable[[Tensor], Tensor],
    train: np.ndarray,
    test: np.ndarray,
    detail: str,
    progress: Progress | None,
) -> Computed:
    """`vectors` of both parts, chunk by chunk; it gets values 0 to 255."""
    total, done = len(train) + len(test), 0
    chunk = max(1, CHUNK_PIXELS // (train.shape[2] * train.shape[3]))
    parts = []
    for images in (train, test):
        found: Tensor | None = None
        for start in range(0, len(images), chunk):
            values = vectors(torch.from_numpy(images[start : start + chunk]).float())
            if found is None:
                found = torch.empty(len(images), values.shape[1])
            found[start : start + chunk] = values
            done += len(values)
            if progress:
                progress(name, done / total)
        assert found is not None
        parts.append(Representation(vectors={name: found}))
    return Computed(parts[0], parts[1], f"{detail}, {parts[0].vectors[name].shape[1]:,} values")
