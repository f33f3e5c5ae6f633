"""`contextae export`: the trained encoder for timm, Hugging Face, ONNX or torch, with a receipt."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from contextae.data.decode import decode
from contextae.data.facts import BadImage
from contextae.data.index import Index, printable
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.interop.export import check_export, export
from contextae.interop.input_facts import NAME as FACTS
from contextae.interop.receipt import Receipt
from contextae.interop.reload import FORMATS
from contextae.interop.trunk import resized
from contextae.pretrained import Transform, load_encoder
from contextae.randomness import drawn as drawn_positions
from contextae.settings import Sources

COUNT = 8  # images of a receipt when none are named


def run_export(
    *,
    weights: Path,
    to: str,
    out: Path,
    checkpoint: str = "last",
    image_size: tuple[int, int] | None = None,
    allow_missing: Sequence[str] = (),
    images: Sequence[Path] = (),
) -> Receipt:
    """Writes the folder and prints what its receipt says."""
    check_export(to, out)
    encoder, origin = load_encoder(weights, checkpoint=checkpoint)
    given = origin.transform
    encoder = resized(encoder, image_size or given.size)
    transform = given.resized(image_size or given.size)
    size = " x ".join(str(length) for length in transform.size)
    typer.echo(
        f"{weights}: width {encoder.width}, {encoder.depth} blocks, {encoder.num_heads} heads, for images of {size} "
        f"pixels, {given.channels} channel(s)"
    )
    with tempfile.TemporaryDirectory() as aside:
        files = _named(images, given, Path(aside)) or _own(origin.experiment.data.source, given, Path(aside))
        receipt = export(
            encoder,
            to=to,
            out=out,
            mean=given.mean,
            deviation=given.deviation,
            files=files,
            images=transform(files),
            allow_missing=allow_missing,
            weights=f"{weights}, checkpoint {checkpoint}",
            dtype=given.dtype,
            value_range=given.value_range,
        )
    for line in lines(receipt, out, allow_missing):
        typer.echo(line)
    return receipt


def lines(receipt: Receipt, out: Path, allow_missing: Sequence[str]) -> list[str]:
    """What the user is told."""
    library = FORMATS[receipt.to].library
    said = [
        f"{library} {receipt.versions[library]} in a fresh process, from {receipt.num_images} image file(s): outputs "
        f"differ from contextae's by at most {receipt.largest_difference:.1e}; {receipt.tolerance:.0e} would be refused"
    ]
    if receipt.missing:
        said.append(f"Missing, as allowed: {', '.join(receipt.missing)}")
    if idle := [name for name in allow_missing if name not in receipt.missing]:
        said.append(f"Not missing, so --allow-missing did nothing for: {', '.join(idle)}")
    if own := receipt.preprocessing:
        said.append(
            f"Preprocessed by {library} itself, pixels of the files differ by {own.mean_pixel_difference:.1f} of 255 "
            f"on average, and summaries agree to a cosine of at least {own.smallest_cosine:.3f}; {FACTS} says how "
            "contextae cuts and resizes"
        )
    said.append(f"{receipt.to} -> {out}, with receipt.json")
    said.append(f"Load it with {FORMATS[receipt.to].usage.format(out=out)}")
    if receipt.to == "timm":
        said.append("Without pretrained=True timm gives random weights and does not say so.")
    return said


def _named(images: Sequence[Path], transform: Transform, aside: Path) -> list[Path]:
    """Images as they are, and some out of every folder."""
    found: list[Path] = []
    for path in images:
        found += _own(str(path), transform, aside) if path.is_dir() else [path]
    return found


def _own(source: Sources, transform: Transform, aside: Path) -> list[Path]:
    """Some of the images of a source, as files in `aside`; unreadable ones are named and the next is taken."""
    try:
        index = open_index(source, channels=transform.channels, dtype=transform.dtype)
    except UserError as error:
        raise UserError(f"{error} Or name images for the receipt with --images.") from None
    drawn: list[Path] = []
    for position in drawn_positions(len(index), 0, "drawn for export"):
        if len(drawn) == COUNT:
            break
        try:
            drawn.append(_staged(index, position, aside))
        except BadImage as error:
            typer.echo(f"{printable(index.ids[position])} is left out: {error.reason}", err=True)
    if not drawn:
        raise UserError(f"None of the images of {index.title} can be read. Name images for the receipt with --images.")
    return drawn


def _staged(index: Index, position: int, aside: Path) -> Path:
    """The bytes of the image's file, or an array as one; BadImage where it cannot be decoded."""
    data = index.read(position)
    decode(data, channels=index.channels, dtype=index.dtype)
    if isinstance(data, np.ndarray):
        stream = io.BytesIO()
        if data.dtype == np.uint8 and data.shape[2] in (1, 3):  # which other libraries read as well
            Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data).save(stream, "PNG")
        else:
            np.save(stream, data, allow_pickle=False)
        data = stream.getvalue()
    path = aside / f"{len(list(aside.iterdir())):03d}"
    path.write_bytes(data)
    return path
