"""Loader: batches of views in the order of their steps, from as many processes as wanted, always the same ones."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, NamedTuple

from contextae.data.decode import quiet
from contextae.data.index import Index, printable
from contextae.data.pool import Pool
from contextae.data.sampler import Sampler
from contextae.data.samples import Made, Samples, Views
from contextae.data.worker import Work
from contextae.errors import UserError

FEWEST_READ = 100
"""Images of which `max_bad_share` is taken at least, so that one bad image among twenty stops nothing."""
MARGIN = 3.0
"""Standard deviations by which the bad images of a part of the data may exceed their share by chance."""
EXAMPLES = 3


class Quarantined(NamedTuple):
    """An image set aside, why, and the epoch in which it was met."""

    sample_id: str
    reason: str
    epoch: int


class LoadedBatch(NamedTuple):
    """One step's batch of views; `sample_ids` are the images in it, replacements included.

    `epoch` is that of its first image; `waited_seconds` is how long the consumer was kept waiting for it.
    """

    step: int
    epoch: int
    sample_ids: list[str]
    batch: Any
    waited_seconds: float


class Delivered(NamedTuple):
    """What a batch was to be made of, as (epoch, position), and what was made."""

    wanted: list[tuple[int, int]]
    made: Made


class Loader:
    """Reads, decodes and views the images of `sampler`'s batches.

    What a batch holds is a function of (seed, epoch, sample id) and of which images are set aside: the same with any
    number of workers, and after a start at any step. An image that cannot be used is set aside once and for all when
    the first batch that needs it is delivered, reported then, and replaced by keyed draws.
    A run stops when more than `max_bad_share` of all images had to be set aside (see `allowed`), different ones being
    counted once.
    `prefetch` batches are made ahead of the one that is used; with num_workers=0 none, and a decoder that crashes or
    hangs takes the training with it, while a worker may be silent for `timeout` seconds at one image.
    """

    def __init__(
        self,
        *,
        index: Index,
        sampler: Sampler,
        views: Views,
        seed: int,
        num_workers: int,
        max_bad_share: float = 0.05,
        prefetch: int | None = None,
        on_quarantine: Callable[[Quarantined], None] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.index, self.sampler = index, sampler
        # workers need no facts or labels, which are half of a large index
        bare = dataclasses.replace(index, facts=index.facts[:0], labels=None, left_out=[], notes=[])
        self.samples = Samples(index=bare, views=views, seed=seed)
        self.num_workers, self.max_bad_share, self.timeout = num_workers, max_bad_share, timeout
        self.prefetch = num_workers + 2 if prefetch is None else prefetch
        self.on_quarantine = on_quarantine
        self.quarantine: dict[str, str] = {}
        self.reads = 0
        self.bad: set[int] = set()
        self.pool: Pool | None = None

    def batches(self, first: int, last: int) -> Iterator[LoadedBatch]:
        """Batches of steps `first` to `last` - 1. Workers live as long as this iterator."""
        delivered = self._ahead(first, last) if self.num_workers else self._at_once(first, last)
        with closing(delivered):
            for step in range(first, last):
                start = time.perf_counter()
                wanted, result = next(delivered)
                waited = time.perf_counter() - start
                self._set_aside(len(wanted), result)
                sample_ids = [self.index.ids[i] for i in result.positions]
                yield LoadedBatch(step, self.sampler.epoch(step), sample_ids, result.batch, waited)

    def _at_once(self, first: int, last: int) -> Generator[Delivered, None, None]:
        for step in range(first, last):
            wanted = self.sampler.batch(step)
            with quiet():
                made = self.samples.make(wanted, self.bad)
            yield Delivered(wanted, made)

    def _ahead(self, first: int, last: int) -> Generator[Delivered, None, None]:
        """Keeps `prefetch` batches in the making or ready, and hands them out in order."""
        self.close()
        self.pool = pool = Pool(self.samples, self.num_workers, timeout=self.timeout)
        wanted: dict[int, list[tuple[int, int]]] = {}
        try:
            for step in range(first, last):
                for ahead in range(step + len(wanted), min(last, step + 1 + self.prefetch)):
                    wanted[ahead] = self.sampler.batch(ahead)
                    pool.work.put(Work(ahead, wanted[ahead], frozenset(self.bad)))
                made = self._answer(pool, step, wanted[step])
                yield Delivered(wanted.pop(step), made)
        finally:
            pool.close()

    def _answer(self, pool: Pool, step: int, wanted: list[tuple[int, int]]) -> Made:
        """This step's, in which no image may be that was set aside after the batch had been asked for.

        A file may be readable again, or was not at first; one process alone would not have tried it twice.
        """
        while True:
            made = pool.result(step)
            if self.bad.isdisjoint(made.positions):
                return made
            pool.work.put(Work(step, wanted, frozenset(self.bad)))

    def _set_aside(self, asked: int, made: Made) -> None:
        """Takes note of one delivered batch; UserError where too much of the data is bad."""
        self.reads += asked
        for position, reason, epoch in made.bad:
            if position not in self.bad:
                self.bad.add(position)
                sample_id = self.index.ids[position]
                self.quarantine[sample_id] = reason
                if self.on_quarantine:
                    self.on_quarantine(Quarantined(sample_id, reason, epoch))
        different = min(self.reads, len(self.index))
        if made.failure:
            raise self._unreadable(made.failure, different)
        if len(self.quarantine) > allowed(different, len(self.index), self.max_bad_share):
            raise self._unreadable(f"a run stops where clearly more than {100 * self.max_bad_share:g} % are", different)

    def _unreadable(self, why: str, different: int) -> UserError:
        some = "".join(f"\n  - {printable(name)}: {why}" for name, why in list(self.quarantine.items())[:EXAMPLES])
        return UserError(
            f"Too many images cannot be used: {len(self.quarantine):,} of the {different:,} asked for so far, and "
            f"{printable(why)}. The first:{some}\nMend them, or allow more with --set "
            "data.max_bad_share=SHARE, also beside --resume."
        )

    def state(self) -> dict[str, Any]:
        """As of the last delivered batch, in JSON."""
        return {"quarantine": dict(self.quarantine), "reads": self.reads}

    def restore(self, quarantine: Mapping[str, str], *, reads: int) -> None:
        """Images set aside before stay aside, even where the file has been mended since: a resume repeats the run.

        Both are of all processes: what they set aside, and how many images they had asked for.
        """
        self.quarantine, self.reads = dict(quarantine), reads
        self.bad = {i for i, name in enumerate(self.index.ids) if name in self.quarantine} if self.quarantine else set()

    def close(self) -> None:
        """Ends the workers."""
        if self.pool:
            self.pool.close()
            self.pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def merged(states: list[dict[str, Any]]) -> dict[str, str]:
    """What the loaders of all processes set aside: reasons by id."""
    return {name: reason for state in states for name, reason in state["quarantine"].items()}


def allowed(read: int, length: int, share: float) -> float:
    """Bad images up to which a run goes on, of `read` different ones out of `length`: their share, and what chance may
    add to it (the deviation of draws without replacement), which is nothing once all were read.

    Without that margin, one set in five of which 4 % are bad would stop within 100 images where 5 % are allowed. Both
    counts are taken as FEWEST_READ at least: up to 5 images of a set of 30 may be bad.
    """
    whole = max(FEWEST_READ, length)
    part = max(FEWEST_READ, read)
    return share * part + MARGIN * math.sqrt(share * (1 - share) * part * (1 - part / whole))
