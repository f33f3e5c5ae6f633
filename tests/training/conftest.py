"""Checkpoints of a run; disks that are full and folders that cannot be written, where a test may make them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contextae.training.checkpoint import Checkpoints


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> Path:
        """A file that takes all the room that is left."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return filler

    def read_only(self) -> None:
        """From now on."""
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Of 512 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", path], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a file system that can be filled needs the right to mount one: {made.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def unwritable(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder where nothing can be made: by its permissions, or for root by a file system mounted read-only."""
    if os.geteuid() == 0:
        disk = request.getfixturevalue("disk")
        disk.read_only()
        yield disk.path
    else:
        path = tmp_path / "unwritable"
        path.mkdir(mode=0o555)
        yield path
        path.chmod(0o755)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "run" / "checkpoints", keep=2, say=said.append)
