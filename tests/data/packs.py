"""Small packed caches, and the folders they are made of."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tifffile
from PIL import Image

from contextae.data import packing
from contextae.data.index import Index
from contextae.data.packing import Packing
from contextae.data.pool import Answer
from contextae.data.sources.find import list_source
from contextae.data.sources.open import index_of
from contextae.data.sources.origin import origin_of
from contextae.data.worker import Work
from data.pictures import encoded

SIZES = ((37, 61), (61, 37), (20, 20), (11, 90), (90, 47))
"Height and width; the short side of the caches is 24, so that two stay as they are."
SHORT = 24


def photographs(folder: Path, count: int = 5) -> Path:
    """PNG and JPEG files of several sizes, in two folders."""
    for i in range(count):
        kind = "JPEG" if i % 2 else "PNG"
        path = folder / f"{'ab'[i % 2]}" / f"{i:03}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, kind, size=SIZES[i % len(SIZES)]))
    return folder


def bad_ones(folder: Path) -> None:
    """One that is no image by its header, and one that is cut off later."""
    (folder / "text.jpg").write_text("this is text")
    whole = encoded(0, "PNG", size=(60, 60))
    (folder / "zz-cut.png").write_bytes(whole[: len(whole) // 2])


def deep(folder: Path, dtype: str = "uint16", channels: int = 5, count: int = 3) -> Path:
    """TIFF files of several channels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        values = rng.integers(0, 60_000, (31 + i, 43, channels)).astype(dtype)
        tifffile.imwrite(folder / f"{i}.tif", values, photometric="minisblack", planarconfig="contig")
    return folder


def opened(source: str) -> Index:
    return index_of(list_source(source), "auto", None)


class Here:
    """A pool whose work is done in this process, when its answer is asked for."""

    def __init__(self, writer: Any, num_workers: int, **others: Any) -> None:
        self.writer, self.waiting = writer, deque[Work]()
        self.work, self.answers = self, self

    def put(self, work: Work) -> None:
        self.waiting.append(work)

    def get(self) -> Answer:
        work = self.waiting.popleft()
        return Answer(work.number, self.writer.make(work.wanted, work.known_bad))

    def close(self) -> None:
        pass


def packed(
    source: Path | str, out: Path, *, processes: bool = False, index: Index | None = None, **settings: Any
) -> Packing:
    origin, looks = origin_of(str(source), list_source(str(source)))
    index = index or opened(str(source))
    with mock.patch.object(packing, "Pool", packing.Pool if processes else Here), mock.patch("os.fsync"):
        return packing.pack(index, out, origin, looks, **{"short_side": SHORT, "num_workers": 1} | settings)


def tree(folder: Path) -> dict[str, str]:
    """A hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def one_colour(value: int, size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()
