"""Figures as people read them: tables, as Markdown and CSV too, and the comparisons in words."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contextae.evaluation.protocols import PROTOCOLS
from contextae.evaluation.record import RANDOM, Evaluation
from contextae.evaluation.results import Compared, Recorded, Result, newest, settings_of

OF_ACCURACY = "accuracy, "
"""Before what of, where a protocol has several."""
UNTRAINED = (RANDOM, "from scratch")
"""Baselines that are the same network without its training."""


class Cell(NamedTuple):
    """A figure with its interval, in percent, and whether it is the best of its column."""

    text: str
    best: bool


class Head(NamedTuple):
    """Of a column: the protocol, what is measured, and the version where figures of several are shown."""

    protocol: str
    metric: str
    version: str = ""

    def __str__(self) -> str:
        metric = self.metric.removeprefix("accuracy")  # goes without saying
        of = metric if not metric or metric.startswith(", ") else f" {metric}"
        return self.protocol + of + (f", {self.version}" if self.version else "")


class Sheet(NamedTuple):
    """A table of one data set: columns are protocols, rows what was evaluated."""

    title: str
    corner: str
    heads: list[Head]
    rows: list[tuple[str, list[Cell]]]
    captions: list[str]

    @property
    def columns(self) -> list[str]:
        """The heads in words."""
        return list(map(str, self.heads))


def sheet(
    title: str, results: Sequence[tuple[str, Result]], captions: Sequence[str] = (), *, corner: str = ""
) -> Sheet:
    """Of results with their rows' names. A dash stands where a protocol cannot read a representation."""
    columns = columns_of([result for _, result in results])
    names = list(dict.fromkeys(name for name, _ in results))
    at = {(name, *column_of(result)): result for name, result in results}
    best = {column: max(result.value for _, result in results if column_of(result) == column) for column in columns}
    rows = []
    for name in names:
        found = [at.get((name, *column)) for column in columns]
        cells = [
            Cell(_figure(each.value, each.interval), each.value == best[column]) if each else Cell("-", False)
            for column, each in zip(columns, found, strict=True)
        ]
        rows.append((name, cells))
    return Sheet(title, corner, list(columns.values()), rows, list(captions))


def column_of(result: Result) -> tuple[str, str, int]:
    """What figures of one column have in common: protocol, metric and version."""
    return result.protocol, result.metric, result.version


def columns_of(results: Sequence[Result]) -> dict[tuple[str, str, int], Head]:
    """Columns with their heads: figures of two versions of a protocol are not comparable and stand in two."""
    columns = dict.fromkeys(map(column_of, results))
    counts = Counter((protocol, metric) for protocol, metric, _ in columns)
    return {
        (protocol, metric, version): _head(protocol, metric, version if counts[protocol, metric] > 1 else None)
        for protocol, metric, version in columns
    }


def titled(protocol: str, metric: str) -> str:
    """A column's head in words."""
    return str(_head(protocol, metric, None))


def _head(protocol: str, metric: str, version: int | None) -> Head:
    title = PROTOCOLS[protocol].title if protocol in PROTOCOLS else protocol
    return Head(title, metric, f"version {version}" if version else "")


def named(results: Sequence[Result]) -> dict[str, str]:
    """Rows' names, with their seeds where these are several and the same under every protocol."""
    seeds = {row: {each.seeds for each in results if each.row == row} for row in {each.row for each in results}}
    return {row: f"{row}, {max(of)} seeds" if len(of) == 1 and max(of) > 1 else row for row, of in seeds.items()}


def sheet_of(evaluation: Evaluation) -> Sheet:
    """Of one classification."""
    names = named(evaluation.results)
    return sheet(
        f"Accuracy on {evaluation.num_test:,} test images in %, with its 95 % interval",
        [(names[result.row], result) for result in evaluation.results],
        captions(evaluation),
        corner="frozen representation",
    )


def sheets_of(records: Sequence[Recorded]) -> list[Sheet]:
    """One for each data set, of the newest figures; rows say which weights where there are several."""
    kept, older = newest(records)
    found = []
    for data in dict.fromkeys(record.about.get("data", "?") for record, _ in kept):
        here = [(record, result) for record, result in kept if record.about.get("data", "?") == data]
        rows = list(zip(names_of(here), (result for _, result in here), strict=True))
        notes = list(dict.fromkeys(note for record, _ in here for note in record.notes))
        if older:
            notes.append(f"{older:,} older figure(s) of the same kind are not shown.")
        counts = "/".join(f"{count:,}" for count in dict.fromkeys(result.num_images for _, result in here))
        found.append(sheet(f"{data}: in % of {counts} test images, with 95 % intervals", rows, notes))
    return found


