"""A loader process: `python -m contextae.data.worker`, fed by stdin, answering by stdout, watched by shared memory.

It imports no torch, gets neither Ctrl-C nor SIGTERM (the training finishes its step first: `Process` starts it with
both blocked), and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import traceback
from types import TracebackType
from typing import Any, NamedTuple

from contextae.data.decode import quiet
from contextae.data.pipes import frame, receive, write
from contextae.data.samples import Made, Samples
from contextae.errors import UserError

PR_SET_PDEATHSIG = 1  # prctl(2)


class Work(NamedTuple):
    """(epoch, position) pairs to make a batch of, and the positions that are known to be bad."""

    number: int
    wanted: list[tuple[int, int]]
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
        self.begin(-1, -1)

    def read(self) -> tuple[int, int, int]:
        """A count that grows with every sample begun, its epoch, and its position or -1."""
        count, epoch, position = self.cells
        return count, epoch, position

    def close(self) -> None:
        self.cells.release()
        self.memory.close()


def serve(source: int, out: int, board: Board) -> None:
    """Answers until the training closes the pipe."""
    samples: Samples | None = next_of(source)
    while samples and (work := next_of(source)):
        answer = made(samples, work, board)
        board.rest()
        write(out, frame(answer))


def next_of(source: int) -> Any:
    """A message, or nothing where the training is gone."""
    with contextlib.suppress(EOFError):
        return receive(source)


def made(samples: Samples, work: Work, board: Board) -> Made | UserError:
    """The batch, or what the user has to mend first."""
    try:
        return samples.make(work.wanted, work.known_bad, board.begin)
    except UserError as error:
        return UserError(str(error))


def main() -> None:
    """Takes stdin and stdout for itself, so that what a library reads or prints does not get among the messages."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # also amid a decoder that never returns
    source, out = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    board = Board(int(sys.argv[1]))
    board.rest()

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            write(out, frame(Defect("".join(traceback.format_exception(kind, error, trace)))))

    sys.excepthook = report  # the training raises it, with this process's traceback
    with quiet():
        serve(source, out, board)
    os._exit(0)


if __name__ == "__main__":
    from contextae.data import worker  # by its own name, so that what it sends is not of `__main__`

    worker.main()
