"""First contact with a file that holds many images: its listing is read in a process that may die of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from contextae.data.each import IDLE, STANDBY, TIMEOUT
from contextae.data.pool import DEATHS_AT_ONE, MOST_DEATHS, Pool
from contextae.data.samples import NO_SAMPLE, UNUSABLE, Bad, Begun, Made, reason_of
from contextae.data.worker import Work
from contextae.errors import UserError

Alive = Callable[[int], None]
"Told the number of the file that is read from now on, and told again while that takes long."
Reading = Callable[[Collection[int], Alive], Any]
"What is wanted of several files, except for those of these numbers. It goes to another process by pickle."


class Opened(NamedTuple):
    """What the reading gave, and why it could not have some of the files, by their numbers."""

    result: Any
    bad: dict[int, str]


@dataclass(frozen=True)
class Opening:
    """A task for a process. A file that cannot be had is passed over when the reading begins again."""

    reading: Reading

    advice: ClassVar[str] = "Free memory, or look at that file and its disk."

    def make(
        self,
        wanted: list[str],
        known_bad: Collection[int],
        begun: Begun = lambda epoch, position: None,
    ) -> Made:
        passed, found, at = set(known_bad), list[Bad](), -1

        def alive(number: int) -> None:
            nonlocal at
            at = number
            begun(0, number)

        while True:
            try:
                result = self.reading(frozenset(passed), alive)
            except UNUSABLE as error:
                begun(*NO_SAMPLE)
                if at in passed or at < 0:
                    raise
                passed.add(at)
                found.append(Bad(at, reason_of(error), 0))
            else:
                begun(*NO_SAMPLE)
                return Made(result, [], found)

    def name(self, wanted: list[str], position: int) -> str:
        """Of a file, for a message."""
        return wanted[position]


def open_apart(reading: Reading, names: Sequence[str], *, timeout: float = TIMEOUT) -> Opened:
    """What `reading` gives in a process of its own, without the files that end it or keep it silent.

    A UserError of the reading is one here. The process waits for more to do afterwards, as `look_at_each`'s does.
    """
    task = Opening(reading)
    small = timeout == TIMEOUT
    pool = STANDBY.take(task) if small else None
    pool = pool or Pool(task, 1, timeout=timeout, idle=IDLE)
    pool.most_deaths = MOST_DEATHS + DEATHS_AT_ONE * len(names)
    whole = False
    try:
        pool.work.put(Work(0, list(names), frozenset()))
        made = pool.result(0)
        whole = True
    except UserError:
        whole = True  # an answer as any other
        raise
    finally:
        if not (whole and small and STANDBY.keep(pool)):
            pool.close()
    return Opened(made.batch, {bad.position: bad.reason for bad in made.bad})
