"""Verbs that bring weights in and out. torch is imported inside a verb, so `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
