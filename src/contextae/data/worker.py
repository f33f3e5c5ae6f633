"""A loader process: `python -m contextae.data.worker`. Pickled work comes in by stdin and goes out by stdout.

The pipes are private to the process that started it; it ends when they close, ignores Ctrl-C and SIGTERM (the training
finishes its step first) and never imports torch.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
from typing import IO, Any, NamedTuple

from contextae.data.samples import Bad, Samples, TooManyBadError, stack


class Work(NamedTuple):
    """(epoch, position) pairs to make, and what is known to be bad; `traced`: say which position is begun."""

    number: int
    wanted: list[tuple[int, int]]
    known_bad: dict[int, str]
    traced: bool


class Begun(NamedTuple):
    """A position about to be read."""

    position: int


class Answer(NamedTuple):
    """The batch of a piece of work, the positions in it and the bad ones met; or why there is none."""

    number: int
    batch: Any
    positions: list[int]
    bad: list[Bad]
    failure: str | None


def send(pipe: IO[bytes], message: Any) -> None:
    """A length and a pickle."""
    data = pickle.dumps(message, protocol=5)
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message; EOFError where the other side is gone."""
    header = pipe.read(8)
    if len(header) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", header)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)  # noqa: S301  (our own process at the other end of a private pipe)


def serve(samples: Samples, work: Work, out: IO[bytes]) -> Answer:
    """Does one piece of work. A defect of ours ends the process with a traceback, and the main process says so."""
    begun = (lambda position: send(out, Begun(position))) if work.traced else None
    try:
        made = samples.make(work.wanted, work.known_bad, begun)
    except TooManyBadError as error:
        return Answer(work.number, None, [], [], str(error))
    return Answer(work.number, stack(made.views), made.positions, made.bad, None)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    try:
        samples = receive(source)
        while True:
            send(out, serve(samples, receive(source), out))
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    from contextae.data import worker  # by its own name, so that what it sends is not of `__main__`

    worker.main()
