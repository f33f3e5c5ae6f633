"""What a kind of source says it holds, before any header is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from contextae.data.index import LeftOut, Part, Source

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
JPEG2000 = (".jp2", ".j2k", ".jpx", ".j2c")
NETPBM = (".ppm", ".pgm", ".pbm", ".pnm")
DICOM = (".dcm", ".dicom")
SUFFIXES = frozenset(
    (*JPEG, *JPEG2000, *NETPBM, *DICOM, ".npy", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".avif")
)


@dataclass(kw_only=True)
class Listing:
    """Candidates by id, in their final order, and what is out already. Labels, where it has any, go with the ids."""

    source: Source
    title: str
    ids: Sequence[str]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    parts: list[Part] = field(default_factory=list)
    "Of several sources, whose ids stand one after the other."


def suffix_of(name: str) -> str:
    """In lower case; the whole name of a file that only has a suffix does not count."""
    return PurePosixPath(name).suffix.lower()
