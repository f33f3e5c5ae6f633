"""`contextae demo`: pretrain on the embedded images, evaluate, draw, in some minutes on two cores."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from contextae.evaluation.evaluate import RANDOM, Evaluation
from contextae.evaluation.table import markdown, sheet_of, words
from contextae.report.figures import curves
from contextae.training.log import read_lines
from contextae.training.progress import duration
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.output import writing
from contextae.verbs.pretrain import run_pretrain
from contextae.verbs.reconstruct import run_reconstruct

SOURCE = "builtin:fashion-mnist"
QUICK = ["training.epochs=1", "training.warmup_epochs=0.5", "encoder.depth=1", "encoder.width=24"]
"""Enough to see that everything works; nothing is learned by it."""
JUDGED_BY = "attentive"
"""The paper's protocol for masked pretraining: the class token, which linear probing may read, gets no loss."""


def run_demo(*, out: Path, quick: bool) -> int:
    """1 where the encoder does not beat random initialisation under attentive probing by the paired interval, else 0.

    A second start goes on where the first one stopped; a finished training is not repeated. `quick` only shows that
    everything works, so nothing is judged.
    """
    began = time.monotonic()
    run = out / ("quick" if quick else "run")
    code = run_pretrain(
        data=SOURCE,
        out=run,
        preset="demo",
        settings=QUICK if quick else [],
        config=None,
        resume=True,
        labelled=None,
        tensorboard=False,
    )
    if code:
        return code
    sheet, curve, numbers, text = (
        run / name for name in ("reconstruction.png", "curves.png", "table.json", "table.md")
    )
    run_reconstruct(weights=run, images=[], out=sheet, checkpoint="last", count=8, seed=0)
    lines = [line for line in read_lines(run / "log.jsonl") if line["kind"] == "step"]
    with writing(curve):
        curves(lines, curve)
    found = run_evaluate(
        weights=run,
        data=SOURCE,
        protocols="knn,linear" if quick else "knn,linear,attentive",
        checkpoint="last",
        seeds=1 if quick else 3,
        out=numbers,
    )
    assert found.evaluation
    said = "\n".join(f"- {line}" for line in words(found.evaluation))
    with writing(text):
        text.write_text(f"{markdown(sheet_of(found.evaluation))}\n\n{said}\n", encoding="utf-8")
    typer.echo(f"In {duration(time.monotonic() - began)}:")
    for what, path in (
        ("what it makes of hidden patches", sheet),
        ("losses", curve),
        ("the table", text),
        ("weights, settings and log", run),
    ):
        typer.echo(f"  {what:32s} {path}")
    return 0 if quick else judged(found.evaluation)


def judged(found: Evaluation) -> int:
    """The exit code; where it is 1, a line says why."""
    difference = found.difference(JUDGED_BY, RANDOM)
    assert difference  # attentive probing applies to every encoder
    if difference.beats:
        return 0
    typer.echo("The encoder does not beat random initialisation: something is wrong.", err=True)
    return 1