def names_of(figures: Sequence[tuple[Recorded, Result]], *, short: bool = False) -> list[str]:
    """What the row of each figure of one data set is called: no two that differ in weights or settings alike.

    Weights are named where there are several, by their checkpoint too where a run has several, and by the beginning of
    their hash where that still names two; settings by what differs. `short` leaves out the folder of the weights.
    """
    given: dict[str, tuple[str, str]] = {}
    for record, _ in figures:
        place = str(record.about.get("weights", "?"))
        given[str(record.about.get("encoder_sha256"))] = (
            Path(place).name if short else place,
            str(record.about.get("checkpoint", "last")),
        )
    weights = {}
    for sha256, (place, checkpoint) in given.items():
        alike = [each for each in given.values() if each[0] == place]
        name = place if len(alike) == 1 else f"{place} ({checkpoint})"
        weights[sha256] = name if alike.count((place, checkpoint)) == 1 else f"{name[:-1]}, {sha256[:8]})"
    rows, told = named([result for _, result in figures]), []
    settings = {protocol: _settings(figures, protocol) for protocol in {result.protocol for _, result in figures}}
    for record, result in figures:
        name = rows[result.row]
        if len(weights) > 1:
            name = f"{weights[str(record.about.get('encoder_sha256'))]}: {name}"
        own, all_of = settings_of(record, result.protocol), settings[result.protocol]
        differ = [key for key in own if any(each.get(key) != own[key] for each in all_of)]
        told.append(", ".join([name, *(f"{key}={_short(own[key])}" for key in differ)]))
    return told


def _settings(figures: Sequence[tuple[Recorded, Result]], protocol: str) -> list[dict[str, Any]]:
    return [settings_of(record, protocol) for record, result in figures if result.protocol == protocol]


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def captions(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures has to know."""
    return _captions(evaluation.chance, evaluation.notes)


def notes_of(result: Result) -> list[str]:
    """The same of a classification that keeps it in its figures; none of others."""
    return _captions(result.details["chance"], result.details["notes"]) if "chance" in result.details else []


def _captions(chance: float, notes: Sequence[str]) -> list[str]:
    return [f"Always naming the most frequent class: {100 * chance:.1f} %.", *notes]


def markdown(shown: Sheet) -> str:
    """The table for a document."""
    lines = [f"| {' | '.join(map(_cell, [shown.corner, *shown.columns]))} |", f"|---|{'---:|' * len(shown.columns)}"]
    for name, cells in shown.rows:
        texts = (f"**{text}**" if best else text for text, best in cells)
        lines.append(f"| {_cell(name)} | {' | '.join(texts)} |")
    return "\n".join(lines)


COLUMNS = ("data", "weights", "encoder_sha256", "protocol", "version", "row", "metric", "value", "low", "high")
MORE = ("num_images", "seeds", "seconds", "time")


def to_csv(records: Sequence[Recorded]) -> str:
    """A line for each of the newest figures, shares as they are."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow([*COLUMNS, *MORE])
    for record, result in newest(records)[0]:
        values: dict[str, Any] = {**record.about, **vars(result), "low": result.interval[0], "high": result.interval[1]}
        lines.writerow([values.get(name, "") for name in (*COLUMNS, *MORE)])
    return text.getvalue()


def _figure(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _cell(text: str) -> str:
    """Text in a Markdown table: a bar or a line's end in a file's name must not end a cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def words(evaluation: Evaluation) -> list[str]:
    """A line per protocol: whether the encoder learned, and whether it is more useful than what needs no training."""
    lines = []
    for protocol in evaluation.protocols:
        random = evaluation.difference(protocol, RANDOM)
        assert random  # every protocol can read an encoder with random weights
        line = f"{PROTOCOLS[protocol].title}: {_points(random)} to {RANDOM}"
        free = evaluation.hardest(protocol)
        if free:
            under = f" ({PROTOCOLS[free.baseline_protocol].title})" if free.baseline_protocol else ""
            line += f"; {_points(free)} to {free.baseline}{under}"
        lines.append(f"{line}: {_verdict(random, free)}")
    return lines


def compared_lines(compared: Sequence[Compared]) -> list[str]:
    """Of each protocol and metric a line to the same network untrained, and one to the best of the other baselines."""
    lines = []
    for column in dict.fromkeys((each.protocol, each.metric) for each in compared):
        here = [each for each in compared if (each.protocol, each.metric) == column]
        untrained = [each for each in here if each.baseline in UNTRAINED]
        others = [each for each in here if each.baseline not in UNTRAINED]
        lines += [compared_words(each) for each in untrained]
        lines += [compared_words(min(others, key=lambda each: each.difference))] if others else []
    return lines


def compared_words(compared: Compared) -> str:
    """A difference, and whether chance alone makes it so."""
    judged = "no difference is shown" if not compared.outside else "better" if compared.difference > 0 else "worse"
    return f"{titled(compared.protocol, compared.metric)}: {_points(compared)} to {compared.baseline}: {judged}"


def _points(compared: Compared) -> str:
    low, high = (100 * each for each in compared.interval)
    return f"{100 * compared.difference:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _verdict(random: Compared, free: Compared | None) -> str:
    """\"Learns\" is better than random weights, \"useful\" better than what needs no training, both by the interval."""
    if not random.outside:
        return "no difference from random weights is shown"
    if random.difference < 0:
        return "worse than random weights"
    if free is None:
        return "learns"
    if free.beats:
        return "learns, and is more useful than any training-free baseline"
    if free.outside:
        return "learns, but is not yet more useful than a training-free baseline"
    return "learns, and is level with the best training-free baseline"
