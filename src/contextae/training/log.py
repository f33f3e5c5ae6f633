"""log.jsonl: one strict JSON object a line, whole even when the process is killed, and none twice after a resume."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from contextae.errors import UserError


class Writer(Protocol):
    """Where numbers of a step go besides the log."""

    def write(self, kind: str, fields: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Log:
    """Appends lines; those at or after step `first` are cut off at the start, because they are about to be repeated."""

    def __init__(self, path: Path, *, first: int = 0, tensorboard: Path | None = None, quiet: bool = False) -> None:
        self.path, self.quiet = path, quiet
        self.others: list[Writer] = [TensorBoard(tensorboard)] if tensorboard and not quiet else []
        if not quiet:
            self._cut(first)

    def _cut(self, first: int) -> None:
        kept = [line for line in read_lines(self.path) if line["step"] <= first] if first else []
        aside = self.path.with_suffix(".writing")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        aside.replace(self.path)

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """One line in one write. A number that is not finite is written as its name: JSON has none."""
        if self.quiet:
            return
        line = {"kind": kind, "time": round(time.time(), 3), **{name: _plain(value) for name, value in fields.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        for other in self.others:
            other.write(kind, fields)

    def close(self) -> None:
        """Of the log nothing is open; of TensorBoard a file is."""
        for other in self.others:
            other.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; the last one of a killed process may be torn and is dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise UserError(
                    f"Line {number + 1} of {path} is not JSON. The log is written by contextae alone; remove that line."
                ) from None
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value


class TensorBoard:
    """The same numbers as TensorBoard scalars, `kind/name` each."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                'TensorBoard files need the package tensorboard. Install it with: pip install "contextae[tensorboard]"'
            ) from None
        self.writer = SummaryWriter(str(folder))

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, int | float) and name != "step":
                self.writer.add_scalar(f"{kind}/{name}", value, int(fields["step"]))

    def close(self) -> None:
        self.writer.close()
