"""`contextae embed`: features of every image of a set, with their names, in one file."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

import contextae
from contextae.data.images import load_images
from contextae.data.index import Index, printable
from contextae.data.sources import open_index
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.embeddings import Embeddings, check_ending, read_embeddings, write_embeddings
from contextae.evaluation.features import extract, fingerprint
from contextae.pretrained import Origin, load_encoder
from contextae.verbs.output import check_output, check_outside, writing
from contextae.verbs.request import absolute
from contextae.verbs.terminal import Steps

PART = 4_096
"Images done at a time, and kept beside --out until all are: what a stop does not lose."
KEPT = re.compile(r"[0-9a-f]{32}\.npz")
NAMES = {"class token": "summary", "mean of latents": "mean_latents"}


def run_embed(*, weights: Path, data: str, out: Path, checkpoint: str) -> Embeddings:
    """Writes `out`; stopped at any time, the same command goes on with the part it was at."""
    check_ending(out)
    check_output(out)
    source = absolute(data)
    assert isinstance(source, str)
    check_outside(out, source, "A file of features")
    encoder, origin = load_encoder(weights, checkpoint=checkpoint)
    if torch.cuda.is_available():
        encoder.to(torch.device("cuda"))
    index = open_index(source, channels=origin.channels, dtype=origin.experiment.data.stored_as)
    for line in index.describe():
        typer.echo(line)
    about = {
        "weights": str(weights.absolute()),
        "encoder_sha256": fingerprint(encoder),
        "source": source,
        "image_size": list(origin.experiment.data.image_size),
        "channels": origin.channels,
        "dtype": origin.experiment.data.stored_as,
        "version": contextae.__version__,
    }
    parts = out.with_name(f"{out.name}.parts")
    with writing(parts):
        parts.mkdir(exist_ok=True)
    made: list[Embeddings] = []
    with Steps() as steps:
        for start in range(0, len(index), PART):
            some = index.subset(np.arange(start, min(start + PART, len(index))))
            kept = parts / f"{_hash(about, some)}.npz"
            made.append(_known(kept) or _embedded(encoder, origin, some, kept, about, start, len(index), steps))
    ids = [each for part in made for each in part.ids]
    if not ids:
        raise UserError(f"None of the images of {index.title} can be read, so there is nothing to embed.")
    vectors = {name: np.concatenate([part.vectors[name] for part in made]) for name in NAMES.values()}
    whole = Embeddings(ids, vectors, about)
    with writing(out):
        write_embeddings(out, whole)
    _forget(parts)
    width = vectors["summary"].shape[1]
    if len(ids) < index.found:
        typer.echo(f"{index.found - len(ids):,} of {index.found:,} images found were left out", err=True)
    typer.echo(f"{len(ids):,} images, {' and '.join(vectors)} of {width:,} numbers each -> {out}")
    typer.echo(f"Next: contextae neighbours {shlex.quote(str(out))} --out neighbours.png")
    return whole


def _embedded(
    encoder: Encoder,
    origin: Origin,
    some: Index,
    kept: Path,
    about: dict[str, Any],
    start: int,
    total: int,
    steps: Steps,
) -> Embeddings:
    """One part, written down before the next one begins."""

    def told(what: str) -> Any:
        return lambda done, of: steps(f"{what} {start + 1:,} to {start + len(some):,} of {total:,}", done / of)

    loaded = load_images(
        some,
        origin.experiment.data.image_size,
        value_range=origin.experiment.data.scaled_from,
        progress=told("reading"),
    )
    for position, reason in loaded.left_out:
        typer.echo(f"Left out: {printable(some.ids[position])}: {reason}", err=True)
    vectors = {name: np.zeros((0, encoder.width), np.float32) for name in NAMES.values()}
    if len(loaded.images):
        features = extract(
            encoder,
            loaded.images,
            mean=origin.transform.mean,
            deviation=origin.transform.deviation,
            progress=lambda what, share: told("embedding")(share, 1),
        )
        vectors = {NAMES[name]: values.numpy() for name, values in features.vectors.items()}
    part = Embeddings([some.ids[i] for i in loaded.positions.tolist()], vectors, about)
    with writing(kept):
        write_embeddings(kept, part)
    return part


def _forget(parts: Path) -> None:
    """Takes away what was kept for a stop, and nothing else that may lie there."""
    for kept in parts.iterdir():
        if KEPT.fullmatch(kept.name):
            kept.unlink()
    if not any(parts.iterdir()):
        parts.rmdir()


def _known(kept: Path) -> Embeddings | None:
    """A part that an earlier start finished; a damaged one is made again."""
    if not kept.exists():
        return None
    try:
        return read_embeddings(kept)
    except UserError:
        return None


def _hash(about: dict[str, Any], some: Index) -> str:
    """Of weights, source, names and sizes: what a part depends on."""
    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    for name in some.ids:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(np.ascontiguousarray(some.facts["num_bytes"]).tobytes())
    return digest.hexdigest()[:32]
