"""Pictures of a run's page as data URIs: images as the encoder saw them, attention and components as small maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from contextae.report.figures import to_pixels, window
from contextae.report.maps import SPREAD, Looked, colours, principal

MOST_ATTENTION = 5.0  # times the even share, at which the colour is full; fixed, so that reports can be compared
ATTENDED = 3  # images of which every head is shown
MOST_HEADS = 16
CELL = 96  # pixels on the page of the longer side of a cell


class Cell(NamedTuple):
    """A picture and the words below it. Small ones are enlarged by the browser, without smoothing."""

    uri: str
    caption: str
    width: int
    height: int


class Row(NamedTuple):
    """Cells that belong to one image."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True)
class RunPictures:
    """Everything that is drawn of one run. What could not be drawn is empty or None, and `notes` say why.

    `sheet` is the contact sheet of reconstructions as a data URI, `shares` how much of the variance of the latents the
    three components hold.
    """

    step: str
    sheet: str | None
    attention: list[Row]
    components: list[Row]
    shares: list[float]
    notes: list[str]
    windowed: bool = False
    channels: int = 3


def shown_pixels(
    images: Float[Tensor, "b c h w"], *, mean: Sequence[float], deviation: Sequence[float], windowed: bool
) -> Float[np.ndarray, "b h w 3"]:
    """Normalised images in colours, as a contact sheet of these shows them."""
    values = images.float().cpu().numpy()
    return to_pixels(values, *(window(values) if windowed else (mean, deviation)))


def attention_rows(looked: Looked, pixels: Float[np.ndarray, "b h w 3"], names: Sequence[str]) -> list[Row]:
    """Of the first `ATTENDED` images the image, the mean over heads, and each head."""
    size = cell_size(pixels.shape[1:3])
    rows = []
    for place, name in enumerate(names[:ATTENDED]):
        heads, itself = looked.attention[place], looked.itself[place]
        cells = [Cell(uri(pixels[place]), "input", *size)]
        cells.append(_heat(heads.mean(0), f"mean, {100 * itself.mean():.0f} % on itself", size))
        for head, (values, own) in enumerate(zip(heads[:MOST_HEADS], itself[:MOST_HEADS], strict=True), start=1):
            cells.append(_heat(values, f"head {head}, {100 * own:.0f} %", size))
        rows.append(Row(name, cells))
    return rows


def component_rows(
    looked: Looked, pixels: Float[np.ndarray, "b h w 3"], names: Sequence[str]
) -> tuple[list[Row], list[float]]:
    """Each image beside its components as colours, all in one basis; and the shares of the variance."""
    size = cell_size(pixels.shape[1:3])
    basis = principal(looked.latents)
    maps = colours(looked.latents, basis)
    rows = [
        Row(name, [Cell(uri(pixels[place]), "", *size), Cell(uri(maps[place]), "", *size)])
        for place, name in enumerate(names)
    ]
    return rows, [float(share) for share in basis.shares]


def _heat(values: Float[np.ndarray, "h w"], caption: str, size: tuple[int, int]) -> Cell:
    """From none (black) to `MOST_ATTENTION` times the even share and more (light yellow); the peak is said."""
    shown = matplotlib.colormaps["magma"]((values / MOST_ATTENTION).clip(0, 1))[..., :3]
    return Cell(uri(shown), f"{caption}; peak {values.max():.1f}", *size)


def cell_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Width and height on the page of an image of this height and width."""
    height, width = size
    return max(1, round(CELL * width / max(size))), max(1, round(CELL * height / max(size)))


def uri(pixels: Float[np.ndarray, "h w 3"]) -> str:
    """Values of 0..1 as a PNG within the page."""
    out = io.BytesIO()
    Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(out, format="PNG", optimize=True)
    return png_uri(out.getvalue())


def png_uri(data: bytes) -> str:
    """A PNG within the page."""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


ATTENTION_WORDS = (
    "Where the class token looks in the last block: black is nowhere, light yellow is "
    f"{MOST_ATTENTION:g} times as much as an even share or more, the same in every report. Below each map stand what "
    "the token gives to itself, which the colours leave out, and the peak over an even share."
)
COMPONENT_WORDS = (
    "The first three principal components of the latents of all patches of these images, in one basis for all of them, "
    f"as red, green and blue: gray is the mean, and a colour is full {SPREAD:g} deviations away. Each sign is such "
    "that few patches are bright and many a little dark. The same colour is the same direction in every image of "
    "this run, and in no other: each run has a basis of its own."
)
