"""What a run leaves behind while it trains: progress, log lines, checkpoints, and a bundle when it fails."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from contextae.data.loader import LoadedBatch, Loader, merged
from contextae.errors import UserError
from contextae.training.checkpoint import Checkpoints
from contextae.training.log import Log
from contextae.training.optimizer import optimizer_tensors
from contextae.training.progress import Progress
from contextae.training.run_folder import RunFolder
from contextae.training.step import Step

RATE_MEMORY = 0.95  # of the running means behind images/s and the share of waiting


class Record:
    """Where the main process writes; the others keep a `Record` too and write nothing."""

    def __init__(
        self,
        *,
        folder: RunFolder,
        log: Log,
        progress: Progress,
        checkpoints: Checkpoints,
        metadata: dict[str, str],
        images: int,
        epochs: int,
        batch_size: int,
        total_steps: int,
    ) -> None:
        self.folder, self.log, self.progress, self.checkpoints = folder, log, progress, checkpoints
        self.metadata, self.images, self.epochs = metadata, images, epochs
        self.batch_size, self.total_steps = batch_size, total_steps
        self.saved: Path | None = None
        self.since_line: list[dict[str, float]] = []
        self.looked_at = time.monotonic()
        self.step_seconds = self.waiting_seconds = 0.0
        self.looks = 0

    def look(self, recent: list[LoadedBatch], values: dict[str, float], lr: float, *, logged: bool) -> None:
        """Shows where the run stands; with `logged` writes a line too, whose losses are means over the looks since the
        line before: on CPU one a step."""
        now, steps, done = time.monotonic(), len(recent), recent[-1].step + 1
        self._rates((now - self.looked_at) / steps, sum(each.waited_seconds for each in recent) / steps, steps)
        self.looked_at = now
        shown = {
            "epoch": self.epoch(done),
            "lr": lr,
            "images_per_s": self.batch_size / max(1e-9, self.step_seconds),
            "waiting": self.waiting_seconds / max(1e-9, self.step_seconds),
            "seconds_left": (self.total_steps - done) * self.step_seconds,
        }
        self.progress.update(done, {**values, **shown})
        self.since_line.append(values)
        if logged:
            count = len(self.since_line)
            means = {name: sum(each[name] for each in self.since_line) / count for name in values}
            self.log.write("step", {"step": done, **means, **shown})
            self.since_line.clear()

    def _rates(self, step_seconds: float, waiting_seconds: float, steps: int) -> None:
        """Running means; the first look, in which loader processes start, is forgotten with the second."""
        memory = min(RATE_MEMORY**steps, max(0, self.looks - 1) / max(1, self.looks))
        self.looks += 1
        self.step_seconds = memory * self.step_seconds + (1 - memory) * step_seconds
        self.waiting_seconds = memory * self.waiting_seconds + (1 - memory) * waiting_seconds

    def epoch(self, done: int) -> float:
        """Passes over the images after so many steps; the last batch may reach a little beyond."""
        return min(float(self.epochs), done * self.batch_size / self.images)

    def checked(self, done: int, fields: dict[str, Any], words: str) -> None:
        """A line of the log and one for the user; the time it took is not the steps'."""
        self.log.write("health", {"step": done, "epoch": self.epoch(done), **fields})
        self.progress.say(f"epoch {self.epoch(done):.1f}: {words}")
        self.looked_at = time.monotonic()

    def save(self, step: Step, loader: Loader, done: int, score: float | None) -> None:
        """A checkpoint after `done` steps, with the quarantine of all processes."""
        states = step.distributed.gather(loader.state())
        with step.distributed.agreed():
            if step.distributed.is_main:
                self._save(step, states, done, score)
        self.looked_at = time.monotonic()

    def _save(self, step: Step, states: list[dict[str, Any]], done: int, score: float | None) -> None:
        quarantine = merged(states)
        if step.distributed.world_size > 1:
            self.folder.complete_quarantine(quarantine)
        self.saved = self.checkpoints.save(
            done,
            weights=step.method.state_dict(),
            optimizer=optimizer_tensors(step.optimizer, step.method),
            state={"step": done, "loaders": states},
            metadata=self.metadata,
            score=score,
        )
        if self.saved:
            self.log.write(
                "checkpoint", {"step": done, "name": self.saved.name, "score": score, "quarantined": len(quarantine)}
            )

    def fail(self, step: Step, loader: Loader, batch: LoadedBatch, values: dict[str, float]) -> Path | None:
        """Everything needed to see a non-finite loss again: weights before the step, its batch, its samples.

        `values` are those of that very step, or nothing where only a later one was looked at. The folder it is in, or
        None where the disk did not take it: said aloud. The main process writes, with its own batch and the samples of
        all, and all are told.
        """
        sample_ids = [name for each in step.distributed.gather(batch.sample_ids) for name in each]
        written = self._bundle(step, loader, batch, sample_ids, values) if step.distributed.is_main else None
        (where, *_) = step.distributed.gather(None if written is None else str(written))
        return None if where is None else Path(where)

    def _bundle(
        self, step: Step, loader: Loader, batch: LoadedBatch, sample_ids: list[str], values: dict[str, float]
    ) -> Path | None:
        gradients = [
            name
            for name, p in step.method.named_parameters()
            if values and p.grad is not None and not p.grad.isfinite().all()
        ]
        try:
            bundles = Checkpoints(self.folder.path / "non-finite", keep=100, say=self.progress.say)
        except UserError as error:
            self.progress.say(str(error))
            return None
        bundle = bundles.save(
            batch.step,
            weights=step.method.state_dict(),
            optimizer=optimizer_tensors(step.optimizer, step.method),
            state={
                "step": batch.step,
                "epoch": batch.epoch,
                "sample_ids": sample_ids,
                "values": {name: repr(value) for name, value in values.items()},
                "gradients_not_finite": gradients,
                "loaders": [loader.state()],
            },
            metadata=self.metadata,
            score=None,
        )
        if bundle is None:
            return None
        arrays = {f"{i:02d}": torch.as_tensor(part).contiguous() for i, part in enumerate(flat(batch.batch))}
        try:
            (bundle / "batch.safetensors").write_bytes(save(arrays))
        except OSError as error:
            self.progress.say(f"The batch of step {batch.step} could not be written to {bundle}: {error}.")
            return None
        self.log.write("non-finite", {"step": batch.step, "bundle": str(bundle)})
        return bundle


def flat(batch: Any) -> list[Any]:
    """The arrays of nested NamedTuples, in order."""
    if isinstance(batch, tuple):
        return [part for each in batch for part in flat(each)]
    return [] if batch is None else [batch]
