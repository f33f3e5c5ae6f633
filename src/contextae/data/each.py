"""What is wanted of each image of a set, one by one, in processes that may die of it: headers, statistics, pixels.

An image that ends its process, or keeps it silent, is told from the others and answered for; the rest goes on.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from contextae.data.decode import quiet
from contextae.data.facts import Refusal, Unsupported
from contextae.data.index import Source
from contextae.data.pool import DEATHS_AT_ONE, MOST_DEATHS, Pool
from contextae.data.samples import NO_SAMPLE, UNUSABLE, Begun, Made, reason_of
from contextae.data.worker import Task, Work

FEWEST_CORES = 4  # taken for granted: more processes than there are cores hide a network disk's latency
MOST_PROCESSES = 8
AHEAD = 3  # pieces of work in the making or ready, per process
IDLE = 10.0  # seconds
TIMEOUT = 60.0
VARIABLES = ("CONTEXTAE_CACHE", "XDG_CACHE_HOME", "HOME")

Look = Callable[[Source, str], Any]
"What is wanted of the image of an id; BadImage where it cannot be had. It goes to other processes by pickle."


@dataclass(frozen=True)
class Each:
    """A task for processes: results for (position, id) pairs, with None for those that are passed over."""

    look: Look
    source: Source

    advice: ClassVar[str] = "Free memory, or look at that image and its disk."

    def make(
        self,
        wanted: list[tuple[int, str]],
        known_bad: Collection[int],
        begun: Begun = lambda epoch, position: None,
    ) -> Made:
        results: list[Any] = []
        for position, sample_id in wanted:
            if position in known_bad:
                results.append(None)
                continue
            begun(0, position)
            results.append(self._looked(sample_id))
        begun(*NO_SAMPLE)
        return Made(results, [], [])

    def _looked(self, sample_id: str) -> Any:
        try:
            return self.look(self.source, sample_id)
        except UNUSABLE as error:
            return Refusal(reason_of(error), isinstance(error, Unsupported))

    def name(self, wanted: list[tuple[int, str]], position: int) -> str:
        """The id at a position."""
        return dict(wanted)[position]


def look_at_each(
    look: Look,
    source: Source,
    ids: Sequence[str],
    *,
    chunk: int,
    per_process: int,
    timeout: float = TIMEOUT,
) -> Iterator[list[Any]]:
    """What `look` gives for each id, or a Refusal, in their order, `chunk` at a time.

    `per_process` is the number of images that are worth another process, which takes 0.2 s to start. One that is silent
    for `timeout` seconds at one image twice, or ends at it three times, costs that image alone. Sources that hold
    arrays say so by `arrays = True`: nothing of theirs is decoded, so that this process does the work.
    """
    task = Each(look, source)
    parts = range(0, len(ids), chunk)
    if getattr(source, "arrays", False):
        with quiet():
            for start in parts:
                yield task.make(wanted(ids, start, chunk), ()).batch
        return
    count = processes_for(len(ids), chunk, per_process)
    small = (count, timeout) == (1, TIMEOUT)
    pool = STANDBY.take(task) if small else None
    pool = pool or Pool(task, count, timeout=timeout, idle=IDLE if small else None)
    pool.most_deaths = MOST_DEATHS + DEATHS_AT_ONE * chunk
    whole = False
    try:
        asked = 0
        for number in range(len(parts)):
            while asked < min(len(parts), number + AHEAD * count):
                pool.work.put(Work(asked, wanted(ids, parts[asked], chunk), frozenset()))
                asked += 1
            yield answered(pool.result(number), parts[number])
        whole = True
    finally:
        if not (whole and small and STANDBY.keep(pool)):
            pool.close()


def processes_for(length: int, chunk: int, per_process: int) -> int:
    """How many; one at least."""
    cores = max(FEWEST_CORES, len(os.sched_getaffinity(0)))
    return max(1, min(-(-length // per_process), -(-length // chunk), cores, MOST_PROCESSES))


class Surroundings(NamedTuple):
    """What a process has from the one that starts it: whose it is, where it finds modules, where the cache lies."""

    pid: int
    path: list[str]
    variables: list[str | None]


def surroundings() -> Surroundings:
    """Of this process, by now."""
    return Surroundings(os.getpid(), list(sys.path), [os.environ.get(name) for name in VARIABLES])


class Standby:
    """A process that has done what it was started for and may do the next thing, until it was idle for a while.

    Small sets are looked at several times in a row, and starting a process takes longer than looking.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: Pool | None = None
        self.owner = surroundings()

    def take(self, task: Task) -> Pool | None:
        """The waiting one, with its new task; None where there is none."""
        with self.lock:
            pool, self.pool = self.pool, None
        if pool is None or self.owner.pid != os.getpid():  # its threads have not come along through a fork
            return None
        if self.owner != surroundings():
            pool.close()
            return None
        pool.give(task)
        return pool

    def keep(self, pool: Pool) -> bool:
        """Whether it is the one that waits from now on."""
        with self.lock:
            if self.pool is None:
                self.pool, self.owner = pool, surroundings()
        return self.pool is pool

    def close(self) -> None:
        """Ends it, if there is one."""
        with self.lock:
            pool, self.pool = self.pool, None
        if pool and self.owner.pid == os.getpid():
            pool.close()


STANDBY = Standby()
atexit.register(STANDBY.close)


def wanted(ids: Sequence[str], start: int, chunk: int) -> list[tuple[int, str]]:
    """Positions and ids of one piece of work."""
    return [(position, ids[position]) for position in range(start, min(start + chunk, len(ids)))]


def answered(made: Made, start: int) -> list[Any]:
    """The results of a piece of work, a Refusal for each image that is to blame for the death of its processes."""
    results: list[Any] = made.batch
    for blamed in made.bad:
        results[blamed.position - start] = Refusal(blamed.reason)
    return results
