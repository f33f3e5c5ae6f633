"""A packed cache: every image of a set, resized once, in files that are opened by memory map.

A folder with `manifest.json`, which is written last; the names and the rows of all images; and `shards`, in which the
images lie back to back: `raw` ones as numbers h w c, each at its own size, so that a crop touches only the rows it
needs, or `jpeg` ones as files. The short side of an image is at most that of the settings; none is enlarged.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contextae.data.facts import BadImage, ImageFacts
from contextae.data.index import FACTS, LeftOut, printable
from contextae.data.names import CHUNK, Column, Names, as_array, mapped_bytes
from contextae.data.packed_manifest import (
    ENDS,
    HASHES,
    LEFT_OUT,
    MANIFEST,
    ORDER,
    ROWS,
    SHARDS,
    TEXT,
    Manifest,
    check_sizes,
    damaged,
    read_manifest,
    replaced,
    shard_name,
)
from contextae.data.stored_index import hashed
from contextae.errors import UserError

ROW = np.dtype(
    [("offset", "<u8"), ("num_bytes", "<u8"), ("height", "<u4"), ("width", "<u4"), ("shard", "<u4"), ("crc32", "<u4")]
)
"""Where one image lies in its shard, and what it is there."""
MOST_MAPPED = 1 << 35
"Bytes of shards that a process keeps mapped at a time: of its own, 8 bytes of page tables for each 4 kB of them."
NAMED = 3
DAMAGED = "damaged in the packed cache"


class Row(NamedTuple):
    """One of ROW."""

    offset: int
    num_bytes: int
    height: int
    width: int
    shard: int
    crc32: int


class PackedImages:
    """The images of a cache by their position, read from any thread. Arrays are views of the files, not to be written.

    A shard that is cut off while it is mapped ends the process that reads there; a loader starts another.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._look: tuple[int, int] | None = None
        self.names = Names.mapped(folder / TEXT, folder / ENDS)
        self.rows = as_array(mapped_bytes(folder / ROWS), ROW)
        self.hashes = as_array(mapped_bytes(folder / HASHES), np.dtype("<u8"))
        self.order = as_array(mapped_bytes(folder / ORDER), np.dtype("<i8"))
        if {len(self.names), len(self.rows), len(self.hashes), len(self.order)} != {manifest.count}:
            raise UserError(damaged(folder, ROWS))
        self.dtype = np.dtype(manifest.dtype)
        self._shards: dict[int, bytes | mmap.mmap] = {}
        self._mapped = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.manifest.count

    def position(self, sample_id: str) -> int | None:
        """By binary search among hashes; None where there is no such image."""
        wanted = np.uint64(hash_of(sample_id))
        for rank in range(int(np.searchsorted(self.hashes, wanted)), len(self.hashes)):
            if self.hashes[rank] != wanted:
                break
            position = int(self.order[rank])
            if self.names[position] == sample_id:
                return position
        return None

    def row(self, position: int) -> Row:
        return Row(*self.rows[position].item())

    def read(self, position: int) -> bytes | np.ndarray:
        """A raw image h w c, of which the disk is asked only for what is looked at; or the bytes of a JPEG file."""
        offset, num_bytes, height, width, number, _ = self.rows[position].item()
        data = self._shards.get(number) or self._shard(number)
        if offset + num_bytes > len(data):
            raise BadImage(DAMAGED)
        if self.manifest.kind == "jpeg":
            return data[offset : offset + num_bytes]
        count = height * width * self.manifest.channels
        if count * self.dtype.itemsize != num_bytes:
            raise BadImage(DAMAGED)
        return np.frombuffer(data, self.dtype, count, offset).reshape(height, width, self.manifest.channels)

    def facts(self, position: int) -> ImageFacts:
        """As a probe of the image would say."""
        row, about = self.row(position), self.manifest
        return ImageFacts(
            row.width,
            row.height,
            about.channels,
            format_of(about),
            about.image_kind,
            num_bytes=row.num_bytes,
            dtype=about.dtype,
            photograph=about.photograph,
        )

    def all_facts(self) -> np.ndarray:
        """Rows of FACTS of all images, without a look at any of them."""
        column, about = Column(), self.manifest
        for start in range(0, len(self), CHUNK):
            rows = self.rows[start : start + CHUNK]
            facts = np.zeros(len(rows), FACTS)
            for name in ("width", "height", "num_bytes"):
                facts[name] = rows[name]
            facts["format"], facts["kind"] = format_of(about).encode(), about.image_kind.encode()
            facts["channels"], facts["dtype"], facts["photograph"] = about.channels, about.dtype, about.photograph
            column.append(facts.tobytes())
        return as_array(column.whole(), FACTS)

    def left_out(self) -> Iterator[LeftOut]:
        """What its source held beside the images that are here."""
        with (self.folder / LEFT_OUT).open("rb") as lines:
            for line in lines:
                try:
                    yield LeftOut(*json.loads(line))
                except (ValueError, TypeError) as error:
                    raise UserError(damaged(self.folder, LEFT_OUT)) from error

    def _shard(self, number: int) -> bytes | mmap.mmap:
        """Maps a shard; those mapped longest ago are let go where there are too many."""
        with self._lock:
            if number not in self._shards:
                name = shard_name(number)
                size = int(self.manifest.files[name][0]) if number < self.manifest.num_shards else -1
                try:
                    self._check_same()
                    data = mapped_bytes(self.folder / name) if size >= 0 else b""
                except OSError as error:
                    raise BadImage(f"cannot be read ({error.strerror})") from error
                if len(data) != size:
                    raise BadImage(DAMAGED)
                while self._shards and self._mapped + size > MOST_MAPPED:
                    self._mapped -= len(self._shards.pop(next(iter(self._shards))))  # unmapped with its last view
                self._shards[number] = data
                self._mapped += size
            return self._shards[number]

    def _check_same(self) -> None:
        """UserError where another cache lies there by now; one that was untied meanwhile is the same."""
        status = (self.folder / MANIFEST).stat()
        look = status.st_ino, status.st_mtime_ns
        if look != self._look:
            if read_manifest(self.folder).content() != self.manifest.content():
                raise UserError(replaced(self.folder))
            self._look = look


