"""What a run folder says of its training: how far it came, how long it took, how it ended, what it left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.audit.naming import shown
from contextae.report.curves import value_of
from contextae.training.json_lines import read_lines
from contextae.training.progress import duration

EXAMPLES = 3
MOST_REASONS = 50
ENDINGS = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM"}


class Logged(NamedTuple):
    """A run's log by kind. `ending` is "" where the log does not end with one; `non_finite` are steps since the last
    start."""

    steps: list[dict[str, Any]]
    health: list[dict[str, Any]]
    ending: str
    non_finite: list[int]
    lost: int
    times: tuple[float, float] | None
    machines: list[str]

    @property
    def done(self) -> int:
        """Steps of which the log knows."""
        return max((line["step"] for line in (*self.steps, *self.health)), default=0)


class Stretch(NamedTuple):
    """Checks in a row with one verdict, from the step of the first to that of the next stretch, or to the end."""

    word: str
    first: int
    last: int
    until: int
    checks: int
    reason: str
    last_reason: str


class Aside(NamedTuple):
    """Images that were not used, for one reason."""

    images: int
    when: str
    reason: str
    examples: list[str]


def read_log(path: Path) -> Logged:
    """Of log.jsonl; an absent one is empty. UserError where a line is damaged."""
    lines = [line for line in read_lines(path) if "kind" in line]
    by_step = [line for line in lines if isinstance(line.get("step"), int)]
    times = [line["time"] for line in lines if value_of(line, "time") is not None]
    last = lines[-1] if lines else {}
    return Logged(
        steps=[line for line in by_step if line["kind"] == "step"],
        health=[line for line in by_step if line["kind"] == "health"],
        ending=str(last.get("ending", "")) if last.get("kind") == "end" else "",
        non_finite=_non_finite(lines),
        lost=sum(line.get("lines_lost_before", 0) for line in lines),
        times=(min(times), max(times)) if times else None,
        machines=list(dict.fromkeys(_machine(line) for line in lines if line["kind"] == "start")),
    )


def _non_finite(lines: Sequence[dict[str, Any]]) -> list[int]:
    """Steps at which it ended so, unless it was started again since."""
    found: list[int] = []
    for line in lines:
        if line["kind"] == "start":
            found = []
        elif line["kind"] == "non-finite" and isinstance(line.get("step"), int):
            found.append(line["step"])
    return found


def _machine(line: dict[str, Any]) -> str:
    """Of a start: where it ran, and by which versions."""
    hardware, versions = (each if isinstance(each := line.get(name), dict) else {} for name in ("hardware", "versions"))
    place = (
        hardware.get("gpu")
        or f"{hardware.get('processor', 'an unknown processor')}, {hardware.get('cores', '?')} cores"
    )
    return f"{place}, {', '.join(f'{name} {version}' for name, version in versions.items())}"


def ended(logged: Logged, total: int) -> str:
    """A sentence where the training did not come to its end; otherwise nothing."""
    how_far = f"after {logged.done:,} of {total:,} steps"
    if logged.ending == "done":
        return ""
    if logged.ending:
        return f"Stopped by {ENDINGS.get(logged.ending, logged.ending)} {how_far}; --resume goes on with it."
    if logged.non_finite:
        return f"Ended by a loss or gradient that was not a finite number, at step {logged.non_finite[-1]:,}."
    if not logged.steps and not logged.health:
        return "The log holds no lines yet: nothing was trained so far, or the log was taken away."
    return f"The log has no end, {how_far}: the training goes on still, or it was killed."


def stretches(health: Sequence[dict[str, Any]]) -> list[Stretch]:
    """Verdicts in order, equal ones in a row together; lines without one are passed over."""
    judged = [line for line in health if line.get("verdict")]
    found: list[Stretch] = []
    for line in judged:
        step, word, reason = line["step"], str(line["verdict"]), str(line.get("reason", ""))
        if found and found[-1].word == word:
            found[-1] = found[-1]._replace(last=step, until=step, checks=found[-1].checks + 1, last_reason=reason)
            continue
        if found:
            found[-1] = found[-1]._replace(until=step)
        found.append(Stretch(word, step, step, step, 1, reason, reason))
    return found


def pace(logged: Logged, batch_size: int) -> tuple[float, str]:
    """Seconds that the steps took, by the logged images a second, and these in words: the median and the middle 80 %.

    The time of checks and checkpoints, and between a stop and a resume, is not in it.
    """
    seconds, before, rates = 0.0, 0, []
    for line in logged.steps:
        rate = value_of(line, "images_per_s")
        if rate:
            rates.append(rate)
            seconds += max(0, line["step"] - before) * batch_size / rate
        before = line["step"]
    if not rates:
        return 0.0, ""
    low, middle, high = np.percentile(rates, (10, 50, 90))
    return seconds, f"{middle:,.0f} in the middle, {low:,.0f} to {high:,.0f} in eight of ten lines of the log"


def lasted(logged: Logged, seconds: float) -> str:
    """Time in words."""
    if logged.times is None:
        return ""
    began, last = (datetime.fromtimestamp(each, UTC) for each in logged.times)
    alike = began.date() == last.date()
    span = f"{began:%Y-%m-%d %H:%M} to {last:{'%H:%M' if alike else '%Y-%m-%d %H:%M'}} UTC"
    steps = f"{duration(seconds)} of steps; " if seconds else ""
    return f"{steps}the log reaches from {span}"


def asides(lines: Sequence[dict[str, Any]], *, paths: bool) -> list[Aside]:
    """Of quarantine.jsonl, the most frequent reasons first; of very many reasons the rest in one line."""
    counts: Counter[tuple[bool, str]] = Counter()
    examples: dict[tuple[bool, str], list[str]] = {}
    for line in lines:
        why = _why(line)
        counts[why] += 1
        some = examples.setdefault(why, [])
        if paths and len(some) < EXAMPLES:
            some.append(shown(str(line.get("sample_id"))))
    found = [
        Aside(count, "before the start" if before else "while training", reason, examples[before, reason])
        for (before, reason), count in counts.most_common(MOST_REASONS)
    ]
    rest = len(lines) - sum(each.images for each in found)
    if rest:
        found.append(Aside(rest, "", f"for {len(counts) - len(found):,} other reasons, in quarantine.jsonl", []))
    return found


def _why(line: dict[str, Any]) -> tuple[bool, str]:
    """Whether before the start, and the reason without the image's own name, where that cannot be another word."""
    reason, name = str(line.get("reason", "")), str(line.get("sample_id"))
    if name in reason and ("." in name or "/" in name):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the image", reason)
    return "epoch" in line and line["epoch"] is None, reason
