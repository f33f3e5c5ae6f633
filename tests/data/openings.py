"""Readings of files that go wrong as their names say, importable by other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

from contextae.data.sources.copies import copied_once
from contextae.data.sources.opening import Alive
from contextae.data.sources.unpacked import on_disk
from contextae.errors import UserError


def read(names: Sequence[str], bad: Collection[int], alive: Alive) -> tuple[list[str], int]:
    """The names that can be had, and the process that had them."""
    found = []
    for number, name in enumerate(names):
        if number in bad:
            continue
        alive(number)
        match name.rstrip("0123456789"):
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "abort":
                os.abort()
            case "exit":
                os._exit(7)
            case "hang":
                time.sleep(1000)
            case "greedy":
                bytearray(20 << 30)
            case "gone":
                Path("/nowhere/at/all").read_bytes()
            case "user":
                raise UserError(f"{name} is for the user to mend.")
            case "defect":
                raise ZeroDivisionError(name)
            case "slow":
                for _ in range(12):
                    time.sleep(0.1)
                    alive(number)
        found.append(name)
    return found, os.getpid()


def unpack(copy: Path, notes: Path, gate: Path) -> None:
    """Writes a copy once all of several processes are there, and notes that it has done so."""

    def opened() -> bytes | None:
        return copy.read_bytes() if copy.exists() else None

    def write(stream: BinaryIO) -> None:
        with notes.open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        for _ in range(50):
            stream.write(b"%08d" % os.getpid() * 1000)
            stream.flush()
            time.sleep(0.002)

    while not gate.exists():
        time.sleep(0.001)
    data = copied_once(copy, opened, write, lambda: None)
    assert data == data[:8] * 50_000, "a copy of two processes"


def rows(path: Path, column: str, gate: Path) -> int:
    """How many bytes the images of a Parquet file have, read from its copy in the cache, by one of several at once."""
    while not gate.exists():
        time.sleep(0.001)
    images = on_disk(path, column)
    return sum(len(images[i]) for i in range(len(images.ends)))
