"""Masks of polygons and of images of instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextae.errors import UserError
from contextae.evaluation.detection.objects import Mask, Polygons
from contextae.evaluation.detection.shapes import instances_in, instances_of, mask_of, tight


def grid_of(*outlines: list[tuple[float, float]], height: int = 19, width: int = 31) -> np.ndarray:
    polygons = Polygons(tuple(np.array(outline, np.float64) for outline in outlines))
    return mask_of(polygons, height, width).part(0, 0, height, width)


def test_a_pixel_belongs_to_a_polygon_if_its_middle_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        outline = rng.uniform((-3, -3), (34, 22), (7, 2))
        x, y = (np.arange(31) + 0.5, np.arange(19) + 0.5)
        wanted = np.zeros((19, 31), bool)
        for i, j in np.ndindex(19, 31):  # a ray to the left crosses the outline an odd number of times
            for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
                if (y0 <= y[i]) != (y1 <= y[i]) and x0 + (y[i] - y0) * (x1 - x0) / (y1 - y0) <= x[j]:
                    wanted[i, j] = not wanted[i, j]
        assert (grid_of([tuple(p) for p in outline]) == wanted).all()


def test_outlines_are_united_and_lie_where_they_should() -> None:
    one, other = [(2, 3), (9, 3), (9, 8), (2, 8)], [(6, 5), (20, 5), (20, 17), (6, 17)]
    wanted = np.zeros((19, 31), bool)
    wanted[3:8, 2:9] = wanted[5:17, 6:20] = True
    assert (grid_of(one, other) == wanted).all()  # type: ignore[arg-type]
    assert not grid_of([(-3, -3), (-1, -3), (-1, -1)]).any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools under NumPy 2
def test_polygons_differ_from_those_of_pycocotools_by_their_outline_alone() -> None:
    mask_module = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    for _ in range(10):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        outline = np.stack([100 + 60 * np.cos(angles), 70 + 50 * np.sin(angles)], axis=1)
        ours = grid_of([tuple(p) for p in outline], height=150, width=200)
        (runs,) = mask_module.frPyObjects([outline.ravel().tolist()], 150, 200)
        theirs = mask_module.decode(runs).astype(bool)
        rows, columns = np.nonzero(ours != theirs)
        points = np.stack([columns + 0.5, rows + 0.5], axis=1)
        begin, way = outline, np.roll(outline, -1, axis=0) - outline
        along = (((points[:, None] - begin) * way).sum(-1) / (way**2).sum(-1)).clip(0, 1)
        away = np.linalg.norm(points[:, None] - begin - along[..., None] * way, axis=-1).min(axis=1)
        assert (away < 1).all() and (ours & theirs).sum() / (ours | theirs).sum() > 0.97


def test_parts_and_tight_boxes() -> None:
    grid = np.zeros((9, 11), bool)
    grid[3:6, 4:9] = True
    mask = tight(grid, top=10, left=20)
    assert (mask.top, mask.left, mask.bottom, mask.right, mask.area) == (13, 24, 16, 29, 15)
    assert mask.part(12, 25, 15, 33).tolist() == [[False] * 8, *[[True] * 4 + [False] * 4] * 2]
    assert not mask.part(0, 0, 5, 5).any() and mask_of(mask, 1, 1) is mask
    assert tight(np.zeros((3, 3), bool)).area == 0


def write(path: Path, numbers: np.ndarray) -> Path:
    Image.fromarray(numbers).save(path)
    return path


def test_instances_are_the_values_of_an_image(tmp_path: Path) -> None:
    numbers = np.zeros((8, 9), np.uint16)
    numbers[1:4, 2:5], numbers[6, 7] = 700, 3
    numbers[2, 3] = 0
    path = write(tmp_path / "a.png", numbers)
    found = instances_in(path)
    assert [(each.value, each.box) for each in found] == [(3, (7, 6, 8, 7)), (700, (2, 1, 5, 4))]
    mask = mask_of(found[1], 8, 9)
    assert isinstance(mask, Mask) and (mask.top, mask.left, mask.area) == (1, 2, 8)
    palette = Image.fromarray((numbers > 0).astype(np.uint8), mode=None).convert("P")
    palette.save(tmp_path / "b.png")
    assert sorted(np.unique(instances_of(tmp_path / "b.png"))) == [0, 1]
    assert instances_in(write(tmp_path / "c.png", np.zeros((4, 4), np.uint8))) == ()


def test_instances_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        instances_of(tmp_path / "missing.png")
    with pytest.raises(UserError, match="RGB pixels, where one number a pixel is used"):
        instances_of(write(tmp_path / "colours.png", np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    with pytest.raises(UserError, match=r"broken.png cannot be used"):
        instances_of(tmp_path / "broken.png")
