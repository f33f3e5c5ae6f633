"""`contextae evaluate`: figures are kept beside the run, and shown again."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from PIL import Image

import contextae
from contextae.commands.evaluation import evaluate as command
from contextae.errors import UserError
from contextae.evaluation.results import read
from contextae.verbs.evaluate import evaluated, results_of, run_evaluate
from contextae.verbs.results_table import run_table
from evaluation.detection.made import write_squares
from evaluation.segmentation.scenes import write_scenes

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
    for weights in (tmp_path / "run", checkpoint, checkpoint / "weights.safetensors"):
        assert results_of(weights) == tmp_path / "run" / "results.jsonl"
    alone = tmp_path / "elsewhere" / "weights.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((checkpoint / "weights.safetensors").read_bytes())
    (tmp_path / "experiment.yaml").write_text("of something else")
    assert results_of(alone) is None
    evaluate(alone, photographs)
    assert "Appended" not in capsys.readouterr().out and len(list(alone.parent.iterdir())) == 1
    evaluate(alone, photographs, tmp_path / "mine.jsonl")
    assert "contextae evaluate --table " + str(tmp_path / "mine.jsonl") in capsys.readouterr().out
    assert len(read(tmp_path / "mine.jsonl")) == 1


def test_other_weights_stand_in_the_table_and_are_no_baseline_without_training(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(photographs) == 0
    assert pretrain(photographs, tmp_path / "other", "encoder.patch_size=[8, 4]", "encoder.width=24") == 0
    run, other = tmp_path / "run", str(tmp_path / "other")
    found = run_evaluate(weights=run, data=str(photographs), protocols="knn,attentive", seeds=1, beside=[other])
    assert f"Beside it: {other}" in capsys.readouterr().out
    evaluation = found.evaluation
    assert evaluation and evaluation.entry(other, "knn") and evaluation.difference("knn", other)
    assert [each.baseline_protocol for each in evaluation.differences if each.baseline == other] == ["", ""]
    hardest = evaluation.hardest("knn")
    assert hardest and hardest.baseline not in (other, "random initialisation")
    with pytest.raises(
        UserError, match=r"--beside is for frozen encoders: .*Got finetune; evaluate the others without"
    ):
        run_evaluate(weights=run, data=str(photographs), protocols="finetune", beside=[other])


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Got 'markdwon'\. Did you mean 'markdown'"):
        run_table(runs=[tmp_path], form="markdwon", plot_to=None, out=None)
    with pytest.raises(UserError, match=r"There is no .*results\.jsonl"):
        run_table(runs=[tmp_path], form="csv", plot_to=None, out=None)
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(UserError, match=r"There are no figures in "):
        run_table(runs=[tmp_path], form="csv", plot_to=None, out=None)


def test_segmentation_and_detection_are_protocols_like_the_others(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(photographs, None, "data.image_size=[16, 16]") == 0
    run = tmp_path / "run"
    write_scenes(tmp_path / "scenes")
    found = run_evaluate(
        weights=run,
        data=str(tmp_path / "scenes"),
        protocols="segmentation-upernet",
        settings=["steps=2", "batch_size=2", "channels=8", "auxiliary_channels=8"],
        pictures=tmp_path / "overlays.png",
    )
    assert {each.metric for each in found.results} == {"mIoU", "pixel accuracy", "mean class accuracy"}
    assert {each.row for each in found.results} == {"this encoder", "from scratch", "majority class"}
    for part, count in (("train", 6), ("test", 4)):
        write_squares(tmp_path / "squares", part, count)
    capsys.readouterr()
    run_evaluate(
        weights=run,
        data=str(tmp_path / "squares"),
        protocols="detection",
        settings=["steps=2", "batch_size=2", "channels=8", "box_width=16", "tile=64", "overlap=16"],
    )
    said = capsys.readouterr().out
    assert "detection box AP50: " in said and "points" in said and "to from scratch" in said
    first, second = read(run / "results.jsonl")
    assert first.results[0].protocol == "segmentation-upernet" and second.results[0].protocol == "detection"
    assert first.about["settings"][0] == "steps=2" and not (run / "evaluation-state").exists()
    with Image.open(tmp_path / "overlays.png") as picture:
        assert picture.width > 100


def test_an_evaluation_that_is_stopped_in_a_training_goes_on_there(
    pretrain: Run,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert pretrain(photographs) == 0
    run, given = tmp_path / "run", {"data": str(photographs), "protocols": "finetune"}
    settings = ["epochs=1", "least_steps=4", "most_steps=4", "batch_size=8", "learning_rates=[0.001]"]
    whole = run_evaluate(weights=run, settings=settings, results=tmp_path / "whole.jsonl", **given)
    real, losses = F.cross_entropy, []

    def stopping(*arguments: Any, **named: Any) -> Any:
        losses.append(1)
        if len(losses) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    monkeypatch.setattr(F, "cross_entropy", stopping)
    assert evaluated(weights=run, settings=settings, **given) == 143
    assert "Stopped by SIGTERM in a training; the same command goes on there." in capsys.readouterr().err
    assert (run / "evaluation-state").is_dir()
    monkeypatch.undo()
    run_evaluate(weights=run, data=str(photographs), protocols="knn", seeds=1)
    shorter = [each.replace("=4", "=3") for each in settings]
    assert evaluated(weights=run, settings=shorter, **given) == 0
    assert len(list((run / "evaluation-state").iterdir())) == 1, "what another evaluation keeps is not its own"
    assert evaluated(weights=run, settings=settings, **given) == 0
    assert not (run / "evaluation-state").exists()
    again = read(run / "results.jsonl")[-1]
    assert [each.value for each in again.results] == [each.value for each in whole.results]


def test_read_outs_of_a_stopped_evaluation_are_its_own_until_it_is_done(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(photographs) == 0
    run, state = tmp_path / "run", tmp_path / "run" / "evaluation-state"

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("contextae.evaluation.attentive.train", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, photographs, protocols="knn,attentive")
    monkeypatch.undo()
    kept = {path: path.read_bytes() for path in state.rglob("*.safetensors")}
    assert len(kept) == 1, "kNN of this encoder"
    settings = ["epochs=1", "least_steps=2", "most_steps=2", "learning_rates=[0.001]"]
    run_evaluate(weights=run, data=str(photographs), protocols="finetune", settings=settings)
    evaluate(run, photographs, protocols="ridge,knn")
    assert {path: path.read_bytes() for path in state.rglob("*.safetensors")} == kept
    evaluate(run, photographs, protocols="knn,attentive")
    assert not state.exists()


def test_from_python_nothing_is_left_out_in_silence(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(photographs) == 0
    (photographs / "note.txt").write_text("no image")
    whole = next(photographs.rglob("*.png"))
    (whole.parent / "cut.png").write_bytes(whole.read_bytes()[:-40])
    capsys.readouterr()
    with pytest.warns(UserWarning, match=r"Left out of t(rain|est): .*cut\.png: "):
        recorded = contextae.evaluate(tmp_path / "run", photographs, protocols=["knn"], seeds=1)
    assert any("images to train on" in line for line in recorded.about["said"])
    assert any("note.txt" in line or "left out" in line for line in recorded.about["said"])
    said = capsys.readouterr()
    assert said.out == said.err == ""
    evaluate(tmp_path / "run", photographs)
    said = capsys.readouterr()
    assert "cut.png" in said.err and "cut.png" not in said.out


def test_settings_from_python_are_those_of_the_command(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    assert pretrain(photographs) == 0
    settings = {"draws": 2, "per_class": [1, 2], "shares": [], "l2": (1e-5, 1.0)}
    recorded = contextae.evaluate(tmp_path / "run", photographs, protocols="fewshot", seeds=1, settings=settings)
    used = recorded.results[0].details["settings"]
    assert (used["draws"], used["per_class"], used["shares"], used["l2"]) == (2, (1, 2), (), (1e-5, 1.0))
    with pytest.raises(UserError, match=r"written NAME=VALUE.* Got 'drawz=2'"):
        contextae.evaluate(tmp_path / "run", photographs, protocols="fewshot", settings={"drawz": 2})


def test_a_typing_error_in_a_setting_is_said_before_anything_is_read(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    assert pretrain(photographs) == 0
    with pytest.raises(UserError, match=r"written NAME=VALUE.* Got 'stepz=3'"):
        run_evaluate(
            weights=tmp_path / "run",
            data=str(tmp_path / "nowhere"),
            protocols="segmentation-upernet",
            settings=["stepz=3"],
        )


def test_figures_that_are_kept_are_not_written_over(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    assert pretrain(photographs) == 0
    run, given = tmp_path / "run", {"data": str(photographs), "protocols": "knn", "seeds": 1}
    evaluate(run, photographs)
    kept = (run / "results.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"--out .*results\.jsonl is the file that figures are kept in"):
        run_evaluate(weights=run, out=run / "results.jsonl", **given)
    with pytest.raises(UserError, match=r"--out .* is the file that figures are kept in.* Choose another"):
        run_evaluate(weights=run, out=tmp_path / "run" / ".." / "x", results=tmp_path / "x", **given)
    for plot_to, out in ((run / "results.jsonl", None), (None, run / "results.jsonl")):
        with pytest.raises(UserError, match=r"is the file that figures are kept in"):
            run_table(runs=[run], form="csv", plot_to=plot_to, out=out)
    assert (run / "results.jsonl").read_bytes() == kept


def test_figures_are_kept_before_what_else_is_written(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(photographs) == 0
    real = Path.write_text

    def full(self: Path, *arguments: Any, **named: Any) -> int:
        if self.name == "out.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"out\.json cannot be written: No space left"):
        run_evaluate(
            weights=tmp_path / "run", data=str(photographs), protocols="knn", seeds=1, out=tmp_path / "out.json"
        )
    assert len(read(tmp_path / "run" / "results.jsonl")) == 1


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--plot is of --table"):
        command(weights=[tmp_path], data="x", plot=tmp_path / "p.png")
    with pytest.raises(UserError, match=r"--format is of --table"):
        command(weights=[tmp_path], data="x", form="csv")
    with pytest.raises(UserError, match=r"A table in a file is markdown or csv\. Got --out .*without --format"):
        run_table(runs=[tmp_path], form="console", plot_to=None, out=tmp_path / "table.txt")


def test_chance_and_classes_without_an_image_stand_below_figures_of_few_labels(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    assert pretrain(photographs) == 0
    settings = ["per_class=1", "shares=[]", "draws=1"]
    found = run_evaluate(
        weights=tmp_path / "run", data=str(photographs), protocols="fewshot", seeds=1, settings=settings
    )
    assert "Always naming the most frequent class: 50.0 %." in found.notes
    assert found.notes == list(dict.fromkeys(found.notes))
