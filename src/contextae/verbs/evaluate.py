"""`contextae evaluate` and `contextae.evaluate`: an encoder under every protocol, beside the baselines."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

import contextae
from contextae.errors import UserError
from contextae.evaluation.console import on_console
from contextae.evaluation.evaluate import DEFAULT_PROTOCOLS
from contextae.evaluation.features import fingerprint
from contextae.evaluation.progress import Progress
from contextae.evaluation.results import FILE, Recorded, append, to_json
from contextae.evaluation.supervised import StoppedError
from contextae.evaluation.table import compared_lines, sheets_of, words
from contextae.pretrained import Origin, load_encoder
from contextae.training.hardware import machine
from contextae.verbs.output import check_output, writing
from contextae.verbs.request import absolute
from contextae.verbs.results_table import check_results_stay
from contextae.verbs.run import EXIT_CODES
from contextae.verbs.tasks import Found, Job, kind_of
from contextae.verbs.terminal import Steps

EXPERIMENT_FILE = "experiment.yaml"
STATE = "evaluation-state"
"Beside results.jsonl, what a stopped evaluation has trained so far."


def evaluate(
    weights: str | Path,
    data: str | Path,
    *,
    protocols: str | Sequence[str] = DEFAULT_PROTOCOLS,
    checkpoint: str = "last",
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    pictures: Path | None = None,
    masks: str = "labels",
    beside: Sequence[str] = (),
    state: Path | None = None,
    progress: Progress | None = None,
) -> Recorded:
    """What `contextae evaluate` finds, for a loop or a notebook: figures with intervals, and comparisons to baselines.

    `weights` is a run folder, a checkpoint or a weights file; `settings` change those of one protocol that trains. With
    `state`, a folder, a training that was stopped is gone on with. Nothing is kept but pictures. What the command says
    before its figures, of images left out and weights adapted as well, is in `about["said"]`; an image that cannot be
    read is a warning too.
    `progress` is called with what is being done and the share of it that is done. UserError as of the command.
    """
    said: list[str] = []
    recorded, *_ = _evaluated(
        Path(weights),
        str(data),
        protocols,
        checkpoint=checkpoint,
        settings=[f"{name}={json.dumps(value)}" for name, value in (settings or {}).items()],
        seeds=seeds,
        pictures=pictures,
        masks=masks,
        beside=beside,
        state=state,
        progress=progress,
        say=said.append,
        warn=partial(warnings.warn, stacklevel=2),
    )
    return replace(recorded, about={**recorded.about, "said": said})


def run_evaluate(
    *,
    weights: Path,
    data: str,
    protocols: str,
    checkpoint: str = "last",
    seeds: int | None = None,
    out: Path | None = None,
    results: Path | None = None,
    settings: Sequence[str] = (),
    pictures: Path | None = None,
    masks: str = "labels",
    beside: Sequence[str] = (),
) -> Found:
    """Prints the table and what it says, appends the figures to results.jsonl of the run or of `results`, and writes
    all of it as JSON where asked to. Stopped in a training, the same call goes on there."""
    kept = results or results_of(weights)
    for path in (out, kept, pictures):
        if path:
            check_output(path)
    check_results_stay(out, "--out", [kept] if kept else [])
    check_results_stay(pictures, "--pictures", [kept] if kept else [])
    with Steps() as steps:
        recorded, found, job = _evaluated(
            weights,
            data,
            protocols,
            checkpoint=checkpoint,
            settings=settings,
            seeds=seeds,
            pictures=pictures,
            masks=masks,
            beside=beside,
            state=kept.parent / STATE if kept else None,
            progress=steps,
            say=typer.echo,
            warn=partial(typer.echo, err=True),
        )
    for shown in sheets_of([recorded]):
        Console(highlight=False).print(on_console(shown))
    for line in words_of(found):
        typer.echo(line)
    if kept:  # before anything else is written: what took hours is not lost to a full disk elsewhere
        keep(kept, recorded)
    if out:
        whole = {**to_json(recorded), **({"evaluation": found.evaluation.to_json()} if found.evaluation else {})}
        with writing(out):
            out.write_text(json.dumps({**whole, "words": words_of(found)}, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"All figures -> {out}")
    if pictures:
        typer.echo(f"Pictures -> {pictures.parent}/{pictures.stem}*")
    job.forget()
    return found


def _evaluated(
    weights: Path,
    data: str,
    protocols: str | Sequence[str],
    *,
    checkpoint: str,
    settings: Sequence[str],
    seeds: int | None,
    pictures: Path | None,
    masks: str,
    beside: Sequence[str],
    state: Path | None,
    progress: Progress | None,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> tuple[Recorded, Found, Job]:
    given = protocols.split(",") if isinstance(protocols, str) else protocols
    named = tuple(dict.fromkeys(name.strip() for name in given if name.strip()))
    if kind_of(named) == "images with classes" and pictures:  # a typing error is said before a million images are read
        raise UserError("--pictures is for segmentation and detection, which have something to draw. Leave it out.")
    encoder, origin = load_encoder(weights, checkpoint=checkpoint)
    if torch.cuda.is_available():
        encoder.to(torch.device("cuda"))
    job = Job(
        encoder=encoder,
        origin=origin,
        data=data,
        protocols=named,
        seeds=seeds,
        settings=tuple(settings),
        state=state,
        pictures=pictures,
        masks=masks,
        beside=tuple(beside),
        progress=progress,
        say=say,
        warn=warn,
    )
    found = job.found()
    about = {
        **about_weights(weights, checkpoint, origin, fingerprint(encoder)),
        "data": str(absolute(data)),
        **found.about,
        "seeds": seeds,
        "settings": list(settings),
    }
    recorded = Recorded(
        about=about, results=tuple(found.results), compared=tuple(found.compared), notes=tuple(found.notes)
    )
    return recorded, found, job


def evaluated(*, weights: Path, results: Path | None = None, **options: Any) -> int:
    """`run_evaluate` as a command: the exit code, 130 and 143 after Ctrl-C and SIGTERM."""
    try:
        run_evaluate(weights=weights, results=results, **options)
    except StoppedError as stopped:
        kept = results or results_of(weights)
        there = "the same command goes on there" if kept else "nothing was kept: with --results FILE it would be"
        typer.echo(f"Stopped by {stopped.ending} in a training; {there}.", err=True)
        return EXIT_CODES[stopped.ending]
    return 0


def words_of(found: Found) -> list[str]:
    """What the figures say, a line for each protocol and metric."""
    lines = words(found.evaluation) if found.evaluation else []
    probes = found.evaluation.protocols if found.evaluation else ()
    return [*lines, *compared_lines([each for each in found.compared if each.protocol not in probes])]


def results_of(weights: Path) -> Path | None:
    """Where figures of these weights are kept unless told otherwise: in their run folder, where they lie in one."""
    folder, *parents = weights, *weights.absolute().parents
    for depth in (0, 1):  # a checkpoint, or the weights in one
        if len(parents) > depth + 1 and parents[depth].name == "checkpoints":
            folder = parents[depth + 1]
    return folder / FILE if (folder / EXPERIMENT_FILE).is_file() else None


def about_weights(weights: Path, checkpoint: str, origin: Origin, fingerprint: str) -> dict[str, Any]:
    """What a figure is of, and what it was computed on."""
    method = origin.experiment.method
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": str(weights),
        "checkpoint": checkpoint,
        "encoder_sha256": fingerprint,
        "method": method.name,
        "trained_on": origin.experiment.data.source,
        "image_size": list(origin.experiment.data.image_size),
        **machine(contextae.__version__),
    }


def keep(path: Path, recorded: Recorded) -> None:
    """Appends, and says where."""
    with writing(path):
        append(path, recorded)
    named = path.parent if path.name == FILE else path
    typer.echo(f"Appended to {path}; contextae evaluate --table {shlex.quote(str(named))} shows it again")
