"""Steps of something that is not a training, shown while they last: on stderr, one line each."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from contextae.training.progress import duration

EVERY_SECONDS = 10.0


class Steps:
    """Called with what is being done and the share of it that is done, 0 to 1."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.live: Live | None = None
        self.share, self.first, self.began, self.shown_at = 1.0, 0.0, time.monotonic(), 0.0

    def __call__(self, what: str, share: float) -> None:
        now = time.monotonic()
        if share < self.share:  # something new; parts of one thing go on where the part before it ended
            self.first, self.began = share, now
        self.share = share
        elapsed, done = now - self.began, share - self.first
        left = f", {duration(elapsed * (1 - share) / done)} left" if done > 0.02 and elapsed > 2 else ""
        line = f"{what} {100 * share:.0f} %{left}"
        if self.live:
            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif now - self.shown_at > EVERY_SECONDS:
            self.shown_at = now
            self.console.print(line, soft_wrap=True, markup=False)

    def __enter__(self) -> Steps:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.live:
            self.live.stop()
            self.live = None
