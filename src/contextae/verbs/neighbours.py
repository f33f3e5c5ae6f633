"""`contextae neighbours`: which images an encoder finds alike, as pictures, and pairs that are nearly the same."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import typer

from contextae.data.augment import fit
from contextae.data.facts import BadImage
from contextae.data.index import Index, picture_of, printable
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.errors import nearest as closest
from contextae.evaluation.embeddings import Embeddings, Pair, close_pairs, nearest, read_embeddings, unit
from contextae.randomness import Shuffle
from contextae.report.figures import neighbour_sheet
from contextae.verbs.output import check_output, writing
from contextae.verbs.terminal import Steps

CELL = 112
"Pixels of the longer side of a picture."


def run_neighbours(
    *,
    features: Path,
    out: Path,
    of: list[str],
    vectors: str,
    queries: int,
    count: int,
    pairs: Path | None,
    at_least: float,
    seed: int,
) -> list[list[Pair]]:
    """A sheet with a row for each query, the image and then the others most alike; where asked for, a CSV of pairs."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is the PNG to write, such as neighbours.png. Got {out}.")
    for path in (out, pairs):
        if path:
            check_output(path)
    embeddings = read_embeddings(features)
    if vectors not in embeddings.vectors:
        raise UserError(
            f"{features} holds {', '.join(embeddings.vectors)}. Got --vectors {vectors}."
            f"{closest(vectors, embeddings.vectors)}"
        )
    if len(embeddings.ids) < 2:
        raise UserError(f"Neighbours need two images. {features} holds {len(embeddings.ids)}.")
    alike = unit(embeddings.vectors[vectors])
    chosen = _named(embeddings, of) if of else Shuffle(len(alike), seed, "neighbours").first(queries).tolist()
    found = nearest(alike, chosen, count)
    source = embeddings.about["source"]
    index = open_index(source, channels=embeddings.about["channels"], dtype=embeddings.about["dtype"])
    rows = [
        (chosen[i], [pair.second for pair in row], [pair.similarity for pair in row]) for i, row in enumerate(found)
    ]
    pictures = _pictures(index, embeddings, sorted({each for query, others, _ in rows for each in (query, *others)}))
    with writing(out):
        neighbour_sheet(
            [
                (
                    pictures[query],
                    printable(embeddings.ids[query]),
                    [(pictures[other], f"{alike_by:.2f}") for other, alike_by in zip(others, similar, strict=True)],
                )
                for query, others, similar in rows
            ],
            out,
            value_range=_range(pictures),
        )
    typer.echo(f"{len(rows)} image(s) with the {count} most alike of {len(alike):,} -> {out}")
    if pairs:
        _write_pairs(pairs, embeddings, alike, at_least)
    return found


def _named(embeddings: Embeddings, of: list[str]) -> list[int]:
    place = {name: i for i, name in enumerate(embeddings.ids)}
    for name in of:
        if name not in place:
            raise UserError(
                f"--of names an image of the features, as `path` there. Got {name!r}."
                f"{closest(name, list(place)[:10_000])}"
            )
    return [place[name] for name in of]


def _pictures(index: Index, embeddings: Embeddings, wanted: list[int]) -> dict[int, np.ndarray]:
    """By position; an image that cannot be read any more is a gap, which is said."""
    there = set(index.ids)
    found = {}
    for position in wanted:
        name = embeddings.ids[position]
        reason = "" if name in there else "it is not there any more"
        if not reason:
            try:
                picture = picture_of(index.source, name, index.channels, index.dtype)
                height, width = picture.shape[:2]
                scale = min(1.0, CELL / max(height, width))
                size = (max(1, round(height * scale)), max(1, round(width * scale)))
                found[position] = fit(picture, size).transpose(1, 2, 0)
            except BadImage as error:
                reason = error.reason
            except OSError as error:
                reason = error.strerror or str(error)
        if reason:
            typer.echo(f"Not drawn: {printable(name)}: {reason}", err=True)
            found[position] = np.zeros((CELL, CELL, index.channels), index.dtype)
    return found


def _range(pictures: dict[int, np.ndarray]) -> tuple[float, float]:
    """0 and 255 of 8 bits; of other types what all but the outer half per cents hold."""
    if all(picture.dtype == np.uint8 for picture in pictures.values()):
        return 0.0, 255.0
    low, high = np.percentile(np.concatenate([picture.reshape(-1) for picture in pictures.values()]), [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _write_pairs(path: Path, embeddings: Embeddings, alike: np.ndarray, at_least: float) -> None:
    with Steps() as steps:
        pairs = close_pairs(alike, at_least, progress=lambda share: steps("comparing all with all", share))
    with writing(path), path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        lines = csv.writer(stream)
        lines.writerow(["image", "other", "similarity"])
        for pair in pairs:
            lines.writerow([embeddings.ids[pair.first], embeddings.ids[pair.second], f"{pair.similarity:.4f}"])
    typer.echo(f"{len(pairs):,} pair(s) at least {at_least:g} alike -> {path}")
    if pairs:
        first = pairs[0]
        names = " and ".join(printable(embeddings.ids[i]) for i in (first.first, first.second))
        typer.echo(f"  the most alike: {names}, {first.similarity:.4f}")
