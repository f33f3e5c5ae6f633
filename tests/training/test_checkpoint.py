"""What is kept, what is chosen, in which order it reaches the disk, and what is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from small_checkpoint import HIDDEN, assert_of_one_step, break_weights, content, kept, save

from contextae.disk import sync_folder
from contextae.errors import UserError
from contextae.training.checkpoint import Checkpoints


def test_all_of_a_checkpoint_comes_back(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    assert save(checkpoints, 1234) == checkpoints.folder / "step-00001234"
    for saved in (checkpoints.latest(), checkpoints.at(1234)):
        assert_of_one_step(saved, 1234)
        assert saved.path == checkpoints.folder / "step-00001234"


def test_tensors_of_every_kind_come_back_as_they_were(checkpoints: Checkpoints) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    weights = {
        "whole": shared,
        "transposed": shared.t(),
        "same": shared,
        "row": shared[1],
        "half": torch.tensor([1.5, -0.0, float("nan")], dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "also empty": torch.zeros(0, 5),
        "trained": torch.ones(2, requires_grad=True),
    }
    checkpoints.save(1, weights=weights, optimizer={}, state={}, metadata={}, score=None)
    found = checkpoints.at(1).weights
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(found[name].nan_to_num(7), tensor.nan_to_num(7)) and found[name].dtype == tensor.dtype
    assert not found["trained"].requires_grad


def test_what_was_loaded_does_not_change_with_the_file(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    saved = checkpoints.latest()
    break_weights(checkpoints, 1)
    assert_of_one_step(saved, 1)


def test_a_file_is_as_readable_for_others_as_any_other_new_file(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    path = save(checkpoints, 1)
    assert {each.stat().st_mode for each in path.iterdir()} == {(tmp_path / "other").stat().st_mode}


def test_the_last_ones_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    scores = {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: 0.4, 6: None}
    seen = []
    for step, score in scores.items():
        save(checkpoints, step, score=score)
        seen.append(kept(checkpoints))
    assert seen == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6]]
    assert checkpoints.best().step == 2
    assert checkpoints.best().score == 0.9
    assert list(checkpoints.folder.glob(HIDDEN)) == []


def test_the_best_stays_the_best_after_a_restart(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1, score=-3.0)
    again = Checkpoints(checkpoints.folder, keep=1, say=said.append)
    for step in (2, 3, 4):
        save(again, step, score=-4.0)
    assert kept(again) == [1, 4]


def test_keep_one_keeps_one(tmp_path: Path, said: list[str]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, say=said.append)
    save(checkpoints, 1, 2, 3)
    assert kept(checkpoints) == [3]
    with pytest.raises(UserError, match=r"At least one checkpoint must be kept. Got keep=0"):
        Checkpoints(tmp_path, keep=0, say=said.append)


def test_a_damaged_one_does_not_count_among_those_kept(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2, 3)
    break_weights(checkpoints, 3)
    checkpoints.latest()
    (checkpoints.folder / "step-00000002" / "state.json").write_text("{")  # its size says so, unread
    save(checkpoints, 4)
    assert kept(checkpoints) == [2, 3, 4]
    save(checkpoints, 5, 6)
    assert kept(checkpoints) == [2, 3, 5, 6]


def test_a_damaged_one_is_replaced_when_its_step_is_reached_again(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1, 2)
    break_weights(checkpoints, 2)
    assert checkpoints.latest().step == 1
    save(checkpoints, 2)
    assert_of_one_step(checkpoints.latest(), 2)
    assert len(said) == 1
    save(checkpoints, 3)
    assert kept(checkpoints) == [2, 3]


def test_going_back_never_removes_the_new_one_for_those_of_later_steps(tmp_path: Path, said: list[str]) -> None:
    save(Checkpoints(tmp_path, keep=3, say=said.append), 30, 40, 50)
    checkpoints = Checkpoints(tmp_path, keep=1, say=said.append)
    assert save(checkpoints, 35) == tmp_path / "step-00000035"
    assert kept(checkpoints) == [35, 40, 50]


def test_everything_is_on_the_disk_before_it_gets_its_name(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, 1, 2)
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def plain(name: str) -> str:
        return Path(name).name.replace(f"-{os.getpid()}", "")

    def seen_fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        empty = path.is_file() and os.fstat(handle).st_size == 0
        calls.append(f"fsync {plain(path.name)}{' still empty' if empty else ''}")
        fsync(handle)

    def seen_replace(old: Path, new: Path) -> None:
        calls.append(f"rename {plain(old)} {plain(new)}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    save(checkpoints, 3)
    assert calls == [
        "fsync weights.safetensors",
        "fsync optimizer.safetensors",
        "fsync state.json",
        "fsync manifest.json",
        "fsync .writing-step-00000003",
        "rename .writing-step-00000003 step-00000003",
        "fsync checkpoints",
        "rename step-00000001 .removing-step-00000001",
    ]


def test_a_folder_without_its_manifest_is_no_checkpoint_yet(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are opened again between the last byte of theirs and the manifest."""
    import contextae.training.saved as module

    seen: list[tuple[str, bool]] = []
    reopen = module._reopen

    def look(path: Path, tensors) -> None:
        seen.append((path.name, (path.parent / "manifest.json").exists()))
        reopen(path, tensors)

    monkeypatch.setattr(module, "_reopen", look)
    save(checkpoints, 1)
    assert seen == [("weights.safetensors", False), ("optimizer.safetensors", False)]


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0\0\0\0\0{}      "], ids=["unreadable", "without its tensors"])
def test_a_file_that_does_not_open_again_is_a_failed_save(
    checkpoints: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr("contextae.training.saved.save", lambda tensors, metadata: data)
    assert save(checkpoints, 1) is None
    assert "weights.safetensors c" in said[0] and "there is none yet" in said[0]


def test_a_mistake_of_ours_is_no_full_disk(checkpoints: Checkpoints) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoints.save(1, **{**content(1), "state": {"loss": float("nan")}}, score=None)
    assert list(checkpoints.folder.iterdir()) == []


def test_an_old_one_that_cannot_be_removed_is_said(
    checkpoints: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, 1, 2)
    replace = os.replace

    def refuse(old: Path, new: Path) -> None:
        if ".removing-" in str(new):
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    assert save(checkpoints, 3)
    assert "step-00000001 could not be removed: Permission denied" in said[0]
    assert checkpoints.latest().step == 3


def test_what_a_killed_run_left_is_removed_at_the_next_start_and_what_it_moved_aside_comes_back(
    checkpoints: Checkpoints, said: list[str]
) -> None:
    folder = save(checkpoints, 1).parent
    (folder / ".writing-step-00000009-123").mkdir()
    (folder / ".removing-step-00000008-123").mkdir()
    (folder / "step-00000001").rename(folder / ".replaced-step-00000001-123")
    assert_of_one_step(Checkpoints(folder, say=said.append).latest(), 1)
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]


def test_a_folder_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, unwritable: Path, said: list[str]
) -> None:
    with pytest.raises(UserError, match=r"Checkpoints go to .*, where this user may not write. Free space or change"):
        Checkpoints(unwritable, say=said.append)
    with pytest.raises(UserError, match=r"Checkpoints go to .*below, which cannot be made: .*or choose another folder"):
        Checkpoints(unwritable / "below", say=said.append)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="which cannot be made: File exists"):
        Checkpoints(tmp_path / "file", say=said.append)


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_a_folder_is_put_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if raises:
        with pytest.raises(OSError, match="Input/output"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
