"""k-means features of patches against their definition, patch by patch."""

from __future__ import annotations

import pytest
import torch

from contextae.evaluation.patch_kmeans import PatchKMeans, _k_means


@pytest.fixture
def features() -> PatchKMeans:
    images = 255 * torch.rand(40, 3, 13, 17)
    return PatchKMeans.of(lambda at: images[at], num_images=40, seed=0, num_centroids=9, samples=2_000, iterations=3)


def test_triangle_activation_summed_over_quadrants(features: PatchKMeans) -> None:
    image = 255 * torch.rand(3, 13, 17)
    rows, columns = 4, 6  # every second place of 13 - 5 and 17 - 5
    activations = torch.zeros(rows, columns, 9)
    for row in range(rows):
        for column in range(columns):
            patch = image[:, 2 * row : 2 * row + 6, 2 * column : 2 * column + 6].reshape(-1)
            patch = (patch - patch.mean()) / (patch.var() + 10).sqrt()
            distances = ((patch - features.mean) @ features.whitening - features.centroids).norm(dim=1)
            activations[row, column] = (distances.mean() - distances).clamp(min=0)
    quadrants = [activations[top : top + 2, left : left + 3].sum((0, 1)) for top in (0, 2) for left in (0, 3)]
    assert torch.allclose(features(image[None])[0], torch.cat(quadrants), atol=1e-3)


def test_patches_it_was_fitted_on_are_white(features: PatchKMeans) -> None:
    images = 255 * torch.rand(40, 3, 13, 17)
    again = PatchKMeans.of(lambda at: images[at], num_images=40, seed=0, num_centroids=9, samples=2_000, iterations=3)
    assert again.centroids.shape == (9, 108) and again.patch == 6
    assert torch.allclose(again.whitening, again.whitening.T, atol=1e-4)


def test_is_a_function_of_images_and_seed() -> None:
    images = 255 * torch.rand(40, 1, 5, 7)
    fits = [
        PatchKMeans.of(lambda at: images[at], num_images=40, seed=seed, num_centroids=5, samples=200)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(fits[0].centroids, fits[1].centroids) and not torch.equal(fits[0].centroids, fits[2].centroids)
    assert fits[0].patch == 5, "images smaller than a patch"
    assert fits[0](images[:3]).shape == (3, 20) and fits[0](images[:3]).isfinite().all()


def test_k_means_finds_separate_clusters() -> None:
    centers = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = centers.repeat(50, 1) + 0.1 * torch.randn(150, 2)
    centroids = min(
        (_k_means(points, 3, 10, torch.Generator().manual_seed(seed)) for seed in range(5)),
        key=lambda found: torch.cdist(centers, found).amin(1).max().item(),
    )
    assert torch.cdist(centers, centroids).amin(1).max() < 0.1
