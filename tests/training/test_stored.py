"""Which checkpoint is chosen, and that a damaged one is never passed over in silence."""

from __future__ import annotations

import pytest
from small_checkpoint import assert_of_one_step, break_weights, kept, save

from contextae.errors import UserError
from contextae.training.checkpoint import Checkpoints


def test_a_damaged_one_is_named_passed_over_and_left_alone(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1, 2, 3)
    path = break_weights(checkpoints, 3)
    assert_of_one_step(checkpoints.latest(), 2)
    assert said == [
        f"Checkpoint {path} is damaged and passed over: weights.safetensors was altered: its sha256 is not the "
        "recorded one."
    ]
    assert path.is_dir()


def test_where_all_are_damaged_each_is_named(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)
    break_weights(checkpoints, 1)
    (checkpoints.folder / "step-00000002" / "manifest.json").unlink()
    with pytest.raises(
        UserError,
        match=r"None of the 2 checkpoint\(s\) in .* can be used: step-00000002: manifest.json is missing, so it was "
        r"never completed; step-00000001: weights.safetensors was altered.*Put one back",
    ):
        checkpoints.latest()


def test_the_best_is_the_best_of_those_that_are_whole(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1, score=0.5)
    save(checkpoints, 2, score=0.7)
    break_weights(checkpoints, 2)
    assert checkpoints.best().step == 1
    assert "step-00000002 is damaged" in said[0]
    (checkpoints.folder / "step-00000001" / "manifest.json").write_text("[]")
    assert checkpoints.best() is None
    assert "step-00000001 is damaged and passed over: manifest.json is not readable as JSON" in said[1]


def test_a_certain_step_is_that_one_or_none(checkpoints: Checkpoints) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of step 7 in .*Steps that are there: none\."):
        checkpoints.at(7)
    save(checkpoints, 1, 2)
    with pytest.raises(UserError, match=r"no checkpoint of step 7 in .*Steps that are there: 1, 2\."):
        checkpoints.at(7)
    break_weights(checkpoints, 2)
    with pytest.raises(UserError, match=r"step-00000002 is damaged: weights.safetensors was altered.*put a copy back"):
        checkpoints.at(2)


def test_a_renamed_folder_does_not_pass_for_another_step(checkpoints: Checkpoints) -> None:
    path = save(checkpoints, 1)
    path.rename(path.with_name("step-00000005"))
    with pytest.raises(UserError, match="it holds step 1, so the folder was renamed"):
        checkpoints.latest()


def test_of_equal_scores_the_newer_is_best_and_a_score_that_is_no_number_is_none(checkpoints: Checkpoints) -> None:
    for step, score in ((1, 0.5), (2, 0.5), (3, float("nan")), (4, float("inf")), (5, None)):
        save(checkpoints, step, score=score)
    assert checkpoints.best().step == 2
    assert kept(checkpoints) == [2, 4, 5]
