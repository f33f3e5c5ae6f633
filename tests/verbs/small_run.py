"""Settings of a very small network, and images to train it on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SMALL = [
    "data.image_size=[16, 12]",
    "encoder.patch_size=[4, 4]",
    "encoder.width=16",
    "encoder.depth=1",
    "encoder.num_heads=2",
    "method.regressor_depth=1",
    "method.decoder_depth=1",
    "training.batch_size=8",
    "training.epochs=2",
    "training.warmup_epochs=0.5",
    "training.workers=0",
    "training.log_steps=1",
    "training.precision=float32",
    "health.images=16",
]


def paint(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> None:
    """An image of its own: colour ramps with a rectangle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([(rows * a + columns * b + c) % 256 for a, b, c in rng.integers(1, 40, (3, 3))], axis=-1)
    top, left = rng.integers(0, 10, 2)
    pixels[top : top + 6, left : left + 5] = rng.integers(0, 256, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def interrupt(monkeypatch: pytest.MonkeyPatch, method: Any, step: int) -> None:
    """Ctrl-C after the step of this number, counted from 1, of the next training of a method of this class."""
    whole, done = method.after_step, []

    def after_step(self: Any, progress: float) -> None:
        whole(self, progress)
        done.append(progress)
        if len(done) == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(method, "after_step", after_step)
