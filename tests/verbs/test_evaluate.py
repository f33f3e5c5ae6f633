"""`contextae evaluate`: figures are kept beside the run, and shown again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contextae.errors import UserError
from contextae.evaluation.results import read
from contextae.verbs.evaluate import results_of, run_evaluate
from contextae.verbs.results_table import run_table

Run = Callable[..., int]


def evaluate(weights: Path, data: Path, results: Path | None = None, protocols: str = "knn") -> None:
    run_evaluate(
        weights=weights, data=str(data), protocols=protocols, checkpoint="last", seeds=1, out=None, results=results
    )


def test_figures_are_appended_to_the_run_and_shown_again(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert pretrain(photographs) == 0
    evaluate(run, photographs)
    evaluate(run, photographs, protocols="knn,ridge")
    said = capsys.readouterr().out
    assert f"Appended to {run / 'results.jsonl'}; contextae evaluate --table {run} shows it again" in said
    first, second = read(run / "results.jsonl")
    assert first.about["encoder_sha256"] == second.about["encoder_sha256"] and len(first.about["encoder_sha256"]) == 64
    assert first.about["data"] == str(photographs) and first.about["hardware"]["processor"]
    assert {each.protocol for each in second.results} == {"knn", "ridge"} and second.compared
    run_table(runs=[run], form="console", plot_to=tmp_path / "plot.png", out=None)
    shown = capsys.readouterr().out
    assert "kNN" in shown and "ridge" in shown and "older figure(s) of the same kind are not shown" in shown
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 300
    for form, part in (("markdown", "| this encoder |"), ("csv", "this encoder,accuracy,")):
        run_table(runs=[run / "results.jsonl"], form=form, plot_to=None, out=tmp_path / form)
        assert part in (tmp_path / form).read_text()


def test_figures_of_a_file_alone_are_kept_where_they_are_asked_for(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(photographs) == 0
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*10")
    assert results_of(checkpoint / "weights.safetensors") == tmp_path / "run" / "results.jsonl"
    alone = tmp_path / "elsewhere" / "weights.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((checkpoint / "weights.safetensors").read_bytes())
    assert results_of(alone) is None
    evaluate(alone, photographs)
    assert "Appended" not in capsys.readouterr().out and len(list(alone.parent.iterdir())) == 1
    evaluate(alone, photographs, tmp_path / "mine.jsonl")
    assert "contextae evaluate --table " + str(tmp_path / "mine.jsonl") in capsys.readouterr().out
    assert len(read(tmp_path / "mine.jsonl")) == 1


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Got 'markdwon'\. Did you mean 'markdown'"):
        run_table(runs=[tmp_path], form="markdwon", plot_to=None, out=None)
    with pytest.raises(UserError, match=r"There is no .*results\.jsonl"):
        run_table(runs=[tmp_path], form="csv", plot_to=None, out=None)
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(UserError, match=r"There are no figures in "):
        run_table(runs=[tmp_path], form="csv", plot_to=None, out=None)
