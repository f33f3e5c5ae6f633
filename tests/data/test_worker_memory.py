"""What loader processes have to themselves does not grow from epoch to epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from contextae.data.augment import Crop
from contextae.data.loader import Loader
from contextae.data.sampler import Sampler
from contextae.data.sources.open import index_of
from contextae.data.sources.packed import list_packed
from contextae.methods.views import PlainViews
from data.packs import opened, packed
from data.pictures import encoded

COUNT, BATCH, EPOCHS = 48, 16, 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for i in range(COUNT):
        (folder / f"{i}.jpg").write_bytes(encoded(i, "JPEG", size=(150 + i, 200), quality=90))
    return folder


def own_bytes(pid: int) -> int:
    """RssAnon of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as lines:
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


@pytest.mark.parametrize("kind", ["originals", "jpeg", "raw"])
def test_ten_epochs_take_no_more_memory_than_two(source: Path, tmp_path: Path, kind: str) -> None:
    """A decoded image has 120 kB: one kept in fifty would be seen."""
    if kind == "originals":
        index = opened(str(source))
    else:
        packed(source, tmp_path / "c", kind=kind, short_side=128)
        index = index_of(list_packed(tmp_path / "c", "c"), "auto", None)
    sampler = Sampler(length=COUNT, batch_size=BATCH, seed=0)
    views = PlainViews(crop=Crop(size=(96, 112)))
    after: list[int] = []
    with Loader(index=index, sampler=sampler, views=views, seed=0, num_workers=1) as loader:
        for number, _ in enumerate(loader.batches(0, sampler.steps(EPOCHS)), start=1):
            if number % (COUNT // BATCH) == 0:
                assert loader.pool and loader.pool.processes[0]
                after.append(own_bytes(loader.pool.processes[0].popen.pid))
        assert loader.pool and not loader.pool.restarts
    assert len(after) == EPOCHS
    assert min(after[-3:]) - max(after[1:4]) < 1_000_000  # it goes up and down by the largest images at hand
