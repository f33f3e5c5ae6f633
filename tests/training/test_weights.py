"""Weights from a file, a checkpoint and a run folder; anything else is refused and never executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoint import content, save

from contextae.errors import UserError
from contextae.training.checkpoint import Checkpoints, load_weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", say=lambda _: None)
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.5)):
        save(checkpoints, step, score=score)
    return tmp_path / "run"


def step_of(path: Path, **given: Any) -> int:
    tensors, metadata = load_weights(path, **given)
    assert tensors.keys() == content(1)["weights"].keys()
    step = int(tensors["decoder.bias"][0])
    assert metadata["experiment"] == content(step)["metadata"]["experiment"]
    return step


def test_the_last_the_best_or_a_certain_checkpoint_of_a_run(run: Path) -> None:
    assert step_of(run) == 3
    assert step_of(run, checkpoint="best") == 2
    assert step_of(run, checkpoint="1") == 1
    assert step_of(run, checkpoint="00000002") == 2
    assert step_of(run / "checkpoints", checkpoint="best") == 2


def test_a_checkpoint_and_a_weights_file(run: Path, tmp_path: Path) -> None:
    folder = run / "checkpoints" / "step-00000002"
    assert step_of(folder) == 2
    assert step_of(folder / "weights.safetensors") == 2
    alone = tmp_path / "copied" / "mine.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((folder / "weights.safetensors").read_bytes())
    assert step_of(alone) == 2
    folder.rename(tmp_path / "renamed")
    assert step_of(tmp_path / "renamed") == 2


def test_reading_leaves_a_run_that_is_training_alone(run: Path) -> None:
    under_way = run / "checkpoints" / ".writing-step-00000004-1"
    under_way.mkdir()
    load_weights(run)
    assert under_way.is_dir()


def test_a_damaged_checkpoint_is_passed_over_aloud_or_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "step-00000003" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert step_of(run) == 2
    captured = capsys.readouterr()
    assert "step-00000003 is damaged and passed over: weights.safetensors has" in captured.err
    assert captured.out == ""
    for each in (path, path.parent):
        with pytest.raises(
            UserError, match=r"step-00000003 is no checkpoint that can be used: weights.safetensors has"
        ):
            load_weights(each)


def test_a_path_that_is_not_there_is_compared_with_its_neighbours(run: Path) -> None:
    with pytest.raises(UserError, match=r"There is nothing at .*rum. Give a run folder.* Did you mean 'run'\?"):
        load_weights(run.with_name("rum"))
    with pytest.raises(UserError, match=r"There is nothing at .*weights file\.$"):
        load_weights(run / "no" / "where")


def test_a_choice_that_is_none(run: Path) -> None:
    with pytest.raises(UserError, match=r"is last, best or the number of a step. Got 'lst'. Did you mean 'last'\?"):
        load_weights(run, checkpoint="lst")
    with pytest.raises(UserError, match=r"no checkpoint of step 9 in .*Steps that are there: 1, 2, 3"):
        load_weights(run, checkpoint="9")
    file = run / "checkpoints" / "step-00000001" / "weights.safetensors"
    with pytest.raises(UserError, match=r"chooses among those of a run folder, and .* is none. Got 'best'; leave it"):
        load_weights(file, checkpoint="best")


def test_a_run_that_has_no_such_checkpoint_yet(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"There is no complete checkpoint in .* yet. Let the run save one first"):
        load_weights(tmp_path)
    save(Checkpoints(tmp_path / "checkpoints", say=lambda _: None), 1)
    with pytest.raises(UserError, match="There is no whole checkpoint with a score in"):
        load_weights(tmp_path, checkpoint="best")


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no checkpoint that can be used: manifest.json is missing.*Give a run"):
        load_weights(tmp_path)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["weights.pt", "weights.PTH", "weights.safetensors", "noextension"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "torch, old"])
def test_a_pickle_is_refused_in_words_and_never_opened(tmp_path: Path, name: str, kind: str) -> None:
    path, mark = tmp_path / name, tmp_path / "mark"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save({"model": Bomb(mark)}, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(
        UserError,
        match=r"safetensors files only. .* is a pickle or an archive of one, which.*`contextae convert` reads",
    ):
        load_weights(path)
    assert not mark.exists()


def test_a_pickle_that_only_its_name_tells(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "mark"), protocol=0))
    with pytest.raises(UserError, match="is a pickle or an archive of one"):
        load_weights(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("data", [b"", b"hello", b"<!DOCTYPE html>" * 20, (2**63).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_something_else(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be used: weights.safetensors is no readable safetensors file: .*Copy"):
        load_weights(path)


def test_the_weights_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is a safetensors file that contextae did not write: its header does not say"):
        load_weights(path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    path.touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"cannot be read: Permission denied. Change its permissions or give another"):
        load_weights(path)
