"""The codebook of patches: nearest ones, row-major, and Lloyd's iterations against what was planted."""

from __future__ import annotations

import itertools

import pytest
import torch

from contextae.grid import Grid, patchify
from contextae.tokenizers.frozen import Pictured, Tokenizer
from contextae.tokenizers.kmeans import PatchCodebook, k_means, nearest


def codebook(*, channels: int = 2, patch_size: tuple[int, int] = (3, 4), num_codes: int = 7) -> PatchCodebook:
    tokenizer = PatchCodebook(channels=channels, patch_size=patch_size, num_codes=num_codes)
    tokenizer.patches.copy_(torch.rand(tokenizer.patches.shape, generator=torch.Generator().manual_seed(5)))
    return tokenizer


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_codes_are_row_major_and_of_the_nearest_patch() -> None:
    tokenizer = codebook()
    assert isinstance(tokenizer, Tokenizer) and isinstance(tokenizer, Pictured)
    images = torch.rand(2, 2, 9, 20)  # 3 x 5 patches of 3 x 4 pixels
    codes = tokenizer.codes(images)
    assert codes.shape == (2, 15) and codes.dtype == torch.int64
    for b in range(2):
        for i in range(3):
            for j in range(5):
                patch = images[b, :, 3 * i : 3 * i + 3, 4 * j : 4 * j + 4].reshape(-1)  # (channel, row, column)
                distances = [float((patch - each).square().sum()) for each in tokenizer.patches]
                assert int(codes[b, 5 * i + j]) == distances.index(min(distances))
    assert len(codes.unique()) > 3


def test_decoded_patches_stand_at_their_places_and_have_their_codes_again() -> None:
    tokenizer = codebook()
    codes = torch.randint(7, (2, 15), generator=seeded(1))
    decoded = tokenizer.decode(codes, (3, 5))
    assert decoded.shape == (2, 2, 9, 20) and tokenizer.input_size((3, 5)) == (9, 20)
    grid = Grid(image_size=(9, 20), patch_size=(3, 4), channels=2)
    assert torch.equal(patchify(decoded, grid), tokenizer.patches[codes])
    assert torch.equal(decoded[1, :, 3:6, 8:12].reshape(-1), tokenizer.patches[codes[1, 7]])
    assert torch.equal(tokenizer.codes(decoded), codes)


def test_any_grid_gives_a_code_a_place_and_moved_images_moved_codes() -> None:
    tokenizer = codebook()
    images = torch.rand(2, 2, 12, 28)
    codes = tokenizer.codes(images).unflatten(1, (4, 7))
    assert torch.equal(tokenizer.codes(images[..., 3:, :-4]).unflatten(1, (3, 6)), codes[:, 1:, :-1])
    turned = images.roll((6, 12), dims=(2, 3))
    assert torch.equal(tokenizer.codes(turned).unflatten(1, (4, 7)), codes.roll((2, 3), dims=(1, 2)))


def test_codes_do_not_depend_on_autocast() -> None:
    tokenizer, images = codebook(), torch.rand(4, 2, 30, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.codes(images), tokenizer.codes(images.clone()))
        codes = tokenizer.codes(images)
    assert torch.equal(codes, tokenizer.codes(images))
    halved = tokenizer.patches.bfloat16(), patchify(images, tokenizer._grid((30, 40))).flatten(0, 1).bfloat16()
    rounded = torch.cdist(halved[1].float(), halved[0].float()).argmin(1)
    assert not torch.equal(codes.flatten(), rounded), "or the test would say nothing"


def test_nearest_is_by_euclidean_distance_across_the_parts_it_is_computed_in() -> None:
    points, centroids = torch.randn(9_000, 3, generator=seeded(0)), torch.randn(11, 3, generator=seeded(1))
    expected = torch.cdist(points, centroids).argmin(1)
    assert torch.equal(nearest(points, centroids), expected)
    assert len(nearest(points[:4_096], centroids)) == 4_096


