"""A loader process: `python -m contextae.data.worker FILE BYTES`, fed by stdin, answering by stdout, watched by shared
memory.

It imports no torch, gets neither Ctrl-C nor SIGTERM (the training finishes its step first: `Process` starts it with
both blocked), and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Collection
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from contextae.data.decode import quiet
from contextae.data.pipes import frame, receive, write
from contextae.data.samples import NO_SAMPLE, Begun, Made
from contextae.errors import UserError

PR_SET_PDEATHSIG = 1  # prctl(2)


class Task(Protocol):
    """What a process is for: `Samples` makes batches, `Each` looks at images one by one. Imports no torch."""

    @property
    def advice(self) -> str:
        """What the user can do where the processes are always ended."""

    def make(self, wanted: list[Any], known_bad: Collection[int], begun: Begun) -> Made:
        """What is wanted, without samples at the positions that are known to be bad."""

    def name(self, wanted: list[Any], position: int) -> str:
        """Of the sample at a position, for a message."""


class Work(NamedTuple):
    """What a task is asked to make, of `Samples` (epoch, position) pairs; and positions that are known to be bad."""

    number: int
    wanted: list[Any]
    known_bad: frozenset[int]


class Defect(NamedTuple):
    """The traceback of an exception that nothing was meant to raise."""

    traceback: str


class Board:
    """What a worker is at, in memory that the training sees too, so that it can be told when the worker has died."""

    SIZE = 24

    def __init__(self, file: int) -> None:
        self.memory = mmap.mmap(file, self.SIZE)
        self.cells = memoryview(self.memory).cast("q")

    def begin(self, epoch: int, position: int) -> None:
        self.cells[1], self.cells[2] = epoch, position
        self.cells[0] += 1

    def rest(self) -> None:
        """Between two pieces of work no sample is to blame."""
        self.begin(*NO_SAMPLE)

    def read(self) -> tuple[int, int, int]:
        """A count that grows with every sample begun, its epoch, and its position or -1."""
        count, epoch, position = self.cells
        return count, epoch, position

    def close(self) -> None:
        self.cells.release()
        self.memory.close()


class Bound:
    """How much more memory of its own this process may take over one image; maps of files do not count.

    What would take more gets a MemoryError, and the machine does not run short.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        _, self.most = resource.getrlimit(resource.RLIMIT_DATA)
        self.status = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def set(self) -> None:
        """From what it has by now."""
        now = int(os.pread(self.status, 128, 0).split()[5]) * mmap.PAGESIZE  # "data", proc(5)
        wanted = now + self.num_bytes
        self._limit(wanted if self.most == resource.RLIM_INFINITY else min(wanted, self.most))

    def lift(self) -> None:
        self._limit(self.most)

    def _limit(self, num_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, self.most))


def serve(source: int, out: int, board: Board, bound: Bound) -> None:
    """Answers until the training closes the pipe: a task, and work for it until another task comes."""

    def begun(epoch: int, position: int) -> None:
        board.begin(epoch, position)
        if position < 0:
            bound.lift()
        else:
            bound.set()

    task: Task | None = None
    while message := next_of(source):
        if isinstance(message, Work) and task:
            answer = made(task, message, begun)
            begun(*NO_SAMPLE)
            write(out, frame(answer))
        else:
            task = message


def next_of(source: int) -> Any:
    """A message, or nothing where the training is gone."""
    with contextlib.suppress(EOFError):
        return receive(source)


def made(task: Task, work: Work, begun: Begun) -> Made | UserError:
    """The answer, or what the user has to mend first."""
    try:
        return task.make(work.wanted, work.known_bad, begun)
    except UserError as error:
        return UserError(str(error))


def main() -> None:
    """Takes stdin and stdout for itself, so that what a library reads or prints does not get among the messages."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # also amid a decoder that never returns
    source, out = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    board, bound = Board(int(sys.argv[1])), Bound(int(sys.argv[2]))
    board.rest()

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            write(out, frame(Defect("".join(traceback.format_exception(kind, error, trace)))))

    sys.excepthook = report  # the training raises it, with this process's traceback
    with quiet():
        serve(source, out, board, bound)
    os._exit(0)


if __name__ == "__main__":
    from contextae.data import worker  # by its own name, so that what it sends is not of `__main__`

    worker.main()
