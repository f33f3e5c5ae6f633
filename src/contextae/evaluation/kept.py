"""What read-outs of frozen representations predicted, kept one by one: a stopped evaluation loses one at most."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from contextae.disk import reason
from contextae.errors import UserError
from contextae.evaluation.protocols import Answer
from contextae.evaluation.sealed import read_sealed, write_sealed
from contextae.evaluation.task import Task
from contextae.training.manifest import Damaged


class Kept(NamedTuple):
    """An answer, None where a protocol cannot read a representation, what its features are, and its seconds."""

    answer: Answer | None
    detail: str
    seconds: float


@dataclass(frozen=True)
class KeptAnswers:
    """Files in `folder`, or nothing without one. `of` is everything that all answers depend on, as a hash."""

    folder: Path | None
    of: str

    @classmethod
    def within(cls, folder: Path | None, task: Task, **told: Any) -> KeptAnswers:
        """Of this task: its images and the labels of train, for those of test nothing depends on; and what is told."""
        if folder is None:
            return cls(None, "")
        digest = hashlib.sha256(json.dumps([told, list(task.classes)], sort_keys=True).encode())
        for array in (task.train_images, task.train_labels, task.test_images):
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return cls(folder, digest.hexdigest())

    def get(self, *which: str | int) -> Kept | None:
        """What was kept under these names; None where nothing was, or what there is was damaged."""
        if self.folder is None or not (path := self._path(which)).exists():
            return None
        try:
            tensors, facts = read_sealed(path)
        except (Damaged, OSError):
            return None
        if facts["of"] != self._of(which):
            return None
        answer = Answer(tensors["predicted"].numpy(), facts["chosen"], facts["held_out"]) if facts["reads"] else None
        return Kept(answer, facts["detail"], facts["seconds"])

    def put(self, kept: Kept, *which: str | int) -> None:
        """UserError where there is no room."""
        if self.folder is None:
            return
        answer = kept.answer or Answer(np.zeros(0, np.int64), {}, 0.0)
        facts = {
            "of": self._of(which),
            "reads": kept.answer is not None,
            "chosen": answer.chosen,
            "held_out": answer.held_out,
            "detail": kept.detail,
            "seconds": kept.seconds,
        }
        try:
            write_sealed(self._path(which), {"predicted": torch.from_numpy(np.array(answer.predicted))}, facts)
        except OSError as error:
            raise UserError(
                f"What was found cannot be kept in {self.folder}: {reason(error)}. Make room there, or name another "
                "folder."
            ) from None

    def _of(self, which: tuple[str | int, ...]) -> str:
        return " ".join([self.of, *map(str, which)])

    def _path(self, which: tuple[str | int, ...]) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(self._of(which).encode()).hexdigest()[:16]}.safetensors"
