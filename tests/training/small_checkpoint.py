"""Checkpoints of a few numbers, all of which are the step, so that a mixture of two would show."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from contextae.training.checkpoint import Checkpoints, Saved
from contextae.training.log import Log
from contextae.training.stored import stored_steps

HIDDEN = ".*"  # the names of everything that is not complete


def content(step: int, numbers: int = 35) -> dict[str, Any]:
    """What `Checkpoints.save` wants; `numbers` float32 in the largest tensor."""
    return {
        "weights": {"encoder.weight": torch.full((numbers,), float(step)), "decoder.bias": torch.full((7,), step)},
        "optimizer": {"exp_avg/encoder.weight": torch.full((numbers,), -float(step))},
        "state": {"step": step, "loaders": [{"quarantine": {"a\udcff\n.png": "no image"}, "reads": step}]},
        "metadata": {"experiment": f'{{"step": {step}}}'},
    }


def save(checkpoints: Checkpoints, *steps: int, score: float | None = None, numbers: int = 35) -> Path | None:
    """Saves each step; what the last one returned."""
    path = None
    for step in steps:
        path = checkpoints.save(step, **content(step, numbers), score=score)
    return path


def kept(checkpoints: Checkpoints) -> list[int]:
    """The steps there are."""
    return list(stored_steps(checkpoints.folder))


def break_weights(checkpoints: Checkpoints, step: int) -> Path:
    """Flips the last bit of a checkpoint's weights."""
    path = checkpoints.folder / f"step-{step:08d}" / "weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path.parent


def assert_of_one_step(saved: Saved, step: int, numbers: int = 35) -> None:
    """Every part is that step's, to the last number."""
    wanted = content(step, numbers)
    assert saved.step == step
    assert saved.state == wanted["state"]
    assert saved.metadata["experiment"] == wanted["metadata"]["experiment"]
    for found, tensors in ((saved.weights, wanted["weights"]), (saved.optimizer, wanted["optimizer"])):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


# in processes of their own, which have torch imported already when they are forked

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["__main__", "contextae.training.checkpoint", "small_checkpoint"])


def save_for_ever(folder: Path, report: Connection, numbers: int) -> None:
    """Saves step after step, and reports each one after `save` came back."""
    torch.set_num_threads(1)
    checkpoints = Checkpoints(folder, keep=2, say=lambda _: None)
    saved = checkpoints.latest()
    step = saved.step if saved else 0
    while True:
        step += 1
        if save(checkpoints, step, numbers=numbers):
            report.send(step)


def save_and_die(folder: Path, steps: list[int], moment: int) -> None:
    """Saves, the last step only up to its system call number `moment`, before which the process kills itself."""
    checkpoints = Checkpoints(folder, keep=2, say=lambda _: None)
    save(checkpoints, *steps[:-1])
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    names = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
    sys.addaudithook(lambda event, _: count() if event in names else None)
    for name in ("fsync", "write"):
        setattr(os, name, _counted(getattr(os, name), count))
    save(checkpoints, steps[-1])


def _counted(call: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    def counted(*given: Any) -> Any:
        count()
        return call(*given)

    return counted


def save_with_limit(folder: Path, largest: int, report: Connection) -> None:
    """Saves small, large, small again where no file may grow beyond `largest` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    said: list[str] = []
    checkpoints = Checkpoints(folder, say=said.append)
    results = [save(checkpoints, step, numbers=n) is not None for step, n in ((1, 10), (2, largest), (3, 10))]
    report.send((results, said))


def log_for_ever(path: Path, first: int, report: Connection) -> None:
    """Logs step after step, and reports that it began."""
    with Log(path, first=first) as log:
        step = first
        while True:
            step += 1
            log.write("step", {"step": step, "words": "a" * (step % 50) * 100})
            if step == first + 1:
                report.send(step)
