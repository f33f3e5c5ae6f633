"""Verbs that train, and what they resolve to. torch is imported inside a verb, so `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from contextae.commands.words import DATA, EXCLUDE, LABELLED, MANIFEST


def _one_or_several(data: list[str] | None) -> str | tuple[str, ...] | None:
    """What stands before the options: nothing, one source, or several."""
    return None if not data else data[0] if len(data) == 1 else tuple(data)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run, the table and the pictures.")] = Path("contextae-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of everything, to see that it works.")] = False,
) -> None:
    """Pretrain on the embedded data set, evaluate, and write pictures: the whole thing in a few minutes."""
    from contextae.verbs.demo import run_demo

    sys.exit(run_demo(out=out, quick=quick))


def pretrain(
    data: Annotated[
        list[str] | None,
        typer.Argument(help=f"{DATA} Several together, each with =WEIGHT behind it if it is to count more."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run folder: settings, log, checkpoints.")] = ...,  # type: ignore[assignment]
    preset: Annotated[
        str | None, typer.Option(help="A named recipe; without one it is chosen from the images.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as training.epochs=100; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="An experiment.yaml to run again.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    manifest: Annotated[Path | None, typer.Option(help=MANIFEST)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="FINDING", help=EXCLUDE)] = None,
    labelled: Annotated[
        str | None,
        typer.Option(help=f"For figures on a held-out part of train while training (health.probes). {LABELLED}"),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Start the encoder from timm:NAME, timm:NAME=FILE, timm:FOLDER, a run or a weights file."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files as well.")] = False,
) -> None:
    """Pretrain on a folder of images. No labels needed."""
    from contextae.verbs.pretrain import run_pretrain

    sys.exit(
        run_pretrain(
            data=_one_or_several(data),
            out=out,
            preset=preset,
            settings=settings or [],
            config=config,
            resume=resume,
            labelled=labelled,
            tensorboard=tensorboard,
            init=init,
            manifest=manifest,
            exclude=tuple(exclude or ()),
        )
    )


def fit_tokenizer(
    data: Annotated[str | None, typer.Argument(help=DATA)] = None,
    out: Annotated[Path, typer.Option(help="The tokenizer's folder.")] = ...,  # type: ignore[assignment]
    kind: Annotated[str, typer.Option(help="dvae, or kmeans for a minute's work.")] = "dvae",
    codes: Annotated[int | None, typer.Option(min=2, help="Length of the codebook; without it 512.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="The recipe of the training to come, for the size of images and patches.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting: data, crop and encoder of the training to come, the rest the d-VAE's."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="An experiment.yaml of a d-VAE to fit again.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the fit stopped.")] = False,
    manifest: Annotated[Path | None, typer.Option(help=MANIFEST)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="FINDING", help=EXCLUDE)] = None,
) -> None:
    """Learn codes of your own images, for pretrain --set method.target=codes:TOK."""
    from contextae.verbs.fit_tokenizer import run_fit_tokenizer

    sys.exit(
        run_fit_tokenizer(
            data=data,
            out=out,
            kind=kind,
            codes=codes,
            preset=preset,
            settings=settings or [],
            config=config,
            resume=resume,
            manifest=manifest,
            exclude=tuple(exclude or ()),
        )
    )


def show(
    what: Annotated[str, typer.Argument(help="A preset, a run folder, or a tokenizer.")],
    world_size: Annotated[int, typer.Option(min=1, help="Processes that share a batch.")] = 1,
    images: Annotated[int | None, typer.Option(min=1, help="Images to train on; for a preset ImageNet-1K's.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting to change; repeatable.")] = None,
    recipe: Annotated[bool, typer.Option("--yaml", help="The experiment alone, for pretrain --config.")] = False,
) -> None:
    """Print what a preset or run resolves to: settings with sources, batch, steps, parameters, FLOPs, memory."""
    from contextae.verbs.show import run_show

    run_show(what=what, settings=settings or [], world_size=world_size, images=images, recipe=recipe)
