"""Training-free representations of whole images: what an encoder has to beat to be useful, not only to have learned."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from contextae.evaluation.features import Progress
from contextae.hog import hog
from contextae.randomness import key

RAW, HOG, KMEANS = "raw pixels", "HOG and thumbnail", "k-means patches"
CELLS, THUMBNAIL = 8, 8  # gradient cells and thumbnail pixels along either side, whatever the size
PATCH, CENTROIDS, SIDE = 6, 400, 32  # Coates, Ng and Lee (AISTATS 2011), on images of at most 32 pixels a side
SAMPLED_PATCHES, ROUNDS, WHITENING = 100_000, 20, 0.1
CHUNK = 500


def raw_pixels(images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n p"]:
    """All values of an image in 0..1; the protocols standardise them."""
    return torch.from_numpy(images).flatten(1).float() / 255


def hog_and_thumbnail(images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n k"]:
    """Gradient histograms of 8 x 8 cells in overlapping blocks, beside the image at 8 x 8 pixels."""
    height, width = images.shape[2:]
    cell = (max(1, height // CELLS), max(1, width // CELLS))
    found = []
    for start in range(0, len(images), CHUNK):
        part = torch.from_numpy(images[start : start + CHUNK]).float() / 255
        small = F.adaptive_avg_pool2d(part, (min(THUMBNAIL, height), min(THUMBNAIL, width)))
        found.append(torch.cat([hog(part, cell_size=cell), small.flatten(1)], dim=1))
    return torch.cat(found)


class KMeansPatches:
    """Patches described by a codebook of k-means over whitened patches of train, pooled over the four quarters.

    Coates, Ng and Lee (AISTATS 2011) with 400 centroids and their triangle activation max(0, mean distance - distance).
    """

    def __init__(self, train: UInt8[np.ndarray, "n c h w"], *, seed: int = 0, progress: Progress | None = None) -> None:
        generator = torch.Generator().manual_seed(key("k-means patches", seed))
        images = _small(train[torch.randperm(len(train), generator=generator)[:10_000].numpy()])
        patches = self._patches(images)
        flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        sample = flat[torch.randint(len(flat), (SAMPLED_PATCHES,), generator=generator)]
        self.mean = sample.mean(0)
        values, basis = torch.linalg.eigh((sample - self.mean).T.cov())
        self.whitening = basis @ torch.diag((values.clamp(min=0) + WHITENING).rsqrt()) @ basis.T
        white = (sample - self.mean) @ self.whitening
        self.centroids = white[torch.randperm(len(white), generator=generator)[:CENTROIDS]]
        for done in range(ROUNDS):
            nearest = self._distances(white).argmin(1)
            count = torch.bincount(nearest, minlength=len(self.centroids)).unsqueeze(1)
            total = torch.zeros_like(self.centroids).index_add_(0, nearest, white)
            # an empty centroid starts again at a random patch
            fresh = white[torch.randint(len(white), (len(self.centroids),), generator=generator)]
            self.centroids = torch.where(count > 0, total / count.clamp(min=1), fresh)
            if progress:
                progress("k-means patches", 0.2 * (done + 1) / ROUNDS)

    def __call__(self, images: UInt8[np.ndarray, "n c h w"], progress: Progress | None = None) -> Float[Tensor, "n k"]:
        found = []
        for start in range(0, len(images), 100):
            small = _small(images[start : start + 100])
            patches = self._patches(small).transpose(1, 2)
            distances = self._distances((patches.flatten(0, 1) - self.mean) @ self.whitening)
            active = F.relu(distances.mean(1, keepdim=True) - distances)
            rows, columns = small.shape[2] - PATCH + 1, small.shape[3] - PATCH + 1
            lattice = active.reshape(len(small), rows, columns, -1).permute(0, 3, 1, 2)
            found.append(F.adaptive_avg_pool2d(lattice, (min(2, rows), min(2, columns))).flatten(1))
            if progress:
                progress("k-means patches", 0.2 + 0.8 * min(1.0, (start + 100) / len(images)))
        return torch.cat(found)

    @staticmethod
    def _patches(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n p s"]:
        """Every 6 x 6 patch with its own mean and deviation taken out."""
        patches = F.unfold(images, PATCH)
        variance, mean = torch.var_mean(patches, dim=1, keepdim=True)
        return (patches - mean) / (variance + 10 / 255**2).sqrt()

    def _distances(self, white: Float[Tensor, "m p"]) -> Float[Tensor, "m k"]:
        squares = white.square().sum(1, keepdim=True) + self.centroids.square().sum(1) - 2 * white @ self.centroids.T
        return squares.clamp(min=0).sqrt()


def _small(images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n c y x"]:
    """In 0..1, at most `SIDE` and at least `PATCH` pixels a side."""
    values = torch.from_numpy(images).float() / 255
    height, width = images.shape[2:]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(PATCH, round(height * scale)), max(PATCH, round(width * scale)))
    return values if size == (height, width) else F.interpolate(values, size, mode="bilinear", antialias=True)
