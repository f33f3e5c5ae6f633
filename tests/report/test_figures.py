"""Contact sheets: what a PNG holds, and that names cannot break it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contextae.grid import Grid
from contextae.methods.method import Pictures
from contextae.report.figures import HIDDEN, VIEWS, contact_sheet, curves, to_pixels, window
from networks import masked_batch, small_cae

GRID = (5, 7)


def pictures_of(channels: int, count: int) -> Pictures:
    """Of an untrained network, with 13 of 35 patches masked."""
    grid = Grid(image_size=(10, 21), patch_size=(2, 3), channels=channels)
    with torch.no_grad():
        return small_cae(grid).pictures(masked_batch(grid, size=count))


def sheet(pictures: Pictures, names: list[str], out: Path, channels: int) -> np.ndarray:
    contact_sheet(pictures, grid_size=GRID, mean=[0.4] * channels, deviation=[0.3] * channels, names=names, out=out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_to_pixels_takes_the_normalisation_back_exactly(channels: int) -> None:
    mean, deviation = np.linspace(0.3, 0.6, channels), np.linspace(0.1, 0.4, channels)
    pixels = np.random.default_rng(0).random((2, channels, 5, 7))
    normalised = (pixels - mean.reshape(1, -1, 1, 1)) / deviation.reshape(1, -1, 1, 1)
    shown = to_pixels(normalised, mean, deviation)
    assert shown.shape == (2, 5, 7, 3)
    for place in range(3):
        channel = {1: 0, 2: (1, 0, 1)[place]}.get(channels, place)
        np.testing.assert_allclose(shown[..., place], pixels[:, channel], atol=1e-12)


def test_the_window_shows_what_lies_between_two_percentiles() -> None:
    images = np.random.default_rng(0).normal([[[[3.0]], [[-200.0]]]], [[[[0.01]], [[40.0]]]], (3, 2, 50, 40))
    images[0, 0, 0, 0] = 1e4  # one hot pixel
    images[1, :, :5] = np.nan
    shown = to_pixels(images, *window(images))
    low, high = np.nanpercentile(images, [0.5, 99.5], axis=(0, 2, 3))
    np.testing.assert_allclose(shown[2, ..., 1], ((images[2, 0] - low[0]) / (high[0] - low[0])).clip(0, 1))
    np.testing.assert_allclose(shown[2, ..., 0], ((images[2, 1] - low[1]) / (high[1] - low[1])).clip(0, 1))
    assert np.isfinite(window(np.ones((1, 1, 2, 2)))).all()


def test_to_pixels_clips_and_shows_nothing_as_gray() -> None:
    images = np.array([[[[np.nan, -9.0, 9.0]]]])
    assert to_pixels(images, [0.5], [0.25])[0, 0, :, 0].tolist() == [HIDDEN, 0.0, 1.0]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_sheet_is_drawn_for_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    drawn = sheet(pictures_of(channels, 1), ["a.png"], tmp_path / "a.png", channels)
    assert 900 < drawn.shape[1] < 2_000 and 150 < drawn.shape[0] < 400
    assert drawn.std() > 20  # something is drawn


def test_a_sheet_has_one_row_an_image(tmp_path: Path) -> None:
    one = sheet(pictures_of(3, 1), ["a.png"], tmp_path / "1.png", 3)
    three = sheet(pictures_of(3, 3), ["a.png", "b.png", "c.png"], tmp_path / "3.png", 3)
    assert 1.5 * one.shape[0] < three.shape[0] < 3 * one.shape[0]


def test_a_sheet_shows_the_images_it_was_given(tmp_path: Path) -> None:
    """Flat views of five colours: each must be found in the file."""
    nan = torch.full((1, 3, 10, 21), torch.nan)
    levels = [0.2, 0.8, 0.1, 0.95]
    views = [(torch.full_like(nan, level) - 0.4) / 0.3 for level in levels]
    views[1][..., :3] = torch.nan
    drawn = sheet(Pictures(*views, torch.full((1, 35), torch.nan)), ["a.png"], tmp_path / "a.png", 3)
    for level in (*levels, HIDDEN):
        gray = round(255 * level)
        assert (np.abs(drawn.astype(int) - gray).max(-1) <= 1).sum() > 300, level


def test_distances_share_one_scale_and_reach_their_patches(tmp_path: Path) -> None:
    pictures = pictures_of(3, 2)
    distance = torch.full((2, 35), torch.nan)
    distance[0, 0], distance[1, 34] = 1.0, 0.25
    drawn = sheet(pictures._replace(distance=distance), ["a.png", "b.png"], tmp_path / "a.png", 3)
    other = sheet(pictures._replace(distance=distance.flip(1)), ["a.png", "b.png"], tmp_path / "b.png", 3)
    assert drawn.shape == other.shape and not np.array_equal(drawn, other)


NAMES = [
    r"cost $5 and $x^{2$.png",
    r"$\frac{1}{0}$",
    "two\nlines\tand\x07more.png",
    "a/very/long/" + 30 * "path/" + "image.png",
    10 * "$" + 40 * "long$",
    "unpaired\udcff.png",
    r"back\slash.png",
    "",
]


def test_any_name_can_stand_beside_a_row(tmp_path: Path) -> None:
    pictures = pictures_of(3, len(NAMES))
    drawn = sheet(pictures, NAMES, tmp_path / "a.png", 3)
    plain = sheet(pictures, len(NAMES) * ["a.png"], tmp_path / "b.png", 3)
    assert drawn.shape == plain.shape
    left = drawn.shape[1] // 20  # the margin that holds the names
    assert np.abs(drawn[:, left:].astype(int) - plain[:, left:]).mean() < 12  # the pictures stand where they stood


def test_letters_that_the_font_has_not_end_in_no_warning(tmp_path: Path) -> None:
    """Warnings are errors here."""
    pictures = pictures_of(3, 1)
    odd = sheet(pictures, ["\u65e5\u672c.png"], tmp_path / "a.png", 3)
    np.testing.assert_array_equal(odd, sheet(pictures, ["??.png"], tmp_path / "b.png", 3))


def test_curves_are_drawn_from_the_lines_of_a_log(tmp_path: Path) -> None:
    lines = [{"step": i, "loss": 2.0 / (i + 1), "alignment": 1.0 / (i + 1), "lr": 1e-4 * i} for i in range(20)]
    curves(lines, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1040, 390) and np.asarray(image.convert("L")).std() > 5


def test_there_is_a_title_for_every_view() -> None:
    assert len(VIEWS) == len(Pictures._fields)
