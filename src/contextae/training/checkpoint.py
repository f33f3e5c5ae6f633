"""Checkpoints of a run: complete or absent, verified before use, the last few and the best kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from contextae.disk import reason, sync_folder
from contextae.errors import UserError
from contextae.training.manifest import Damaged, read_manifest
from contextae.training.saved import Content, Saved, write_checkpoint
from contextae.training.stored import at, best, folder_name, newest, stored_steps
from contextae.training.weights import load_weights

__all__ = ["Checkpoints", "Saved", "load_weights"]

MOST_FAILURES = 3
"""Saves in a row that may fail before the run ends: so much work is at risk that somebody has to look."""
WRITING, REPLACED, REMOVING = ".writing-", ".replaced-", ".removing-"


class Checkpoints:
    """The folder `checkpoints` of one run, which nobody else writes to.

    `folder/step-00001234/` holds weights.safetensors, optimizer.safetensors, state.json and, written last,
    manifest.json. It gets this name when all of it is on the disk, so a kill at any moment leaves the one before.
    """

    def __init__(self, folder: Path, *, keep: int = 3, say: Callable[[str], None], writes: bool = True) -> None:
        """`writes` is False for processes that only read what another one writes."""
        if keep < 1:
            raise UserError(f"At least one checkpoint must be kept. Got keep={keep}; 3 leaves two to fall back on.")
        self.folder, self.keep, self.say = folder, keep, say
        self.failures = 0
        self.damaged: set[Path] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Checkpoints go to {folder}, which cannot be made: {reason(error)}. {MEND}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"Checkpoints go to {folder}, where this user may not write. {MEND}")
        if writes:
            self._tidy()
        self.last = max(stored_steps(folder), default=None)

    def save(
        self,
        step: int,
        *,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
        metadata: Mapping[str, str],
        score: float | None,
    ) -> Path | None:
        """The new checkpoint's folder, or None when the disk did not take it: said aloud, and the run can go on."""
        target = self.folder / folder_name(step)
        temporary = self._aside(WRITING, target)
        try:
            temporary.mkdir()
            write_checkpoint(temporary, Content(step, weights, optimizer, state, metadata, score))
            sync_folder(temporary)
            self._name(temporary, target)
        except OSError as error:
            self._failed(step, error)
            return None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.failures, self.last = 0, step
        self.damaged.discard(target)
        self._remove_old(step)
        return target

    def latest(self) -> Saved | None:
        """The newest that verifies, or None where there is none at all; damaged ones are named and stay as they are."""
        return newest(self.folder, self._note)

    def best(self) -> Saved | None:
        """The one with the highest score that verifies."""
        return best(self.folder, self._note)

    def at(self, step: int) -> Saved:
        """The one of that step."""
        return at(self.folder, step)

    def _note(self, path: Path, why: str) -> None:
        self.damaged.add(path)
        self.say(f"Checkpoint {path} is damaged and passed over: {why}.")

    def _aside(self, prefix: str, target: Path) -> Path:
        return self.folder / f"{prefix}{target.name}-{os.getpid()}"

    def _name(self, temporary: Path, target: Path) -> None:
        """Gives a complete checkpoint its name. A former one of the same step, damaged or undone, makes room."""
        replaced = self._aside(REPLACED, target)
        if target.exists():
            os.replace(target, replaced)  # noqa: PTH105 beside os.fsync, and in that order
        os.replace(temporary, target)  # noqa: PTH105
        sync_folder(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def _failed(self, step: int, error: OSError) -> None:
        """Looks at nothing on that disk, which may not answer at all."""
        self.failures += 1
        last = "there is none yet" if self.last is None else f"the last one is of step {self.last}"
        what = f"The checkpoint of step {step} could not be written to {self.folder}: {reason(error)}"
        if self.failures >= MOST_FAILURES:
            raise UserError(
                f"{what}. It is failure {self.failures} in a row, so the run ends; {last}. {MEND} Then go on with "
                "--resume."
            ) from None
        self.say(f"{what}; {last}. The run ends after {MOST_FAILURES} such failures in a row.")

    def _remove_old(self, step: int) -> None:
        """Keeps the last `keep` up to `step` and the best of all; damaged ones neither count nor go."""
        whole = {each: path for each, path in stored_steps(self.folder).items() if self._seems_whole(path)}
        scores = {each: score for each, path in whole.items() if (score := read_manifest(path).score) is not None}
        kept = {max(scores, key=lambda each: (scores[each], each))} if scores else set()
        for each in [each for each in whole if each <= step][: -self.keep]:
            if each in kept:
                continue
            doomed = self._aside(REMOVING, whole[each])
            try:
                os.replace(whole[each], doomed)  # noqa: PTH105
            except OSError as error:
                self.say(f"The old checkpoint {whole[each]} could not be removed: {reason(error)}.")
            shutil.rmtree(doomed, ignore_errors=True)

    def _seems_whole(self, path: Path) -> bool:
        """Without reading it all: nothing wrong was found before, and sizes agree."""
        try:
            files = read_manifest(path).files
            return path not in self.damaged and all((path / name).stat().st_size == files[name].size for name in files)
        except (Damaged, OSError):
            return False

    def _tidy(self) -> None:
        """Removes what a killed run left half written or half removed, and puts back what it had only moved aside."""
        for path in self.folder.glob(f"{REPLACED}*"):
            name = path.name.removeprefix(REPLACED).rpartition("-")[0]
            if not (self.folder / name).exists():
                path.rename(self.folder / name)
        for prefix in (WRITING, REPLACED, REMOVING):
            for path in self.folder.glob(f"{prefix}*"):
                shutil.rmtree(path, ignore_errors=True)


MEND = "Free space or change its permissions, or choose another folder with --out."
