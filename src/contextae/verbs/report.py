"""`contextae report`: what was trained on what and what came of it, as one HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

import contextae
from contextae.audit.naming import shown
from contextae.data.builtin import PREFIX
from contextae.data.index import printable
from contextae.disk import replace_file
from contextae.errors import UserError
from contextae.evaluation.record import RANDOM
from contextae.evaluation.results import FILE, Recorded, read
from contextae.evaluation.table import sheets_of, titled
from contextae.report.run_page import Difference, Evaluated, Page, Table, run_page
from contextae.verbs.output import check_output, writing
from contextae.verbs.report_run import Run, open_run, outcome, run_shown
from contextae.verbs.report_settings import differing

SUFFIXES = (".html", ".htm")
CHECKPOINT = re.compile(r"step-\d{8,}")


def run_report(
    *, runs: Sequence[Path], out: Path, data: str | None = None, pictures: bool = True, paths: bool = True
) -> None:
    """Writes the page. `data` are images to draw instead of the runs' own; without `paths` it holds no names."""
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out is the HTML file to write, such as report.html. Got {printable(str(out))}.")
    check_output(out)
    given = list(dict.fromkeys(runs))
    opened = [
        open_run(path, name=name, paths=paths) for path, name in zip(given, _names(given, paths=paths), strict=True)
    ]
    page = Page(
        title=opened[0].name if len(opened) == 1 else f"{len(opened)} runs",
        version=contextae.__version__,
        runs=[run_shown(run, data=data, pictures=pictures, paths=paths) for run in opened],
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
    rows = [dict(outcome(run)) for run in runs]
    return [(name, [row[name] for row in rows]) for name in rows[0]]


def evaluated(runs: Sequence[Run], *, paths: bool) -> Evaluated:
    """Of results.jsonl of each run: the newest of each figure."""
    records, missing = [], []
    for run in runs:
        file = run.folder.path / FILE
        own = [_named(record, run) for record in read(file)] if file.is_file() else []
        records += own
        if not any(record.results for record in own):
            what = "A tokenizer is evaluated by what is trained on it." if run.is_tokenizer else HOW
            missing.append(f"There are no figures of {run.name} yet. {what}")
    if not paths:
        records = _without_paths(records)
    if len(runs) > 1 and len({record.about.get("encoder_sha256") for record in records}) == 1:
        records = list(map(_of_which, records))  # of several encoders the tables say it themselves
    tables = [
        Table(sheet.title, sheet.corner or "row", sheet.columns, [(name, list(cells)) for name, cells in sheet.rows],
              sheet.captions)
        for sheet in sheets_of(records)
    ]  # fmt: skip
    return Evaluated(tables, differences(records), [_about(record) for record in records], missing)


HOW = "contextae evaluate writes them into the run folder."


def _named(record: Recorded, run: Run) -> Recorded:
    """With the page's own name for the weights."""
    one = CHECKPOINT.search(str(record.about.get("weights", "")))  # given as such, and not by its run
    which = one[0] if one else str(record.about.get("checkpoint", "last"))
    name = run.name if which == "last" else f"{run.name}, checkpoint {which}"
    return replace(record, about={**record.about, "weights": name})


def _of_which(record: Recorded) -> Recorded:
    """With the weights in the names of rows."""
    weights = record.about["weights"]
    return replace(
        record,
        results=tuple(replace(each, row=f"{weights}: {each.row}") for each in record.results),
        compared=tuple(replace(each, row=f"{weights}: {each.row}") for each in record.compared),
    )


def _without_paths(records: Sequence[Recorded]) -> list[Recorded]:
    """Data sets as numbers; of rows and notes that may name a file, no more than that."""
    sets = list(dict.fromkeys(str(record.about.get("data", "?")) for record in records))

    def plain(row: str) -> str:
        return "weights of a file" if "/" in row else row

    return [
        replace(
            record,
            about={**record.about, "data": _data(str(record.about.get("data", "?")), sets)},
            results=tuple(replace(each, row=plain(each.row)) for each in record.results),
            compared=tuple(
                replace(each, row=plain(each.row), baseline=plain(each.baseline)) for each in record.compared
            ),
            notes=tuple(note for note in record.notes if "/" not in note),
        )
        for record in records
    ]


def _data(name: str, sets: Sequence[str]) -> str:
    return name if name.startswith(PREFIX) else f"data set {sets.index(name) + 1}"


def differences(records: Sequence[Recorded]) -> list[Difference]:
    """The newest of each, in points; weights are named where there are several."""
    several = len({record.about.get("encoder_sha256") for record in records}) > 1
    newest: dict[tuple[Any, ...], Difference] = {}
    for record in records:
        data, weights = str(record.about.get("data", "?")), record.about.get("weights", "?")
        for each in record.compared:
            under = f" ({titled(each.baseline_protocol, each.metric)})" if each.baseline_protocol else ""
            key = (record.about.get("encoder_sha256"), data, each.protocol, each.metric, each.row, each.baseline, under)
            newest[key] = Difference(
                data=data,
                protocol=titled(each.protocol, each.metric),
                row=f"{weights}: {each.row}" if several else each.row,
                baseline=f"{each.baseline}{under}",
                points=100 * each.difference,
                low=100 * each.interval[0],
                high=100 * each.interval[1],
                random=each.baseline == RANDOM,
            )
    return list(newest.values())


def _about(record: Recorded) -> list[tuple[str, str]]:
    """What an evaluation was of and what it was computed on; of lists and paths nothing."""
    about = record.about
    versions = ", ".join(f"{name} {each}" for name, each in dict(about.get("versions") or {}).items())
    hardware = ", ".join(f"{name}: {each}" for name, each in dict(about.get("hardware") or {}).items() if each)
    protocols = dict.fromkeys(f"{each.protocol} version {each.version}" for each in record.results)
    counts = [
        f"{about[name]:,} images to {part}"
        for name, part in (("num_train", "train"), ("num_test", "test"))
        if isinstance(about.get(name), int)
    ]
    facts = {
        "weights": str(about.get("weights", "?")),
        "encoder's hash": str(about.get("encoder_sha256") or "")[:12],
        "data": ", ".join([str(about.get("data", "?")), *counts]),
        "protocols": ", ".join(protocols),
        "when": str(about.get("time") or ""),
        "hardware": hardware,
        "versions": versions,
    }
    return [(name, printable(words)) for name, words in facts.items() if words]
