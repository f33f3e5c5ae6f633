"""Figures with their intervals as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from contextae.evaluation.record import THIS_ENCODER
from contextae.evaluation.results import Recorded, newest
from contextae.evaluation.table import column_of, columns_of, names_of


def plot(records: Sequence[Recorded], out: Path) -> None:
    """Figures with their intervals as a PNG: a row of axes for each data set, one for each protocol."""
    kept, _ = newest(records)
    sets = list(dict.fromkeys(record.about.get("data", "?") for record, _ in kept))
    by_set = [[each for each in kept if each[0].about.get("data", "?") == data] for data in sets]
    columns = [columns_of([result for _, result in each]) for each in by_set]
    named_rows = [names_of(each, short=True) for each in by_set]
    most = max(map(len, columns))
    longest = max(len(set(each)) for each in named_rows)
    figure = Figure(figsize=(3 + 2.6 * most, len(sets) * (1.2 + 0.35 * longest)), layout="constrained", dpi=120)
    axes = figure.subplots(len(sets), most, squeeze=False)
    for row, (data, here, wanted, of_row) in enumerate(zip(sets, by_set, columns, named_rows, strict=True)):
        names = list(dict.fromkeys(of_row))[::-1]
        for axis in axes[row][len(wanted) :]:
            axis.set_visible(False)
        for place, column in enumerate(wanted):
            axis = axes[row][place]
            for name, (_, result) in zip(of_row, here, strict=True):
                if column_of(result) == column:
                    at, ours = names.index(name), result.row.startswith(THIS_ENCODER)
                    low, high = (100 * each for each in result.interval)
                    axis.plot([low, high], [at, at], color="tab:blue" if ours else "tab:gray", lw=2)
                    axis.plot(100 * result.value, at, "o", color="tab:blue" if ours else "tab:gray")
            axis.set_yticks(range(len(names)), list(map(_plainly, names)) if place == 0 else [""] * len(names))
            axis.set_ylim(-0.5, len(names) - 0.5)
            axis.set_title(str(wanted[column]), fontsize=9)
            axis.tick_params(labelsize=8)
            axis.grid(axis="x", alpha=0.3)
            axis.set_xlabel("%", fontsize=8)
        axes[row][0].set_ylabel(_plainly(Path(str(data)).name or str(data)), fontsize=9)
    figure.savefig(out, format="png")


def _plainly(text: str) -> str:
    """Names of files as they are: between dollars matplotlib reads formulas."""
    return text.replace("$", r"\$")
