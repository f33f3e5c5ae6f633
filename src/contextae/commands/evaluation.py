"""Verbs that look at what was trained. torch is imported inside a verb, so `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from contextae.commands.words import DATA, LABELLED, PROTOCOLS


def evaluate(
    weights: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder, one of its checkpoints, or a weights file; with --table, runs or files of results."
        ),
    ],
    data: Annotated[str | None, typer.Option(help=f"{LABELLED} Or images with masks or boxes.")] = None,
    protocol: Annotated[str, typer.Option(help=f"Comma-separated: {PROTOCOLS}.")] = "knn,linear,attentive",
    checkpoint: Annotated[str, typer.Option(help="Of a run folder: last, best, or a step.")] = "last",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Random initialisations in the baseline; without it 3, 1 where trained.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of what is trained, such as steps=500; repeatable.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Draw what segmentation or detection finds, as a PNG.")] = None,
    masks: Annotated[
        str, typer.Option(help="Of detection: labels (polygons of the JSON), or instances (masks/PART/NAME.png).")
    ] = "labels",
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="WEIGHTS", help="Another encoder in the table: timm:NAME=FILE, a run; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the results there as JSON, or the table.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Append the figures there; without it to results.jsonl of the run.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Show what was found before, and evaluate nothing.")] = False,
    form: Annotated[str, typer.Option("--format", help="Of the table: console, markdown or csv.")] = "console",
    plot: Annotated[Path | None, typer.Option(help="With --table, also draw it as a PNG.")] = None,
) -> None:
    """Measure the encoder, probed or trained on, beside random weights and other baselines, with 95 % intervals."""
    from contextae.errors import UserError

    if table:
        from contextae.verbs.results_table import run_table

        run_table(runs=weights, form=form, plot_to=plot, out=out)
        return
    if plot or form != "console":
        given = "--plot" if plot else "--format"
        raise UserError(f"{given} is of --table, which shows what was found before. Evaluate first, then show it.")
    from contextae.verbs.evaluate import evaluated

    if data is None or len(weights) != 1:
        raise UserError(
            "An evaluation takes one run or weights file, and --data with labelled images. Got "
            f"{len(weights)} and {'--data ' + data if data else 'no --data'}. With --table, several runs are shown."
        )
    sys.exit(
        evaluated(
            weights=weights[0],
            data=data,
            protocols=protocol,
            checkpoint=checkpoint,
            seeds=seeds,
            out=out,
            results=results,
            settings=settings or [],
            pictures=pictures,
            masks=masks,
            beside=beside or [],
        )
    )


def reconstruct(
    weights: Annotated[Path, typer.Argument(help="A run folder, one of its checkpoints, or a weights file.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Images; without any, some of the run's own.")] = None,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("reconstruction.png"),
    checkpoint: Annotated[str, typer.Option(help="Of a run folder: last, best, or a step.")] = "last",
    count: Annotated[int, typer.Option(min=1, max=12, help="Images to draw when none are named.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks.")] = 0,
) -> None:
    """Draw inputs, visible patches, decoded patches and where predicted latents are off."""
    from contextae.verbs.reconstruct import run_reconstruct

    run_reconstruct(weights=weights, images=images or [], out=out, checkpoint=checkpoint, count=count, seed=seed)


def embed(
    weights: Annotated[Path, typer.Argument(help="A run folder, one of its checkpoints, or a weights file.")],
    data: Annotated[str, typer.Argument(help=DATA)],
    out: Annotated[Path, typer.Option(help="The .parquet or .npz to write: names, class token, mean of latents.")],
    checkpoint: Annotated[str, typer.Option(help="Of a run folder: last, best, or a step.")] = "last",
) -> None:
    """Features of every image, with their names, for other tools; stopped, the same command goes on."""
    from contextae.verbs.embed import run_embed

    run_embed(weights=weights, data=data, out=out, checkpoint=checkpoint)


def neighbours(
    features: Annotated[Path, typer.Argument(help="What contextae embed wrote.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("neighbours.png"),
    of: Annotated[list[str] | None, typer.Option(metavar="NAME", help="An image to start from; repeatable.")] = None,
    vectors: Annotated[str, typer.Option(help="summary (the class token) or mean_latents.")] = "mean_latents",
    queries: Annotated[int, typer.Option(min=1, max=40, help="Images to start from when none are named.")] = 8,
    count: Annotated[int, typer.Option(min=1, max=20, help="Most similar others of each.")] = 8,
    pairs: Annotated[Path | None, typer.Option(help="Also write pairs that are nearly the same, as CSV.")] = None,
    at_least: Annotated[float, typer.Option(min=-1, max=1, help="Cosine from which --pairs lists a pair.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of the images to start from.")] = 0,
) -> None:
    """Which images the encoder finds alike, as pictures; and pairs that are nearly the same."""
    from contextae.verbs.neighbours import run_neighbours

    run_neighbours(
        features=features,
        out=out,
        of=of or [],
        vectors=vectors,
        queries=queries,
        count=count,
        pairs=pairs,
        at_least=at_least,
        seed=seed,
    )
