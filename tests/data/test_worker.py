"""Loader processes by themselves: what they import, which signals reach them, when they end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import looks
import pytest
from endings import gone
from small_index import WATCHED, modules, name, small_index

from contextae.data import process
from contextae.data.loader import Loader
from contextae.data.sampler import Sampler
from contextae.data.worker import Bound

HERE = Path(__file__).parent


def loader(num_workers: int = 1, **others: object) -> Loader:
    index = small_index(7)
    settings = {"index": index, "views": modules, "seed": 0, "num_workers": num_workers}
    return Loader(sampler=Sampler(length=7, batch_size=4, seed=0), **settings | others)


def process_of(each: Loader) -> subprocess.Popen[bytes]:
    assert each.pool and each.pool.processes[0]
    return each.pool.processes[0].popen


def test_a_worker_imports_neither_torch_nor_anything_else_that_is_slow() -> None:
    with loader() as each:
        (batch,) = each.batches(0, 1)
    assert dict(zip(WATCHED, batch.batch.present[0].tolist(), strict=True)) == {
        watched: watched == "contextae" for watched in WATCHED
    }


def test_memory_is_bounded_for_each_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of 30 MB, of which a batch has four, are below a bound of 50 MB; those of 60 MB are not."""
    monkeypatch.setattr(process, "MEMORY", 50_000_000)
    with loader(views=looks.large_view) as each:
        (batch,) = each.batches(0, 1)
    assert batch.batch.shape == (4, 30_000_000) and each.quarantine == {}
    index = small_index(7)
    odd = [name(i) for i in range(7) if looks.is_odd(index.source.read(name(i)))]
    assert 0 < len(odd) < 7
    with loader(views=looks.uneven_view) as each:
        list(each.batches(0, 3))
    assert each.quarantine == dict.fromkeys(odd, "not enough memory to decode it")


def test_a_bound_that_the_user_has_set_holds_on(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda which, values: limits.append((which, values)))
    bound = Bound(1 << 40)
    bound.set()
    bound.lift()
    os.close(bound.status)
    assert limits == [(resource.RLIMIT_DATA, (1000, 1000))] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_outlives_what_ends_a_training(number: signal.Signals) -> None:
    with loader(prefetch=1) as each:
        batches = each.batches(0, 4)
        next(batches)
        time.sleep(0.2)
        os.kill(process_of(each).pid, number)
        time.sleep(0.1)
        assert [batch.step for batch in batches] == [1, 2, 3]
        assert each.pool and each.pool.restarts == 0


TRAINING = """
import os, signal, sys, time
sys.path.insert(0, {here!r})
import numpy as np
from small_index import VIEWS, small_index
from contextae.data.loader import Loader
from contextae.data.sampler import Sampler

{body}
"""


def training(body: str) -> subprocess.Popen[str]:
    """A process group of its own, as a terminal or a batch system would start it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TRAINING.format(here=str(HERE), body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_reaches_no_worker_not_even_one_that_is_starting() -> None:
    process = training(
        """
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
sampler = Sampler(length=7, batch_size=4, seed=0)
trouble = dict.fromkeys(range(7), "slow")
with Loader(index=small_index(7, trouble), sampler=sampler, views=VIEWS, seed=0, num_workers=2) as loader:
    batches = loader.batches(0, 4)
    import threading
    threading.Thread(target=lambda: [time.sleep(0.05) or os.killpg(0, signal.SIGINT) for _ in range(20)]).start()
    steps = [batch.step for batch in batches]
    print(steps, len(caught) > 5, loader.pool.restarts)
"""
    )
    out, err = process.communicate(timeout=60)
    assert (out.strip(), err) == ("[0, 1, 2, 3] True 0", "")


@pytest.mark.parametrize("trouble", ["hang", "slow", ""])
def test_workers_end_with_a_training_that_is_killed(trouble: str) -> None:
    process = training(
        f"""
trouble = dict.fromkeys(range(4, 7), {trouble!r}) if {trouble!r} else {{}}
sampler = Sampler(length=7, batch_size=1, seed=0)
loader = Loader(index=small_index(7, trouble), sampler=sampler, views=VIEWS, seed=0, num_workers=2)
batches = loader.batches(0, 400)
next(batches)
time.sleep(0.5)
print(*[p.popen.pid for p in loader.pool.processes], flush=True)
time.sleep(60)
"""
    )
    assert process.stdout and process.stderr
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(Path(f"/proc/{pid}").exists() for pid in workers)
    process.kill()
    process.communicate()
    assert all(gone(pid) for pid in workers)


def test_an_interpreter_that_ends_without_closing_leaves_nothing_and_says_nothing() -> None:
    process = training(
        """
sampler = Sampler(length=7, batch_size=4, seed=0)
loader = Loader(index=small_index(7), sampler=sampler, views=VIEWS, seed=0, num_workers=2)
for batch in loader.batches(0, 50):
    if batch.step == 2:
        print(*[p.popen.pid for p in loader.pool.processes], flush=True)
        break
"""
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert all(gone(int(pid)) for pid in out.split()) and len(out.split()) == 2


def test_a_module_in_the_current_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    with loader() as each:
        assert len(list(each.batches(0, 1))) == 1
