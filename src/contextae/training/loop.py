"""The loop: batches in, steps, a look at the losses, checks, checkpoints, signals. It names no method."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, NamedTuple

from contextae.data.loader import LoadedBatch, Loader
from contextae.data.transfer import Transfer
from contextae.training.distributed import AgreedError
from contextae.training.record import Record
from contextae.training.step import Step, Update

Ending = Literal["done", "SIGINT", "SIGTERM"]


class NonFiniteError(AgreedError):
    """A loss or gradient that is not a finite number; the weights are those before its step."""


class Checked(NamedTuple):
    """What a check found: fields for the log, a score by which the best checkpoint is chosen, words for the user."""

    fields: dict[str, Any]
    score: float | None
    words: str


class Cadence(NamedTuple):
    """Steps between lines of the log and between checks, seconds between checkpoints."""

    log_steps: int
    check_steps: int
    save_seconds: float


class Loop:
    """Trains from one step to the last; every decision that lasts is taken by all processes together.

    `check(steps done, share of time waited for data since the check before)` is called before the first step, every
    `check_steps` and after the last one, on the main process; the others have none.
    """

    def __init__(
        self,
        *,
        step: Step,
        loader: Loader,
        transfer: Transfer,
        record: Record,
        cadence: Cadence,
        check: Callable[[int, float], Checked] | None = None,
    ) -> None:
        self.step, self.loader, self.transfer = step, loader, transfer
        self.record, self.cadence, self.check = record, cadence, check
        # reading a loss makes the host wait for an accelerator, on CPU it costs nothing
        self.look_steps = 1 if step.distributed.device.type == "cpu" else cadence.log_steps

    def run(self, first: int, last: int) -> Ending:
        """Steps `first` to `last` - 1; a signal ends it after the step under way, saved."""
        recent: list[LoadedBatch] = []
        if first == 0:
            self._checked(0, 0.0)  # of the untrained network: what later checks are compared with
        waited, since = 0.0, time.monotonic()
        saved_at = since
        with caught_signals() as caught:
            for loaded in self.loader.batches(first, last):
                update = self.step(self.transfer(loaded.batch), loaded.step)
                recent.append(loaded)
                done = loaded.step + 1
                waited += loaded.waited_seconds
                ending = self._ending(caught, done)
                over = bool(ending) or done == last
                checking, score = self._check_is_due(done, last), None
                due = time.monotonic() - saved_at > self.cadence.save_seconds
                saving = self._agreed(due, done, checking or over)
                logged = over or done % self.cadence.log_steps == 0
                if logged or checking or saving or done % self.look_steps == 0:
                    # always before a checkpoint: none may be of a step that was not applied
                    self._look(recent, update, logged=logged)
                    recent.clear()
                if checking:
                    score = self._checked(done, waited / max(1e-9, time.monotonic() - since))
                    waited, since = 0.0, time.monotonic()
                if saving:
                    self.record.save(self.step, self.loader, done, score)
                    saved_at = time.monotonic()
                if ending:
                    return ending
        return "done"

    def _look(self, recent: list[LoadedBatch], update: Update, *, logged: bool) -> None:
        """Brings the losses to the host, and stops where one of them is not a number."""
        mean = self.step.distributed.mean
        values = {"loss": mean(update.loss).item()}
        values |= {name: mean(value).item() for name, value in update.parts.items()}
        values["gradient_norm"] = update.gradient_norm.item()
        bad = int(self.step.first_bad.item())
        if bad >= 0:
            batch = next((each for each in recent if each.step == bad), recent[-1])
            seen = values if recent[-1].step == bad else {}  # else they are of a later step
            bundle = self.record.fail(self.step, self.loader, batch, seen)
            kept = f"are in {bundle}" if bundle else "could not be written, as said above"
            figures = f" ({', '.join(f'{name} {value:.4g}' for name, value in seen.items())})" if seen else ""
            raise NonFiniteError(
                f"The loss or its gradient was not a finite number at step {bad}{figures}. That step was not applied. "
                f"Weights, batch and sample ids {kept}. Lower the learning rate (optimizer.lr_per_256_images), train "
                "in float32, or look at the images of that batch."
            )
        lr = float(self.step.optimizer.param_groups[0]["lr"])
        self.record.look(recent, values, lr, logged=logged)

    def _check_is_due(self, done: int, last: int) -> bool:
        """Every `check_steps`, and at the end; not shortly before it too."""
        every = self.cadence.check_steps
        return done == last or (done % every == 0 and last - done >= every / 2)

    def _checked(self, done: int, waiting: float) -> float | None:
        """The main process checks, the others wait for it."""
        checked = None
        with self.step.distributed.agreed():
            if self.check:
                checked = self.check(done, waiting)
                self.record.checked(done, checked.fields, checked.words)
        return checked.score if checked else None

    def _ending(self, caught: list[Ending], done: int) -> Ending | None:
        """The signal that any process got; asked for at looks, where the processes meet anyway."""
        distributed = self.step.distributed
        if distributed.world_size == 1:
            return caught[0] if caught else None
        if done % self.look_steps:
            return None
        kinds: tuple[Ending, Ending] = ("SIGTERM", "SIGINT")
        return next((kind for kind in kinds if distributed.any(kind in caught)), None)

    def _agreed(self, due: bool, done: int, everywhere: bool) -> bool:
        """Whether to save now: for a reason that all processes share, or because the time of one has come."""
        distributed = self.step.distributed
        if everywhere or distributed.world_size == 1:
            return everywhere or due
        return done % self.look_steps == 0 and distributed.any(due)


@contextmanager
def caught_signals() -> Iterator[list[Ending]]:
    """Ctrl-C and SIGTERM are noted once instead of ending the process; a second Ctrl-C ends it at once.

    Only the main thread can catch signals. One that is ignored, as Ctrl-C is behind `&` in a script, or that somebody
    else handles, is left alone.
    """
    caught: list[Ending] = []
    usual = (signal.default_int_handler, signal.SIG_DFL)

    def note(number: int, _: FrameType | None) -> None:
        caught.append("SIGINT" if number == signal.SIGINT else "SIGTERM")
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    here = threading.current_thread() is threading.main_thread()
    ours = [number for number in (signal.SIGINT, signal.SIGTERM) if here and signal.getsignal(number) in usual]
    before = {number: signal.signal(number, note) for number in ours}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
