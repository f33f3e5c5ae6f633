"""Whole runs of `pretrain`: what they leave behind, resumes, refusals, and images that cannot be used."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import SMALL, paint

from contextae.data.sources import open_index
from contextae.data.transfer import Transfer
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.training import checkpoint
from contextae.training.distributed import Distributed
from contextae.training.health import Health
from contextae.training.log import read_lines
from contextae.training.run_folder import RunFolder
from contextae.training.weights import load_weights
from contextae.verbs import run as run_verb
from contextae.verbs.checks import HealthCheck
from contextae.verbs.pretrain import run_pretrain

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
    fields = {"loss", "reconstruction", "alignment", "lr", "images_per_s", "waiting"}
    assert all(fields <= line.keys() for line in lines if line["kind"] == "step")
    assert any(line["kind"] == "health" and line["verdict"] for line in lines)
    saved = [line for line in lines if line["kind"] == "checkpoint"]
    assert [line["step"] for line in saved] == [5, 10] and saved[-1]["name"] == "step-00000010"
    ended = {"ending": "done", "found": 40, "used": 40, "left_out": 0, "quarantined": 0}
    assert ended.items() <= lines[-1].items()
    assert not (run / "quarantine.jsonl").exists()
    assert list(RunFolder(run).read_images().ids) == list(open_index(str(photographs)).ids)
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


def test_a_run_folder_within_its_own_images_is_refused(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"A run folder is no part of its source, which it would change\. .*choose anoth"
    ):
        pretrain(photographs, photographs / "cats" / "run")
    (tmp_path / "link").symlink_to(photographs)
    with pytest.raises(UserError, match="A run folder is no part of its source"):
        pretrain(photographs, tmp_path / "link" / "run")


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
    assert [(entry["sample_id"], entry["reason"], entry["epoch"]) for entry in entries] == [
        ("empty.png", "empty file", None),
        ("text.jpg", "not an image, or its header is damaged", None),
        ("cut.png", "truncated file", 0),
    ]
    lines = read_lines(tmp_path / "run" / "log.jsonl")
    assert {"found": 43, "used": 40, "left_out": 2, "quarantined": 1}.items() <= lines[-1].items()
    assert [line["quarantined"] for line in lines if line["kind"] == "checkpoint"][-1] == 1
    said = capsys.readouterr().out
    assert "found 43 = used 40 + left out 2 + quarantined 1" in said
    assert "text.jpg" in said and "empty.png" in said


def test_the_last_check_is_not_made_twice(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    paint(photographs / "one more.png", 99)
    assert pretrain(photographs, None, "training.epochs=3") == 0  # 41 images, 5.125 steps an epoch, 16 in all
    checks = [line["step"] for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "health"]
    assert checks == [0, 5, 10, 16]


def test_images_smaller_than_a_patch_are_left_out_by_name(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(photographs / "flat.png", 99, size=(3, 16))
    assert pretrain(photographs) == 0
    said = capsys.readouterr().out
    assert "left out as well: 1 smaller than a patch of 4 x 4: flat.png" in said
    assert "found 41 = used 40 + left out 1 + quarantined 0" in said
    (entry,) = read_lines(tmp_path / "run" / "quarantine.jsonl")
    assert (entry["sample_id"], entry["reason"]) == ("flat.png", "smaller than a patch of 4 x 4")


def test_only_images_smaller_than_a_patch_are_refused(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at least as large as a patch. Got 40 smaller than a patch of 32 x 4: cats"):
        pretrain(photographs, None, "data.image_size=[64, 12]", "encoder.patch_size=[32, 4]")
    assert not (tmp_path / "run" / "experiment.yaml").exists()


def test_too_many_unreadable_images_stop_the_run_until_more_are_allowed(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((photographs / "cats").iterdir())[:12]:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"(?s)cannot be used.*data.max_bad_share=SHARE, also beside --resume"):
        pretrain(photographs)
    assert pretrain(None, None, "data.max_bad_share=0.5", resume=True) == 0
    assert "found 40 = used 28 + left out 0 + quarantined 12" in capsys.readouterr().out
    assert len(read_lines(tmp_path / "run" / "quarantine.jsonl")) == 12  # none twice, though the start repeated some


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_training_whose_end_could_not_be_saved_is_not_done(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", full)
        with pytest.raises(UserError, match=r"came to its end, and its last checkpoint could not .* there is none\. "):
            pretrain(photographs)
    assert pretrain(None, resume=True) == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000010").is_dir()


def test_a_bundle_that_could_not_be_written_is_not_promised(
    pretrain: Run, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    diverging = ["optimizer.lr_per_256_images=1e30", "training.warmup_epochs=0", "training.epochs=20"]
    with pytest.raises(UserError, match=r"not a finite number at step .* ids could not be written, as said above"):
        pretrain(photographs, None, *diverging, "health.every_epochs=20")


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


def test_a_refused_start_leaves_nothing_in_the_way(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError):
        pretrain(photographs, None, "data.image_size=[18, 12]")
    with pytest.raises(UserError, match="nowhere"):
        pretrain(photographs, labelled=str(tmp_path / "nowhere"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(UserError, match="TensorBoard is not installed"):
            pretrain(photographs, tensorboard=True)
    with monkeypatch.context() as patch:
        patch.setattr(run_verb, "start", lambda _: Distributed(0, 3, torch.device("cpu")))
        patch.setattr(Distributed, "gather", lambda _, value: [value])
        patch.setattr(Distributed, "mean", lambda _, value: value)
        patch.setattr(Distributed, "close", lambda _: None)
        with pytest.raises(UserError, match=r"their number must divide it\. Got 8 images for 3 processes"):
            pretrain(photographs)
        with pytest.raises(UserError, match=r"share of training.batch_size\. Got 9 parts for 6 images"):
            pretrain(photographs, None, "training.batch_size=18", "training.accumulate=9")
    assert not (tmp_path / "run" / "experiment.yaml").exists()
    assert pretrain(photographs) == 0


def test_the_images_are_named_once(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.source is where the images are, which is given as DATA"):
        pretrain(photographs, None, "data.source=elsewhere")


def test_the_same_command_may_be_repeated_with_resume(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain("photographs", tmp_path / "first") == 0
    settings = (tmp_path / "first" / "experiment.yaml").read_text()
    (tmp_path / "e.yaml").write_text(settings.replace(str(photographs), "photographs"))
    for _ in range(2):
        assert pretrain(None, None, config=tmp_path / "e.yaml", resume=True) == 0


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
    assert all(0 <= line["knn"] <= 1 and "ridge" not in line for line in lines)
    assert "on a held-out part of train: kNN" in capfd.readouterr().err


def test_other_probes_join_it_where_they_are_named(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    wanted = "health.probes=[ridge, knn]"
    with pytest.raises(UserError, match=r"health.probes=ridge,knn needs images with classes, .* as --labelled DATA"):
        pretrain(photographs, tmp_path / "run", wanted)
    assert pretrain(photographs, tmp_path / "run", wanted, labelled=str(photographs)) == 0
    lines = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "health"]
    assert all({"knn", "ridge"} <= line.keys() for line in lines)


def test_a_measurement_that_was_not_a_number_does_not_end_a_resume() -> None:
    line = {"kind": "health", "step": 5, **dict.fromkeys(Health._fields, 1.0), "content": None}
    (health,) = HealthCheck.past([line, {"kind": "step", "step": 5}, {"kind": "health", "step": 5}])
    assert math.isnan(health.content) and health.waiting == 1.0


def test_health_is_measured_on_as_many_images_as_asked_for(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    for i in range(40, 110):
        paint(photographs / f"{i}.png", i)
    assert pretrain(photographs, None, "training.epochs=1") == 0
    experiment = Experiment.read(tmp_path / "run" / "experiment.yaml").with_values({"health.images": 100})
    index, method = open_index(str(photographs)), experiment.build_method(3)
    transfer = Transfer(torch.device("cpu"), (0.5,) * 3, (0.2,) * 3)
    check = HealthCheck(method=method, experiment=experiment, index=index, transfer=transfer, past=[])
    assert [len(batch.images) for batch in check.batches] == [50, 50]


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
    where = "an accelerator" if torch.cuda.is_available() else "CPU"
    assert f"no preset given; chosen for 40 images of about 20 x 16 on {where}" in capsys.readouterr().out
    assert Experiment.read(tmp_path / "run" / "experiment.yaml").data.image_size == (20, 16)


def test_several_sources_are_trained_on_by_their_weights(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(10):
        paint(tmp_path / "more" / f"{i}.png", 100 + i)
    both = (str(photographs), f"{tmp_path / 'more'}=3")
    assert pretrain_several(both, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "more: 10 images of weight 3, 30 in an epoch" in said
    assert "18 steps of 8 images (2 epochs)" in said, "70 images an epoch, and not 50"
    recorded = Experiment.read(tmp_path / "run" / "experiment.yaml").data.source
    assert recorded == both
    assert pretrain(None, tmp_path / "run", resume=True) == 0
    assert pretrain(None, tmp_path / "again", config=tmp_path / "run" / "experiment.yaml") == 0
    assert equal(tmp_path / "run", tmp_path / "again")
    with pytest.raises(UserError, match=r"data.source: .* in the run, .* now"):
        pretrain_several((*both[:1], f"{tmp_path}/more=2"), tmp_path / "run", resume=True)


def pretrain_several(data: tuple[str, ...], out: Path, *, resume: bool = False) -> int:
    return run_pretrain(
        data=data, out=out, preset=None, settings=SMALL, config=None, resume=resume, labelled=None, tensorboard=False
    )


def test_an_empty_start_and_a_share_without_one_are_refused(pretrain: Run, photographs: Path) -> None:
    with pytest.raises(UserError, match=r"^--init names the weights to start from, and is empty\. Name some, or leave"):
        pretrain(photographs, init="")
    with pytest.raises(UserError, match=r"init\.frozen_share needs init\.source: random weights are not kept\. Got"):
        pretrain(photographs, None, "init.frozen_share=0.5")


def test_each_start_writes_down_its_machine(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    assert pretrain(photographs) == 0
    assert pretrain(photographs, resume=True) == 0
    starts = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "start"]
    assert [line["step"] for line in starts] == [0, 10]
    assert starts[0]["hardware"]["processor"] and starts[0]["versions"]["torch"] == torch.__version__
