"""Loader processes: started, fed, watched and restarted in place; a piece of work is done again, never lost."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import subprocess
import sys
import threading
from typing import IO, NamedTuple

from contextae.data.samples import Bad, Samples
from contextae.data.worker import Answer, Begun, Work, receive, send

MOST_DEATHS = 3  # of one piece of work that no sample can be blamed for


class Died(NamedTuple):
    """How a process ended: its exit code (minus the signal's number), or that it gave no answer in time."""

    code: int | None
    timed_out: bool

    @property
    def reason(self) -> str:
        if self.timed_out:
            return "no answer in time from the process that decoded it"
        how = f"signal {-self.code}" if self.code and self.code < 0 else f"code {self.code}"
        return f"the process that decoded it ended with {how}"


class LoaderDefectError(RuntimeError):
    """A loader process ended by an exception of its own: a defect, not bad data."""


class Process:
    """One worker and its two pipes."""

    def __init__(self, samples: Samples) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "contextae.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.popen.stdin and self.popen.stdout
        self.source: IO[bytes] = self.popen.stdout
        self.sink: IO[bytes] = self.popen.stdin
        send(self.sink, samples)

    def do(self, work: Work, timeout: float) -> tuple[Answer | Died, int | None]:
        """The answer or how the process died, and the position it was at if the work is traced."""
        at = None
        try:
            send(self.sink, work)
            while True:
                ready, _, _ = select.select([self.source], [], [], timeout)
                if not ready:
                    self.popen.kill()
                    self.popen.wait()
                    return Died(None, True), at
                message = receive(self.source)
                if isinstance(message, Answer):
                    return message, at
                if isinstance(message, Begun):
                    at = message.position
        except (EOFError, BrokenPipeError):
            return Died(self.popen.wait(), False), at

    def end(self) -> None:
        """Kills it and closes its pipes."""
        self.popen.kill()
        self.popen.wait()
        self.source.close()
        with contextlib.suppress(BrokenPipeError):  # what was still to be flushed has no reader any more
            self.sink.close()


class Pool:
    """`num_workers` processes, each fed by a thread of this one. Answers come back by number, in any order."""

    def __init__(self, samples: Samples, num_workers: int, *, timeout: float = 60.0) -> None:
        self.samples, self.timeout = samples, timeout
        self.work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self.restarts = 0
        self.processes: list[Process | None] = [None] * num_workers
        self.closing = False
        self.threads = [threading.Thread(target=self._feed, args=(i,), daemon=True) for i in range(num_workers)]
        for thread in self.threads:
            thread.start()

    def _feed(self, slot: int) -> None:
        """A thread's life; should it end by a defect, the consumer hears of it instead of waiting for ever."""
        whole = False
        try:
            while (work := self.work.get()) is not None and not self.closing:
                answer = self._done(slot, work)
                if answer is not None:
                    self.answers.put(answer)
            whole = True
        finally:
            if not whole:
                self.answers.put(LoaderDefectError("A thread that feeds a loader process ended; see above."))

    def _done(self, slot: int, work: Work) -> Answer | BaseException | None:
        """Repeats work in fresh processes until it is answered, and leaves out a sample that keeps ending them."""
        known_bad, blamed, deaths = dict(work.known_bad), list[Bad](), 0
        while not self.closing:
            process = self.processes[slot]
            if process is None:
                process = self.processes[slot] = Process(self.samples)
            result, at = process.do(work._replace(known_bad=known_bad, traced=deaths > 0), self.timeout)
            if isinstance(result, Answer):
                return result._replace(bad=[*blamed, *result.bad])
            if self.closing:
                return None
            process.end()
            self.processes[slot] = None
            self.restarts += 1
            deaths += 1
            if result.code is not None and result.code > 0:
                return LoaderDefectError(
                    f"A loader process ended with code {result.code}; its traceback stands above. This is a defect."
                )
            if at is not None and deaths > 1:
                known_bad[at] = result.reason
                blamed.append(Bad(at, result.reason))
            elif deaths > MOST_DEATHS:
                return LoaderDefectError(f"Loader processes keep ending ({result.reason}), {deaths} times in a row.")
        return None

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
        for process in self.processes:
            if process:
                process.end()