PLANTED = torch.tensor([[0.0, 0.0, 5.0], [4.0, 0.0, 0.0], [0.0, 6.0, 0.0], [-5.0, 0.0, 1.0], [3.0, 3.0, 3.0]])
TIMES = (150, 60, 90, 200, 100)


def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Points around planted centres, unequally many, in random order; and the means of the clouds as they fell."""
    which = torch.repeat_interleave(torch.arange(5), torch.tensor(TIMES))
    points = PLANTED[which] + 0.2 * torch.randn(sum(TIMES), 3, generator=seeded(3))
    means = torch.stack([points[which == i].mean(0) for i in range(5)])
    return points[torch.randperm(len(points), generator=seeded(4))], means


def in_order(centroids: torch.Tensor) -> torch.Tensor:
    return centroids[torch.cdist(PLANTED, centroids).argmin(1)]


def started_in_every_cloud() -> int:
    """A seed whose random first points are one of each cloud."""
    points, _ = clouds()
    for seed in range(200):
        first = points[torch.randperm(len(points), generator=seeded(seed))[:5]]
        if len(torch.cdist(first, PLANTED).argmin(1).unique()) == 5:
            return seed
    raise AssertionError("no such seed")


def test_planted_centroids_are_found() -> None:
    points, means = clouds()
    found = k_means(points, 5, iterations=8, generator=seeded(started_in_every_cloud()))
    torch.testing.assert_close(in_order(found), means, atol=1e-5, rtol=0)


def test_one_iteration_is_lloyds() -> None:
    points, _ = clouds()
    first = points[torch.randperm(len(points), generator=seeded(0))[:5]]
    which = torch.cdist(points, first).argmin(1)
    expected = torch.stack([points[which == i].mean(0) for i in range(5)])
    found = k_means(points, 5, iterations=1, generator=seeded(0))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    none = k_means(points, 5, iterations=0, generator=seeded(0))
    assert torch.equal(none, first)


def test_a_centroid_that_nothing_is_nearest_to_is_revived() -> None:
    """Ten points at the first place and one elsewhere: of two equal first centroids one stays empty, and moves."""
    points = torch.cat([torch.full((10, 2), 2.0), torch.tensor([[9.0, 9.0]])])
    alike = next(
        s for s in range(50) if (points[torch.randperm(11, generator=seeded(s))[:2]] == 2).all()
    )  # both begin at the same place
    after = {n: k_means(points, 2, iterations=n, generator=seeded(alike)) for n in (0, 1, 40)}
    assert torch.equal(after[0][0], after[0][1])
    means = points.mean(0)
    assert torch.equal(after[1][0], means), "the first of two equals gets every point"
    assert (points == after[1][1]).all(1).any(), "the other is moved to a point, and never stays or becomes NaN"
    ordered = after[40][after[40][:, 0].argsort()]
    torch.testing.assert_close(ordered, torch.tensor([[2.0, 2.0], [9.0, 9.0]]))


@pytest.mark.parametrize("start", range(4))
def test_error_never_rises_and_every_start_repeats_itself(start: int) -> None:
    points, _ = clouds()

    def error(centroids: torch.Tensor) -> float:
        return float(torch.cdist(points, centroids).amin(1).square().mean())

    steps = [k_means(points, 9, iterations=n, generator=seeded(start)) for n in (0, 1, 3, 12)]
    errors = [error(each) for each in steps]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.7 * errors[0]
    assert torch.equal(k_means(points, 9, iterations=12, generator=seeded(start)), steps[-1])


def test_it_says_how_far_it_is_and_leaves_the_points_alone() -> None:
    points, _ = clouds()
    before, said = points.clone(), []
    k_means(points, 5, iterations=3, generator=seeded(0), after_each=said.append)
    assert said == [1, 2, 3] and torch.equal(points, before)
