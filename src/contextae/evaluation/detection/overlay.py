"""Pictures of images with what is there and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contextae.data.index import printable
from contextae.disk import reason
from contextae.errors import UserError
from contextae.evaluation.detection.objects import AnnotatedImage, Detections, Mask
from contextae.evaluation.detection.shapes import mask_of

TITLES = ("image", "labels", "found")
COLOURS = "tab10"
NAMED = 30
"""Boxes of an image up to which each has its class and score written to it."""
VEIL = 0.4
"""How much of a mask's colour lies over the image."""


def overlay_sheet(
    images: Sequence[AnnotatedImage],
    pixels: Sequence[np.ndarray],
    found: Sequence[Detections],
    *,
    classes: Sequence[str],
    out: Path,
    least_score: float = 0.5,
    note: str = "",
) -> None:
    """One row an image: as it is, with its labels, with detections of at least `least_score`; saved as PNG.

    `pixels` are h w c of any type. Colours are those of classes; of one class alone, of objects.
    """
    rows, side = len(images), 3.3
    tallest = max(image.height / image.width for image in images)
    figure = Figure(figsize=(3 * side, rows * side * tallest + 0.6), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, image, values, detections in zip(axes, images, pixels, found, strict=True):
        shown = displayed(values)
        objects = image.objects
        shapes = objects.shapes
        labelled = None if shapes is None else [mask_of(shape, image.height, image.width) for shape in shapes]
        kept = np.flatnonzero(detections.scores >= least_score)
        masks = None if detections.masks is None else [detections.masks[i] for i in kept.tolist()]
        scores = detections.scores[kept].tolist()
        row[0].imshow(shown)
        row[0].set_ylabel(_plain(image.name), fontsize=6)
        _draw(row[1], shown, objects.boxes, objects.classes, labelled, classes, crowd=objects.crowd)
        _draw(row[2], shown, detections.boxes[kept], detections.classes[kept], masks, classes, scores=scores)
        row[1].set_xlabel(f"{len(objects)} objects", fontsize=6)
        row[2].set_xlabel(f"{len(kept)} found with a score of {least_score:g} or more", fontsize=6)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=7, color="0.3")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120, format="png")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {reason(error)}. Name another place for the pictures.") from None


def displayed(values: np.ndarray) -> np.ndarray:
    """h w 3 in 0..1; other types than uint8 between their 0.5th and 99.5th percentile; two channels green, magenta."""
    image: np.ndarray = values.astype(np.float32)
    if values.dtype == np.uint8:
        image = image / 255
    else:
        low, high = np.percentile(image, [0.5, 99.5], axis=(0, 1))
        image = ((image - low) / np.where(high > low, high - low, 1)).clip(0, 1)
    return image[..., {1: [0, 0, 0], 2: [1, 0, 1]}.get(image.shape[-1], [0, 1, 2])]


def _draw(
    axis: Axes,
    image: np.ndarray,
    boxes: np.ndarray,
    of_class: np.ndarray,
    masks: Sequence[Mask] | None,
    classes: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    crowd: np.ndarray | None = None,
) -> None:
    palette = np.array(matplotlib.colormaps[COLOURS].colors)  # type: ignore[attr-defined]
    numbers = of_class if len(classes) > 1 else np.arange(len(boxes))
    shown = image.copy()
    for number, mask in zip(numbers.tolist(), masks or [], strict=False):
        part = shown[mask.top : mask.bottom, mask.left : mask.right]
        part[mask.pixels] = (1 - VEIL) * part[mask.pixels] + VEIL * palette[number % len(palette)]
    axis.imshow(shown)
    for i, (left, top, wide, high) in enumerate(boxes.tolist()):
        colour = palette[int(numbers[i]) % len(palette)]
        line = ":" if crowd is not None and crowd[i] else "-"
        # the middle of a pixel has a whole number for its place in matplotlib
        place = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(place, wide, high, fill=False, edgecolor=colour, linewidth=0.7, linestyle=line))
        if len(boxes) <= NAMED:
            text = _plain(classes[int(of_class[i])]) + ("" if scores is None else f" {scores[i]:.2f}")
            axis.text(*place, text, fontsize=4, color="white", va="bottom", bbox={"color": colour, "pad": 0.4, "lw": 0})


def _plain(name: str, most: int = 30) -> str:
    """That fits, and cannot be taken for mathematics."""
    text = printable(name).replace("$", r"\$")
    return text if len(text) <= most else "..." + text[3 - most :]
