"""The folder of one run: where its files are, who may use it, and which images it trains on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextae.errors import UserError


class RunFolder:
    """`start` takes the folder for this process; the operating system gives it back when the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.yaml"
        self.log = path / "log.jsonl"
        self.quarantine = path / "quarantine.jsonl"
        self.images = path / "images.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self._lock: int | None = None

    def start(self, *, resume: bool) -> bool:
        """Whether there is a run to go on with. A used folder needs `resume`, an empty one starts from zero anyway."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out is the folder of the run. {self.path} is a file; choose another name.")
        foreign = sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        foreign = [name for name in foreign if name not in ("lock", "checkpoints", self.images.name)]
        begun = self.experiment.exists()
        if begun and not resume:
            raise UserError(
                f"{self.path} already holds a run, and a run is never overwritten. Go on with it by --resume, or give "
                "another --out."
            )
        if foreign and not begun:
            raise UserError(
                f"--out must be a new or empty folder, or one that holds a run. {self.path} holds {foreign[0]}"
                f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}; choose another."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise UserError(
                f"The run folder {self.path} cannot be written: {error.strerror}. Choose another --out."
            ) from None
        return begun

    def _take(self) -> None:
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise UserError(
                f"Another process{f' ({holder})' if holder else ''} is training in {self.path}. Wait for it or end it; "
                "two processes in one folder would destroy each other's checkpoints."
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock = descriptor

    def release(self) -> None:
        """Gives the folder back before the process ends."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_ids(self, ids: Sequence[str]) -> None:
        """Pins the images of this run: one JSON text a line, because file names may hold anything."""
        aside = self.images.with_suffix(".writing")
        with aside.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(name) + "\n" for name in ids)
        aside.replace(self.images)

    def read_ids(self) -> list[str]:
        """What `write_ids` pinned."""
        with self.images.open(encoding="ascii") as file:
            return [json.loads(line) for line in file]

    def write_quarantine(self, entries: Sequence[dict[str, Any]]) -> None:
        """All of it anew: at a resume, when what came after the checkpoint is forgotten."""
        self.quarantine.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="ascii")

    def add_quarantine(self, entry: dict[str, Any]) -> None:
        """One line more."""
        with self.quarantine.open("a", encoding="ascii") as file:
            file.write(json.dumps(entry) + "\n")
