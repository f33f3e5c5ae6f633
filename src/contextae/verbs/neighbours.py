"""`contextae neighbours`: which images an encoder finds alike, as pictures, and pairs that are nearly the same."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import typer

from contextae.data.facts import Refusal
from contextae.data.index import Index, printable
from contextae.data.showing import Small, show_each
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
    if pairs and pairs.resolve() == out.resolve():
        raise UserError(f"Pictures and pairs are two files. Got {out} for --out and for --pairs; name another one.")
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
    index = _index(embeddings, features)
    rows = [
        (chosen[i], [pair.second for pair in row], [pair.similarity for pair in row]) for i, row in enumerate(found)
    ]
    seen = _pictures(index, embeddings, sorted({each for query, others, _ in rows for each in (query, *others)}))
    value_range = _range(seen.values())
    gap = np.full((CELL, CELL, index.channels), value_range[0])
    pictures = {position: gap if picture is None else picture for position, picture in seen.items()}
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
            value_range=value_range,
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


def _index(embeddings: Embeddings, features: Path) -> Index:
    """The images that were embedded, where they were then."""
    about = embeddings.about
    source, channels, dtype = (about.get(name) for name in ("source", "channels", "dtype"))
    if not isinstance(source, str) or not isinstance(channels, int) or dtype not in ("uint8", "uint16", "float32"):
        raise UserError(
            f"{features} does not say of which images its features are, so that they cannot be drawn. It was edited; "
            "embed the images again."
        )
    try:
        return open_index(source, channels=channels, dtype=dtype)
    except UserError as error:
        raise UserError(
            f"The images of {features} are drawn from where they were embedded. {error} Put them back, or embed them "
            "again where they are now."
        ) from None


def _pictures(index: Index, embeddings: Embeddings, wanted: list[int]) -> dict[int, np.ndarray | None]:
    """By position; of an image that cannot be read any more None, which is said."""
    there = set(index.ids)
    present = [position for position in wanted if embeddings.ids[position] in there]
    look = Small(CELL, index.channels, index.dtype)
    seen = show_each(look, index.source, [embeddings.ids[position] for position in present])
    shown = dict(zip(present, seen, strict=True))
    found: dict[int, np.ndarray | None] = {}
    for position in wanted:
        picture = shown.get(position)
        if picture is None or isinstance(picture, Refusal):
            reason = "it is not there any more" if picture is None else picture.reason
            typer.echo(f"Not drawn: {printable(embeddings.ids[position])}: {reason}", err=True)
            picture = None
        found[position] = picture
    return found


def _range(pictures: Iterable[np.ndarray | None]) -> tuple[float, float]:
    """0 and 255 of 8 bits; of other types what all but the outer half per cents hold."""
    there = [picture for picture in pictures if picture is not None]
    if all(picture.dtype == np.uint8 for picture in there):
        return 0.0, 255.0
    low, high = np.percentile(np.concatenate([picture.reshape(-1) for picture in there]), [0.5, 99.5])
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
