"""One loader process, seen from the training: started, asked, listened to, ended. It never blocks for ever on it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import subprocess
import sys
import time
from typing import NamedTuple

from contextae.data.pipes import frame, receive, write
from contextae.data.samples import Bad, Made
from contextae.data.worker import Board, Defect, Work
from contextae.errors import UserError

STARTING = 60.0  # seconds allowed at least until Python runs, which a cold or distant disk may need
POLL = 1.0  # seconds between two looks at a worker that says nothing
PIPE_BYTES = 1 << 20  # Linux' limit for a user, instead of 64 kB: fewer changes between the two processes
MEMORY = 5 << 30
"""Bytes that a process may take over one image, beyond what it has. One of Pillow's limit, 179 million pixels, takes 5
to 13 for each of them in most formats, up to 19 as WebP and 25 as JPEG 2000 with alpha."""
GRACE = 5.0  # seconds for the system to end a killed process; one that waits for a dead disk may never


class Died(NamedTuple):
    """How a process ended, and the sample it was at, if it was at one."""

    reason: str
    timed_out: bool
    exited: bool
    "By itself, with an exit code above 0, rather than by a signal."
    sample: Bad | None


class HungError(Exception):
    """No sign of life for longer than allowed."""


class Process:
    """A worker for the framed `task`, started with the signal mask of the calling thread, which has to live on."""

    def __init__(self, task: list[memoryview], timeout: float) -> None:
        self.unsent = task
        self.timeout = timeout
        file = os.memfd_create("contextae")  # unlike /dev/shm, never too small
        try:
            os.ftruncate(file, mmap.PAGESIZE)
            self.popen = subprocess.Popen(
                # -P: a file that is called numpy.py in the folder of the images must not become a module
                [sys.executable, "-P", "-m", "contextae.data.worker", str(file), str(MEMORY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(file,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            )
            self.board = Board(file)
        finally:
            os.close(file)
        assert self.popen.stdin and self.popen.stdout
        self.sink, self.source = self.popen.stdin, self.popen.stdout
        for pipe in (self.sink, self.source):
            with contextlib.suppress(OSError):  # the user has reached /proc/sys/fs/pipe-user-pages-soft
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self.sink.fileno(), False)
        self.alive = (time.monotonic(), self.board.read()[0])

    def do(self, work: Work) -> Made | UserError | Defect | Died:
        """What the worker answers, or how it died; it is then to be ended and replaced."""
        sink, source = self.sink.fileno(), self.source.fileno()
        try:
            write(sink, [*self.unsent, *frame(work)], lambda: self._wait(sink, select.POLLOUT))
            self.unsent = []
            answer: Made | UserError | Defect = receive(source, lambda: self._wait(source, select.POLLIN))
            return answer
        except HungError:
            self.kill()
            return self._died(f"the process that read it gave no answer for {self.timeout:g} s", timed_out=True)
        except (EOFError, BrokenPipeError):
            code = self.popen.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return self._died(f"the process that read it ended with {how}", exited=code > 0)

    def _died(self, reason: str, *, timed_out: bool = False, exited: bool = False) -> Died:
        count, epoch, position = self.board.read()
        at = Bad(position, reason, epoch) if count and position >= 0 else None  # all is 0 until Python runs
        return Died(reason, timed_out, exited, at)

    def _wait(self, pipe: int, event: int) -> None:
        """Until the pipe can be used. What counts as a sign of life: bytes that flow, and every sample begun."""
        poll = select.poll()
        poll.register(pipe, event)
        self.alive = (time.monotonic(), self.board.read()[0])
        while not poll.poll(1000 * min(POLL, self.timeout / 4)):
            now, count = time.monotonic(), self.board.read()[0]
            if count != self.alive[1]:
                self.alive = (now, count)
            elif now - self.alive[0] > (self.timeout if count else max(self.timeout, STARTING)):
                raise HungError

    def kill(self) -> None:
        self.popen.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(GRACE)

    def close(self) -> None:
        """Kills it and gives everything back."""
        self.kill()
        self.sink.close()
        self.source.close()
        self.board.close()
