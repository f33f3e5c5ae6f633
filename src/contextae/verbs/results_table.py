"""`contextae evaluate --table`: figures that were found before, as tables and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from contextae.errors import UserError, nearest
from contextae.evaluation.console import on_console
from contextae.evaluation.plot import plot
from contextae.evaluation.results import FILE, read
from contextae.evaluation.table import markdown, sheets_of, to_csv
from contextae.verbs.output import check_output, writing

FORMS = ("console", "markdown", "csv")


def check_results_stay(path: Path | None, option: str, results: Sequence[Path]) -> None:
    """UserError where what is written at `path` would take the place of figures that are kept."""
    for kept in results:
        if path and path.resolve() == kept.resolve():
            raise UserError(
                f"{option} {path} is the file that figures are kept in, and writing there would lose them. Choose "
                "another file."
            )


def run_table(*, runs: Sequence[Path], form: str, plot_to: Path | None, out: Path | None) -> None:
    """What `evaluate` has found of these runs, or of files of results, as a table, and as a plot where asked to."""
    if form not in FORMS:
        raise UserError(f"A table is written as {', '.join(FORMS)}. Got {form!r}.{nearest(form, FORMS)}")
    if out and form == "console":
        raise UserError(f"A table in a file is markdown or csv. Got --out {out} without --format; add one of them.")
    files = [run / FILE if run.is_dir() else run for run in runs]
    for path, option in ((plot_to, "--plot"), (out, "--out")):
        if path:
            check_output(path)
        check_results_stay(path, option, files)
    records = [record for file in files for record in read(file)]
    if not any(record.results for record in records):
        raise UserError(f"There are no figures in {', '.join(map(str, runs))}. Evaluate something first.")
    sheets = sheets_of(records)
    if form == "csv":
        text = to_csv(records)
    elif form == "markdown":
        text = "\n\n".join(
            "\n\n".join([f"**{shown.title}**", markdown(shown), "\n".join(shown.captions)]) for shown in sheets
        )
    if form == "console":
        for shown in sheets:
            Console(highlight=False).print(on_console(shown))
    elif out:
        with writing(out):
            out.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        typer.echo(f"Table -> {out}")
    else:
        typer.echo(text)
    if plot_to:
        with writing(plot_to):
            plot(records, plot_to)
        typer.echo(f"Plot -> {plot_to}")
