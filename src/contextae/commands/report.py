"""The verb that gathers what is known of runs in one page. torch is imported inside it, so `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    data: Annotated[
        str | None, typer.Option(help="Images to draw, where not the runs' own: anything that pretrain takes.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Of each run: last, best, or a step.")] = "last",
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Write no pixels of images.")] = False,
    no_paths: Annotated[bool, typer.Option("--no-paths", help="Write no names of files.")] = False,
) -> None:
    """One self-contained page: what was trained on what, curves, health, pictures, figures, settings, how to go on."""
    from contextae.verbs.report import run_report

    run_report(runs=runs, out=out, data=data, checkpoint=checkpoint, pictures=not no_pictures, paths=not no_paths)
