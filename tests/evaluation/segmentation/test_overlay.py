"""The sheet of pictures: colours, what is hidden, and that every class that occurs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.overlay import overlay, palette, sheet, shown, write_sheet


def test_colours_of_many_classes_differ() -> None:
    for count in (2, 11, 60):
        colours = palette(count).astype(int)
        apart = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(count, dtype=int)
        assert apart.min() > (60 if count < 20 else 8)


def test_classes_cover_the_image_and_void_hides_it() -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    truth = np.zeros((4, 6), np.int16)
    truth[0] = VOID
    predicted = np.ones((4, 6), np.int16)
    colours = palette(2)
    found = overlay(image, predicted, colours, truth)
    assert (found[0] == 25).all()
    assert np.array_equal(found[1, 0], (0.4 * 100 + 0.6 * colours[1].astype(float)).round())


def test_deep_images_are_made_visible() -> None:
    gray = np.full((2, 2, 1), 600, np.uint16)
    assert shown(gray, (100.0, 1100.0)).tolist() == [[[128] * 3] * 2] * 2
    assert shown(np.zeros((2, 2, 5), np.uint8), (0.0, 255.0)).shape == (2, 2, 3)


def test_a_sheet_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (rng.integers(256, size=(h, 30, 3), dtype=np.uint8), *(rng.integers(-1, 3, (h, 30)).astype(np.int16),) * 2)
        for h in (20, 40)
    ]
    page = sheet(rows, ["<b>a</b>", "b" * 90, "c"], told="what it is")
    write_sheet(page, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as image:
        assert image.size == page.size and image.width > 900 and image.height > 600
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_sheet(page, tmp_path / "file" / "sheet.png")
