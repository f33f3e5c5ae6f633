"""The folder of one run: its files, who may write to it, and whether a start begins it or goes on with it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from contextae.data.index import Index
from contextae.data.stored_index import Stored, open_stored, read_first_format, write_index
from contextae.disk import reason, replace_file
from contextae.errors import UserError
from contextae.training.json_lines import JsonLines, read_lines
from contextae.training.progress import say_on_stderr

BEGINNINGS = ("lock", "images", "quarantine.jsonl")
"""What a start leaves that was killed before it wrote experiment.yaml: nothing worth keeping."""
MEND = "Choose another folder with --out."
RESTORE = "Put it back from a copy, or start a new run in another folder with --out."


class RunFolder:
    """Paths of a run, and the lock that keeps a second process out as long as this one lives."""

    def __init__(self, path: Path, *, say: Callable[[str], None] = say_on_stderr) -> None:
        self.path, self.say = path, say
        self.experiment = path / "experiment.yaml"
        self.log = path / "log.jsonl"
        self.images = path / "images"
        self.first_format = path / "images.jsonl"
        self.quarantine = path / "quarantine.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.handle = -1

    def start(self, *, resume: bool) -> bool:
        """Makes and locks the folder; True when there is a run in it to go on with.

        With `resume` an absent or empty folder is begun, so that a restart repeats the same command.
        """
        self._make()
        if not self.experiment.exists() and (found := self._foreign()):
            some = ", ".join(repr(name) for name in found[:3]) + (
                f" and {len(found) - 3} more" if len(found) > 3 else ""
            )
            raise UserError(
                f"A run goes to a folder that is new, empty, or holds a run already. {self.path} holds {some} and no "
                f"experiment.yaml. {MEND}"
            )
        self.lock()
        used = self.experiment.exists()
        if used and not resume:
            self.release()
            raise UserError(
                f"{self.path} holds a run already, which nothing overwrites. Go on with it by --resume, or choose "
                "another folder with --out."
            )
        return used

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"A run goes to a folder, and {self.path} is or lies below a file. {MEND}") from None
        except OSError as error:
            raise UserError(f"The folder {self.path} cannot be made: {reason(error)}. {MEND}") from None

    def _foreign(self) -> list[str]:
        """Names of files that no start of a run made. Hidden ones and a file system's lost+found are nobody's data."""
        try:
            names = sorted(path.name for path in self.path.iterdir())
        except OSError as error:
            raise UserError(f"The folder {self.path} cannot be read: {reason(error)}. {MEND}") from None
        return [name for name in names if not name.startswith(".") and name not in (*BEGINNINGS, "lost+found")]

    def lock(self) -> None:
        """Held until `release` or the end of this process, however it ends; workers do not inherit it."""
        try:
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"The folder {self.path} cannot be written to: {reason(error)}. {MEND}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise UserError(
                f"One process writes to a run at a time, and {holder} is writing to {self.path}. Wait for its end or "
                "stop it, or choose another folder with --out."
            ) from None
        except OSError as error:  # a file system without locks, as Lustre is often mounted
            self.say(f"{self.path} cannot be locked: {reason(error)}. Take care that no second run is started there.")
        else:
            with contextlib.suppress(OSError):  # a full disk; the lock holds without the name of its holder
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self.handle = handle

    def release(self) -> None:
        """Lets another process in; the end of this one does the same."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def write_images(self, index: Index, *, found: int, left_out: int) -> None:
        """Pins the images this run trains on, in order. `found` is how many there were, with those `left_out`."""
        try:
            write_index(self.images, index, found=found, left_out=left_out)
        except OSError as error:
            raise UserError(f"{self.images} cannot be written: {reason(error)}. {MEND}") from None

    def read_images(self, *, whole: bool = True) -> Stored:
        """What `write_images` pinned, or a refusal: another list would be another run.

        `whole` compares every byte with its hash.
        """
        if not self.images.exists() and self.first_format.exists():
            return read_first_format(self.first_format, restore=RESTORE)
        return open_stored(self.images, whole=whole, restore=RESTORE)

    def write_left_out(self, left_out: Iterable[tuple[str, str]]) -> None:
        """The first lines of the quarantine: what was left out before the start, as path and reason; its epoch is null.

        Without anything left out there is no file.
        """
        self._write_quarantine({"sample_id": path, "reason": why, "epoch": None} for path, why in left_out)

    def left_out(self) -> list[dict[str, Any]]:
        """The lines of `write_left_out`."""
        return [line for line in self.read_quarantine() if "epoch" in line and line["epoch"] is None]

    def add_quarantine(self, line: Mapping[str, Any]) -> None:
        """One image that was set aside while training: `sample_id`, `reason`, `epoch`. A full disk is said, no more."""
        try:
            lines = JsonLines(self.quarantine)
            try:
                lines.append(dict(line))
            finally:
                lines.close()
        except OSError as error:
            self.say(f"{self.quarantine} cannot be written: {reason(error)}. It lacks {line['sample_id']!r}.")

    def complete_quarantine(self, quarantine: Mapping[str, str]) -> None:
        """Adds what other processes set aside, reasons by id, and says it: they do not write here."""
        known = self.quarantined()
        for name, why in quarantine.items():
            if name not in known:
                self.say(f"Set aside by another process: {name}: {why}")
                self.add_quarantine({"sample_id": name, "reason": why})

    def quarantined(self) -> set[str]:
        """Ids of what was set aside so far."""
        return {line["sample_id"] for line in self.read_quarantine()}

    def read_quarantine(self) -> list[dict[str, Any]]:
        """What was set aside so far."""
        return read_lines(self.quarantine)

    def restore_quarantine(self, quarantine: Mapping[str, str]) -> None:
        """Back to what a checkpoint says was set aside, reasons by id: later lines go, missing ones come back.

        What was left out before the start stays.
        """
        lines = {line["sample_id"]: line for line in self.read_quarantine() if line["sample_id"] in quarantine}
        lines |= {name: {"sample_id": name, "reason": why} for name, why in quarantine.items() if name not in lines}
        self._write_quarantine([*self.left_out(), *lines.values()])

    def _write_quarantine(self, lines: Iterable[Mapping[str, Any]]) -> None:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if not data and not self.quarantine.exists():
            return
        try:
            replace_file(self.quarantine, data)
        except OSError as error:
            raise UserError(f"{self.quarantine} cannot be written: {reason(error)}. {MEND}") from None
