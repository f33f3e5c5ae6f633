"""Shapes are checked at run time, one thread per process, and real data is found beside the project or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
SHARED_DATA = Path(os.environ.get("CONTEXTAE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()

CHECKED = ("grid", "positions", "masking", "blocks", "encoder", "regressor", "decoder", "alignment", "targets", "hog")
install_import_hook(
    [f"contextae.{name}" for name in (*CHECKED, "methods", "tokenizers", "evaluation", "training")], "beartype.beartype"
)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests leave nothing in the cache of whoever runs them; processes that they start take it over."""
    os.environ["CONTEXTAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; a test that needs it skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real images at {SHARED_DATA}; set CONTEXTAE_DATA to their folder")
    return SHARED_DATA
