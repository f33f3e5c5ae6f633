"""`contextae pretrain`: from images to a run folder, started, continued, interrupted, reported on."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import torch
import typer

from contextae.data.index import Index
from contextae.data.loader import Loader, Quarantined
from contextae.data.sampler import Sampler
from contextae.data.sources import open_index, open_labelled
from contextae.data.transfer import Transfer
from contextae.experiment import Experiment, named_values
from contextae.methods.method import Method
from contextae.pretrained import fill, metadata_of
from contextae.training.allocator import keep_freed_memory
from contextae.training.checkpoint import Checkpoints, Saved
from contextae.training.distributed import Distributed, start
from contextae.training.log import Log, read_lines
from contextae.training.loop import Cadence, Ending, Loop
from contextae.training.optimizer import adamw, load_optimizer_tensors
from contextae.training.progress import Progress
from contextae.training.record import Record
from contextae.training.run_folder import RunFolder
from contextae.training.schedule import Schedule
from contextae.training.step import Step
from contextae.verbs.checks import Checks, HealthCheck, KnnCheck
from contextae.verbs.plan import Request, asked_for, continued, resolved, source_of

EXIT_CODES: dict[Ending, int] = {"done": 0, "SIGINT": 130, "SIGTERM": 143}


def run_pretrain(
    *,
    data: str | None,
    out: Path,
    preset: str | None,
    settings: list[str],
    config: Path | None,
    resume: bool,
    labelled: str | None,
    tensorboard: bool,
) -> int:
    """The exit code of settled words: 0 done, 130 and 143 after Ctrl-C and SIGTERM with everything saved."""
    distributed, folder = start(None), RunFolder(out)
    if distributed.device.type == "cpu":
        keep_freed_memory()
    try:
        run = Run(folder, Request(data, preset, settings, config), distributed, resume=resume)
        return EXIT_CODES[run.train(labelled=labelled, tensorboard=tensorboard)]
    finally:
        folder.release()
        distributed.close()


class Run:
    """One start of the command on one run folder."""

    def __init__(self, folder: RunFolder, request: Request, distributed: Distributed, *, resume: bool) -> None:
        self.folder, self.distributed = folder, distributed
        self.resuming = folder.start(resume=resume) if distributed.is_main else False
        self.resuming = distributed.any(self.resuming)
        if self.resuming:
            self.experiment = continued(request, Experiment.read(folder.experiment))
            self.index = self._opened(self.experiment.data.source, self.experiment.data.channels)
            self.index = self.index.restrict(folder.read_ids())
        else:
            self._begin(request)

    def _begin(self, request: Request) -> None:
        """Looks at the images, settles what the request leaves open, and writes both down."""
        named_values(request.settings)  # a typing error is said before a million headers are read
        source = source_of(request)
        channels: Any = "auto"
        if request.config:
            channels = Experiment.read(request.config).data.channels
        self.index = self._opened(source, channels)
        asked, origin = asked_for(request, self.index, device=self.distributed.device)
        if asked.data.channels not in ("auto", self.index.channels):
            self.index = self._opened(source, asked.data.channels)
        self.experiment, notes = resolved(asked, self.index, device=self.distributed.device)
        self.say(f"Settings: {origin}.", *notes)
        if self.distributed.is_main:
            self.folder.write_ids(self.index.ids)
            self.experiment.write(self.folder.experiment)
        self.distributed.barrier()
        self.experiment = Experiment.read(self.folder.experiment)  # what another process measured is the run's own

    def _opened(self, source: str, channels: Any) -> Index:
        self.say(f"Looking at {source} ...")
        index = open_index(source, channels=channels)
        self.say(*index.describe())
        return index

    def say(self, *lines: str) -> None:
        """Plain lines, from the main process only."""
        if self.distributed.is_main:
            for line in lines:
                typer.echo(line)

    def train(self, *, labelled: str | None, tensorboard: bool) -> Ending:
        """Builds everything, goes on from the last checkpoint if there is one, and trains to the end."""
        e, distributed = self.experiment, self.distributed
        torch.manual_seed(e.training.seed)
        method = e.build_method(self.index.channels).to(distributed.device)
        sampler = Sampler(
            length=len(self.index),
            batch_size=e.training.batch_size,
            seed=e.training.seed,
            rank=distributed.rank,
            world_size=distributed.world_size,
        )
        total = sampler.steps(e.training.epochs)
        optimizer = adamw(method, lr=e.peak_lr, weight_decay=e.optimizer.weight_decay, betas=e.optimizer.betas)
        per_epoch = len(self.index) / e.training.batch_size
        schedule = Schedule(
            peak=e.peak_lr,
            final=e.peak_lr * e.optimizer.final_lr_share,
            warmup_steps=round(e.training.warmup_epochs * per_epoch),
            total_steps=total,
        )
        progress = Progress(total_steps=total, epochs=e.training.epochs, quiet=not distributed.is_main)
        checkpoints = Checkpoints(self.folder.checkpoints, keep=e.training.keep_checkpoints, say=progress.say)
        saved = checkpoints.latest() if self.resuming else None
        first = self._restore(saved, method, optimizer)
        if not first and distributed.is_main:
            self.folder.log.unlink(missing_ok=True)  # of a start that ended before its first checkpoint
        log = Log(
            self.folder.log,
            first=first,
            tensorboard=self.folder.tensorboard if tensorboard else None,
            quiet=not distributed.is_main,
        )
        data = e.data
        assert data.mean and data.deviation  # resolved
        transfer = Transfer(distributed.device, data.mean, data.deviation)
        check = self._checks(method, transfer, labelled) if distributed.is_main else None
        loader = Loader(
            index=self.index,
            sampler=sampler,
            views=e.build_views(),
            seed=e.training.seed,
            channels=self.index.channels,
            num_workers=workers(e, distributed),
            max_bad_share=data.max_bad_share,
            on_quarantine=lambda bad: self._quarantined(bad, progress),
        )
        if saved:
            aside = merged(saved.state["loaders"])
            loader.restore(aside)
            if distributed.is_main:
                self.folder.restore_quarantine(aside["quarantine"])
        step = Step(
            method=method,
            optimizer=optimizer,
            schedule=schedule,
            clip_norm=e.optimizer.clip_norm,
            accumulate=e.training.accumulate,
            precision=e.training.precision,
            distributed=distributed,
        )
        record = Record(
            folder=self.folder.path,
            log=log,
            progress=progress,
            checkpoints=checkpoints,
            metadata=metadata_of(e),
            images=len(self.index),
            epochs=e.training.epochs,
            batch_size=e.training.batch_size,
            total_steps=total,
        )
        loop = Loop(
            step=step,
            loader=loader,
            transfer=transfer,
            record=record,
            cadence=Cadence(
                log_steps=e.training.log_steps,
                check_steps=max(1, round(e.health.every_epochs * per_epoch)),
                save_seconds=60 * e.training.save_minutes,
            ),
            check=check,
        )
        parameters = sum(p.numel() for p in method.parameters())
        self.say(
            f"{total:,} steps of {e.training.batch_size} images ({e.training.epochs} epochs), {parameters / 1e6:.2f} "
            f"million weights, {12 * parameters / 2**20:.0f} MiB a checkpoint, on {distributed.device}"
            + (f" x {distributed.world_size}" if distributed.world_size > 1 else "")
            + (f"; going on at step {first:,}" if first else "")
        )
        with loader, progress, log:
            ending = loop.run(first, total) if first < total else "done"
        self._report(ending, loader, record.saved)
        return ending

    def _restore(self, saved: Saved | None, method: Method, optimizer: torch.optim.AdamW) -> int:
        """The step to go on at."""
        if saved is None:
            return 0
        fill(method, saved.weights, origin=str(saved.path))
        load_optimizer_tensors(optimizer, method, saved.optimizer)
        return saved.step

    def _checks(self, method: Method, transfer: Transfer, labelled: str | None) -> Checks:
        past = HealthCheck.past(read_lines(self.folder.log))  # cut to the step gone on at
        health = HealthCheck(method=method, experiment=self.experiment, index=self.index, transfer=transfer, past=past)
        knn = None
        if labelled:
            found = open_labelled(labelled, channels=self.index.channels)
            knn = KnnCheck(method=method, experiment=self.experiment, labelled=found, channels=self.index.channels)
        return Checks(health, knn)

    def _quarantined(self, bad: Quarantined, progress: Progress) -> None:
        progress.say(f"Set aside: {bad.sample_id}: {bad.reason}")
        if self.distributed.is_main:
            self.folder.add_quarantine(bad._asdict())

    def _report(self, ending: Ending, loader: Loader, saved: Path | None) -> None:
        """Where everything is, and that no image was lost on the way."""
        aside = len(merged(self.distributed.gather(loader.state()))["quarantine"])
        used, left_out = len(self.index) - aside, self.index.found - len(self.index)
        self.say(
            f"Images found {self.index.found:,} = used {used:,} + left out {left_out:,} + quarantined {aside:,}"
            + (f" (reasons in {self.folder.quarantine})" if aside else "")
        )
        if ending != "done":
            at = f"saved as {saved}" if saved else "NOT saved, as said above"
            self.say(
                f"Stopped by {ending} after a whole step, {at}. Go on with: contextae pretrain --out "
                f"{shlex.quote(str(self.folder.path))} --resume"
            )
            return
        self.say(
            f"Done: {self.folder.path}",
            f"Next: contextae reconstruct {shlex.quote(str(self.folder.path))} --out sheet.png",
            f"      contextae evaluate {shlex.quote(str(self.folder.path))} --data LABELLED",
        )


def workers(experiment: Experiment, distributed: Distributed) -> int:
    """Loader processes of this process: as set, else one for every second core, at most eight."""
    if experiment.training.workers is not None:
        return experiment.training.workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2 // local))


def merged(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The loader's state of all processes as one."""
    return {
        "quarantine": {name: reason for state in states for name, reason in state["quarantine"].items()},
        "reads": max(state["reads"] for state in states),
    }
