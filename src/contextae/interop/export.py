"""Export: the encoder in another library's format, kept only after that library has given the same outputs."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from contextae.encoder import Encoder
from contextae.errors import UserError, nearest
from contextae.interop import input_facts, receipt
from contextae.interop.receipt import Receipt, make_receipt
from contextae.interop.reload import BATCH, FORMATS
from contextae.interop.trunk import resized

FEWEST = 1 + BATCH  # images a receipt runs, so that batches of one and of several are tried


def check_export(to: str, out: Path) -> None:
    """UserError for an unknown format, a library that is not installed, or a folder that is not free; takes no time."""
    if to not in FORMATS:
        raise UserError(f"--to is one of {', '.join(FORMATS)}. Got {to!r}.{nearest(to, FORMATS)}")
    absent = [name for name in FORMATS[to].needs if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"--to {to} needs {', '.join(absent)}, which is not installed. Install it with: "
            f'pip install "contextae[{to}]"'
        )
    try:
        free = not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise _unwritable(out, error) from error
    if not free:
        raise UserError(f"--out is a folder to be made, or an empty one. There is something at {out}; name another.")


def export(
    encoder: Encoder,
    *,
    to: str,
    out: Path,
    mean: Sequence[float],
    deviation: Sequence[float],
    files: Sequence[Path],
    images: Float[Tensor, "b c h w"],
    allow_missing: Sequence[str] = (),
    weights: str = "",
    dtype: str = "uint8",
    value_range: tuple[float, float] = (0.0, 255.0),
) -> Receipt:
    """Writes `encoder` for the library `to` into the folder `out`, and the receipt with it.

    `files` are image files and `images` what our own transform makes of them. `mean` and `deviation` are those the
    encoder was trained with, per channel, of values in 0..1, into which `value_range` of files of `dtype` goes.

    The folder appears under its name (of one that is there: its files do) only after a fresh process with the other
    library has given the same outputs for the files; otherwise a UserError, and nothing is left. `weights` says, in the
    receipt, where they come from.
    """
    check_export(to, out)
    encoder = resized(encoder, encoder.grid.image_size)
    facts = input_facts.input_facts(
        image_size=encoder.grid.image_size,
        channels=encoder.grid.channels,
        mean=mean,
        deviation=deviation,
        dtype=dtype,
        stored_range=value_range,
    )
    place, aside = out.resolve(), f".{out.resolve().name}.unchecked-{os.getpid()}"
    there = place.is_dir()
    unchecked = place / aside if there else place.with_name(aside)
    several = list(itertools.islice(itertools.cycle(range(len(files))), max(FEWEST, len(files))))
    try:
        unchecked.mkdir(parents=True)
        importlib.import_module(f"contextae.interop.{FORMATS[to].module}").write(encoder, facts, unchecked)
        (unchecked / input_facts.NAME).write_text(facts.to_json(), encoding="utf-8")
        found = make_receipt(
            encoder,
            unchecked,
            to=to,
            files=[files[i] for i in several],
            images=images[several],
            allow_missing=allow_missing,
            weights=weights,
        )._replace(num_images=len(files))
        (unchecked / receipt.NAME).write_text(found.to_json(), encoding="utf-8")
        if there:  # it stays the folder it is: a volume, or the one the user's shell stands in
            for path in sorted(unchecked.iterdir(), key=lambda path: path.name == receipt.NAME):
                path.rename(place / path.name)
        else:
            unchecked.rename(place)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    return found


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(
        f"{out} cannot be written: {error.strerror or error}. Mend that, or choose another place with --out."
    )
