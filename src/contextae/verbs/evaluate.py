"""`contextae evaluate`: the frozen encoder under every protocol, beside the baselines."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import typer

from contextae.data.images import load_images
from contextae.data.index import Index
from contextae.data.sources import open_labelled
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.evaluate import Evaluation, evaluate
from contextae.pretrained import load_encoder
from contextae.verbs.terminal import Steps


def run_evaluate(
    *, weights: Path, data: str, protocols: str, checkpoint: str, seeds: int, out: Path | None
) -> Evaluation:
    """Prints the table, and writes all of it as JSON where asked to."""
    if out and not out.parent.is_dir():
        raise UserError(
            f"The folder of --out must exist. There is no folder {out.parent}; create it or choose another."
        )
    pretrained = load_encoder(weights, checkpoint=checkpoint)
    labelled = open_labelled(data, channels=pretrained.channels)
    for note in labelled.notes:
        typer.echo(note)
    size = pretrained.experiment.data.image_size

    def read(index: Index, part: str):  # type: ignore[no-untyped-def]
        loaded = load_images(index, size, channels=pretrained.channels)
        for position, reason in loaded.left_out:
            typer.echo(f"left out of {part}: {index.ids[position]}: {reason}", err=True)
        return loaded.images, index.labels[loaded.positions]

    def random_encoder(seed: int) -> Encoder:
        torch.manual_seed(seed)
        return pretrained.experiment.encoder.build(image_size=size, channels=pretrained.channels)

    train_images, train_labels = read(labelled.train, "train")
    test_images, test_labels = read(labelled.test, "test")
    with Steps() as steps:
        found = evaluate(
            pretrained.encoder,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            classes=labelled.classes,
            mean=pretrained.transform.mean,
            deviation=pretrained.transform.deviation,
            protocols=tuple(name.strip() for name in protocols.split(",") if name.strip()),
            random_encoder=random_encoder,
            seeds=seeds,
            progress=steps,
        )
    return found