def format_of(manifest: Manifest) -> str:
    return "JPEG" if manifest.kind == "jpeg" else "raw"


def open_packed(folder: Path) -> PackedImages:
    """In some milliseconds; UserError where it is no whole cache. Bytes are compared by `verify`."""
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    return PackedImages(folder, manifest)


def verify(folder: Path, progress: Callable[[int, int], None] | None = None) -> PackedImages:
    """Compares every byte with its checksum, at some 1 GB a second; UserError that names the images that are damaged.

    `progress(done, total)` counts bytes.
    """
    packed = open_packed(folder)
    files = packed.manifest.files
    done, total = 0, sum(size for size, _ in files.values())
    differing: list[str] = []
    for name, (size, sha256) in sorted(files.items()):
        if hashed(folder / name) != sha256:
            if not name.startswith(SHARDS):
                raise UserError(damaged(folder, name))
            differing.append(name)
        done += size
        if progress:
            progress(done, total)
    if differing:
        raise UserError(damaged_images(packed, differing))
    return packed


def damaged_images(packed: PackedImages, shards: list[str]) -> str:
    """The columns are whole by now, so that each image can be compared with its own checksum."""
    numbers = [int(Path(name).stem) for name in shards]
    bad = []
    for position in np.flatnonzero(np.isin(packed.rows["shard"], numbers)).tolist():
        row = packed.row(position)
        data = mapped_bytes(packed.folder / shard_name(row.shard))
        if zlib.crc32(memoryview(data)[row.offset : row.offset + row.num_bytes]) != row.crc32:
            bad.append(packed.names[position])
    some = ", ".join(map(printable, bad[:NAMED])) + (", ..." if len(bad) > NAMED else "")
    return (
        f"The packed cache {printable(str(packed.folder))} was damaged: {len(bad):,} of its {len(packed):,} images "
        f"differ from their checksums, {some}, in {len(shards):,} of its {packed.manifest.num_shards:,} shards. Remove "
        "the folder and pack its images again; if it happens again, look at the disk."
    )


def resized_to(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of a packed image: its aspect is kept, to half a pixel of the long side."""
    short = min(height, width)
    if short <= short_side:
        return height, width
    long = round(max(height, width) * short_side / short)
    return (short_side, long) if height <= width else (long, short_side)


def hash_of(sample_id: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode("utf-8", "surrogateescape"), digest_size=8).digest())
