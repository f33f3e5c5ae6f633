"""A small folder of photographs and a small network, for whole runs of the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL, paint
from starts import DEEP, FAST

from contextae.verbs.pretrain import run_pretrain


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """40 images in two folders, which are classes too."""
    for i in range(40):
        paint(tmp_path / "photographs" / ("cats" if i % 2 else "dogs") / f"{i:02d}.png", i)
    return tmp_path / "photographs"


@pytest.fixture
def pretrain(tmp_path: Path) -> Callable[..., int]:
    """`run_pretrain` with everything but what a test is about."""

    def run(data: Path | str | None, out: Path | None = None, *settings: str, **options: Any) -> int:
        given: dict[str, Any] = {
            "preset": None,
            "config": None,
            "resume": False,
            "labelled": None,
            "tensorboard": False,
        }
        return run_pretrain(
            data=None if data is None else str(data),
            out=out or tmp_path / "run",
            settings=[*SMALL, *settings] if options.get("config") is None and data is not None else list(settings),
            **{**given, **options},
        )

    return run


@pytest.fixture
def source(pretrain: Callable[..., int], photographs: Path, tmp_path: Path) -> Path:
    """A run to start from."""
    assert pretrain(photographs, tmp_path / "source", DEEP, *FAST) == 0
    return tmp_path / "source"
