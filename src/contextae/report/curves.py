"""Curves as SVG of our own: what a log holds, thinned so that no extreme is lost, with axes that anybody can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MOST_POINTS = 400
"""Of a curve; of more, the lowest and the highest of each of half as many stretches are drawn."""
WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 8, 34
COLOURS = 6  # in the style sheet; further curves are dashed
DOTTED = 40  # points up to which each one gets a dot
MOST_DIGITS = 9  # beyond the usual, on an axis of nearly equal values
LOG_FROM = 100.0  # ratio of largest to smallest from which an axis is logarithmic
FIELDS = ("epoch", "lr", "gradient_norm", "images_per_s", "waiting", "seconds_left")
"""Of a line of steps, what is no part of the loss."""
NOT_NUMBERS = ("kind", "time", "step", "not_finite", "lines_lost_before")

Point = tuple[float, float]
Words = Callable[..., str]
"""A number in words, and with so many `more` digits than usual."""


class Series(NamedTuple):
    """One curve: a name for the legend, and points in the order of x; y is None where it was not a finite number."""

    name: str
    points: list[tuple[float, float | None]]


class Line(NamedTuple):
    """A curve as it is drawn: stretches without a gap as SVG points, single dots, and its place among the colours."""

    name: str
    stretches: list[str]
    dots: list[Point]
    colour: int
    dashed: bool
    last: str


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class Chart(NamedTuple):
    """Everything that the template draws."""

    title: str
    x_name: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    notes: list[str]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` of the points, in order: the lowest and the highest of each of `most` / 2 equal stretches, and the
    first and last of all, so that every peak and every fall stays. All of them where there are no more."""
    if len(points) <= most:
        return list(points)
    parts = (most - 2) // 2
    kept = {0, len(points) - 1}
    for part in range(parts):
        stretch = range(part * len(points) // parts, (part + 1) * len(points) // parts)
        kept.add(min(stretch, key=lambda i: points[i][1]))
        kept.add(max(stretch, key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]


def chart(title: str, series: Sequence[Series], *, x_name: str, words: Words | None = None) -> Chart:
    """One box of curves. `words` writes values of y; without it four digits are given.

    Both axes reach from the smallest to the largest value. y is logarithmic where all are positive and the largest is
    more than `LOG_FROM` times the smallest, and a note says so.
    """
    say: Words = words or number
    finite = [point for each in series for point in each.points if point[1] is not None]
    xs, ys = [x for x, _ in finite] or [0.0], [y for _, y in finite if y is not None] or [0.0]
    logarithmic = min(ys) > 0 and max(ys) > LOG_FROM * min(ys)
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    x_low, x_high = _wide(min(xs), max(xs), least=1.0)
    y_low, y_high = _wide(scale(min(ys)), scale(max(ys)))

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (scale(y) - y_low) / (y_high - y_low)

    lines, most, missing = [], 0, 0
    for place, each in enumerate(series):
        missing += sum(y is None for _, y in each.points)
        most = max(most, len(each.points))
        pieces = [[(at_x(x), at_y(y)) for x, y in piece] for piece in _unbroken(each.points)]
        alone = [piece[0] for piece in pieces if len(piece) == 1]
        dots = [point for piece in pieces for point in piece] if len(each.points) <= DOTTED else alone
        last = next((say(y) for _, y in reversed(each.points) if y is not None), "none is finite")
        stretches = [" ".join(f"{x:.1f},{y:.1f}" for x, y in piece) for piece in pieces if len(piece) > 1]
        lines.append(Line(each.name, stretches, dots, place % COLOURS, place >= COLOURS, last))
    y_ticks = _powers(y_low, y_high) if logarithmic else nice(y_low, y_high)
    notes = []
    if logarithmic:
        notes.append("The vertical axis is logarithmic.")
    if most > MOST_POINTS:
        notes.append(
            f"Of up to {most:,} points a curve at most {MOST_POINTS} are drawn: the lowest and the highest of each "
            "stretch, so that no peak is lost."
        )
    if missing:
        notes.append(f"{missing:,} value(s) were not finite; the curve has a gap there.")
    return Chart(
        title,
        x_name,
        lines,
        [Tick(at_x(x), text) for x, text in _told(nice(x_low, x_high, most=5), number)],
        [Tick(at_y(y), text) for y, text in _told(y_ticks, say)],
        notes,
    )


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[Point]]:
    """Thinned pieces between values that were not finite."""
    pieces: list[list[Point]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    total = sum(map(len, pieces))
    return [thinned(piece, max(4, MOST_POINTS * len(piece) // max(1, total))) for piece in pieces if piece]


def _wide(low: float, high: float, least: float = 0.0) -> tuple[float, float]:
    """Bounds with room between: a constant stands in the middle."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = max(least, 0.5 * abs(low)) or 0.5
    return low - room, high + room


def nice(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within the bounds, a step of 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(each * step, 12) for each in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten within the exponents `low` and `high`, at most six."""
    exponents = range(math.ceil(low), math.floor(high) + 1)
    return [10.0**each for each in exponents[:: -(-len(exponents) // 6)]]


def _told(ticks: Sequence[float], say: Words) -> list[tuple[float, str]]:
    """Each in words, with as many digits as it takes that no two are alike."""
    texts = [[say(tick, more) for tick in ticks] for more in range(MOST_DIGITS)]
    apart = (each for each in texts if len(set(each)) == len(each))
    return list(zip(ticks, next(apart, texts[-1]), strict=True))


def number(value: float, more: int = 0) -> str:
    """As short as four digits allow: 0, 0.0012, 1,500, 2.5 million."""
    if 1e6 <= abs(value) < 1e9:
        return f"{value / 1e6:.{4 + more}g} million"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.{more}f}"
    return f"{value:.{4 + more}g}"


def per_cent(share: float, more: int = 0) -> str:
    """A share."""
    return f"{100 * share:.{3 + more}g} %"


def value_of(line: dict[str, Any], name: str) -> float | None:
    """A number of a line; the log holds null for one that was not finite."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def parts_of(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the loss and its parts, the loss first."""
    names = {name: None for line in lines for name in line if name not in (*FIELDS, *NOT_NUMBERS)}
    return sorted(names, key=lambda name: name != "loss")


def series_of(name: str, lines: Sequence[dict[str, Any]], field: str, *, per_step: float = 1) -> Series | None:
    """A curve of one field over steps, or over `per_step` times that; None where no line has it."""
    points = [(line["step"] * per_step, value_of(line, field)) for line in lines if field in line and "step" in line]
    return Series(name, points) if points else None
