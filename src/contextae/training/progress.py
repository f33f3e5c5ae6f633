"""What the user sees while it trains, on stderr: a live line on a terminal, a plain one every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

EVERY_SECONDS = 10.0


class Progress:
    """`update` with numbers as often as they are known; `say` for words that stay."""

    def __init__(
        self,
        *,
        total_steps: int,
        epochs: int,
        quiet: bool = False,
        console: Console | None = None,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self.total_steps, self.epochs, self.quiet, self.every_seconds = total_steps, epochs, quiet, every_seconds
        self.console = console or Console(stderr=True, highlight=False)
        self.live: Live | None = None
        self.shown_at = 0.0

    def update(self, done: int, values: dict[str, float]) -> None:
        """Shows where the run stands, if it is time to."""
        now = time.monotonic()
        if self.quiet or (not self.live and now - self.shown_at < self.every_seconds and done != self.total_steps):
            return
        self.shown_at = now
        line = self.line(done, values)
        if self.live:
            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        else:
            self.console.print(line, soft_wrap=True, markup=False)

    def line(self, done: int, values: dict[str, float]) -> str:
        """The most telling first, so that a narrow terminal cuts off the least."""
        known = ("epoch", "loss", "gradient_norm", "lr", "images_per_s", "waiting", "seconds_left")
        parts = " ".join(f"{name} {value:.3f}" for name, value in values.items() if name not in known)
        return (
            f"epoch {values['epoch']:.1f}/{self.epochs} step {done}/{self.total_steps} loss {values['loss']:.3f} "
            f"{duration(values['seconds_left'])} left {values['images_per_s']:.0f} img/s "
            f"{100 * values['waiting']:.0f}% waiting {parts}"
        ).rstrip()

    def say(self, words: str) -> None:
        """A line that stays, above the live one."""
        if not self.quiet:
            self.console.print(words, soft_wrap=True, markup=False)

    def __enter__(self) -> Progress:
        if not self.quiet and self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=False)
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.live:
            self.live.stop()
            self.live = None


def duration(seconds: float) -> str:
    """1h05m, 12m30s or 45s."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"
