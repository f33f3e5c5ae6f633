"""`contextae report`: what was trained on what and what came of it, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

import contextae
from contextae.audit.naming import shown
from contextae.data.index import printable
from contextae.disk import replace_file
from contextae.errors import UserError, nearest
from contextae.report.run_page import Page, run_page
from contextae.training.weights import CHOICES
from contextae.verbs.output import check_output, writing
from contextae.verbs.report_evaluated import evaluated
from contextae.verbs.report_pictures import pictures_of
from contextae.verbs.report_run import Run, open_run, outcome, run_shown
from contextae.verbs.report_settings import differing

SUFFIXES = (".html", ".htm")


def run_report(
    *,
    runs: Sequence[Path],
    out: Path,
    data: str | None = None,
    checkpoint: str = "last",
    pictures: bool = True,
    paths: bool = True,
) -> None:
    """Writes the page. `data` are images to draw instead of the runs' own; without `paths` it holds no names.

    `checkpoint` of each run is what is drawn and told how to use: last, best or a step.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out is the HTML file to write, such as report.html. Got {printable(str(out))}.")
    if checkpoint not in CHOICES and not checkpoint.isdecimal():
        raise UserError(
            f"--checkpoint is last, best or the number of a step. Got {checkpoint!r}.{nearest(checkpoint, CHOICES)}"
        )
    check_output(out)
    given = list(dict.fromkeys(runs))
    opened = [
        open_run(path, name=name, checkpoint=checkpoint, paths=paths)
        for path, name in zip(given, _names(given, paths=paths), strict=True)
    ]
    unwanted = "Pictures were not asked for (--no-pictures)."
    shown_of = [pictures_of(run, data, paths=paths) if pictures else (None, unwanted) for run in opened]
    page = Page(
        title=opened[0].name if len(opened) == 1 else f"{len(opened)} runs",
        version=contextae.__version__,
        runs=[
            run_shown(run, drawn=drawn, why=why, paths=paths)
            for run, (drawn, why) in zip(opened, shown_of, strict=True)
        ],
        compared=[*differing([run.experiment for run in opened], paths=paths), *_outcomes(opened)]
        if len(opened) > 1
        else [],
        evaluated=evaluated(opened, paths=paths),
        pictures=pictures,
        paths=paths,
        held=[(name, words) for name, words in HELD if any((run.folder.path / name).exists() for run in opened)],
    )
    for run in page.runs:
        if run.no_pictures and pictures:
            typer.echo(f"{run.name}: {run.no_pictures}", err=True)
    text = run_page(page).encode("utf-8", "backslashreplace")
    with writing(out):
        replace_file(out, text)
    typer.echo(f"Done: {out}, {len(text) / 1e6:.1f} MB, which any browser opens from the disk")


HELD = (
    ("experiment.yaml", "the settings, with the paths of images and other files"),
    ("images", "the names of all images of the run, and no pixels"),
    ("quarantine.jsonl", "names of images that were not used, and why"),
    ("log.jsonl", "figures, and neither names nor pixels"),
    ("results.jsonl", "figures of evaluations, with the paths of weights and images"),
    ("checkpoints", "weights, the settings with their paths, and names of images that were set aside; no pixels"),
    ("non-finite", "batches at which a loss was not finite: PIXELS and names of images"),
    ("tensorboard", "figures, and neither names nor pixels"),
    ("reconstructions.png", "PIXELS of some images"),
)
"""Of a run folder, what the user may not want to hand on."""


def _names(runs: Sequence[Path], *, paths: bool) -> list[str]:
    """The last part of each path where these differ, otherwise the whole; without `paths` a number."""
    if not paths:
        return [f"run {place}" for place in range(1, len(runs) + 1)]
    short = [path.resolve().name or str(path) for path in runs]
    whole = len(set(short)) < len(short)
    return [shown(str(path) if whole else name) for path, name in zip(runs, short, strict=True)]


def _outcomes(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What came out of each; what none of them has is left out."""
    rows = [dict(outcome(run)) for run in runs]
    told = [(name, [row[name] for row in rows]) for name in rows[0]]
    return [(name, values) for name, values in told if set(values) != {"-"}]
