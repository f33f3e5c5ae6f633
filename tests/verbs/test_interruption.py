"""Runs that end before their end: killed, Ctrl-C, SIGTERM. A resumed run is bit for bit the uninterrupted one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import SMALL

from contextae.training.log import read_lines
from contextae.training.weights import load_weights

EPOCHS = 24  # of 40 images, 8 a step: 120 steps, so that no kill comes too late
Run = Callable[..., int]


def start(photographs: Path, run: Path, *settings: str, resume: bool = False) -> subprocess.Popen[str]:
    """The command in a process of its own, saving after every step."""
    given = [*SMALL, f"training.epochs={EPOCHS}", "training.save_minutes=1e-6", *settings]
    options = [part for setting in given for part in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "contextae", "pretrain", str(photographs), "--out", str(run), *options]
        + (["--resume"] if resume else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},  # a killed process loses its buffer
        start_new_session=True,
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of that step or a later one stands there whole."""
    for _ in range(1200):
        if any(int(path.name[5:]) >= step for path in (run / "checkpoints").glob("step-*")):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("no checkpoint within a minute")


def gone_on_at(said: str) -> int:
    """The step that a resume says it goes on at; 0 where it started anew."""
    found = re.search(r"going on at step ([\d,]+)", said)
    return int(found[1].replace(",", "")) if found else 0


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [
        (line["step"], line["loss"], line["lr"]) for line in read_lines(run / "log.jsonl") if line["kind"] == "step"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_and_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    pretrain: Run, photographs: Path, tmp_path: Path, workers: int
) -> None:
    (photographs / "cut.png").write_bytes((photographs / "cats" / "01.png").read_bytes()[:-60])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert pretrain(photographs, whole, f"training.epochs={EPOCHS}") == 0
    before = 0
    for step in (7, 23):
        process = start(photographs, killed, f"training.workers={workers}", resume=step != 7)
        wait_for_step(killed, step, process)
        os.kill(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        assert gone_on_at(said) >= before, said
        before = step
    process = start(photographs, killed, f"training.workers={3 - workers}", resume=True)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and before <= gone_on_at(said) < 5 * EPOCHS, said
    expected, found = load_weights(whole)[0], load_weights(killed)[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses(killed) == losses(whole)
    quarantines = [(run / "quarantine.jsonl").read_text() for run in (whole, killed)]
    assert quarantines[0] == quarantines[1] != ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    photographs: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "a run"
    process = start(photographs, run, "training.epochs=4000", "training.workers=2")
    wait_for_step(run, 3, process)
    os.killpg(process.pid, number)  # as a terminal does: the loader processes get it too
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert f"contextae pretrain --out '{run}' --resume" in said and "Traceback" not in said
    steps = sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir())
    assert max(step for step, *_ in losses(run)) == steps[-1]


@pytest.mark.slow
def test_a_second_process_on_one_run_folder_is_refused(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(photographs, run, "training.epochs=4000")
    wait_for_step(run, 2, first)
    second = start(photographs, run, "training.epochs=4000", resume=True)
    said, _ = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "One process writes to a run at a time" in said
