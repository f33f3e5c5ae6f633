"""Runs whose crops are resized on the device instead of by loader processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import interrupt

from contextae.methods.cae import CAE
from contextae.training.log import read_lines
from contextae.training.weights import load_weights

Run = Callable[..., int]
DEVICE = "crop.where=device"


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run / "log.jsonl") if line["kind"] == "step"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Of several sizes and one kind: smooth, so that what is rounded otherwise weighs little."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(24):
        rows, columns = np.mgrid[: 20 + 3 * (i % 5), : 16 + 5 * (i % 3)]
        pixels = np.stack([(rows * (3 + i % 4) + columns * 5 + 40 * c) % 200 for c in range(3)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_a_run_with_crops_on_the_device_is_the_run_with_those_of_workers_but_for_rounding(
    pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    assert pretrain(photographs, tmp_path / "workers") == 0
    assert pretrain(photographs, tmp_path / "device", DEVICE, "training.workers=2") == 0
    one, other = losses(tmp_path / "workers"), losses(tmp_path / "device")
    assert len(one) == len(other) == 6 and one != other
    np.testing.assert_allclose(other, one, rtol=0.01)


def test_a_resumed_run_with_crops_on_the_device_is_bit_for_bit_the_uninterrupted_one(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(photographs, tmp_path / "whole", DEVICE) == 0
    interrupt(monkeypatch, CAE, 2)
    assert pretrain(photographs, tmp_path / "stopped", DEVICE) == 130
    monkeypatch.undo()
    assert pretrain(None, tmp_path / "stopped", "training.workers=2", resume=True) == 0
    expected, found = (load_weights(tmp_path / name)[0] for name in ("whole", "stopped"))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
