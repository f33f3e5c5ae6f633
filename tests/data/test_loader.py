from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_index import VIEWS, name, reads, same, small_index

from contextae.data.loader import LoadedBatch, Loader, Quarantined, allowed
from contextae.data.sampler import Sampler
from contextae.errors import UserError
from contextae.methods.views import MaskedView

COUNT, BATCH = 23, 5
TROUBLE = {3: "bad", 11: "missing", 18: "bad"}


def loader(
    num_workers: int = 0,
    *,
    count: int = COUNT,
    trouble: dict[int, str] | None = None,
    batch: int = BATCH,
    **others: Any,
) -> Loader:
    settings: dict[str, Any] = {
        "index": small_index(count, trouble, others.pop("folder", None)),
        "sampler": Sampler(length=count, batch_size=batch, seed=2),
        "views": VIEWS,
        "seed": 2,
        "num_workers": num_workers,
    }
    return Loader(**settings | others)


def equal(ones: list[LoadedBatch], others: list[LoadedBatch]) -> bool:
    """But for the time they took."""
    return len(ones) == len(others) and all(
        (a.step, a.epoch, a.sample_ids) == (b.step, b.epoch, b.sample_ids) and same(a.batch, b.batch)
        for a, b in zip(ones, others, strict=True)
    )


def slowly(image: np.ndarray, rng: random.Random) -> MaskedView:
    time.sleep(0.04)
    return VIEWS(image, rng)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(num_workers: int) -> None:
    told: dict[int, list[Quarantined]] = {0: [], num_workers: []}
    made = {}
    for workers, heard in told.items():
        with loader(workers, trouble=TROUBLE, on_quarantine=heard.append) as each:
            made[workers] = list(each.batches(0, 17))
    assert equal(made[0], made[num_workers])
    assert told[0] == told[num_workers] and len(told[0]) == 3
    assert [batch.step for batch in made[0]] == list(range(17))


@pytest.mark.parametrize(("num_workers", "first"), [(0, 1), (0, 7), (2, 4)])
def test_a_start_at_any_step_goes_on_as_if_there_had_been_no_stop(num_workers: int, first: int) -> None:
    with loader() as whole, loader(num_workers) as part:
        assert equal(list(whole.batches(0, 12))[first:], list(part.batches(first, 12)))


def test_a_batch_is_that_of_the_sampler_under_its_epoch() -> None:
    with loader() as each:
        batches = list(each.batches(0, 10))
    for batch in batches:
        wanted = each.sampler.batch(batch.step)
        assert batch.sample_ids == [name(position) for _, position in wanted]
        assert batch.epoch == wanted[0][0]
        assert type(batch.batch) is MaskedView and batch.batch.images.shape == (BATCH, 3, 10, 14)
    assert batches[4].epoch == 0 and batches[5].epoch == 1  # step 4 crosses the epochs, at 23 of 25


