"""Whole runs of `pretrain`: what they leave behind, resumes, refusals, and images that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import SMALL, paint

from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.training.log import read_lines
from contextae.training.weights import load_weights

Run = Callable[..., int]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_weights(run)[0])


def equal(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_leaves_settings_log_images_and_checkpoints(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(photographs) == 0
    run = tmp_path / "run"
    experiment = Experiment.read(run / "experiment.yaml")
    assert experiment.data.channels == 3 and experiment.data.mean and len(experiment.data.mean) == 3
    lines = read_lines(run / "log.jsonl")
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, 11))  # 40 images, 2 epochs, 8 a step
    assert {"loss", "reconstruction", "alignment", "lr", "images_per_s", "waiting"} <= lines[-1].keys() | lines[
        -2
    ].keys()
    assert any(line["kind"] == "health" and line["verdict"] for line in lines)
    assert len((run / "images.jsonl").read_text().splitlines()) >= 40
    said = capsys.readouterr().out
    assert "40 images" in said and "found 40 = used 40 + left out 0 + quarantined 0" in said


def test_a_used_folder_is_refused_without_resume_and_config_runs_again(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    pretrain(photographs)
    with pytest.raises(UserError, match="--resume"):
        pretrain(photographs)
    assert pretrain(None, tmp_path / "again", config=tmp_path / "run" / "experiment.yaml") == 0
    assert equal(tmp_path / "run", tmp_path / "again")


def test_resume_on_an_empty_folder_starts_from_zero_and_after_the_end_does_nothing(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    assert pretrain(photographs, resume=True) == 0
    before = weights(tmp_path / "run")
    assert pretrain(None, resume=True) == 0
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_configuration_is_refused_with_the_differences_and_harmless_ones_are_taken(
    pretrain: Run, photographs: Path
) -> None:
    pretrain(photographs)
    with pytest.raises(UserError, match=r"(?s)encoder\.depth: 1 in the run, 2 now"):
        pretrain(photographs, None, "encoder.depth=2", resume=True)
    assert pretrain(photographs, None, "training.workers=1", resume=True) == 0


def test_weights_of_another_network_are_refused_by_name(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    pretrain(photographs)
    path = tmp_path / "run" / "experiment.yaml"
    path.write_text(path.read_text().replace("depth: 1\n  num_heads", "depth: 2\n  num_heads"))
    with pytest.raises(UserError, match=r"not those of this network \(missing: encoder\.blocks\.1"):
        pretrain(None, resume=True)


def test_unreadable_images_are_quarantined_with_reasons_and_the_run_goes_on(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photographs / "cats" / "01.png").read_bytes()
    (photographs / "cut.png").write_bytes(whole[: len(whole) * 2 // 3])
    (photographs / "text.jpg").write_text("not an image")
    (photographs / "empty.png").write_bytes(b"")
    assert pretrain(photographs, None, "training.epochs=3") == 0
    entries = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["sample_id"] for entry in entries] == ["cut.png"] and entries[0]["reason"]
    said = capsys.readouterr().out
    assert "found 43 = used 40 + left out 2 + quarantined 1" in said
    assert "text.jpg" in said and "empty.png" in said


def test_too_many_unreadable_images_stop_the_run(pretrain: Run, photographs: Path) -> None:
    for path in sorted((photographs / "cats").iterdir())[:12]:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"(?s)cannot be used.*max_bad_share"):
        pretrain(photographs)


def test_files_that_vanished_or_came_since_the_start(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    assert pretrain(photographs, None, "training.epochs=1") == 0
    before = weights(tmp_path / "run")
    paint(photographs / "new.png", 99)
    assert pretrain(None, resume=True) == 0  # the run keeps the images it started with
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items())
    (photographs / "cats" / "01.png").unlink()
    with pytest.raises(UserError, match="no longer holds 1 of the 40 images"):
        pretrain(None, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.epoch=3"], "no setting 'training.epoch'.*Did you mean 'training.epochs'"),
        (["method.mask_ratio=75"], "mask_ratio.*less than 1"),
        (["data.image_size=[18, 12]"], "patch_size must divide image_size"),
        (["data.image_size=[2, 2]", "encoder.patch_size=[4, 4]"], "patch_size must divide image_size"),
        (["data.mean=[0.5]", "data.deviation=[0.2]"], "one number per channel, 3 here"),
        (["encoder.num_heads=3"], "num_heads must divide"),
        (["training.batch_size=0"], "batch_size"),
        (["oops"], "NAME=VALUE"),
    ],
)
def test_settings_that_cannot_be_used(pretrain: Run, photographs: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        pretrain(photographs, None, *settings)


def test_a_refused_start_leaves_nothing_in_the_way(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        pretrain(photographs, None, "data.image_size=[18, 12]")
    assert not (tmp_path / "run" / "experiment.yaml").exists()
    assert pretrain(photographs) == 0


def test_an_unknown_preset_gets_the_nearest_name(pretrain: Run, photographs: Path) -> None:
    with pytest.raises(UserError, match=r"no preset 'cifer10'\. Did you mean 'cifar10'"):
        pretrain(photographs, preset="cifer10")


def test_nothing_to_train_on_and_two_sources_of_settings(pretrain: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DATA is missing"):
        pretrain(None)
    (tmp_path / "e.yaml").write_text("data: {source: x}\n")
    with pytest.raises(UserError, match="--config and --preset"):
        pretrain(None, config=tmp_path / "e.yaml", preset="demo")


def test_a_loss_that_is_not_a_number_stops_with_a_bundle_and_whole_weights(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"not a finite number at step \d+"):
        pretrain(
            photographs, None, "optimizer.lr_per_256_images=1e30", "training.warmup_epochs=0", "training.epochs=20"
        )
    (bundle,) = (tmp_path / "run" / "non-finite").glob("step-*")
    state = json.loads((bundle / "state.json").read_text())
    assert len(state["sample_ids"]) == 8
    kept, _ = load_weights(bundle)
    assert all(value.isfinite().all() for value in kept.values())
    assert (bundle / "batch.safetensors").exists()


def test_knn_on_held_out_train_joins_the_health_line(
    pretrain: Run, photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(photographs, labelled=str(photographs)) == 0
    lines = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "health"]
    assert all(0 <= line["knn"] <= 1 for line in lines)
    assert "kNN on a held-out part of train" in capfd.readouterr().err


def test_the_recipe_is_chosen_and_its_reason_printed(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [name for name in SMALL if not name.startswith(("data.image_size", "encoder.patch_size"))]
    from contextae.verbs.pretrain import run_pretrain

    assert (
        run_pretrain(
            data=str(photographs),
            out=tmp_path / "run",
            preset=None,
            settings=chosen,
            config=None,
            resume=False,
            labelled=None,
            tensorboard=False,
        )
        == 0
    )
    assert "no preset given; chosen for 40 images of about 20 x 16 on CPU" in capsys.readouterr().out
    assert Experiment.read(tmp_path / "run" / "experiment.yaml").data.image_size == (20, 16)
