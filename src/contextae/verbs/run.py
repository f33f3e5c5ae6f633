"""A run of the loop on a run folder: started, continued, interrupted, accounted for. What it is for, a verb says."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from pathlib import Path
from typing import NamedTuple

import torch
import typer

import contextae
from contextae.data.index import Index
from contextae.data.loader import Loader, Quarantined, merged
from contextae.data.sampler import Sampler, Share
from contextae.data.sources import continued_index
from contextae.data.sources.mixed import weighted
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.methods.method import Trainable
from contextae.pretrained import fill, metadata_of
from contextae.training.allocator import keep_freed_memory
from contextae.training.checkpoint import Checkpoints, Saved
from contextae.training.distributed import AgreedError, Distributed, start
from contextae.training.hardware import machine
from contextae.training.log import Log
from contextae.training.loop import Cadence, Ending, Loop
from contextae.training.optimizer import adamw, load_optimizer_tensors
from contextae.training.progress import Progress
from contextae.training.record import Record
from contextae.training.run_folder import RunFolder
from contextae.training.schedule import Schedule
from contextae.training.step import Step
from contextae.training.tensorboard import require_tensorboard
from contextae.verbs.init import check_start, started
from contextae.verbs.output import check_outside
from contextae.verbs.plan import large_enough, resolved, whole_enough, workers
from contextae.verbs.purpose import Purpose
from contextae.verbs.request import Request, named, opened, source_of

EXIT_CODES: dict[Ending, int] = {"done": 0, "SIGINT": 130, "SIGTERM": 143}
EXIT_REFUSED = 2


def run_on(out: Path, request: Request, purpose: Purpose, *, resume: bool, tensorboard: bool = False) -> int:
    """The exit code of settled words: 0 done, 130 and 143 after Ctrl-C and SIGTERM with everything saved."""
    distributed, folder = start(None), RunFolder(out)
    if distributed.device.type == "cpu":
        keep_freed_memory()
    try:
        run = Run(folder, request, distributed, purpose, resume=resume, tensorboard=tensorboard)
        return EXIT_CODES[run.train()]
    except AgreedError:
        if distributed.is_main:
            raise
        return EXIT_REFUSED  # the main process says why
    finally:
        folder.release()
        distributed.close()


class Run:
    """One start of the command on one run folder. Whatever can be refused is, before anything is written there."""

    def __init__(
        self,
        folder: RunFolder,
        request: Request,
        distributed: Distributed,
        purpose: Purpose,
        *,
        resume: bool,
        tensorboard: bool,
    ) -> None:
        self.folder, self.distributed, self.purpose = folder, distributed, purpose
        self.tensorboard = tensorboard
        with distributed.agreed():
            if tensorboard:
                require_tensorboard()
            self.resuming = folder.start(resume=resume) if distributed.is_main else False
        self.resuming = distributed.any(self.resuming)
        with distributed.agreed():
            if self.resuming:
                self._go_on(request)
            else:
                self._look(request)
            self.sampler = self._sampler()
            if self.experiment.init.source and distributed.is_main and not self.resuming:
                check_start(self.experiment, self.index.channels)
            self.prepared = purpose.prepare(self) if distributed.is_main else None
        if not self.resuming:
            self._pin()

    def _go_on(self, request: Request) -> None:
        """With the settings and the images of the run."""
        recorded = Experiment.read(self.folder.experiment)
        stored = self.folder.read_images()

        @functools.cache
        def own() -> Index:
            data = recorded.data
            self.say(f"Looking for the {len(stored.ids):,} images of the run in {named(data.source)} ...")
            assert isinstance(data.channels, int)  # settled at the start
            return continued_index(data.source, stored, channels=data.channels, dtype=data.stored_as)

        self.experiment = self.purpose.continued(request, recorded, own, self.distributed.device)
        self.index = own()
        self.found, self.left_out = stored.found, stored.left_out

    def _look(self, request: Request) -> None:
        """Looks at the images and settles what the request leaves open."""
        source = source_of(request)
        for one in [source] if isinstance(source, str) else source:
            check_outside(self.folder.path, weighted(one).source, "A run folder")
        self.say(f"Looking at {named(source)} ...")
        found = opened(request)
        self.index = found.images
        self.say(*found.words)
        asked, origin = self.purpose.asked_for(request, self.index, self.distributed.device)
        asked = found.measured(asked)
        self.index, said = large_enough(self.index, asked.encoder.patch_size)
        self.index, more = whole_enough(self.index, asked.crop.kind)
        self.say(*said, *more)
        self.experiment, notes = resolved(asked, self.index, device=self.distributed.device)
        self.say(f"Settings: {origin}.", *notes)
        self.found, self.left_out = self.index.found, len(self.index.left_out)

    def _pin(self) -> None:
        """Writes down what the run is from now on: its images, those left out, its settings."""
        with self.distributed.agreed():
            if self.distributed.is_main:
                self.folder.write_images(self.index, found=self.found, left_out=self.left_out)
                self.folder.write_left_out(self.index.left_out)
                self.experiment.write(self.folder.experiment)
        self.distributed.barrier()
        self.experiment = Experiment.read(self.folder.experiment)  # what another process measured is the run's own
        stored = self.folder.read_images(whole=False)  # by memory map, which all processes and their workers share
        self.index = dataclasses.replace(self.index, ids=stored.ids, facts=stored.facts)

    def _sampler(self) -> Sampler:
        """Of this process; refuses a batch that cannot be shared out."""
        training, distributed = self.experiment.training, self.distributed
        sampler = Sampler(
            length=len(self.index),
            batch_size=training.batch_size,
            seed=training.seed,
            rank=distributed.rank,
            world_size=distributed.world_size,
            shares=tuple(Share(part.num_images, part.slots) for part in self.index.parts),
        )
        share = training.batch_size // distributed.world_size
        if share % training.accumulate:
            raise UserError(
                "training.accumulate must divide each process's share of training.batch_size. Got "
                f"{training.accumulate} parts for {share} images; change one of them or the number of processes."
            )
        return sampler

    def say(self, *lines: str) -> None:
        """Plain lines, from the main process only."""
        if self.distributed.is_main:
            for line in lines:
                typer.echo(line)

    def train(self) -> Ending:
        """Builds everything, goes on from the last checkpoint if there is one, and trains to the end."""
        e, distributed = self.experiment, self.distributed
        torch.manual_seed(e.training.seed)
        method = e.build_method(self.index.channels).to(distributed.device)
        total = self.sampler.steps(e.training.epochs)
        frozen_steps = min(round(e.init.frozen_share * total), total - 1)  # the encoder learns at one step at least
        optimizer = adamw(
            method,
            lr=e.peak_lr,
            weight_decay=e.optimizer.weight_decay,
            betas=e.optimizer.betas,
            layer_decay=e.optimizer.layer_decay,
            encoder_apart=frozen_steps > 0,
        )
        progress = Progress(total_steps=total, epochs=e.training.epochs, quiet=not distributed.is_main)
        checkpoints = Checkpoints(
            self.folder.checkpoints, keep=e.training.keep_checkpoints, say=progress.say, writes=distributed.is_main
        )
        saved = checkpoints.latest() if self.resuming else None
        first = self._restore(saved, method, optimizer)
        if e.init.source and not first:
            with distributed.agreed():
                self.say(*started(method.encoder, e.init, frozen_steps))
        with distributed.agreed():
            if not first and distributed.is_main:
                # of a start that ended before its first checkpoint
                self.folder.log.unlink(missing_ok=True)
                self.folder.restore_quarantine({})
            log = Log(
                self.folder.log,
                first=first,
                tensorboard=self.folder.tensorboard if self.tensorboard else None,
                quiet=not distributed.is_main,
            )
        transfer = e.build_transfer(distributed.device)
        with distributed.agreed():
            check = self.purpose.check(self, method, transfer) if distributed.is_main else None
        loader = self._loader(progress, saved)
        step = Step(
            method=method,
            optimizer=optimizer,
            schedule=self._schedule(total),
            clip_norm=e.optimizer.clip_norm,
            accumulate=e.training.accumulate,
            precision=e.training.precision,
            distributed=distributed,
            frozen_steps=frozen_steps,
        )
        record = Record(
            folder=self.folder,
            log=log,
            progress=progress,
            checkpoints=checkpoints,
            metadata=metadata_of(e),
            images=self.sampler.epoch_length,
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
                check_steps=max(1, round(e.health.every_epochs * self.steps_per_epoch)),
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
            log.write("start", {"step": first, **machine(contextae.__version__)})
            ending = loop.run(first, total) if first < total else "done"
            accounts = self._accounts(loader)
            log.write("end", {"ending": ending, **accounts._asdict()})
        reasons = f" (reasons in {self.folder.quarantine})" if accounts.left_out + accounts.quarantined else ""
        self.say(f"Images {accounts.words()}{reasons}")
        written = record.saved or (saved.path if saved and first == total else None)
        self._report(ending, written, checkpoints.last, method)
        return ending

    @property
    def steps_per_epoch(self) -> float:
        """A batch may cross the border of an epoch."""
        return self.sampler.epoch_length / self.experiment.training.batch_size

    def _schedule(self, total: int) -> Schedule:
        e = self.experiment
        return Schedule(
            peak=e.peak_lr,
            final=e.peak_lr * e.optimizer.final_lr_share,
            warmup_steps=round(e.training.warmup_epochs * self.steps_per_epoch),
            total_steps=total,
        )

    def _loader(self, progress: Progress, saved: Saved | None) -> Loader:
        """With what was set aside before the checkpoint, on any process."""
        e = self.experiment
        loader = Loader(
            index=self.index,
            sampler=self.sampler,
            views=e.build_views(),
            seed=e.training.seed,
            num_workers=workers(e, self.distributed),
            max_bad_share=e.data.max_bad_share,
            on_quarantine=lambda bad: self._quarantined(bad, progress),
        )
        if saved:
            aside = merged(saved.state["loaders"])
            loader.restore(aside, reads=saved.step * e.training.batch_size)
            with self.distributed.agreed():
                if self.distributed.is_main:
                    self.folder.restore_quarantine(aside)
        return loader

    def _restore(self, saved: Saved | None, method: Trainable, optimizer: torch.optim.AdamW) -> int:
        """The step to go on at."""
        if saved is None:
            return 0
        fill(method, saved.weights, origin=str(saved.path))
        load_optimizer_tensors(optimizer, method, saved.optimizer)
        return saved.step

    def _quarantined(self, bad: Quarantined, progress: Progress) -> None:
        if not self.distributed.is_main:
            return  # the main process hears of it at the next checkpoint
        if self.distributed.world_size > 1 and bad.sample_id in self.folder.quarantined():
            return  # another process met it before
        progress.say(f"Set aside: {bad.sample_id}: {bad.reason}")
        self.folder.add_quarantine(bad._asdict())

    def _accounts(self, loader: Loader) -> Accounts:
        """Each image is in one of the three, counted on its own; none was lost on the way."""
        quarantine = merged(self.distributed.gather(loader.state()))
        if self.distributed.is_main and self.distributed.world_size > 1:
            self.folder.complete_quarantine(quarantine)
        used = sum(name not in quarantine for name in self.index.ids) if quarantine else len(self.index)
        accounts = Accounts(self.found, used, self.left_out, len(quarantine))
        assert accounts.found == accounts.used + accounts.left_out + accounts.quarantined, accounts
        return accounts

    def _report(self, ending: Ending, saved: Path | None, last: int | None, method: Trainable) -> None:
        """Where everything is, and what to do next."""
        again = f"contextae {self.purpose.verb} --out {shlex.quote(str(self.folder.path))} --resume"
        again = " ".join([again, *self.purpose.options, *(["--tensorboard"] if self.tensorboard else [])])
        if ending != "done":
            at = f"saved as {saved}" if saved else "NOT saved, as said above"
            self.say(f"Stopped by {ending} after a whole step, {at}. Go on with: {again}")
            return
        if not self.distributed.is_main:
            return
        if saved is None:
            there = "there is none" if last is None else f"the last one is of step {last:,}"
            raise UserError(
                f"The training came to its end, and its last checkpoint could not be written, as said above; {there}. "
                f"Free space, then do again what was lost: {again}"
            )
        self.say(*self.purpose.finished(self, method))


class Accounts(NamedTuple):
    """Images of a run: `found` were listed, `left_out` before its start, `quarantined` while it read them."""

    found: int
    used: int
    left_out: int
    quarantined: int

    def words(self) -> str:
        return (
            f"found {self.found:,} = used {self.used:,} + left out {self.left_out:,} + quarantined {self.quarantined:,}"
        )