def test_ranks_share_the_batches_of_one_process() -> None:
    common = {"length": COUNT, "batch_size": 6, "seed": 2}
    with loader(sampler=Sampler(**common)) as whole:
        batches = list(whole.batches(0, 8))
    for rank in range(2):
        with loader(sampler=Sampler(**common, rank=rank, world_size=2)) as half:
            for batch, part in zip(batches, half.batches(0, 8), strict=True):
                assert part.sample_ids == batch.sample_ids[rank::2]
                assert np.array_equal(part.batch.images, batch.batch.images[rank::2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_larger_than_the_set_and_no_batch_at_all(num_workers: int) -> None:
    with loader(num_workers, count=3, batch=13) as each:
        assert list(each.batches(4, 4)) == []
        (batch,) = each.batches(0, 1)
    assert sorted(batch.sample_ids[:3]) == sorted(name(i) for i in range(3)) and len(batch.sample_ids) == 13


def test_bad_images_change_nothing_but_their_own_places() -> None:
    with loader() as good, loader(trouble=TROUBLE) as bad:
        for a, b in zip(good.batches(0, 14), bad.batches(0, 14), strict=True):
            for i, (one, other) in enumerate(zip(a.sample_ids, b.sample_ids, strict=True)):
                if one in {name(position) for position in TROUBLE}:
                    assert other not in {name(position) for position in TROUBLE}
                else:
                    assert one == other
                    assert np.array_equal(a.batch.images[i], b.batch.images[i])
                    assert np.array_equal(a.batch.mask.masked[i], b.batch.mask.masked[i])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_is_told_once_when_the_batch_that_met_it_is_delivered(num_workers: int) -> None:
    told: list[Quarantined] = []
    places = [place for step in range(10) for place in Sampler(length=COUNT, batch_size=BATCH, seed=2).batch(step)]
    met = {name(i): next(at for at, (_, p) in enumerate(places) if p == i) // BATCH for i in TROUBLE}
    with loader(num_workers, trouble=TROUBLE, on_quarantine=told.append) as each:
        for batch in each.batches(0, 10):
            # a replacement may meet another bad one earlier than its own turn comes
            assert {name for name, step in met.items() if step <= batch.step} <= {bad.sample_id for bad in told}
            if batch.step < min(met.values()):
                assert told == []
            time.sleep(0.05 if num_workers else 0)  # the workers are far ahead
    assert sorted(bad.sample_id for bad in told) == sorted(met)
    assert {bad.sample_id: bad.reason for bad in told} == each.quarantine
    assert each.quarantine[name(11)] == "cannot be read (No such file or directory)"


def test_the_epoch_of_a_bad_image_is_the_one_it_was_met_in_where_a_batch_crosses_two() -> None:
    places = Sampler(length=COUNT, batch_size=BATCH, seed=2).batch(4)
    assert [epoch for epoch, _ in places] == [0, 0, 0, 1, 1]
    late = places[4][1]
    assert late not in [position for _, position in places[:4]]
    told: list[Quarantined] = []
    with loader(trouble={late: "bad"}, on_quarantine=told.append) as each:
        (batch,) = each.batches(4, 5)
    assert batch.epoch == 0
    assert told == [Quarantined(name(late), "damaged pixels", 1)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_state_is_that_of_the_last_delivered_batch(num_workers: int) -> None:
    with loader(trouble=TROUBLE) as one:
        states = [json.loads(json.dumps(one.state())) for _ in one.batches(0, 10)]
    with loader(num_workers, trouble=TROUBLE) as other:
        for state, _ in zip(states, other.batches(0, 10), strict=True):
            assert other.state() == state
            time.sleep(0.02 if num_workers else 0)
    assert states[-1] == {"quarantine": one.quarantine, "reads": 50}
    assert states[0]["reads"] == BATCH and len(states[-1]["quarantine"]) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_repeats_the_uninterrupted_one_even_where_a_file_has_been_mended(
    num_workers: int, tmp_path: Path
) -> None:
    with loader(trouble=TROUBLE) as whole:
        states, batches = zip(*((whole.state(), batch) for batch in whole.batches(0, 20)), strict=True)
    stop = 11
    assert len(states[stop - 1]["quarantine"]) == 3
    told: list[Quarantined] = []
    with loader(num_workers, folder=tmp_path, on_quarantine=told.append) as mended:  # no trouble any more
        saved = json.loads(json.dumps(states[stop - 1]))
        mended.restore(saved["quarantine"], reads=saved["reads"])
        assert equal(list(mended.batches(stop, 20)), list(batches[stop:]))
        assert mended.state() == whole.state()
    assert told == []
    assert not {name(i) for i in TROUBLE} & set(reads(tmp_path))


def test_an_image_that_was_bad_once_stays_aside_also_in_batches_that_were_under_way(tmp_path: Path) -> None:
    made = []
    for num_workers in (0, 1):
        folder = tmp_path / str(num_workers)
        folder.mkdir()
        with loader(num_workers, count=7, trouble={4: "bad at first"}, folder=folder, prefetch=6) as each:
            batches = []
            for batch in each.batches(0, 12):
                time.sleep(0.03)
                batches.append(batch)
        assert each.quarantine == {name(4): "damaged pixels"}
        assert not any(name(4) in batch.sample_ids for batch in batches)
        made.append(batches)
    assert equal(*made)
    assert reads(tmp_path / "1").count(name(4)) > 1  # the worker had gone on reading it


def test_one_bad_image_of_thirty_stops_nothing_and_five_of_them_neither() -> None:
    for bad in (1, 5):
        with loader(count=30, trouble=dict.fromkeys(range(bad), "bad")) as each:
            assert len(list(each.batches(0, 20))) == 20
            assert len(each.quarantine) == bad


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_images_stop_a_run_with_counts_reasons_and_advice(num_workers: int) -> None:
    with (
        loader(num_workers, count=30, trouble={i: "missing" if i % 2 else "bad" for i in range(6)}) as each,
        pytest.raises(UserError) as caught,
    ):
        list(each.batches(0, 20))
    said = str(caught.value)
    first = list(each.quarantine.items())[:3]
    assert said.startswith("Too many images cannot be used: 6 of the ")
    assert "asked for so far, and a run stops where clearly more than 5 % are. The first:" in said
    assert all(f"\n  - {one}: {why}" in said for one, why in first) and said.count("\n  - ") == 3
    assert said.endswith("\nMend them, or allow more with --set data.max_bad_share=SHARE, also beside --resume.")


def test_the_share_is_of_all_images_and_none_is_counted_twice() -> None:
    trouble = dict.fromkeys(range(0, 400, 15), "bad")  # 27, 6.75 %
    with loader(count=400, batch=20, trouble=trouble, max_bad_share=0.07) as each:
        assert len(list(each.batches(0, 60))) == 60  # though 9 of the first 120 are bad, and 1200 were read
        assert len(each.quarantine) == 27
    with (
        loader(count=400, batch=20, trouble=trouble, max_bad_share=0.06) as each,
        pytest.raises(UserError, match="27 of the 400"),
    ):
        list(each.batches(0, 60))
    assert 0.06 * 400 < len(each.quarantine) <= 27


def test_the_margin_for_chance_goes_to_nothing_as_the_data_are_read() -> None:
    assert allowed(10, 30, 0.05) == allowed(30, 30, 0.05) == 5
    assert allowed(400, 400, 0.05) == pytest.approx(20)
    assert allowed(10_000, 10_000, 0.05) == pytest.approx(500)
    assert allowed(100, 10**6, 0.05) == pytest.approx(5 + 3 * 2.179, abs=0.01)
    assert allowed(100, 200, 1.0) == 100
    limits = [allowed(read, 1000, 0.05) - 0.05 * read for read in (200, 500, 900, 1000)]
    assert limits[1] > limits[0] > limits[2] > limits[3] == 0


def test_a_set_within_its_limit_is_hardly_ever_stopped_by_chance_and_a_bad_one_soon() -> None:
    def stops(bad_share: float, seed: int) -> int | None:
        bad = np.random.default_rng(seed).permutation(4000) < bad_share * 4000
        found = bad.cumsum()
        return next((n for n in range(32, 4001, 32) if found[n - 1] > allowed(n, 4000, 0.05)), None)

    assert sum(stops(0.04, seed) is not None for seed in range(300)) <= 3
    late = [stops(0.15, seed) for seed in range(300)]
    assert all(n is not None and n <= 800 for n in late)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_set_of_which_nothing_can_be_read_says_why(num_workers: int) -> None:
    with (
        loader(num_workers, count=4, trouble=dict.fromkeys(range(4), "missing"), max_bad_share=1.0) as each,
        pytest.raises(UserError, match=r"(?s)4 of the 4 .*none of 100 replacements.*\(No such file or directory\)"),
    ):
        list(each.batches(0, 2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_the_user_has_to_mend_is_said_in_those_words(num_workers: int) -> None:
    with loader(num_workers, trouble={5: "user"}) as each, pytest.raises(UserError, match=r"^The file has changed\."):
        list(each.batches(0, 5))


def test_the_time_waited_is_the_consumers() -> None:
    needed = 0.04 * BATCH
    with loader(views=slowly) as each:
        assert [batch.waited_seconds > needed for batch in each.batches(0, 1)] == [True]
    with loader(1, views=slowly) as each:
        waited = []
        for batch in each.batches(0, 3):
            waited.append(batch.waited_seconds)
            time.sleep(3 * needed)
    assert waited[0] > needed > waited[2]


@pytest.mark.parametrize(("prefetch", "ahead"), [(None, 3), (1, 1), (5, 5)])
def test_no_more_batches_are_made_ahead_than_wanted(prefetch: int | None, ahead: int, tmp_path: Path) -> None:
    with loader(1, folder=tmp_path, prefetch=prefetch) as each:
        batches = each.batches(0, 20)
        for delivered in (1, 2):
            next(batches)
            enough = BATCH * (delivered + ahead)
            patience = time.monotonic() + 20
            while len(reads(tmp_path)) < enough and time.monotonic() < patience:
                time.sleep(0.02)
            time.sleep(0.2)
            assert len(reads(tmp_path)) == enough


def test_an_iterator_that_is_left_ends_its_workers() -> None:
    each = loader(2)
    iterator: Iterator[LoadedBatch] = each.batches(0, 20)
    next(iterator)
    assert each.pool
    pids = [process.popen.pid for process in each.pool.processes if process]
    iterator.close()  # as at the end of a `for` that was left by `return`
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_loader_may_be_asked_again_and_the_iterator_before_is_then_over() -> None:
    with loader(1) as each:
        before = each.batches(0, 20)
        next(before)
        assert [batch.step for batch in each.batches(6, 8)] == [6, 7]
        with pytest.raises(RuntimeError, match="The loader was closed while batches were still asked for"):
            list(before)
