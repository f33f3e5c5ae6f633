"""A sheet of pictures: image, truth and prediction side by side, with a legend of the classes that occur."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from contextae.disk import reason
from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import VOID

GOLDEN = 0.618034
"""Of a turn: hues that follow each other so are far apart, however many there are."""
STRENGTH = 0.6
"""How much of a class's colour covers the image."""
WIDTH, MARGIN, SWATCH, FONT = 320, 10, 14, 14
PAPER, INK = (255, 255, 255), (20, 20, 20)
HEADS = ("image", "truth", "prediction")


def palette(num_classes: int) -> UInt8[np.ndarray, "k 3"]:
    """A colour per class: hues a golden section apart, in three brightnesses in turn."""
    turns = [
        colorsys.hsv_to_rgb(i * GOLDEN % 1, (0.95, 0.6, 0.8)[i % 3], (0.9, 1.0, 0.6)[i % 3]) for i in range(num_classes)
    ]
    return np.rint(255 * np.array(turns)).astype(np.uint8)


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    classes: Int16[np.ndarray, "h w"],
    colours: UInt8[np.ndarray, "k 3"],
    truth: Int16[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in gray under its classes' colours; where the truth is VOID nothing but dark gray."""
    gray = image.astype(np.float32).mean(axis=2, keepdims=True)
    covered = (1 - STRENGTH) * gray + STRENGTH * colours[classes.clip(min=0)].astype(np.float32)
    return np.where((truth == VOID)[:, :, None], 0.25 * gray, covered).round().astype(np.uint8)


def shown(image: Shaped[np.ndarray, "h w c"], value_range: tuple[float, float]) -> UInt8[np.ndarray, "h w 3"]:
    """Three channels of 8 bits for the eye: the first three, or the first alone in gray."""
    low, high = value_range
    chosen = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    scaled = (chosen.astype(np.float32) - low) * (255 / (high - low))
    return scaled.clip(0, 255).round().astype(np.uint8)


def sheet(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], names: Sequence[str], *, told: str = ""
) -> Image.Image:
    """One row per (image h w 3, truth h w, prediction h w), all at one width, and the legend below."""
    colours = palette(len(names))
    pictures = [
        [image, overlay(image, truth, colours, truth), overlay(image, predicted, colours, truth)]
        for image, truth, predicted in rows
    ]
    occurring = sorted({int(i) for _, truth, predicted in rows for i in np.union1d(truth, predicted)})
    present = [i for i in occurring if i != VOID]
    heights = [max(1, round(row[0].shape[0] * WIDTH / row[0].shape[1])) for row in pictures]
    font = ImageFont.load_default(FONT)
    line = FONT + 8
    width = 3 * WIDTH + 4 * MARGIN
    columns = max(1, (width - MARGIN) // 240)
    legend = -(-(len(present) + 1) // columns)
    top = MARGIN + (2 if told else 1) * line
    page = Image.new("RGB", (width, top + sum(heights) + (len(heights) + 1) * MARGIN + legend * line), PAPER)
    draw = ImageDraw.Draw(page)
    if told:
        draw.text((MARGIN, MARGIN), told, fill=INK, font=font)
    for column, head in enumerate(HEADS):
        draw.text((MARGIN + column * (WIDTH + MARGIN), top - line), head, fill=INK, font=font)
    for row, height in zip(pictures, heights, strict=True):
        for column, picture in enumerate(row):
            small = Image.fromarray(picture).resize((WIDTH, height), Image.Resampling.LANCZOS)
            page.paste(small, (MARGIN + column * (WIDTH + MARGIN), top))
        top += height + MARGIN
    entries = [(names[i], tuple(int(v) for v in colours[i])) for i in present] + [("void", (48, 48, 48))]
    for number, (name, colour) in enumerate(entries):
        x, y = MARGIN + number % columns * 240, top + number // columns * line
        draw.rectangle((x, y + 2, x + SWATCH, y + 2 + SWATCH), fill=colour)
        draw.text((x + SWATCH + 6, y), name[:28], fill=INK, font=font)
    return page


def write_sheet(page: Image.Image, path: Path) -> None:
    """As PNG; UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}. Name another place for the pictures.") from None
