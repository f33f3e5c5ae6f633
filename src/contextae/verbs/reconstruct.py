"""`contextae reconstruct`: what a trained method makes of masked images, as contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
import typer

from contextae.data.facts import Refusal
from contextae.data.index import Index, printable
from contextae.data.showing import Whole, show_each
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.masking import Mask
from contextae.methods.method import Method, Pictures
from contextae.methods.views import MaskedView
from contextae.pretrained import Origin, load_method
from contextae.randomness import drawn, stream
from contextae.report.figures import MOST_ROWS, contact_sheet
from contextae.verbs.output import check_output, writing

NOTES = {
    "pixels": "Patches are predicted up to their own mean and contrast, which are taken from the input.",
    "hog": "Histograms of gradients are predicted: strokes along edges, as bright as the gradient is strong.",
    "codes": "Codes are predicted, and drawn as the tokenizer decodes them among the codes of visible patches.",
}


class DrawnImages(NamedTuple):
    """Some images of an index, decoded, h w c: `positions` in it, and those left out, with reasons."""

    positions: list[int]
    pixels: list[np.ndarray]
    left_out: list[tuple[int, str]]


def run_reconstruct(
    *, weights: Path, images: list[Path], out: Path, checkpoint: str, count: int, seed: int
) -> list[Path]:
    """Writes one row an image, `MOST_ROWS` to a sheet; further sheets are `out` with -2, -3 before the suffix."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is the PNG to write, such as reconstruction.png. Got {out}.")
    check_output(out)
    method, origin = load_method(weights, checkpoint=checkpoint)
    names, pixels = _named(origin, images) if images else _drawn(origin, count, seed)
    written = []
    for first in range(0, len(names), MOST_ROWS):
        some = slice(first, first + MOST_ROWS)
        pictures = reconstructed(method, origin, names[some], pixels[some], seed=seed)
        page = out if first == 0 else out.with_name(f"{out.stem}-{first // MOST_ROWS + 1}{out.suffix}")
        with writing(page):
            draw_sheet(pictures, origin, names[some], page)
        typer.echo(f"{len(names[some])} image(s) -> {page}")
        written.append(page)
    return written


def reconstructed(
    method: Method, origin: Origin, names: Sequence[str], pixels: list[np.ndarray], *, seed: int
) -> Pictures:
    """What `method` makes of images of these names, of which and of `seed` the masks are functions."""
    masker, second = origin.masked.build_masker(origin.experiment.grid_size), origin.second_transform
    masks = [masker(stream(seed, "reconstruct", name)) for name in names]
    mask = Mask(*(torch.from_numpy(np.stack(part)) for part in zip(*masks, strict=True)))
    with torch.no_grad():
        view = MaskedView(origin.transform(pixels), mask, None, second(pixels) if second else None)
        return method.pictures(view)


def draw_sheet(pictures: Pictures, origin: Origin, names: Sequence[str], out: Path | IO[bytes]) -> None:
    """The contact sheet of `reconstructed`, as PNG."""
    contact_sheet(
        pictures,
        grid_size=origin.experiment.grid_size,
        mean=origin.transform.mean,
        deviation=origin.transform.deviation,
        names=names,
        out=out,
        note=_note(origin),
        windowed=windowed(origin),
    )


def windowed(origin: Origin) -> bool:
    """Whether images are shown between percentiles: what is no photograph fills little of its range."""
    return origin.transform.dtype != "uint8" or origin.channels not in (1, 3)


def draw_images(index: Index, *, count: int, seed: int) -> DrawnImages:
    """At most `count` images, the same ones each time; those that cannot be read are named, and the next is taken.

    They are decoded in processes that may die of them.
    """
    found = DrawnImages([], [], [])
    waiting = iter(drawn(len(index), seed, "drawn for reconstruct"))
    look_at = Whole(index.channels, index.dtype)
    while len(found.pixels) < count:
        positions = list(islice(waiting, count - len(found.pixels)))
        if not positions:
            break
        seen = show_each(look_at, index.source, [index.ids[position] for position in positions])
        for position, pixels in zip(positions, seen, strict=True):
            if isinstance(pixels, Refusal):
                typer.echo(f"{printable(index.ids[position])} is left out: {pixels.reason}", err=True)
                found.left_out.append((position, pixels.reason))
            else:
                found.pixels.append(pixels)
                found.positions.append(position)
    if not found.pixels:
        raise UserError(f"None of the images of {index.title} can be read.")
    return found


def _note(origin: Origin) -> str:
    kind = origin.masked.target.partition(":")[0]
    return "" if kind == "pixels" and not origin.masked.normalise_target else NOTES[kind]


def _named(origin: Origin, images: list[Path]) -> tuple[list[str], list[np.ndarray]]:
    return [path.name for path in images], [origin.transform.pixels(path) for path in images]


def _drawn(origin: Origin, count: int, seed: int) -> tuple[list[str], list[np.ndarray]]:
    """Some of the images the run was trained on."""
    source = origin.experiment.data.source
    index = open_index(source, channels=origin.channels, dtype=origin.experiment.data.dtype)
    try:
        found = draw_images(index, count=count, seed=seed)
    except UserError as error:
        raise UserError(f"{error} Name images on the command line instead.") from None
    return [index.ids[position] for position in found.positions], found.pixels
