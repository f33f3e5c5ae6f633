"""Single-layer features of image patches learned by k-means (Coates, Lee and Ng, AISTATS 2011)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from contextae.randomness import key

CONTRAST_EPS, WHITENING_EPS = 10.0, 0.1
"""Both of the paper's code, for values of 0 to 255."""


@dataclass(frozen=True)
class PatchKMeans:
    """Patches are contrast-normalised, whitened, compared with all centroids and summed over quadrants.

    The activation is the paper's triangle: how much nearer than the mean distance a centroid is, zero if it is not.
    Differs from the paper: fewer centroids (400 for 1,600) and every second patch.
    """

    patch: int
    stride: int
    mean: Float[Tensor, " p"]
    whitening: Float[Tensor, "p p"]
    centroids: Float[Tensor, "k p"]

    @classmethod
    def of(
        cls,
        images: Callable[[Tensor], Tensor],
        *,
        num_images: int,
        seed: int,
        num_centroids: int = 200,
        patch: int = 6,
        stride: int = 2,
        samples: int = 40_000,
        iterations: int = 10,
    ) -> PatchKMeans:
        """Fitted on `samples` patches of images [b c h w], 0 to 255, that are asked for by position."""
        generator = torch.Generator().manual_seed(key("patch k-means", seed))
        chosen = torch.randperm(num_images, generator=generator)[:5_000]
        pixels = images(chosen)
        patch = min(patch, *pixels.shape[2:])
        rows, columns = (length - patch + 1 for length in pixels.shape[2:])
        each = -(-samples // len(pixels))
        places = torch.randint(rows * columns, (len(pixels), each), generator=generator)
        windows = pixels.unfold(2, patch, 1).unfold(3, patch, 1)  # a view: all patches at once would take gigabytes
        image = torch.arange(len(pixels))[:, None].expand_as(places)
        sample = _even_contrast(windows[image, :, places // columns, places % columns].flatten(0, 1).flatten(1))
        mean = sample.mean(dim=0)
        values, basis = torch.linalg.eigh(torch.cov(sample.T).double())
        whitening = (basis * (values.clamp(min=0) + WHITENING_EPS).rsqrt()) @ basis.T
        white = (sample - mean) @ whitening.float()
        centroids = _k_means(white, min(num_centroids, len(white)), iterations, generator)
        return cls(patch, stride, mean, whitening.float(), centroids)

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k4"]:
        """Four quadrants of centroids, the quadrants in row-major order."""
        rows, columns = (len(range(0, length - self.patch + 1, self.stride)) for length in images.shape[2:])
        patches = _even_contrast(_patches(images, self.patch, self.stride)).flatten(0, 1)
        white = (patches - self.mean) @ self.whitening
        squared = torch.addmm(self.centroids.square().sum(dim=1), white, self.centroids.T, alpha=-2)
        distances = squared.add_(white.square().sum(dim=1, keepdim=True)).clamp_(min=0).sqrt_()
        activation = torch.sub(distances.mean(dim=1, keepdim=True), distances, out=distances).clamp_(min=0)
        maps = activation.unflatten(0, (len(images), rows, columns))
        # summed as two halves per axis; with an odd number the middle one belongs to both
        halves = [
            maps[:, top, left].sum(dim=(1, 2))
            for top in (slice(None, -(-rows // 2)), slice(rows // 2, None))
            for left in (slice(None, -(-columns // 2)), slice(columns // 2, None))
        ]
        return torch.cat(halves, dim=1)


def _patches(images: Float[Tensor, "b c h w"], patch: int, stride: int) -> Float[Tensor, "b n p"]:
    return F.unfold(images, patch, stride=stride).transpose(1, 2)


def _even_contrast(patches: Float[Tensor, "*n p"]) -> Float[Tensor, "*n p"]:
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + CONTRAST_EPS).sqrt()


def _k_means(
    points: Float[Tensor, "n p"], count: int, iterations: int, generator: torch.Generator
) -> Float[Tensor, "k p"]:
    """Lloyd's iterations from random points; a centroid that nothing is nearest to stays where it is."""
    centroids = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(iterations):
        nearest = torch.cat(
            [(chunk @ centroids.T).mul_(-2).add_(centroids.square().sum(1)).argmin(1) for chunk in points.split(4_096)]
        )
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=count)[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids
