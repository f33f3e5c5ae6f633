"""The command: its verbs, in the order in which help shows them."""

from __future__ import annotations

from typing import Annotated

import typer

import contextae
from contextae.commands import data, evaluation, exchange, report, training
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


for verb in (
    training.demo,
    training.pretrain,
    data.audit,
    data.pack,
    training.show,
    training.fit_tokenizer,
    evaluation.evaluate,
    evaluation.reconstruct,
    evaluation.embed,
    evaluation.neighbours,
    report.report,
    exchange.export,
    exchange.convert,
):
    app.command(name=verb.__name__.replace("_", "-"))(verb)


def main() -> None:
    """Entry point of the command."""
    with Reported():
        app()
