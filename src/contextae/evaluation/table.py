"""An evaluation as people read it: a table for the console, the comparisons in words, Markdown, JSON."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from contextae.evaluation.protocols import PROTOCOLS
from contextae.evaluation.record import RANDOM, Difference, Evaluation


def table(evaluation: Evaluation) -> Table:
    """Rows are representations, columns protocols; the best of a column is bold. 89 columns wide with 3 protocols.

    Where there is less room an interval goes below its figure; nothing is cut off.
    """
    made = Table(
        title=f"Accuracy on {evaluation.num_test:,} test images in %, with its 95 % interval",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption="\n".join(captions(evaluation)),
        caption_justify="left",
    )
    made.add_column("frozen representation", overflow="fold")
    for protocol in evaluation.protocols:
        made.add_column(PROTOCOLS[protocol].title, justify="right", overflow="fold")
    for name, cells in rows(evaluation):
        made.add_row(escape(name), *(f"[bold]{escape(text)}[/bold]" if best else escape(text) for text, best in cells))
    return made


def rows(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Of each representation its name and, per protocol, the cell's text and whether it is the best of its column."""
    best = {
        protocol: max(entry.accuracy for entry in evaluation.entries if entry.protocol == protocol)
        for protocol in evaluation.protocols
    }
    found = []
    for name in evaluation.representations:
        cells = []
        for protocol in evaluation.protocols:
            entry = evaluation.entry(name, protocol)
            if entry is None:
                cells.append(("-", False))
                continue
            low, high = entry.interval
            text = f"{100 * entry.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            cells.append((text, entry.accuracy == best[protocol]))
        found.append((f"{name}, {evaluation.seeds} seeds" if name == RANDOM and evaluation.seeds > 1 else name, cells))
    return found


def captions(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures has to know."""
    return [f"Always naming the most frequent class: {100 * evaluation.chance:.1f} %.", *evaluation.notes]


def words(evaluation: Evaluation) -> list[str]:
    """A line per protocol: whether the encoder learned, and whether it is more useful than what needs no training."""
    lines = []
    for protocol in evaluation.protocols:
        random = evaluation.difference(protocol, RANDOM)
        assert random  # every protocol can read an encoder with random weights
        line = f"{PROTOCOLS[protocol].title}: {_points(random)} to {RANDOM}"
        free = evaluation.hardest(protocol)
        if free:
            under = "" if free.baseline_protocol == protocol else f" ({PROTOCOLS[free.baseline_protocol].title})"
            line += f"; {_points(free)} to {free.baseline}{under}"
        lines.append(f"{line}: {_verdict(random, free)}")
    return lines


def markdown(evaluation: Evaluation) -> str:
    """The table for a document."""
    head = ["frozen representation", *(PROTOCOLS[protocol].title for protocol in evaluation.protocols)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(evaluation.protocols)}"]
    for name, cells in rows(evaluation):
        lines.append(f"| {name} | {' | '.join(f'**{text}**' if best else text for text, best in cells)} |")
    return "\n".join(lines)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """All of it in plain values, and the comparisons in words; the caller adds checkpoint, commit and hardware."""
    return {**evaluation.to_json(), "words": words(evaluation)}


def _points(difference: Difference) -> str:
    low, high = difference.interval
    return f"{100 * difference.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _verdict(random: Difference, free: Difference | None) -> str:
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
