"""The images of a run as files that are opened by memory map: names, where each ends, what their headers said."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.data.index import FACTS, Index, Part, Source
from contextae.data.names import Names, as_array, mapped_bytes, write_chunks
from contextae.disk import sync_file, sync_folder
from contextae.errors import UserError

FORMAT = 2
"Of the files; 1 was a list of ids as JSON lines."
ABOUT, TEXT, ENDS, ROWS = "index.json", "names.bin", "ends.bin", "facts.bin"


class Stored(NamedTuple):
    """`kind` is the class of the source; `found` counts those `left_out` before the start as well."""

    ids: Names
    facts: np.ndarray
    kind: str
    found: int
    left_out: int
    parts: tuple[Part, ...] = ()


def write_index(folder: Path, index: Index, *, found: int, left_out: int) -> None:
    """Under another name until all is on the disk. OSError where there is no room."""
    temporary = folder.with_name(f".writing-{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        index.ids.write(temporary / TEXT, temporary / ENDS)
        with (temporary / ROWS).open("wb") as stream:
            write_chunks(index.facts, stream)
        about = {
            "format": FORMAT,
            "count": len(index),
            "found": found,
            "left_out": left_out,
            "source": kind_of(index.source),
            "parts": index.parts,
            "files": {
                name: [(temporary / name).stat().st_size, hashed(temporary / name)] for name in (TEXT, ENDS, ROWS)
            },
        }
        (temporary / ABOUT).write_text(json.dumps(about) + "\n", encoding="ascii")
        for path in temporary.iterdir():
            sync_file(path)
        sync_folder(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_stored(folder: Path, *, whole: bool, restore: str) -> Stored:
    """What `write_index` wrote, or a refusal that ends in what to do, `restore`.

    With `whole` every byte is compared with its hash, at about 1 GB a second; without, the sizes alone.
    """
    version: object = FORMAT
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="ascii"))
        version = about["format"]
        stored = _opened(folder, about, whole=whole) if version == FORMAT else None
    except OSError as error:
        raise UserError(
            f"{folder}, the list of images of this run, cannot be read: {error.strerror}. {restore}"
        ) from None
    except (ValueError, KeyError, TypeError):
        stored = None
    if version != FORMAT:
        raise UserError(
            f"{folder} has format version {version!r}, and this version of contextae reads {FORMAT}. Resume with the "
            "version that began the run."
        )
    if stored is None:
        raise UserError(f"{folder}, the list of images of this run, was damaged or edited. {restore}")
    return stored


def _opened(folder: Path, about: dict[str, Any], *, whole: bool) -> Stored | None:
    """None where it is not what was written."""
    for name, (size, sha256) in about["files"].items():
        if (folder / name).stat().st_size != size or (whole and hashed(folder / name) != sha256):
            return None
    ids, facts = Names.mapped(folder / TEXT, folder / ENDS), as_array(mapped_bytes(folder / ROWS), FACTS)
    if not len(ids) == len(facts) == about["count"]:
        return None
    parts = tuple(Part(*part) for part in about.get("parts", []))
    return Stored(ids, facts, str(about["source"]), int(about["found"]), int(about["left_out"]), parts)


def kind_of(source: Source) -> str:
    """The class of a source, and of several the classes of all, with commas."""
    sources = getattr(source, "sources", None)
    return ",".join(map(kind_of, sources.values())) if sources else type(source).__name__


def read_first_format(path: Path, *, restore: str) -> Stored:
    """The list of ids that earlier versions wrote: JSON lines, the first of which holds counts and a hash."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        about = json.loads(head)
        if about["format"] != 1 or hashlib.sha256(body).hexdigest() != about["sha256"]:
            raise ValueError
        ids = Names(json.loads(line) for line in body.splitlines())
        left_out = int(about.get("left_out", 0))  # what the first versions did not write
        return Stored(ids, np.zeros(len(ids), FACTS), "", int(about.get("found", len(ids) + left_out)), left_out)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. {restore}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}, the list of images of this run, was damaged or edited. {restore}") from None


def hashed(path: Path) -> str:
    """Sha256 of a file, read by pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
