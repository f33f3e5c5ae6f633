"""The page of one run or several: one HTML file that asks nothing of the network and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from contextae.report.curves import Chart, Series, Words, chart, number, parts_of, per_cent, series_of
from contextae.report.page import rendered
from contextae.report.run_facts import Aside, Logged, Stretch, stretches
from contextae.report.run_pictures import ATTENTION_WORDS, COMPONENT_WORDS, RunPictures

TEMPLATE = "run.html.j2"
PROBES = {"knn": "kNN", "linear": "linear", "attentive": "attentive", "ridge": "ridge"}
"Figures of a frozen encoder in training, by their name in the log."
OVER_STEPS = (
    ("lr", "Learning rate", None),
    ("gradient_norm", "Norm of the gradient, before it is clipped", None),
    ("images_per_s", "Images a second", None),
    ("waiting", "Share of time spent waiting for data", per_cent),
)
OVER_CHECKS = (
    ("score", "Label-free score: minus the reconstruction loss of the same images each time", None),
    *((name, f"{title} accuracy on a held-out part of train", per_cent) for name, title in PROBES.items()),
    ("effective_rank_visible", "Effective rank of visible latents", None),
    ("error_over_variance", "Error of decoded images, as a share of their variance", None),
    ("perplexity", "Perplexity of the codes in use", None),
)
COLOURS = {"healthy": "good", "data-bound": "mind", "collapsing": "bad", "diverging": "bad"}
BAR, THINNEST = 1000, 8  # width of the bar of verdicts, and of the thinnest of them


class Setting(NamedTuple):
    """One value of a run; `measured`: what a start measures or reads, where it is not given."""

    name: str
    value: str
    what: str
    measured: bool


class Table(NamedTuple):
    """Figures of one data set: rows of cells, each a text and whether it is the best of its column."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]
    notes: list[str]


class Difference(NamedTuple):
    """A row minus a baseline in points, with its 95 % interval; `random`: the baseline has random weights."""

    data: str
    protocol: str
    row: str
    baseline: str
    points: float
    low: float
    high: float
    random: bool

    @property
    def verdict(self) -> str:
        """By the interval alone."""
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.points > 0 else "worse"

    def words(self) -> str:
        """A sentence."""
        of = f"{self.protocol} on {self.data}: {self.row}"
        span = f"{self.points:+.1f} points [{self.low:+.1f}, {self.high:+.1f}] to {self.baseline}"
        if self.low <= 0 <= self.high:
            return f"{of} shows no difference: {span}, and the interval holds 0."
        return f"{of} is {self.verdict}: {span}, outside the interval."


class Evaluated(NamedTuple):
    """All that was evaluated, as tables, differences, and facts about each evaluation."""

    tables: list[Table]
    differences: list[Difference]
    about: list[list[tuple[str, str]]]
    missing: list[str]


@dataclass(frozen=True, kw_only=True)
class RunShown:
    """One run as it is shown."""

    name: str
    tiles: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    logged: Logged
    batch_size: int
    warning: str = ""
    asides: list[Aside] = field(default_factory=list)
    pictures: RunPictures | None = None
    no_pictures: str = ""
    settings: list[Setting] = field(default_factory=list)
    python: str = ""
    commands: list[str] = field(default_factory=list)
    is_tokenizer: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page says. `compared` are rows of what differs between several runs; `held` says of files beside it
    what they hold of the user."""

    title: str
    version: str
    runs: list[RunShown]
    compared: list[tuple[str, list[str]]]
    evaluated: Evaluated
    pictures: bool
    paths: bool
    held: list[tuple[str, str]]


def run_page(page: Page) -> str:
    """The whole file. What comes from the user is escaped; a content policy forbids scripts and requests besides."""
    return rendered(
        TEMPLATE,
        {"per_cent": per_cent},
        page=page,
        joint=joint_charts(page.runs) if len(page.runs) > 1 else [],
        charts=[charts_of(run) for run in page.runs],
        bars=[bar(stretches(run.logged.health), run.logged.done) for run in page.runs],
        random=[each for each in page.evaluated.differences if each.random],
        others=[each for each in page.evaluated.differences if not each.random],
        several_sets=len({each.data for each in page.evaluated.differences}) > 1,
        attention_words=ATTENTION_WORDS,
        component_words=COMPONENT_WORDS,
    )


def charts_of(run: RunShown) -> list[Chart]:
    """Of one run over steps: the loss with its parts in one, everything else in one each."""
    losses = [series_of(name, run.logged.steps, name) for name in parts_of(run.logged.steps)]
    found = [chart("Loss and its parts", _there(losses), x_name="steps")] if _there(losses) else []
    for lines, wanted in ((run.logged.steps, OVER_STEPS), (run.logged.health, OVER_CHECKS)):
        for name, title, words in wanted:
            if (one := series_of(title, lines, name)) is not None:
                found.append(chart(title, [one], x_name="steps", words=words))
    return found


def joint_charts(runs: Sequence[RunShown]) -> list[Chart]:
    """Of several runs, over images seen, so that batches of other sizes compare: a curve each. What one run alone has
    stands in its own part of the page."""
    parts = dict.fromkeys(name for run in runs for name in parts_of(run.logged.steps))
    found = []
    for name in parts:
        found += _joint(runs, name, "Loss" if name == "loss" else f"Loss: {name}", None, of_steps=True)
    for name, title, words in OVER_STEPS:
        found += _joint(runs, name, title, words, of_steps=True)
    for name, title, words in OVER_CHECKS:
        found += _joint(runs, name, title, words, of_steps=False)
    return found


def _joint(runs: Sequence[RunShown], name: str, title: str, words: Words | None, *, of_steps: bool) -> list[Chart]:
    series = [
        series_of(run.name, run.logged.steps if of_steps else run.logged.health, name, per_step=run.batch_size)
        for run in runs
    ]
    there = _there(series)
    return [chart(title, there, x_name="images seen", words=words)] if len(there) > 1 else []


def _there(series: Sequence[Series | None]) -> list[Series]:
    return [each for each in series if each is not None]


class Piece(NamedTuple):
    """A stretch of one verdict on the bar."""

    x: float
    width: float
    colour: str
    stretch: Stretch


def bar(found: Sequence[Stretch], done: int) -> list[Piece]:
    """Each from its first check to that of the next one, or to the end; none is too thin to be seen."""
    pieces = []
    for each in found:
        until = done if each is found[-1] else each.until
        width = max(THINNEST, BAR * (until - each.first) / max(1, done))
        pieces.append(Piece(min(BAR * each.first / max(1, done), BAR - width), width, COLOURS.get(each.word, ""), each))
    return pieces


def shown_value(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "null" if value is None else str(value)


def latest(lines: Sequence[dict[str, Any]], name: str, words: Words = number) -> str:
    """The last value of a field that was a finite number, or a dash."""
    curve = series_of(name, lines, name)
    values = [y for _, y in curve.points if y is not None] if curve else []
    return words(values[-1]) if values else "-"
