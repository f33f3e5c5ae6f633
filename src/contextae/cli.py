"""The command: what each verb takes. torch is imported inside a verb, so `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import contextae
from contextae.ending import Reported, Verbs

app = typer.Typer(
    cls=Verbs,
    name="contextae",
    help="Pretrain Vision Transformers on your own unlabelled images with a Context Autoencoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DATA = (
    "Folder of images (recursive), text file of paths, Parquet or Arrow, tar or zip archives, NumPy arrays, what pack "
    "wrote, or builtin:fashion-mnist."
)
MANIFEST = "An audit of these images: without what it found unreadable, and with its statistics."
EXCLUDE = "With --manifest, leave out as well what this finding names, such as exact-duplicates; repeatable."
LABELLED = "Folder of class folders (with or without train / test), Parquet with a label column, or the built-in set."


def _one_or_several(data: list[str] | None) -> str | tuple[str, ...] | None:
    """What stands before the options: nothing, one source, or several."""
    return None if not data else data[0] if len(data) == 1 else tuple(data)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"contextae {contextae.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
) -> None:
    """Options before the verb."""
    Reported.debug = debug


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run, the table and the pictures.")] = Path("contextae-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of everything, to see that it works.")] = False,
) -> None:
    """Pretrain on the embedded data set, evaluate, and write pictures: the whole thing in a few minutes."""
    from contextae.verbs.demo import run_demo

    sys.exit(run_demo(out=out, quick=quick))


@app.command()
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
        str | None, typer.Option(help=f"For a kNN figure on a held-out part of train while training. {LABELLED}")
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


@app.command()
def pack(
    data: Annotated[str | None, typer.Argument(help=DATA)] = None,
    out: Annotated[Path, typer.Option(help="The folder to make, or to go on with after a stop.")] = ...,  # type: ignore[assignment]
    kind: Annotated[
        str, typer.Option("--as", help="raw: fastest, any image; jpeg: photographs, a sixth as large.")
    ] = "raw",
    short_side: Annotated[int, typer.Option(help="Pixels; larger images are resized to it, none is enlarged.")] = 256,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; without it one less than there are cores.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="data.channels=N or data.dtype=TYPE, for sets of several kinds.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare a cache that is there with its checksums.")] = False,
    untie: Annotated[
        bool, typer.Option("--untie", help="Use a cache that is there though its source changes from now on.")
    ] = False,
) -> None:
    """Resize images once, into a folder that trains several times as fast; killed, it goes on where it stopped."""
    from contextae.verbs.pack import run_pack

    sys.exit(
        run_pack(
            data=data,
            out=out,
            kind=kind,
            short_side=short_side,
            workers=workers,
            settings=settings or [],
            check=check,
            untie=untie,
        )
    )


@app.command()
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


@app.command(name="fit-tokenizer")
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


@app.command()
def evaluate(
    weights: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder, one of its checkpoints, or a weights file; with --table, runs or files of results."
        ),
    ],
    data: Annotated[str | None, typer.Option(help=LABELLED)] = None,
    protocol: Annotated[
        str, typer.Option(help="Comma-separated: knn, linear, attentive, ridge.")
    ] = "knn,linear,attentive",
    checkpoint: Annotated[str, typer.Option(help="Of a run folder: last, best, or a step.")] = "last",
    seeds: Annotated[int, typer.Option(min=1, help="Random initialisations in the baseline.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the results there as JSON, or the table.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Append the figures there; without it to results.jsonl of the run.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Show what was found before, and evaluate nothing.")] = False,
    form: Annotated[str, typer.Option("--format", help="Of the table: console, markdown or csv.")] = "console",
    plot: Annotated[Path | None, typer.Option(help="With --table, also draw it as a PNG.")] = None,
) -> None:
    """Probe the frozen encoder, beside random weights, raw pixels and HOG, with 95 % intervals."""
    if table:
        from contextae.verbs.results_table import run_table

        run_table(runs=weights, form=form, plot_to=plot, out=out)
        return
    from contextae.errors import UserError
    from contextae.verbs.evaluate import run_evaluate

    if data is None or len(weights) != 1:
        raise UserError(
            "An evaluation takes one run or weights file, and --data with labelled images. Got "
            f"{len(weights)} and {'--data ' + data if data else 'no --data'}. With --table, several runs are shown."
        )
    run_evaluate(
        weights=weights[0],
        data=data,
        protocols=protocol,
        checkpoint=checkpoint,
        seeds=seeds,
        out=out,
        results=results,
    )


@app.command()
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


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="A run folder, one of its checkpoints, or a weights file.")],
    to: Annotated[str, typer.Option(help="timm, huggingface, onnx or torch.")],
    out: Annotated[Path, typer.Option(help="The folder to make; one that is there must be empty.")],
    checkpoint: Annotated[str, typer.Option(help="Of a run folder: last, best, or a step.")] = "last",
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="For images of another size; positions are computed anew."),
    ] = None,
    allow_missing: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A weight the library may not find; repeatable.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="An image, or a folder of some, for the receipt; repeatable. Without: the run's own."),
    ] = None,
) -> None:
    """Take the encoder elsewhere: kept only if a fresh process with the other library gives the same outputs."""
    from contextae.verbs.export import run_export

    run_export(
        weights=weights,
        to=to,
        out=out,
        checkpoint=checkpoint,
        image_size=image_size,
        allow_missing=allow_missing or [],
        images=images or [],
    )


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A published checkpoint: .pth, .pkl, .safetensors, .npz.")
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write; with --to timm or beit, a folder.")],
    to: Annotated[
        str,
        typer.Option(help="contextae; timm (its encoder); beit (a fine-tuned classifier); tensors (of any network)."),
    ] = "contextae",
    image_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Pixels: 224, or height and width as 224x192.")
    ] = "224",
    patch_size: Annotated[str, typer.Option(metavar="SIZE", help="Pixels of a patch, written likewise.")] = "16",
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads; without it, those published for the width.")
    ] = None,
    decoder_num_heads: Annotated[
        int | None, typer.Option(min=1, help="Of regressor and decoder, where they differ.")
    ] = None,
    allow_other_heads: Annotated[
        bool, typer.Option("--allow-other-heads", help="Heads other than those published for the width.")
    ] = False,
    encoder_only: Annotated[bool, typer.Option("--encoder-only", help="Leave regressor and decoder out.")] = False,
    drop_encoder_copy: Annotated[
        bool, typer.Option("--drop-encoder-copy", help="Leave out a copy of the encoder that differs from it.")
    ] = False,
    mean: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Per channel, of 0..1; ImageNet's if absent.")
    ] = None,
    deviation: Annotated[str | None, typer.Option(metavar="A,B,C", help="Likewise.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What the method predicts: codes:TOKENIZER or features:TEACHER.")
    ] = None,
) -> None:
    """Bring published weights in; tensors that have no place are refused by name. Pickles are read, never run."""
    from contextae.verbs.convert import run_convert

    run_convert(
        source=source,
        out=out,
        to=to,
        image_size=image_size,
        patch_size=patch_size,
        num_heads=num_heads,
        decoder_num_heads=decoder_num_heads,
        allow_other_heads=allow_other_heads,
        encoder_only=encoder_only,
        drop_encoder_copy=drop_encoder_copy,
        mean=mean,
        deviation=deviation,
        target=target,
    )


@app.command()
def audit(
    data: Annotated[list[str], typer.Argument(help=f"{DATA} Several together, as for pretrain.")],
    out: Annotated[Path, typer.Option(help="The folder to make; one that is there must be empty.")],
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Other images, of which none should be among these: a test set.")
    ] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Write no pixels of the images.")] = False,
    no_paths: Annotated[bool, typer.Option("--no-paths", help="Write no names of files.")] = False,
) -> None:
    """Look at every image before training: what cannot be used, duplicates, leakage, sizes, what to begin with."""
    from contextae.verbs.audit import run_audit

    sys.exit(run_audit(data=data, out=out, against=against, pictures=not no_pictures, paths=not no_paths))


def main() -> None:
    """Entry point of the command."""
    with Reported():
        app()
