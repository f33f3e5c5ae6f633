"""One shard of a packed cache: its images decoded, resized and written. This is what loader processes run."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import simplejpeg

from contextae.data.index import Source, printable
from contextae.data.packed import resized_to
from contextae.data.packed_manifest import shard_name
from contextae.data.picture import picture
from contextae.data.resize import resize
from contextae.data.samples import NO_SAMPLE, UNUSABLE, Bad, Begun, Made, reason_of
from contextae.disk import reason, sync_folder
from contextae.errors import UserError

QUALITY, SUBSAMPLING = 90, "420"
LONGEST_JPEG = 65_500
"Pixels of a side, of libjpeg."


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A task for processes: shards of (position, id) pairs."""

    source: Source
    channels: int
    dtype: str
    folder: str
    kind: str
    short_side: int
    per_shard: int

    advice: ClassVar[str] = "Free memory, or pack with fewer --workers; otherwise look at that image and its disk."

    def make(
        self,
        wanted: list[tuple[int, str]],
        known_bad: Collection[int],
        begun: Begun = lambda epoch, position: None,
    ) -> Made:
        """The shard of the wanted images, on the disk as a whole or not at all; `batch` is its record.

        UserError where the disk takes no more.
        """
        number = wanted[0][0] // self.per_shard
        target = Path(self.folder, shard_name(number))
        temporary = target.with_name(f".writing-{target.name}-{os.getpid()}")
        record, bad = Record(), list[Bad]()
        try:
            with temporary.open("wb") as stream:
                for position, sample_id in wanted:
                    if position in known_bad:
                        continue
                    begun(0, position)
                    image = self._image(sample_id)
                    if isinstance(image, str):
                        bad.append(Bad(position, image, 0))
                    else:
                        stream.write(record.added(position, image, self.kind))
                begun(*NO_SAMPLE)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(unwritable(Path(self.folder), error)) from error
        return Made({"rows": record.rows, "size": record.size, "sha256": record.digest.hexdigest()}, [], bad)

    def name(self, wanted: list[tuple[int, str]], position: int) -> str:
        """The id at a position."""
        return dict(wanted)[position]

    def _image(self, sample_id: str) -> np.ndarray | str:
        """h w c, or why it cannot be had."""
        try:
            image = self._resized(self.source.read(sample_id))
        except UNUSABLE as error:
            return reason_of(error)
        if self.kind == "jpeg" and max(image.shape[:2]) > LONGEST_JPEG:
            return f"longer than {LONGEST_JPEG:,} pixels, which no JPEG holds"
        return image

    def _resized(self, data: bytes | np.ndarray) -> np.ndarray:
        """Of a JPEG of twice the size and more, decoded at 1/2, 1/4 or 1/8 first."""
        opened = picture(data, channels=self.channels, dtype=self.dtype)
        height, width = opened.shape[:2]
        size = resized_to(height, width, self.short_side)
        image, box = opened.part((0.0, 0.0, float(width), float(height)), size)
        return image if size == (height, width) else resize(image, size, box).transpose(1, 2, 0)


class Record:
    """What a shard holds: its rows (position, offset, bytes, height, width, CRC-32), its size and sha256."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.size, self.digest = 0, hashlib.sha256()

    def added(self, position: int, image: np.ndarray, kind: str) -> bytes:
        """Takes note of an image h w c, and gives the bytes to write for it."""
        data = image.tobytes() if kind == "raw" else jpeg_of(image)
        self.rows.append((position, self.size, len(data), *image.shape[:2], zlib.crc32(data)))
        self.digest.update(data)
        self.size += len(data)
        return data


def jpeg_of(image: np.ndarray) -> bytes:
    """A baseline JPEG of uint8 h w c, gray or RGB."""
    colours = "GRAY" if image.shape[2] == 1 else "RGB"
    pixels = np.ascontiguousarray(image)
    encoded: bytes = simplejpeg.encode_jpeg(pixels, QUALITY, colours, SUBSAMPLING, fastdct=False)
    return encoded


def unwritable(folder: Path, error: OSError) -> str:
    """The paragraph for a disk that is full or read-only."""
    return (
        f"The packed cache cannot be written to {printable(str(folder))}: {reason(error)}. Mend that and repeat the "
        "command, which goes on where it stopped, or choose another place with --out."
    )
