"""`contextae evaluate`: the frozen encoder under every protocol, beside the baselines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import typer
from rich.console import Console

import contextae
from contextae.data.images import load_images
from contextae.data.index import Index, left_out_lines, printable
from contextae.data.sources import open_labelled
from contextae.evaluation.evaluate import Evaluation, evaluate
from contextae.evaluation.protocols import select
from contextae.evaluation.table import table, to_json, words
from contextae.pretrained import load_encoder
from contextae.settings import DataConfig
from contextae.verbs.output import check_output, writing
from contextae.verbs.terminal import Steps


def run_evaluate(
    *, weights: Path, data: str, protocols: str, checkpoint: str, seeds: int, out: Path | None
) -> Evaluation:
    """Prints the table and what it says, and writes all of it as JSON where asked to."""
    if out:
        check_output(out)
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
    Console(highlight=False).print(table(found))
    for line in words(found):
        typer.echo(line)
    if out:
        record = {"weights": str(weights), "checkpoint": checkpoint, "data": data, "contextae": contextae.__version__}
        with writing(out):
            out.write_text(json.dumps({**record, **to_json(found)}, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"All figures -> {out}")
    return found


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
