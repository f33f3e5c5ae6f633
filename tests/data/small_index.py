"""A small index of arrays whose samples can be given any trouble, importable by loader processes."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.data.augment import Crop
from contextae.data.facts import BadImage
from contextae.data.index import FACTS, Index
from contextae.data.names import Names
from contextae.errors import UserError
from contextae.masking import BlockMasker
from contextae.methods.views import MaskedViews

VIEWS = MaskedViews(crop=Crop(size=(10, 14)), masker=BlockMasker(size=(5, 7), num_masked=13, min_block=2))


@dataclass(frozen=True)
class Troubled:
    """Arrays that are a function of the id; `trouble` is by id, `folder` is where marks are left for the test."""

    trouble: dict[str, str] = field(default_factory=dict)
    folder: str = ""

    def read(self, sample_id: str) -> np.ndarray:
        if self.folder:
            with open(Path(self.folder, "reads"), "a") as reads:
                reads.write(f"{sample_id}\n")
        if kind := self.trouble.get(sample_id):
            self._meet(kind, sample_id)
        rng = np.random.default_rng([ord(letter) for letter in sample_id])
        return rng.integers(0, 256, (11 + len(sample_id), 17, 3)).astype(np.uint8)

    def _meet(self, kind: str, sample_id: str) -> None:
        match kind:
            case "bad":
                raise BadImage("damaged pixels")
            case "missing":
                raise FileNotFoundError(2, "No such file or directory", f"/data/{sample_id}")
            case "bad at first":
                with open(Path(self.folder, f"met-{sample_id[2:]}"), "x"):
                    raise BadImage("damaged pixels")
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(1000)
            case "hang at first":
                with open(Path(self.folder, f"met-{sample_id[2:]}"), "x"):
                    time.sleep(1000)
            case "slow":
                time.sleep(0.25)
            case "defect":
                raise ZeroDivisionError(f"a defect at {sample_id}")
            case "user":
                raise UserError("The file has changed. Start again.")
            case "loud":
                sys.stdout.write("words of a library\n")
                sys.stdout.flush()
                os.write(1, b"words of its C code\n")


class Retried(Troubled):
    """As `Troubled`, except that what was bad once is read in peace afterwards."""

    def _meet(self, kind: str, sample_id: str) -> None:
        try:
            super()._meet(kind, sample_id)
        except FileExistsError:
            return


def name(i: int) -> str:
    """Of sample i: lengths differ, and order by name is not order by position."""
    return f"{'abcdefg'[i % 7]}/{i}.png"


def small_index(count: int = 23, trouble: dict[int, str] | None = None, folder: Path | None = None) -> Index:
    source = Retried({name(i): kind for i, kind in (trouble or {}).items()}, str(folder) if folder else "")
    return Index(
        source=source,
        title="a small set",
        ids=Names(name(i) for i in range(count)),
        facts=np.zeros(count, FACTS),
        channels=3,
        found=count,
        labels=np.zeros(count, np.int64),
    )


def reads(folder: Path) -> list[str]:
    """Ids in the order in which they were read, by all processes together."""
    return (folder / "reads").read_text().split()


class Modules(NamedTuple):
    """A view that says which of some modules its process has imported."""

    present: Any


WATCHED = ("torch", "torchvision", "timm", "pydantic", "pyarrow", "matplotlib", "typer", "contextae")


def modules(image: np.ndarray, rng: random.Random) -> Modules:
    return Modules(np.array([watched in sys.modules for watched in WATCHED]))


def same(one: Any, other: Any) -> bool:
    """Whether two batches are of the same classes, types and bits."""
    if isinstance(one, tuple):
        return type(one) is type(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other)
