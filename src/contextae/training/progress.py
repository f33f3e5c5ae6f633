"""Where a run stands, for people: one live line on a terminal, plain lines now and then anywhere else."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from io import TextIOBase
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

KNOWN = ("epoch", "lr", "loss", "gradient_norm", "images_per_s", "waiting", "seconds_left")
"""Fields with a place of their own; every other one is shown as a part of the loss."""
REDRAW_SECONDS = 0.1


def say_on_stderr(text: str) -> None:
    """For the user, apart from the results on standard output."""
    Progress(total_steps=0, epochs=0).say(text)


class Patient(Console):
    """A console whose reader may leave: rich would end the program, and training must not end because `head` did."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Progress:
    """Shows on standard error, so that results on standard output can be piped; with `quiet` shows nothing.

    A terminal gets one line, redrawn in place, between `with` and its end. Anything else (a file, a pipe, a
    scheduler's log) gets the first line at once, then one every `interval` seconds, and the last one at the end.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        epochs: int | float,
        quiet: bool = False,
        interval: int | float = 10.0,
        console: Console | None = None,
    ) -> None:
        self.total_steps, self.epochs, self.quiet, self.interval = total_steps, epochs, quiet, interval
        self.console = console or Patient(stderr=True)
        self.live: Live | None = None
        self.pending: str | None = None
        self.shown_at = -math.inf

    def update(self, step: int, fields: Mapping[str, int | float]) -> None:
        """After `step` steps; numbers, never tensors: reading one would make the device wait."""
        width = self.console.width - 1 if self.live else None
        self.pending = progress_line(step, self.total_steps, self.epochs, fields, width)
        if time.monotonic() - self.shown_at >= (REDRAW_SECONDS if self.live else self.interval):
            self._show()

    def say(self, text: str) -> None:
        """A message of its own line or lines, above the live line, whatever characters it holds."""
        self._print(text)

    def _show(self) -> None:
        if self.pending is None:
            return
        if self.live:
            with self._unhindered():
                self.live.update(self._text(self.pending), refresh=True)
        else:
            self._print(self.pending)
        self.pending, self.shown_at = None, time.monotonic()

    def _print(self, text: str) -> None:
        with self._unhindered():
            self.console.print(self._text(text), soft_wrap=True)

    def _text(self, text: str) -> Text:
        """Without control characters, which names from the data may hold, and with what the terminal can show."""
        plain = "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)
        encoding = self.console.encoding
        return Text(plain.encode(encoding, "backslashreplace").decode(encoding), no_wrap=True, overflow="ignore")

    @contextlib.contextmanager
    def _unhindered(self) -> Iterator[None]:
        """A terminal that hung up, a full disk behind a redirection: nothing to see, and no reason to stop."""
        if self.quiet or getattr(self.console.file, "closed", False):
            self.quiet = True
            self.console.quiet = True
        with contextlib.suppress(OSError):
            yield

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.console.is_dumb_terminal and not self.quiet:
            # what else is printed to this terminal meanwhile appears above the line
            self.live = Live(
                console=self.console,
                auto_refresh=False,
                redirect_stdout=_is_terminal(sys.stdout),
                redirect_stderr=_is_terminal(sys.stderr),
            )
            with self._unhindered():
                self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        if self.live:
            with self._unhindered():
                self.live.stop()
            self.live = None


def progress_line(
    step: int, total_steps: int, epochs: int | float, fields: Mapping[str, int | float], width: int | None = None
) -> str:
    """One line; where it is wider than `width`, what matters least is left out."""
    parts = [f"{name} {value:.4g}" for name, value in fields.items() if name not in KNOWN]
    pieces = [  # a rank for leaving out, and the text, in the order of the line
        (0, f"epoch {math.ceil(fields['epoch']):,}/{math.ceil(epochs):,}" if "epoch" in fields else ""),
        (2, f"step {step:,}/{total_steps:,}"),
        (1, f"loss {fields['loss']:.4g}" if "loss" in fields else ""),
        (6, f"({', '.join(parts)})" if parts else ""),
        (4, f"{fields['images_per_s']:,.0f} images/s" if "images_per_s" in fields else ""),
        (5, f"waiting {fields['waiting']:.0%}" if "waiting" in fields else ""),
        (3, f"{duration(fields['seconds_left'])} left" if "seconds_left" in fields else ""),
    ]
    shown: set[int] = set()
    for rank, _ in sorted(pieces):
        tried = "  ".join(text for each, text in pieces if text and each in shown | {rank})
        if width is None or len(tried) <= width:
            shown.add(rank)
    return "  ".join(text for rank, text in pieces if text and rank in shown)


def duration(seconds: int | float) -> str:
    """45s, 12m30s, 1h05m or 3d04h; a question mark for what is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    return f"{hours}h{minute:02}m" if hours else f"{minute}m{second:02}s" if minute else f"{second}s"


def _is_terminal(file: object) -> bool:
    return isinstance(file, TextIOBase) and not file.closed and file.isatty()
