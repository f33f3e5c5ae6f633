"""Tar and zip archives with whatever a member can be, and ways to damage them."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from contextae.data.facts import BadImage
from contextae.data.sources.archives import list_archives
from contextae.data.sources.listing import Listing
from contextae.errors import UserError

BLOCK = 512


def tar_bytes(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def header(name: str = "a.png", size: int = 0, kind: bytes = b"0", **fields: Any) -> bytes:
    """One block of a tar archive."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return summed(bytearray(info.tobuf(tarfile.GNU_FORMAT)[-BLOCK:]))


def summed(block: bytearray) -> bytes:
    """With the checksum it must have."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: str, data: bytes, kind: bytes = b"0", **fields: Any) -> bytes:
    return header(name, len(data), kind, **fields) + padded(data)


def record(keyword: str, value: str) -> bytes:
    """One of pax, which begins with its own length."""
    rest = f" {keyword}={value}\n".encode()
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


END = bytes(2 * BLOCK)


def zip_bytes(members: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def listed(path: Path, data: bytes | None = None, **options: Any) -> Listing:
    """Of one archive, written first if its bytes are given."""
    if data is not None:
        path.write_bytes(data)
    return list_archives(path.parent, [path.name], path.name, **options)


def damaged(data: bytes, rng: random.Random, *, tar: bool) -> bytes:
    """Cut, with bytes changed, with a block doubled or gone; often, in a tar, with a header's checksum mended."""
    changed = bytearray(data)
    kind = rng.randrange(4)
    at = rng.randrange(len(changed))
    if kind == 0:
        return bytes(changed[:at])
    if kind == 1:
        block = at // BLOCK * BLOCK
        del changed[block : block + BLOCK * rng.randrange(1, 3)]
    elif kind == 2:
        block = at // BLOCK * BLOCK
        changed[block:block] = changed[block : block + BLOCK]
    else:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            at = rng.randrange(len(changed))
            if tar and rng.random() < 0.7:  # into a header, and among these into the size or the type
                starts = [
                    start
                    for start in range(0, len(changed) - BLOCK, BLOCK)
                    if changed[start + 257 : start + 262] == b"ustar"
                ]
                place = rng.choice((rng.randrange(500), 124 + rng.randrange(12), 156))
                at = rng.choice(starts or [0]) + place
            elif not tar and rng.random() < 0.7:  # into the directory
                at = rng.randrange(max(changed.rfind(b"PK\5\6") - 300, 0), len(changed))
            changed[at] = rng.choice((0, 255, 128, rng.randrange(256), ord("L"), ord("x"), ord("S")))
            if tar and rng.random() < 0.9:
                block = at // BLOCK * BLOCK
                changed[block : block + BLOCK] = summed(changed[block : block + BLOCK].ljust(BLOCK, b"\0"))
    return bytes(changed)


def survives(path: Path, data: bytes) -> str:
    """What became of an archive: refused, or read as far as it goes. Errors of other kinds come out."""
    try:
        listing = listed(path, data)
    except UserError:
        return "refused"
    for sample_id in listing.ids:
        for ask in (listing.source.probe, listing.source.read):
            try:
                answer = ask(sample_id)
                assert ask == listing.source.probe or len(answer) < 10_000_000
            except BadImage:
                pass
    return "left out" if listing.left_out else "whole"
