"""Loader processes together: fed, restarted in place when they die; a piece of work is done again, never lost."""

from __future__ import annotations

import queue
import signal
import threading
from collections import Counter
from typing import NamedTuple

from contextae.data.pipes import frame
from contextae.data.process import Died, Process
from contextae.data.samples import Bad, Made
from contextae.data.worker import Defect, Task, Work
from contextae.errors import UserError

MOST_DEATHS = 30  # of processes over one piece of work
DEATHS_AT_ONE = 3  # after which a sample is to blame; by chance, killed from outside, none comes thrice at the same one
HANGS_AT_ONE = 2


class LoaderDefectError(RuntimeError):
    """An exception in a loader process that is a defect of ours or of a method's views, not bad data."""


class Answer(NamedTuple):
    """What became of the work of that number; -1: of the pool itself."""

    number: int
    result: Made | Exception


class Pool:
    """`num_workers` processes, each started and fed by a thread of this one. Answers come in any order.

    One may be silent for `timeout` seconds at one sample. Over one piece of work `most_deaths` of them may end,
    MOST_DEATHS unless set. One that had no work for `idle` seconds is ended, and started again when there is some.
    """

    def __init__(
        self,
        task: Task,
        num_workers: int,
        *,
        timeout: float = 60.0,
        idle: float | None = None,
    ) -> None:
        self.task, self.timeout, self.idle = task, timeout, idle
        self.most_deaths = MOST_DEATHS
        self.framed = frame(task)  # once for all processes; what cannot be pickled fails here
        self.work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.ready: dict[int, Made | Exception] = {}
        self.restarts = 0
        self.processes: list[Process | None] = [None] * num_workers
        self.closing = False
        self.threads = [threading.Thread(target=self._feed, args=(i,), daemon=True) for i in range(num_workers)]
        for thread in self.threads:
            thread.start()

    def _feed(self, slot: int) -> None:
        """A thread's life. Should it end by a defect, the consumer hears of it instead of waiting for ever."""
        # what the thread blocks is blocked in the processes it starts, from their first instruction on
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        whole = False
        try:
            while (work := self._next(slot)) is not None and not self.closing:
                result = self._done(slot, work)
                if result is not None:
                    self.answers.put(Answer(work.number, result))
            whole = True
        finally:
            if not whole:
                self.answers.put(
                    Answer(-1, LoaderDefectError("A thread that feeds a loader process ended; its traceback is above."))
                )

    def _next(self, slot: int) -> Work | None:
        try:
            return self.work.get(timeout=self.idle)
        except queue.Empty:
            self._end(slot)
            return self.work.get()

    def _end(self, slot: int) -> None:
        process, self.processes[slot] = self.processes[slot], None
        if process:
            process.close()

    def give(self, task: Task) -> None:
        """Another task than before, where all work has been answered."""
        self.task, self.framed = task, frame(task)
        for process in self.processes:
            if process:
                process.unsent = self.framed

    def _done(self, slot: int, work: Work) -> Made | Exception | None:
        """Repeats the work in fresh processes until it is answered, without a sample that keeps ending them."""
        blamed: list[Bad] = []
        deaths: Counter[int] = Counter()
        died = None
        for _ in range(self.most_deaths):
            died = self._tried(slot, work)
            if not isinstance(died, Died):
                return died._replace(bad=[*blamed, *died.bad]) if isinstance(died, Made) else died
            if died.sample is None:
                if died.exited:
                    return LoaderDefectError(f"A loader process cannot start: {died.reason}. Its words are above.")
                continue
            deaths[died.sample.position] += 1
            if deaths[died.sample.position] >= (HANGS_AT_ONE if died.timed_out else DEATHS_AT_ONE):
                blamed.append(died.sample)
                work = work._replace(known_bad=work.known_bad | {died.sample.position})
        assert isinstance(died, Died)
        at = f", at {self.task.name(work.wanted, died.sample.position)}" if died.sample else ""
        return UserError(
            f"Loader processes were ended {self.most_deaths} times over one batch, the last time so: "
            f"{died.reason}{at}. {self.task.advice}"
        )

    def _tried(self, slot: int, work: Work) -> Made | Exception | Died | None:
        """One attempt in this slot's process, which is gone if it died; nothing where the pool is closing."""
        process = self.processes[slot] = self.processes[slot] or Process(self.framed, self.timeout)
        result = None if self.closing else process.do(work)
        if self.closing:
            return None
        if isinstance(result, Defect):
            return LoaderDefectError(f"A loader process met a defect:\n{result.traceback}")
        if isinstance(result, Died):
            self._end(slot)
            self.restarts += 1
        return result

    def result(self, number: int) -> Made:
        """What became of the work of that number, waited for; what comes before it is kept. Raises what it ended in."""
        while number not in self.ready:
            of, result = self.answers.get()
            if of < 0 and isinstance(result, Exception):
                raise result
            self.ready[of] = result
        made = self.ready.pop(number)
        if isinstance(made, Exception):
            raise made
        return made

    def close(self) -> None:
        """Ends all processes and threads, whatever they are doing."""
        self.closing = True
        for process in self.processes:
            if process:
                process.popen.kill()
        for _ in self.threads:
            self.work.put(None)
        for thread in self.threads:
            thread.join()
        for slot in range(len(self.processes)):
            self._end(slot)
        self.answers.put(Answer(-1, RuntimeError("The loader was closed while batches were still asked for.")))
