"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all, with a hash of every file.

Nothing read here is executed: there is no pickle in a checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from contextae.errors import UserError, nearest

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE, MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
MOST_FAILURES = 3  # failed saves in a row after which a run stops
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class DamagedError(Exception):
    """A checkpoint whose files are not those that were written."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back, every file verified."""

    step: int
    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    metadata: dict[str, str]


class Checkpoints:
    """Those of one run, `FOLDER/step-00001234` each; the newest `keep` and the one of the best score stay."""

    def __init__(self, folder: Path, *, keep: int, say: Callable[[str], None]) -> None:
        self.folder, self.keep, self.say = folder, keep, say
        self.failures = 0

    def save(
        self,
        step: int,
        *,
        weights: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        metadata: dict[str, str],
        score: float | None,
    ) -> Path | None:
        """Writes aside, syncs, puts the manifest last, renames. A full disk is said aloud and survived twice.

        After the third failure in a row a UserError ends the run; the checkpoints before are untouched.
        """
        target, aside = self.folder / f"step-{step:08d}", self.folder / f".writing-step-{step:08d}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            aside.mkdir()
            save_file(_separate(weights), aside / WEIGHTS, metadata={"format": str(FORMAT), **metadata})
            save_file(_separate(optimizer), aside / OPTIMIZER)
            _write(aside / STATE, state)
            files = {name: _described(aside / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
            _write(aside / MANIFEST, {"format": FORMAT, "step": step, "score": score, "files": files})
            for path in (*aside.iterdir(), aside):
                _sync(path)
            if target.exists():  # saved at this step before: the new one replaces it whole
                _remove(target)
            aside.rename(target)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            return self._failed(error, aside)
        self.failures = 0
        self._thin_out()
        return target

    def _failed(self, error: OSError | SafetensorError, aside: Path) -> None:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise error
        shutil.rmtree(aside, ignore_errors=True)
        self.failures += 1
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        if self.failures >= MOST_FAILURES:
            raise UserError(
                f"Saving into {self.folder} failed {self.failures} times in a row ({why}). The run stops; its last "
                "complete checkpoint is untouched. Make room or rights there and go on with --resume."
            ) from None
        self.say(
            f"Warning: the checkpoint could not be saved ({why}). Going on with the last one; make room or rights."
        )

    def latest(self) -> Saved | None:
        """The newest one whose files are what was written; damaged ones are named and passed over, never removed."""
        damaged = []
        for path in reversed(self.paths()):
            try:
                return read(path)
            except DamagedError as error:
                damaged.append(f"{path.name}: {error}")
                self.say(f"Warning: checkpoint {path.name} is damaged ({error}); taking the one before.")
        if damaged:
            raise UserError(
                f"None of the checkpoints in {self.folder} can be used: {'; '.join(damaged)}. Restore one from a copy, "
                "or start a new run in another folder."
            )
        return None

    def best(self) -> Path | None:
        """The one of the highest score, of those that have one."""
        scored = [(score, path) for path in self.paths() if (score := _manifest(path).get("score")) is not None]
        return max(scored)[1] if scored else None

    def paths(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name.startswith("step-"))

    def _thin_out(self) -> None:
        best = self.best()
        for path in self.paths()[: -self.keep]:
            if path != best:
                _remove(path)

    def _clear_leftovers(self) -> None:
        """What a killed run left half written or half removed."""
        for path in self.folder.glob(".*-step-*"):
            shutil.rmtree(path, ignore_errors=True)


def read(path: Path) -> Saved:
    """A checkpoint with every file verified; DamagedError says which one is not what was written."""
    manifest = _manifest(path)
    if manifest.get("format") != FORMAT:
        raise DamagedError(f"its manifest is missing, unreadable or of another format than {FORMAT}")
    for name in (WEIGHTS, OPTIMIZER, STATE):
        if not (path / name).is_file():
            raise DamagedError(f"{name} is missing")
        if _described(path / name) != manifest["files"].get(name):
            raise DamagedError(f"{name} is not what was written")
    weights, metadata = read_tensors(path / WEIGHTS)
    optimizer, _ = read_tensors(path / OPTIMIZER)
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Saved(int(manifest["step"]), path, weights, optimizer, state, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def load_weights(path: Path, *, checkpoint: str = "last") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and their header from a weights file, a checkpoint's folder, or a run folder's `checkpoint`."""
    if not path.exists():
        known = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is nothing at {path}.{nearest(path.name, known)} Give a run folder or a weights file.")
    if path.is_file():
        return _read_file(path)
    if (path / MANIFEST).exists() or (path / WEIGHTS).exists():
        return _read_folder(path)
    checkpoints = Checkpoints(path / "checkpoints", keep=1, say=lambda _: None)
    found = checkpoints.paths()
    if not found:
        raise UserError(
            f"{path} holds no checkpoint. A run folder has checkpoints/step-*; train first, or name a file."
        )
    if checkpoint == "last":
        saved = checkpoints.latest()
        assert saved  # there are some, and where none can be used latest() says so
        return saved.weights, saved.metadata
    if checkpoint == "best":
        best = checkpoints.best()
        if best is None:
            raise UserError(f"No checkpoint in {path} has a score yet. Use --checkpoint last or the number of a step.")
        return _read_folder(best)
    steps = [each.name.removeprefix("step-").lstrip("0") or "0" for each in found]
    if checkpoint.lstrip("0") not in [step.lstrip("0") for step in steps]:
        raise UserError(
            f"--checkpoint is last, best or the step of one that is kept. Got {checkpoint!r}; {path} keeps "
            f"{', '.join(steps)}."
        )
    return _read_folder(path / "checkpoints" / f"step-{int(checkpoint):08d}")


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        saved = read(path)
    except DamagedError as error:
        raise UserError(f"The checkpoint {path} is damaged: {error}. Use another one of the run.") from None
    return saved.weights, saved.metadata


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return read_tensors(path)
    except SafetensorError as error:
        pickled = path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt")
        hint = " Pickled files are never opened here, because opening one runs what it says." if pickled else ""
        raise UserError(
            f"{path} is not a safetensors file ({error}).{hint} Give a run folder or a weights.safetensors that "
            "contextae wrote."
        ) from None


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own memory, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Renamed first, so that nothing half removed looks whole."""
    gone = path.with_name(f".removed-{path.name}-{os.getpid()}")
    path.rename(gone)
    shutil.rmtree(gone)
