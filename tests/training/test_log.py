"""Every line whole, strict JSON and logged once, whatever ended the run before; TensorBoard gets the same numbers."""

from __future__ import annotations

import builtins
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import SERVER, log_for_ever

from contextae.errors import UserError
from contextae.training.json_lines import JsonLines
from contextae.training.log import Log, read_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    with Log(path) as log:
        yield log


def steps(path: Path) -> list[int]:
    return [line["step"] for line in read_lines(path)]


def strict(text: str) -> Any:
    """As other programs' readers are: Python's own takes NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_a_line_holds_kind_time_and_fields(log: Log, path: Path) -> None:
    before = time.time()
    log.write("step", {"step": 3, "loss": 0.1, "parts": {"alignment": 0.25}, "name": "a\n\udcff"})
    (line,) = read_lines(path)  # while the log is open: every line is out at once
    assert list(line) == ["kind", "time", "step", "loss", "parts", "name"]
    assert before - 1 < line.pop("time") < time.time() + 1
    assert line == {"kind": "step", "step": 3, "loss": 0.1, "parts": {"alignment": 0.25}, "name": "a\n\udcff"}
    assert path.read_bytes().count(b"\n") == 1


def test_a_number_that_is_none_is_null_and_named(log: Log, path: Path) -> None:
    fields = {"step": 1, "loss": math.nan, "lr": 0.5, "parts": {"a": math.inf, "b": [1.0, -math.inf]}}
    log.write("step", fields)
    line = strict(path.read_text())
    assert line["loss"] is None and line["parts"] == {"a": None, "b": [1.0, None]} and line["lr"] == 0.5
    assert line["not_finite"] == {"loss": "nan", "parts.a": "inf", "parts.b.1": "-inf"}
    assert fields["parts"]["a"] == math.inf  # the caller's own stays as it is


def test_quiet_writes_nothing(path: Path, tmp_path: Path) -> None:
    with Log(path, tensorboard=tmp_path / "tensorboard", quiet=True) as log:
        log.write("step", {"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_log_goes_on_after_the_step_of_the_checkpoint(path: Path) -> None:
    with Log(path) as log:
        for step in (1, 2, 3, 4):
            log.write("step", {"step": step})
        log.write("note", {"text": "of the time after step 4"})
    with Log(path, first=2) as log:
        assert steps(path) == [1, 2]
        log.write("note", {"text": "went on"})
        log.write("step", {"step": 3})
    with Log(path, first=3):
        pass
    assert [line.get("step") for line in read_lines(path)] == [1, 2, None, 3]
    with Log(path, first=0):
        assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "torn", [b"{", b'{"kind": "step", "st', b'{"kind": "step", "step": 4}', b"\xff\xfe", b"7\n", b"\0\0\n"]
)
def test_a_last_line_that_a_kill_tore_is_dropped(path: Path, torn: bytes) -> None:
    with Log(path) as log:
        for step in (1, 2):
            log.write("step", {"step": step})
    with path.open("ab") as file:
        file.write(torn)
    assert steps(path) == [1, 2]
    with Log(path, first=2) as log:
        log.write("step", {"step": 3})
    assert steps(path) == [1, 2, 3]


def test_a_file_of_one_torn_line_or_none(path: Path) -> None:
    assert read_lines(path) == []
    path.write_bytes(b'{"kind"')
    assert read_lines(path) == []
    with Log(path) as log:
        log.write("step", {"step": 1})
    assert steps(path) == [1]


def test_a_line_that_is_damaged_in_the_middle_is_refused_by_readers_and_stops_no_run(path: Path) -> None:
    path.write_bytes(b'{"step": 1}\nnonsense\n{"step": 2}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"one JSON object. Line 2 does not: b'nonsense'. .*take that line out"):
        read_lines(path)
    Log(path, first=2).close()
    assert path.read_bytes() == b'{"step": 1}\nnonsense\n{"step": 2}\n'


def test_kills_while_logging_tear_the_last_line_at_most(path: Path) -> None:
    rng = random.Random(0)
    first = 0
    for _ in range(8):
        receive, send = SERVER.Pipe(duplex=False)
        process = SERVER.Process(target=log_for_ever, args=(path, first, send))
        process.start()
        receive.recv()
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        found = steps(path)
        assert found == list(range(1, len(found) + 1))
        assert len(found) > first
        first = len(found) - rng.randrange(3)
    assert first > 8


def test_a_full_disk_stops_no_run_and_leaves_no_half_line(disk) -> None:
    said: list[str] = []
    path = disk.path / "log.jsonl"
    with Log(path, say=said.append) as log:
        log.write("step", {"step": 1})
        filler = disk.fill()
        step = 1
        while log.lost < 5:
            step += 1
            log.write("step", {"step": step, "words": "a" * 1000})
        assert said == [f"The log {path} takes no more lines: No space left on device. Training goes on without them."]
        assert path.read_bytes().endswith(b"}\n")
        filler.unlink()
        log.write("step", {"step": step + 1})
        log.write("step", {"step": step + 2})
    lines = read_lines(path)
    assert [line["step"] for line in lines] == [*range(1, step - 4), step + 1, step + 2]
    assert [line.get("lines_lost_before") for line in lines[-3:]] == [None, 5, None]


def test_a_line_is_written_whole_or_not_at_all_when_the_disk_takes_a_part(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = JsonLines(path)
    lines.append({"step": 1})
    write, taken = os.write, [5, 3]

    def part(handle: int, data: bytes) -> int:
        if not taken:
            raise OSError(28, "No space left on device")
        return write(handle, data[: taken.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", part)
        with pytest.raises(OSError, match="No space left"):
            lines.append({"step": 2})
        taken[:] = [4, 100]
        assert path.read_bytes() == b'{"step": 1}\n'
    lines.append({"step": 3})
    lines.close()
    lines.close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_a_log_that_cannot_be_opened_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match=r"The log .*log.jsonl cannot be written: Is a directory. Free space"):
        Log(tmp_path / "log.jsonl")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_tensorboard_gets_the_same_numbers_and_none_twice(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    with Log(tmp_path / "log.jsonl", tensorboard=folder) as log:
        for step in (1, 2, 3):
            log.write("step", {"step": step, "loss": step / 2, "good": True, "name": "a"})
        log.write("health", {"step": 3, "score": 7})
        log.write("note", {"text": "no step"})
    assert scalars(folder) == {"step/loss": [(1, 0.5), (2, 1.0), (3, 1.5)], "health/score": [(3, 7.0)]}
    with Log(tmp_path / "log.jsonl", tensorboard=folder, first=2) as log:
        log.write("step", {"step": 3, "loss": 4.0})
    assert scalars(folder)["step/loss"] == [(1, 0.5), (2, 1.0), (3, 4.0)]


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if "tensorboard" in name and not name.startswith("contextae"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'not installed.*pip install "contextae\[tensorboard\]", or leave them out'):
        Log(tmp_path / "log.jsonl", tensorboard=tmp_path / "tensorboard")


def test_another_writer_that_fails_is_left_out_and_said(tmp_path: Path) -> None:
    class Failing:
        calls = 0

        def write(self, step: int, values: dict[str, float]) -> None:
            self.calls += 1
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise AssertionError("it was left out")

    said: list[str] = []
    failing = Failing()
    with Log(tmp_path / "log.jsonl", say=said.append) as log:
        log.writers.append(failing)
        log.write("step", {"step": 1, "loss": 1.0})
        log.write("step", {"step": 2, "loss": 1.0})
    assert failing.calls == 1
    assert said == ["Failing cannot be written: No space left on device. Training goes on without it."]
    assert steps(tmp_path / "log.jsonl") == [1, 2]
