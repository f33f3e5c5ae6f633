"""A table of figures on a console."""

from __future__ import annotations

from collections import Counter
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from contextae.evaluation.table import OF_ACCURACY, Sheet

NARROW = 12
"""Columns of text that the interval of a share in percent takes at most."""


def on_console(shown: Sheet) -> Group:
    """For the console: the best of a column is bold; a protocol of several columns has a table of its own.

    89 columns wide with 3 protocols; where there is less room an interval goes below its figure, as in a table of more
    than 3 columns, which fits in 80. Nothing is cut off.
    """
    counts = Counter(head.protocol for head in shown.heads)
    several = {name: [i for i, head in enumerate(shown.heads) if head.protocol == name] for name in counts}
    alone = [i for i, head in enumerate(shown.heads) if counts[head.protocol] == 1]
    parts = [("", alone)] * bool(alone) + [(name, own) for name, own in several.items() if counts[name] > 1]
    made = [_part(shown, title, columns) for title, columns in parts]
    apart = [each for part in made for each in ("", part)][1:]
    return Group(Text(shown.title, "table.title"), *apart, Text("\n".join(["", *shown.captions]), "table.caption"))


def _part(shown: Sheet, protocol: str, columns: list[int]) -> Table:
    """Some columns, and the rows that have a figure there. Those of one protocol go without its name."""
    heads = [shown.heads[i] for i in columns]
    of_accuracy = bool(protocol) and all(head.metric.startswith("accuracy") for head in heads)
    named = list(map(str, heads))
    if protocol:
        parts = {head: "all labels" if head.metric == "accuracy" else head.metric for head in heads}
        named = [", ".join(filter(None, [parts[head].removeprefix(OF_ACCURACY), head.version])) for head in heads]
    below = len(columns) > 3
    made = Table(
        title=escape(protocol + (": accuracy" if of_accuracy else "")) or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0 if below else (0, 1),
        show_edge=not below,
    )
    made.add_column(escape(shown.corner), overflow="fold")
    for head in named:
        text = "\n".join(wrap(head, NARROW)) if below else head
        made.add_column(escape(text), justify="right", overflow="fold", no_wrap=below)
    for name, cells in shown.rows:
        texts = [(cells[i].text.replace(" ", "\n", 1) if below else cells[i].text, cells[i].best) for i in columns]
        if any(text != "-" for text, _ in texts):
            made.add_row(
                escape(name), *(f"[bold]{escape(text)}[/bold]" if best else escape(text) for text, best in texts)
            )
    return made
