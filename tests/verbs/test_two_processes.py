"""`contextae pretrain` as the README starts it under torchrun: two processes, gloo, a folder with broken images."""

from __future__ import annotations

import os
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

Run = Callable[..., int]
START = ("--standalone", "--nproc-per-node", "2", "-m", "contextae")
BAD = ("cats/01.png", "cats/03.png", "dogs/00.png")


def torchrun(run: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *START, "pretrain", "--out", str(run), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},  # two on one GPU are refused
    )


def given(*settings: str) -> list[str]:
    return [part for setting in (*SMALL, *settings) for part in ("--set", setting)]


@pytest.mark.slow
def test_two_processes_train_as_one_list_every_broken_image_and_refuse_once(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    for name in BAD:
        path = photographs / name
        path.write_bytes(path.read_bytes()[:-40])
    settings = ["training.epochs=2", "data.max_bad_share=0.5", "encoder.drop_path=0.1"]
    assert pretrain(photographs, tmp_path / "one", *settings) == 0

    together = tmp_path / "two"
    said, _ = (process := torchrun(together, str(photographs), *given(*settings))).communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count("found 40 = used 37 + left out 0 + quarantined 3") == 1
    lines = read_lines(together / "quarantine.jsonl")
    assert sorted(line["sample_id"] for line in lines) == sorted(BAD)
    one, two = (load_weights(path)[0] for path in (tmp_path / "one", together))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)

    said, _ = (process := torchrun(together, str(photographs))).communicate(timeout=300)
    assert process.returncode != 0 and said.count("holds a run already") == 1, said
    assert "defect of contextae" not in said


@pytest.mark.slow
def test_two_processes_stop_saved_and_go_on(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun(run, str(photographs), *given("training.epochs=60", "health.every_epochs=1000"))
    for _ in range(1200):
        if len(read_lines(run / "log.jsonl")) > 5:
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    said, _ = process.communicate(timeout=120)
    assert said.count("Stopped by SIGTERM after a whole step, saved as") == 1, said
    (path,) = (run / "checkpoints").glob("step-*")
    step = int(path.name[5:])
    said, _ = (process := torchrun(run, "--resume", "--set", "training.log_steps=50")).communicate(timeout=300)
    assert process.returncode == 0 and f"going on at step {step:,}" in said, said
