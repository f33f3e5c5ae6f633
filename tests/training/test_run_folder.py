"""Which folders a run may begin in or go on with, one process at a time, and the images it is pinned to."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contextae.data.index import FACTS, Index
from contextae.data.names import Names
from contextae.data.sources.embedded import Embedded
from contextae.errors import UserError
from contextae.training.run_folder import RunFolder

FIXTURES = Path(__file__).parent / "fixtures"
IDS = ["a/b.png", "new\nline", "no text \udcff", "train#17", "ümlaut 猫", "", "\u2028"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


@pytest.fixture
def folder(path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(path)
    folder.start(resume=False)
    yield folder
    folder.release()


def begin(path: Path) -> None:
    folder = RunFolder(path)
    folder.start(resume=False)
    folder.experiment.write_text("data: {}\n")
    folder.release()


def everything(path: Path) -> dict[Path, bytes | None]:
    return {each: each.read_bytes() if each.is_file() else None for each in path.rglob("*")}


def test_the_paths_of_a_run(path: Path) -> None:
    folder = RunFolder(path)
    names = {
        name: value.relative_to(path).as_posix()
        for name, value in vars(folder).items()
        if isinstance(value, Path) and value != path
    }
    assert names == {
        "experiment": "experiment.yaml",
        "log": "log.jsonl",
        "images": "images",
        "first_format": "images.jsonl",
        "quarantine": "quarantine.jsonl",
        "checkpoints": "checkpoints",
        "tensorboard": "tensorboard",
    }
    assert not path.exists()  # until it starts


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("there", [None, [], [".hidden", "lost+found"], ["lock", "images"]], ids=str)
def test_an_absent_or_empty_folder_is_begun(path: Path, resume: bool, there: list[str] | None) -> None:
    if there is not None:
        path.mkdir(parents=True)
        for name in there:
            (path / name).touch()
    folder = RunFolder(path)
    assert folder.start(resume=resume) is False
    folder.release()


def test_a_run_is_gone_on_with_only_when_that_is_asked_for(path: Path) -> None:
    begin(path)
    before = everything(path)
    folder = RunFolder(path)
    with pytest.raises(
        UserError, match=r"holds a run already, which nothing overwrites. Go on with it by --resume, or"
    ):
        folder.start(resume=False)
    assert everything(path) == before
    assert folder.start(resume=True) is True  # the refusal left no lock behind
    folder.release()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(path: Path, resume: bool) -> None:
    path.mkdir(parents=True)
    for name in ("b.jpg", "a.jpg", "new\nline", "z", "lock"):
        (path / name).touch()
    before = everything(path)
    with pytest.raises(
        UserError, match=r"holds 'a.jpg', 'b.jpg', 'new\\nline' and 1 more and no experiment.yaml. Choose"
    ):
        RunFolder(path).start(resume=resume)
    assert everything(path) == before


def test_checkpoints_without_their_experiment_are_not_overwritten(path: Path) -> None:
    (path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds 'checkpoints' and no experiment.yaml"):
        RunFolder(path).start(resume=True)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link"):
        with pytest.raises(UserError, match=r"A run goes to a folder, and .* is or lies below a file. Choose another"):
            RunFolder(path).start(resume=True)


def test_a_folder_that_cannot_be_written(unwritable: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written to: (Read-only file system|Permission denied). Choose"):
        RunFolder(unwritable).start(resume=False)
    with pytest.raises(UserError, match=r"The folder .*below cannot be made: (Read-only|Permission)"):
        RunFolder(unwritable / "below").start(resume=False)


def test_a_folder_that_cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir(parents=True)

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"The folder .* cannot be read: Permission denied. Choose another folder"):
        RunFolder(path).start(resume=False)


HOLD = """
import sys
from pathlib import Path
from contextae.training.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.start(resume=True)
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_process_is_refused_as_long_as_the_first_one_lives(path: Path, resume: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"holds\n"
        with pytest.raises(
            UserError, match=rf"One process writes to a run at a time, and process {process.pid} on .* is writing to"
        ):
            RunFolder(path).start(resume=resume)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with (path / "lock").open("a") as file:
        file.write("a longer line than the next one's" * 5)
    folder = RunFolder(path)
    assert folder.start(resume=resume) is False  # no lock outlives its process
    assert (path / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    folder.release()
    folder.release()


def test_a_worker_process_does_not_keep_the_lock(folder: RunFolder) -> None:
    with subprocess.Popen(["sleep", "60"], close_fds=False) as process:
        folder.release()
        again = RunFolder(folder.path)
        again.start(resume=True)
        again.release()
        process.kill()


def test_a_holder_without_a_name(path: Path) -> None:
    path.mkdir(parents=True)
    with (path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="at a time, and another process is writing to"):
            RunFolder(path).lock()


def test_a_file_system_without_locks_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    said: list[str] = []
    assert RunFolder(path, say=said.append).start(resume=False) is False
    assert said == [
        f"{path} cannot be locked: Function not implemented. Take care that no second run is started there."
    ]


def index_of(ids: list[str]) -> Index:
    facts = np.zeros(len(ids), FACTS)
    facts["width"] = np.arange(len(ids)) + 5
    return Index(source=Embedded("fashion-mnist"), title="", ids=Names(ids), facts=facts, channels=1, found=len(ids))


def test_the_images_come_back_in_order_whatever_their_names(folder: RunFolder) -> None:
    for ids in (IDS, [], ["one"]):
        folder.write_images(index_of(ids), found=len(ids) + 2, left_out=2)
        for whole in (True, False):
            stored = folder.read_images(whole=whole)
            assert list(stored.ids) == ids and stored[2:5] == ("Embedded", len(ids) + 2, 2)
            assert stored.facts["width"].tolist() == [5 + i for i in range(len(ids))]
    assert list(folder.path.glob(".writing-*")) == []


def test_stored_names_are_opened_again_in_a_worker_and_not_copied(folder: RunFolder) -> None:
    ids = [f"{i:05}.jpg" for i in range(5000)]
    folder.write_images(index_of(ids), found=5000, left_out=0)
    data = pickle.dumps(folder.read_images().ids)
    assert len(data) < 1000
    assert list(pickle.loads(data)) == ids  # noqa: S301  made here


def test_the_images_of_every_past_format_still_load() -> None:
    (path,) = FIXTURES.glob("format_1/images.jsonl")
    stored = RunFolder(path.parent).read_images()
    assert list(stored.ids) == IDS and stored[2:5] == ("", len(IDS), 0)


def test_a_damaged_list_of_the_first_format_is_refused(folder: RunFolder) -> None:
    (path,) = FIXTURES.glob("format_1/images.jsonl")
    data = path.read_bytes()
    head, _, body = data.partition(b"\n")
    for damaged in (b"", b"7\n", b"{}\n", data[:-1], head + b"\n", data.replace(b"17", b"18"), data + b'"x"\n', body):
        folder.first_format.write_bytes(damaged)
        with pytest.raises(UserError, match=r"images.jsonl, the list of images of this run, was damaged or edited"):
            folder.read_images()
    folder.first_format.unlink()
    folder.first_format.mkdir()
    with pytest.raises(UserError, match=r"images.jsonl cannot be read: Is a directory. Put it back from a copy"):
        folder.read_images()


def test_damaged_images_are_refused(folder: RunFolder) -> None:
    with pytest.raises(UserError, match=r"images, the list of images of this run, cannot be read: No such file or dir"):
        folder.read_images()
    folder.write_images(index_of(IDS), found=len(IDS), left_out=0)
    for path in sorted(folder.images.iterdir()):
        data = path.read_bytes()
        flipped = bytes([data[0] ^ 1]) + data[1:]
        others = (b"7", b"{}", data[:-3]) if path.name == "index.json" else (flipped, data[:-1])
        for damaged in (b"", data + b"x", *others):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=r"the list of images of this run, was damaged or edited. Put it back"):
                folder.read_images()
        path.write_bytes(data)
    assert list(folder.read_images().ids) == IDS
    about = folder.images / "index.json"
    about.write_text(about.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(UserError, match=r"has format version 3, and this version of contextae reads 2. Resume"):
        folder.read_images()


def test_images_are_replaced_whole_or_not_at_all(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_images(index_of(IDS), found=len(IDS), left_out=0)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=r"images cannot be written: No space left on device. Choose another"):
            folder.write_images(index_of(["other"]), found=1, left_out=0)
    assert list(folder.read_images().ids) == IDS
    assert list(folder.path.glob(".writing-*")) == []


def quarantined(name: str, epoch: int = 0) -> dict[str, object]:
    return {"sample_id": name, "reason": f"why {name}", "epoch": epoch}


def test_what_was_set_aside_is_listed(folder: RunFolder) -> None:
    assert folder.read_quarantine() == []
    for epoch, name in enumerate(IDS):
        folder.add_quarantine(quarantined(name, epoch))
    assert folder.read_quarantine() == [quarantined(name, epoch) for epoch, name in enumerate(IDS)]


def test_what_was_left_out_before_the_start_stays_in_the_quarantine(folder: RunFolder) -> None:
    folder.write_left_out([])
    assert not folder.quarantine.exists()
    folder.write_left_out([("notes.txt", "not an image"), ("cut.png", "truncated file")])
    folder.add_quarantine(quarantined("a"))
    folder.add_quarantine({"sample_id": "b", "reason": "of a checkpoint, whose epoch is not known"})
    before = [
        {"sample_id": name, "reason": why, "epoch": None}
        for name, why in (("notes.txt", "not an image"), ("cut.png", "truncated file"))
    ]
    assert folder.left_out() == before
    folder.restore_quarantine({})
    assert folder.read_quarantine() == before


def test_what_other_processes_set_aside_is_added_once_and_said(folder: RunFolder) -> None:
    said: list[str] = []
    folder.say = said.append
    folder.add_quarantine(quarantined("a"))
    for _ in range(2):
        folder.complete_quarantine({"a": "why a", "b": "why b"})
    assert folder.read_quarantine() == [quarantined("a"), {"sample_id": "b", "reason": "why b"}]
    assert said == ["Set aside by another process: b: why b"]


def test_the_quarantine_goes_back_to_that_of_the_checkpoint(folder: RunFolder) -> None:
    for name in ("a", "b", "a", "c"):
        folder.add_quarantine(quarantined(name, 3))
    folder.restore_quarantine({"a": "why a", "lost": "its line was lost"})
    assert folder.read_quarantine() == [quarantined("a", 3), {"sample_id": "lost", "reason": "its line was lost"}]
    folder.restore_quarantine({})
    assert folder.read_quarantine() == []


def test_a_full_disk_costs_a_line_of_the_quarantine_and_is_said(disk) -> None:
    said: list[str] = []
    folder = RunFolder(disk.path / "run", say=said.append)
    folder.start(resume=False)
    folder.add_quarantine(quarantined("a"))
    filler = disk.fill()
    folder.add_quarantine(quarantined("b" * 5000))
    assert said == [f"{folder.quarantine} cannot be written: No space left on device. It lacks '{'b' * 5000}'."]
    with pytest.raises(UserError, match=r"quarantine.jsonl cannot be written: No space left on device. Choose another"):
        folder.restore_quarantine({"a": "why a", "c": "c" * 5000})
    filler.unlink()
    folder.add_quarantine(quarantined("c"))
    assert folder.read_quarantine() == [quarantined("a"), quarantined("c")]
    folder.release()


def test_a_start_on_a_full_disk_holds_its_lock(disk) -> None:
    path = disk.path / "run"
    path.mkdir()
    (path / "lock").touch()
    disk.fill()
    folder = RunFolder(path)
    folder.start(resume=False)
    with pytest.raises(UserError, match="One process writes to a run at a time"):
        RunFolder(path).start(resume=True)
    folder.release()
