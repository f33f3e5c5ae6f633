"""Results: one figure each, of any protocol, with its interval; and the file that keeps them, by evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contextae.errors import UserError
from contextae.training.json_lines import JsonLines, read_lines

FORMAT = 1
FILE = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A representation or a start (`row`) under a protocol. `value` and its 95 % interval are in the metric's own unit:
    accuracies, mIoU and AP are shares, 0 to 1. `details` holds what else belongs to it: per class, settings, choices.
    """

    protocol: str
    version: int
    row: str
    metric: str
    value: float
    interval: tuple[float, float]
    num_images: int
    seeds: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`row` minus `baseline` under one protocol and metric, paired over the same test images.

    `baseline_protocol` is another one where the protocol cannot read the baseline.
    """

    protocol: str
    row: str
    baseline: str
    metric: str
    difference: float
    interval: tuple[float, float]
    baseline_protocol: str = ""

    @property
    def outside(self) -> bool:
        """Whether the 95 % interval excludes 0."""
        return not self.interval[0] <= 0 <= self.interval[1]

    @property
    def beats(self) -> bool:
        """Whether `row` is shown to be better: chance alone does not make it so."""
        return self.outside and self.difference > 0


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One evaluation as it is kept. `about` says of what: weights with their hash, data, settings, hardware, versions,
    time; `notes` are what a reader of the figures has to know."""

    about: dict[str, Any]
    results: tuple[Result, ...]
    compared: tuple[Compared, ...]
    notes: tuple[str, ...] = ()


def append(path: Path, recorded: Recorded) -> None:
    """One line; OSError where the disk takes none, and then none of it is there."""
    lines = JsonLines(path)
    try:
        lines.append(to_json(recorded))
    finally:
        lines.close()


def to_json(recorded: Recorded) -> dict[str, Any]:
    """All of it in plain values, as one line holds it."""
    return {"format": FORMAT, **_plain(asdict(recorded))}


def read(path: Path) -> list[Recorded]:
    """All evaluations of a file, the oldest first; UserError where it is not such a file."""
    if not path.is_file():
        raise UserError(
            f"There is no {path}. `contextae evaluate` writes {FILE} into the run folder, or where --results says."
        )
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.get("format") != FORMAT:
            raise UserError(
                f"Line {number} of {path} has format {line.get('format')!r}, and this version of contextae reads "
                f"{FORMAT}. It is no file of results, or of another version."
            )
        try:
            found.append(
                Recorded(
                    about=dict(line["about"]),
                    results=tuple(Result(**_intervals(each)) for each in line["results"]),
                    compared=tuple(Compared(**_intervals(each)) for each in line["compared"]),
                    notes=tuple(line["notes"]),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Line {number} of {path} was damaged or edited: {error}. Take that line out to read the rest."
            ) from None
    return found


def newest(records: Sequence[Recorded]) -> tuple[list[tuple[Recorded, Result]], int]:
    """Of each figure the last one, in the order in which they first came, and how many older ones there are.

    A figure is one row under one protocol and metric, of the same weights, data, version and settings.
    """
    kept: dict[tuple[Any, ...], tuple[Recorded, Result]] = {}
    total = 0
    for record in records:
        of = (record.about.get("encoder_sha256"), record.about.get("data"))
        for result in record.results:
            told = json.dumps(settings_of(record, result.protocol), sort_keys=True)
            kept[*of, result.protocol, result.version, told, result.metric, result.row] = (record, result)
            total += 1
    return list(kept.values()), total - len(kept)


def settings_of(record: Recorded, protocol: str) -> dict[str, Any]:
    """What a protocol was set to in an evaluation, as one of its figures tells; none where settings are fixed."""
    told = (each.details.get("settings") for each in record.results if each.protocol == protocol)
    return _plain(next((each for each in told if isinstance(each, dict)), {}))


def _plain(value: Any) -> Any:
    """Tuples as lists; numbers of numpy as Python's own."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value


def _intervals(values: dict[str, Any]) -> dict[str, Any]:
    low, high = values["interval"]
    return {**values, "interval": (low, high)}
