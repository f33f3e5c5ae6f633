"""The arrays of a .npz file, a zip archive of .npy files: which holds the images, and where its bytes can be read."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import IO

from contextae.data.facts import BadImage
from contextae.data.index import printable
from contextae.data.names import cache_folder
from contextae.data.sources.columns import IMAGE_NAMES
from contextae.data.sources.copies import Tick, check_room, copied_once, no_room
from contextae.data.sources.npy import Header, parsed
from contextae.data.sources.regular import open_regular
from contextae.data.sources.unpacked import cache_key
from contextae.data.sources.zip import DAMAGE, data_place
from contextae.errors import UserError, nearest

SUFFIX = ".npy"
USUAL = (*IMAGE_NAMES, "x", "x_train", "data", "arr_0")
BROKEN = (*DAMAGE, zlib.error, EOFError, RuntimeError)
"What reading a damaged or encrypted member raises."
CHUNK = 1 << 20


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays by name; UserError where the file is no zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except DAMAGE as error:
        raise UserError(refusal(path)) from error
    return {info.filename.removesuffix(SUFFIX): info for info in infos if info.filename.endswith(SUFFIX)}


def refusal(path: Path) -> str:
    return (
        f"{printable(str(path))} cannot be read as a .npz file: it is no zip archive, or is damaged. Mend it, or take "
        "it out of the set."
    )


def image_array(path: Path, wanted: str) -> tuple[str, str]:
    """The name of the array that holds the images, and a note on what else there is.

    The wanted one; else the only one of 3 or 4 axes; else, of these, the only one with a usual name.
    """
    there = members(path)
    where, names = printable(str(path)), ", ".join(map(printable, there)) or "nothing"
    if wanted:
        if wanted not in there:
            raise UserError(
                f"{where} has no array {wanted!r}.{nearest(wanted, there)} It holds {names}. Behind :: stands the name "
                "of an array, its axes (nhw, nhwc, nchw), or both as in NAME::nchw."
            )
        return wanted, ""
    likely = [name for name, info in there.items() if num_axes(path, info) in (3, 4)]
    usual = [name for name in likely if name.lower() in USUAL]
    chosen = likely if len(likely) == 1 else usual
    if len(chosen) != 1:
        several = f": {', '.join(map(printable, likely))}" if likely else ""
        raise UserError(
            f"{where} holds {len(likely) or 'no'} arrays that may be images, of 3 or 4 axes{several}. It holds {names}"
            f". Name one as in {where}::NAME."
        )
    others = [printable(name) for name in there if name != chosen[0]]
    note = f"images are in array {printable(chosen[0])}, not in {', '.join(others)}" if others else ""
    return chosen[0], note


def num_axes(path: Path, info: zipfile.ZipInfo) -> int:
    """0 of an array that cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
            return len(parsed(stream, path).shape)
    except (UserError, *BROKEN):
        return 0


def stored_header(path: Path, info: zipfile.ZipInfo) -> Header:
    """Of an array that is not compressed, where it lies in the archive."""
    with open_regular(path) as stream:

        def read(offset: int, size: int) -> bytes:
            return os.pread(stream.fileno(), size, offset)

        try:
            begin = data_place(read, info.header_offset)
            stream.seek(begin)
        except (BadImage, *BROKEN) as error:
            raise UserError(refusal(path)) from error
        return parsed(stream, path)._replace(end=min(begin + info.file_size, path.stat().st_size))


def unpacked_copy(path: Path, name: str, alive: Tick = lambda: None) -> Path:
    """Of a compressed array, in the cache: written where it is not there, or differs from the archive's checksum."""
    info = members(path)[name]
    copy = cache_folder() / f"{cache_key(path, info.filename)}{SUFFIX}"
    try:
        return copied_once(
            copy,
            lambda: copy if is_copy(copy, info, alive) else None,
            lambda stream: write_array(path, info, stream, alive),
            alive,
        )
    except OSError as error:
        raise UserError(no_room(path, copy.parent, error, info.file_size)) from error


def is_copy(copy: Path, info: zipfile.ZipInfo, alive: Tick) -> bool:
    try:
        with copy.open("rb") as stream:
            crc = 0
            while chunk := stream.read(CHUNK):
                alive()
                crc = zlib.crc32(chunk, crc)
            return (stream.tell(), crc) == (info.file_size, info.CRC)
    except OSError:
        return False


def write_array(path: Path, info: zipfile.ZipInfo, target: IO[bytes], alive: Tick) -> None:
    """UserError where the archive is damaged, which is known in part at the end only."""
    check_room(cache_folder(), info.file_size)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
            while chunk := stream.read(CHUNK):
                alive()
                target.write(chunk)
    except OSError:
        raise
    except BROKEN as error:
        raise UserError(refusal(path)) from error
