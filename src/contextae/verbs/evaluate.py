"""`contextae evaluate`: the frozen encoder under every protocol, beside the baselines."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from rich.console import Console

import contextae
from contextae.data.images import load_images
from contextae.data.index import Index, left_out_lines, printable
from contextae.data.sources import open_labelled
from contextae.evaluation.evaluate import Evaluation, evaluate
from contextae.evaluation.hardware import hardware
from contextae.evaluation.protocols import select
from contextae.evaluation.results import FILE, Recorded, append, of_classification
from contextae.evaluation.table import captions, sheet_of, table, to_json, words
from contextae.pretrained import Origin, load_encoder
from contextae.settings import DataConfig
from contextae.verbs.output import check_output, writing
from contextae.verbs.terminal import Steps

EXPERIMENT_FILE = "experiment.yaml"


def run_evaluate(
    *,
    weights: Path,
    data: str,
    protocols: str,
    checkpoint: str,
    seeds: int,
    out: Path | None,
    results: Path | None = None,
) -> Evaluation:
    """Prints the table and what it says, appends the figures to results.jsonl of the run or of `results`, and writes
    all of it as JSON where asked to."""
    kept = results or results_of(weights)
    for path in (out, kept):
        if path:
            check_output(path)
    named = list(dict.fromkeys(name.strip() for name in protocols.split(",") if name.strip()))
    select(named)  # a typing error is said before a million images are read
    encoder, origin = load_encoder(weights, checkpoint=checkpoint)
    if torch.cuda.is_available():
        encoder.to(torch.device("cuda"))
    labelled = open_labelled(data, channels=origin.channels, dtype=origin.experiment.data.dtype)
    typer.echo(
        f"{data}: {len(labelled.train):,} images to train on, {len(labelled.test):,} to test on, "
        f"{len(labelled.classes)} classes"
    )
    for note in labelled.notes:
        typer.echo(note)
    for part, index in (("train", labelled.train), ("test", labelled.test)):
        for line in left_out_lines(index.left_out, index.found):
            typer.echo(f"{part}: {line}")
    with Steps() as steps:
        found = evaluate(
            encoder,
            train=_read(labelled.train, "train", origin.experiment.data, steps),
            test=_read(labelled.test, "test", origin.experiment.data, steps),
            classes=labelled.classes,
            mean=origin.transform.mean,
            deviation=origin.transform.deviation,
            random_encoder=origin.random_encoder,
            protocols=named,
            seeds=seeds,
            progress=steps,
        )
    Console(highlight=False).print(table(sheet_of(found)))
    for line in words(found):
        typer.echo(line)
    if out:
        record = {"weights": str(weights), "checkpoint": checkpoint, "data": data, "contextae": contextae.__version__}
        with writing(out):
            out.write_text(json.dumps({**record, **to_json(found)}, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"All figures -> {out}")
    if kept:
        about = {
            **about_weights(weights, checkpoint, origin, found.fingerprint),
            "data": data,
            "num_train": found.num_train,
            "num_test": found.num_test,
            "classes": list(found.classes),
            "seed": found.seed,
        }
        figures, compared = of_classification(found)
        notes = tuple(captions(found))
        keep(kept, Recorded(about=about, results=tuple(figures), compared=tuple(compared), notes=notes))
    return found


def results_of(weights: Path) -> Path | None:
    """Where figures of these weights are kept unless told otherwise: in their run folder, where they lie in one."""
    for folder in (weights, *weights.absolute().parents[:3]):
        if (folder / EXPERIMENT_FILE).is_file():
            return folder / FILE
    return None


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
        "versions": {"contextae": contextae.__version__, "torch": torch.__version__},
        "hardware": hardware(),
    }


def keep(path: Path, recorded: Recorded) -> None:
    """Appends, and says where."""
    with writing(path):
        append(path, recorded)
    named = path.parent if path.name == FILE else path
    typer.echo(f"Appended to {path}; contextae evaluate --table {shlex.quote(str(named))} shows it again")


def _read(index: Index, part: str, data: DataConfig, steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; what cannot be read is named."""
    loaded = load_images(
        index,
        data.image_size,
        value_range=data.scaled_from,
        progress=lambda done, total: steps(f"reading {part}", done / total),
    )
    for position, reason in loaded.left_out:
        typer.echo(f"Left out of {part}: {printable(index.ids[position])}: {reason}", err=True)
    assert index.labels is not None  # open_labelled gives no index without
    return loaded.images, index.labels[loaded.positions]
