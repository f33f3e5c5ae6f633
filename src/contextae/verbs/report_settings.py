"""Settings as a report shows them: every value, what it is, and where not wanted no names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from contextae.data.builtin import PREFIX
from contextae.data.index import printable
from contextae.experiment import Experiment
from contextae.report.run_page import Setting, shown_value

NOT_SHOWN = "(not shown)"
NAMING = ("data.source", "data.manifest", "init.source", "method.target")
"""Settings that may hold names of files."""
MEASURED = (
    *(f"data.{name}" for name in ("channels", "dtype", "value_range", "mean", "deviation")),
    *("method.target_size", "method.target_sha256", "init.sha256", "training.precision"),
)
"""What a start measures or reads, where it is not given."""


def hidden(name: str, value: Any, *, paths: bool) -> Any:
    """A setting without the names of files it may hold, unless `paths` are wanted."""
    if paths or name not in NAMING or value is None:
        return value
    if isinstance(value, list | tuple):
        return [hidden(name, each, paths=False) for each in value]
    kind, colon, _ = str(value).partition(":")
    if value.startswith(PREFIX) or not (colon or name != "method.target"):
        return value  # a built-in set; pixels and hog
    if name != "data.source" and re.fullmatch(r"(features:)?timm:[\w.]+", value):
        return value  # a name that everybody knows
    return f"{kind}:{NOT_SHOWN}" if colon and name == "method.target" else NOT_SHOWN


def settings(experiment: Experiment, *, paths: bool) -> list[Setting]:
    """Every value with what it is."""
    found = []
    for section in type(experiment).model_fields:
        part: Any = getattr(experiment, section)
        fields = type(part).model_fields
        for name, field in sorted(fields.items(), key=lambda item: item[0] != "name"):
            whole = f"{section}.{name}"
            text = printable(shown_value(hidden(whole, getattr(part, name), paths=paths)))
            found.append(Setting(whole, text, field.description or "", whole in MEASURED))
    return found


def differing(experiments: Sequence[Experiment], *, paths: bool) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all, with each one's value; a dash where a run's method has none."""
    values = [each.values() for each in experiments]
    names = dict.fromkeys(name for each in values for name in each)
    return [
        (
            name,
            [printable(shown_value(hidden(name, each[name], paths=paths))) if name in each else "-" for each in values],
        )
        for name in names
        if any(each.get(name, "-") != values[0].get(name, "-") for each in values)
    ]
