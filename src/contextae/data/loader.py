"""Loader: batches of views in the order of their steps, from as many processes as wanted, always the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from contextae.data.index import Index
from contextae.data.pool import Pool
from contextae.data.sampler import Sampler
from contextae.data.samples import Samples, TooManyBadError, Views, stack
from contextae.data.worker import Answer, Work
from contextae.errors import UserError

FEWEST_READ = 100
"""Images of which `max_bad_share` is taken at least, so that one bad image among twenty stops nothing."""


class Quarantined(NamedTuple):
    """An image set aside, why, and the epoch in which it was met."""

    sample_id: str
    reason: str
    epoch: int


class LoadedBatch(NamedTuple):
    """One step's batch of views; `sample_ids` are the images in it, replacements included."""

    step: int
    epoch: int
    sample_ids: list[str]
    batch: Any
    waited_seconds: float


class Loader:
    """Reads, decodes and views the images of `sampler`'s batches.

    What a batch holds is a function of (seed, epoch, sample id): the same with any number of workers, and after a start
    at any step. An image that cannot be used is set aside once and for all, reported when its batch is delivered, and
    replaced by a keyed draw; more than `max_bad_share` of the images read so far stop the run.
    """

    def __init__(
        self,
        *,
        index: Index,
        sampler: Sampler,
        views: Views,
        seed: int,
        channels: int,
        num_workers: int,
        max_bad_share: float = 0.05,
        on_quarantine: Callable[[Quarantined], None] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.index, self.sampler = index, sampler
        self.samples = Samples(index=index, views=views, seed=seed, channels=channels)
        self.num_workers, self.max_bad_share, self.timeout = num_workers, max_bad_share, timeout
        self.on_quarantine = on_quarantine
        self.quarantine: dict[str, str] = {}
        self.reads = 0
        self.bad: dict[int, str] = {}
        self.pool: Pool | None = None

    def batches(self, first: int, last: int) -> Iterator[LoadedBatch]:
        """Batches of steps `first` to `last` - 1, prepared ahead where there are workers."""
        answers = self._ahead(first, last) if self.num_workers else self._at_once(first, last)
        for step in range(first, last):
            start = time.perf_counter()
            answer = next(answers)
            waited = time.perf_counter() - start
            epoch = self.sampler.batch(step)[0][0]
            self._set_aside(answer, epoch)
            yield LoadedBatch(step, epoch, [self.index.ids[i] for i in answer.positions], answer.batch, waited)

    def _at_once(self, first: int, last: int) -> Iterator[Answer]:
        for step in range(first, last):
            try:
                made = self.samples.make(self.sampler.batch(step), self.bad)
            except TooManyBadError as error:
                raise self._unreadable(str(error)) from None
            yield Answer(step, stack(made.views), made.positions, made.bad, None)

    def _ahead(self, first: int, last: int) -> Iterator[Answer]:
        """Keeps every worker busy and one batch a worker ready, and hands them out in order."""
        self.close()
        self.pool = pool = Pool(self.samples, self.num_workers, timeout=self.timeout)
        ready: dict[int, Answer] = {}
        asked = first
        for step in range(first, last):
            while asked < min(last, step + 2 * self.num_workers):
                pool.work.put(Work(asked, self.sampler.batch(asked), self.bad, False))
                asked += 1
            while step not in ready:
                answer = pool.answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                ready[answer.number] = answer
            found = ready.pop(step)
            if found.failure:
                raise self._unreadable(found.failure)
            yield found

    def _set_aside(self, answer: Answer, epoch: int) -> None:
        self.reads += len(answer.positions)
        for position, reason in answer.bad:
            sample_id = self.index.ids[position]
            if sample_id in self.quarantine:
                continue
            self.quarantine[sample_id] = reason
            self.bad = {**self.bad, position: reason}  # a new one: threads may be sending the old
            if self.on_quarantine:
                self.on_quarantine(Quarantined(sample_id, reason, epoch))
        read = max(FEWEST_READ, min(self.reads, len(self.index)))
        if len(self.quarantine) > self.max_bad_share * read:
            raise self._unreadable(f"{len(self.quarantine)} of the {min(self.reads, len(self.index))} read so far")

    def _unreadable(self, what: str) -> UserError:
        some = "".join(f"\n  - {name}: {reason}" for name, reason in list(self.quarantine.items())[:3])
        return UserError(
            f"Too many images cannot be used: {what}, and a run stops above {100 * self.max_bad_share:g} %.{some}\n"
            "Mend or remove them, or allow more with --set data.max_bad_share=SHARE."
        )

    def state(self) -> dict[str, Any]:
        """As of the last delivered batch, in JSON."""
        return {"quarantine": dict(self.quarantine), "reads": self.reads}

    def restore(self, state: dict[str, Any]) -> None:
        """Images set aside before stay aside, even where the file has been mended since: a resume repeats the run."""
        self.quarantine, self.reads = dict(state["quarantine"]), int(state["reads"])
        self.bad = {i: self.quarantine[name] for i, name in enumerate(self.index.ids) if name in self.quarantine}

    def close(self) -> None:
        """Ends the workers."""
        if self.pool:
            self.pool.close()
            self.pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
