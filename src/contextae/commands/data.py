"""Verbs for images, before training. torch is imported inside a verb, so `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from contextae.commands.words import DATA


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
