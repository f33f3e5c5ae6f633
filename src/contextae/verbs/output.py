"""The file that --out names: refused before the work where it cannot be written, and a failed write is the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contextae.data.index import printable
from contextae.data.sources.origin import place_of
from contextae.errors import UserError


def check_output(path: Path) -> None:
    """UserError where no file can be written at `path`, so that minutes of work do not end in it."""
    with writing(path):
        if path.is_dir():
            raise UserError(f"--out is the file to write. {path} is a folder; name a file in it, or another one.")
        if not path.parent.is_dir():
            raise UserError(
                f"The folder of --out must exist. There is no folder {path.parent}; create it or choose another."
            )
        place = path if path.exists() else path.parent
        if not os.access(place, os.W_OK):
            raise UserError(f"--out must be writable. {place} is not, for this user; choose another place.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written, as a UserError: a full disk is no defect of ours."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}. Mend that, or choose another place with --out."
        ) from error


def check_outside(out: Path, source: str, what: str) -> None:
    """UserError where `out` lies within the folder of images `source`, which it would change."""
    place = place_of(source)
    if place and place.is_dir() and out.resolve().is_relative_to(place.resolve()):
        raise UserError(
            f"{what} is no part of its source, which it would change. {printable(str(out))} lies in "
            f"{printable(str(place))}; choose another folder with --out."
        )


def empty_folder(path: Path) -> None:
    """UserError where `path` is a file or already holds something: nothing is ever written among other things."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"--out is a new or empty folder. There is something at {path} already; choose another, or remove it."
        )
