"""What a run logs: one JSON object a line in log.jsonl, and the same numbers to other writers where wanted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from contextae.disk import reason
from contextae.errors import UserError
from contextae.training.json_lines import JsonLines, read_lines
from contextae.training.progress import say_on_stderr
from contextae.training.tensorboard import TensorBoard

__all__ = ["Log", "Writer", "read_lines"]


class Writer(Protocol):
    """Where numbers go beside log.jsonl."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One number of each name at that step."""

    def close(self) -> None:
        """No more will come."""


class Log:
    """Appends to log.jsonl; `quiet`, for all processes but the one that writes, makes every call do nothing.

    `first` is the step a run goes on at: lines of later steps are cut off, so that none is logged twice. A disk that
    takes no line does not stop training: that is said once, and how many were lost stands in the log when it can.
    """

    def __init__(
        self,
        path: Path,
        *,
        first: int = 0,
        tensorboard: Path | None = None,
        quiet: bool = False,
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        self.path, self.say, self.lost = path, say, 0
        self.lines: JsonLines | None = None
        self.writers: list[Writer] = []
        if quiet:
            return
        if tensorboard:
            self.writers.append(TensorBoard(tensorboard, first=first))
        try:
            self.lines = JsonLines(path)
            self.lines.cut(lambda line: isinstance(line.get("step"), int) and line["step"] > first)
        except OSError as error:
            raise UserError(
                f"The log {path} cannot be written: {reason(error)}. Free space, change its permissions, or choose "
                "another folder with --out."
            ) from None

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """One line: `kind`, `time` in seconds since 1970, then the fields; a number that is not finite becomes null.

        What it was, "nan", "inf" or "-inf", stands under "not_finite" by its name, with dots into nested fields.
        """
        if self.lines is None:
            return
        odd: dict[str, str] = {}
        line = {"kind": kind, "time": round(time.time(), 3), **finite(fields, odd)}
        self._append(line | ({"not_finite": odd} if odd else {}))
        step = fields.get("step")
        if isinstance(step, int):
            values = {f"{kind}/{name}": float(each) for name, each in fields.items() if _is_number(each)}
            values.pop(f"{kind}/step", None)
            self._spread(step, values)

    def _append(self, line: dict[str, Any]) -> None:
        assert self.lines is not None
        try:
            self.lines.append(line | ({"lines_lost_before": self.lost} if self.lost else {}))
            self.lost = 0
        except OSError as error:
            if not self.lost:
                self.say(f"The log {self.path} takes no more lines: {reason(error)}. Training goes on without them.")
            self.lost += 1

    def _spread(self, step: int, values: dict[str, float]) -> None:
        for writer in list(self.writers):
            try:
                writer.write(step, values)
            except OSError as error:
                self.say(f"{type(writer).__name__} cannot be written: {reason(error)}. Training goes on without it.")
                self.writers.remove(writer)

    def close(self) -> None:
        """Through to the disk."""
        if self.lines is not None:
            self.lines.close()
        for writer in self.writers:
            writer.close()
        self.lines, self.writers = None, []

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def finite(value: Any, odd: dict[str, str], name: str = "") -> Any:
    """The value with None for floats that strict JSON cannot hold; `odd` learns which they were."""
    if isinstance(value, float) and not math.isfinite(value):
        odd[name] = str(value)
        return None
    if isinstance(value, Mapping):
        return {key: finite(each, odd, f"{name}.{key}" if name else str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each, odd, f"{name}.{place}" if name else str(place)) for place, each in enumerate(value)]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
