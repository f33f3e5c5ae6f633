"""Ctrl-C and SIGTERM during a long look at many images: it ends early, and what was seen is kept."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Stopping:
    """Between `with` and its end the first Ctrl-C or SIGTERM ends `until` early; a second Ctrl-C ends the program."""

    def __init__(self) -> None:
        self.caught = 0
        self.waiting = False
        self.before: dict[int, Any] = {}

    def until(self, parts: Iterator[T]) -> Iterator[T]:
        """Those that come before the signal, which also ends the waiting for the next one; none after it."""
        try:
            while not self.caught:
                try:
                    self.waiting = True
                    part = next(parts)
                except (StopIteration, KeyboardInterrupt):
                    return
                finally:
                    self.waiting = False
                yield part
        finally:
            if isinstance(parts, Generator):
                parts.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.caught = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.waiting:
            raise KeyboardInterrupt

    def __enter__(self) -> Stopping:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
