"""What is looked for in the tests of `look_at_each`, importable by other processes in no time."""

from __future__ import annotations

import mmap
import os
import random
import sys
from typing import Any

import numpy as np
from small_index import WATCHED

from contextae.data.decode import decode
from contextae.data.facts import Unsupported
from contextae.data.index import Source
from contextae.data.picture import Picture, region


def shape(source: Source, name: str) -> tuple[int, ...]:
    return decode(source.read(name), channels=3).shape


def pixels(source: Source, name: str) -> np.ndarray:
    return decode(source.read(name), channels=3)


def process(source: Source, name: str) -> int:
    """The number of the process that looks, after it has read the image."""
    source.read(name)
    return os.getpid()


def environment(source: Source, name: str) -> str | None:
    return os.environ.get("CONTEXTAE_CACHE")


def imported(source: Source, name: str) -> dict[str, bool]:
    source.probe(name)
    return {module: module in sys.modules for module in WATCHED}


def unsupported(source: Source, name: str) -> Any:
    raise Unsupported("LAB pixels, not supported")


def greedy(source: Source, name: str) -> int:
    """Takes 100 MB for images whose name begins with an a."""
    return len(bytearray(100_000_000 if name.startswith("a") else 1000))


def mapped(source: Source, name: str) -> int:
    """Maps 100 MB that others may see too."""
    with mmap.mmap(-1, 100_000_000) as data:
        return len(data)


def large_view(image: np.ndarray | Picture, rng: random.Random) -> np.ndarray:
    return np.ones(30_000_000, np.uint8)


def uneven_view(image: np.ndarray | Picture, rng: random.Random) -> np.ndarray:
    """Of odd images twice as large on the way."""
    return np.ones(60_000_000 if is_odd(image) else 30_000_000, np.uint8)[:30]


def is_odd(image: np.ndarray | Picture) -> bool:
    height, width = image.shape[:2]
    return bool(int(region(image, (0, 0, width, height), (height, width)).image.sum()) % 2)
