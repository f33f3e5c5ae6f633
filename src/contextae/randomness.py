"""Counted randomness: every draw is a function of what it is for, never of what was drawn before.

Data order, crops, masks and stochastic depth are keyed by (seed, epoch, sample id), so a resumed run repeats an
uninterrupted one bit for bit, whatever the number of workers. Nothing here imports torch: loader workers use it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import numpy as np


def key(*parts: int | str) -> int:
    """A 63-bit key of its parts, the same on every machine and Python version.

    Parts keep their type and their borders: key(1, 2) differs from key(12), key("1") from key(1).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()) >> 1


def stream(*parts: int | str) -> random.Random:
    """Python's own generator, started from `key(*parts)`. Seeding costs some 6 us, far less than numpy's or torch's."""
    return random.Random(key(*parts))


def permutation(length: int, rng: random.Random) -> list[int]:
    """A uniform permutation of range(length) from `rng.random()` alone, whose stream Python promises to keep."""
    order = list(range(length))
    for last in range(length - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


class Shuffle:
    """A keyed permutation of range(length) of which any entries can be asked for, without a table of all of them.

    Up to TABLE entries it is `permutation`, which is exactly uniform; beyond, a Feistel network whose domain is the
    power of four above, walked until it comes back into the range (Black and Rogaway, CT-RSA 2002).
    """

    TABLE = 1 << 17
    ROUNDS = 8

    def __init__(self, length: int, *parts: int | str) -> None:
        self.length, self.parts = length, parts
        self.half = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
        self.mask = np.uint64((1 << int(self.half)) - 1)
        self.keys = [np.uint64(key(*parts, "round", i)) for i in range(self.ROUNDS)]
        self.table = np.array(permutation(length, stream(*parts)), np.int64) if length <= self.TABLE else None

    def __len__(self) -> int:
        return self.length

    def __call__(self, places: np.ndarray | range) -> np.ndarray:
        """The entries at these places, each in 0..length - 1, as int64."""
        asked = np.asarray(places, dtype=np.int64)
        if asked.size and not 0 <= asked.min() <= asked.max() < self.length:
            raise IndexError(f"Places of a permutation of {self.length} are 0 to {self.length - 1}.")
        if self.table is not None:
            return self.table[asked]
        values = self._mixed(asked.astype(np.uint64))
        while (outside := values >= self.length).any():
            values[outside] = self._mixed(values[outside])
        return values.astype(np.int64)

    def first(self, count: int) -> np.ndarray:
        """At most so many entries, from the first on: a keyed draw without replacement."""
        return self(np.arange(min(count, self.length)))

    def _mixed(self, values: np.ndarray) -> np.ndarray:
        """One walk through the network: a bijection of 0 .. 4 ** half - 1."""
        left, right = values >> self.half, values & self.mask
        for round_key in self.keys:
            left, right = right, left ^ (scrambled(right ^ round_key) & self.mask)
        return (left << self.half) | right


def scrambled(values: np.ndarray) -> np.ndarray:
    """uint64 to uint64, every bit depending on every bit: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def drawn(length: int, *parts: int | str) -> Iterator[int]:
    """The entries of a Shuffle one after the other, for as long as they are wanted."""
    shuffle = Shuffle(length, *parts)
    for start in range(0, length, 1024):
        yield from shuffle(range(start, min(start + 1024, length))).tolist()
