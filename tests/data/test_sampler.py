from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from contextae.data.sampler import Sampler, Share
from contextae.errors import UserError
from contextae.randomness import Shuffle, permutation, stream


@given(length=st.integers(1, 40), batch_size=st.integers(1, 60), seed=st.integers(0, 5), epochs=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_every_epoch_visits_every_image_exactly_once(length: int, batch_size: int, seed: int, epochs: int) -> None:
    sampler = Sampler(length=length, batch_size=batch_size, seed=seed)
    images = [image for step in range(sampler.steps(epochs)) for image in sampler.batch(step)]
    assert [epoch for epoch, _ in images] == sorted(epoch for epoch, _ in images)
    for epoch in range(epochs):
        assert sorted(position for e, position in images if e == epoch) == list(range(length))
    assert epochs * length <= len(images) < epochs * length + batch_size
    assert all(len(sampler.batch(step)) == batch_size for step in range(sampler.steps(epochs)))


@given(length=st.integers(1, 40), each=st.integers(1, 9), world_size=st.integers(1, 5), step=st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_ranks_share_the_batch_of_one_process_in_its_order(length: int, each: int, world_size: int, step: int) -> None:
    common = {"length": length, "batch_size": each * world_size, "seed": 3}
    whole = Sampler(**common).batch(step)
    for rank in range(world_size):
        assert Sampler(**common, rank=rank, world_size=world_size).batch(step) == whole[rank::world_size]


def test_an_order_is_the_keyed_permutation_of_its_epoch() -> None:
    sampler = Sampler(length=7, batch_size=5, seed=11)
    laid = [(e, p) for e in range(5) for p in permutation(7, stream(11, "order", e))]
    assert [image for step in range(7) for image in sampler.batch(step)] == laid
    assert laid[:7] != sorted(laid[:7])
    assert Sampler(length=7, batch_size=5, seed=12).batch(0) != sampler.batch(0)


def test_steps_may_be_asked_for_in_any_order() -> None:
    ahead, back = Sampler(length=5, batch_size=13, seed=0), Sampler(length=5, batch_size=13, seed=0)
    forward = [ahead.batch(step) for step in range(9)]
    assert [back.batch(step) for step in reversed(range(9))] == forward[::-1]


def test_an_epochs_order_is_drawn_once_and_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def counted(length, *parts):
        drawn.append(length)
        return Shuffle(length, *parts)

    monkeypatch.setattr("contextae.data.sampler.Shuffle", counted)
    sampler = Sampler(length=30, batch_size=8, seed=0)
    for step in range(sampler.steps(4)):
        sampler.batch(step)
    assert drawn == [30] * 4
    assert list(sampler._orders) == [3]


def test_positions_are_plain_integers() -> None:
    assert all(type(part) is int for image in Sampler(length=5, batch_size=7, seed=0).batch(0) for part in image)


@pytest.mark.parametrize(("length", "batch_size", "steps"), [(10, 5, 6), (10, 4, 8), (3, 64, 1), (1, 1, 3)])
def test_steps_see_every_image_of_three_epochs(length: int, batch_size: int, steps: int) -> None:
    assert Sampler(length=length, batch_size=batch_size, seed=0).steps(3) == steps


@pytest.mark.parametrize(("length", "batch_size"), [(0, 4), (4, 0)])
def test_nothing_to_draw_from_is_the_users_to_mend(length: int, batch_size: int) -> None:
    with pytest.raises(UserError, match=f"at least one image.*Got {length} images and batch_size={batch_size}"):
        Sampler(length=length, batch_size=batch_size, seed=0)


def test_processes_that_do_not_share_a_batch_evenly_are_refused() -> None:
    with pytest.raises(UserError, match=r"their number must divide it\. Got 10 images for 4 processes"):
        Sampler(length=100, batch_size=10, seed=0, world_size=4)


SHARES = (Share(7, 14), Share(40, 10), Share(12, 12))  # weights 2, 1/4 and 1


def seen(sampler: Sampler, steps: int) -> list[tuple[int, int]]:
    return [image for step in range(steps) for image in sampler.batch(step)]


def test_parts_come_as_often_as_their_weights_say() -> None:
    sampler = Sampler(length=59, batch_size=6, seed=3, shares=SHARES)
    assert sampler.epoch_length == 36 and sampler.steps(4) == 24
    for epoch in range(4):
        positions = [position for _, position in seen(sampler, 24)[36 * epoch : 36 * (epoch + 1)]]
        counts = Counter(0 if position < 7 else 1 if position < 47 else 2 for position in positions)
        assert counts == {0: 14, 1: 10, 2: 12}
        assert Counter(position for position in positions if position < 7) == dict.fromkeys(range(7), 2)
        assert Counter(position for position in positions if position >= 47) == dict.fromkeys(range(47, 59), 1)
    of_second = [position for _, position in seen(sampler, 24) if 7 <= position < 47]
    assert sorted(of_second) == list(range(7, 47)), "in four epochs a part of weight 1/4 is seen once"


def test_a_part_has_its_own_epochs_in_each_of_which_an_image_comes_once() -> None:
    """So that an image that comes twice in an epoch is cropped otherwise: its draws are keyed by the part's epoch."""
    images = seen(Sampler(length=59, batch_size=6, seed=3, shares=SHARES), 48)
    assert max(Counter(images).values()) == 1
    assert {epoch for epoch, position in images if position < 7} == set(range(16))
    assert {epoch for epoch, position in images if position >= 47} == set(range(8))


def test_parts_are_mixed_within_an_epoch_and_alike_on_any_number_of_processes() -> None:
    whole = Sampler(length=59, batch_size=6, seed=3, shares=SHARES)
    for world_size in (2, 3):
        parts = [
            Sampler(length=59, batch_size=6, seed=3, shares=SHARES, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for step in (0, 5, 11):
            batches = [part.batch(step) for part in parts]
            assert [image for together in zip(*batches, strict=True) for image in together] == whole.batch(step)
    first = [position < 7 for _, position in whole.batch(0) + whole.batch(1) + whole.batch(2)]
    assert 2 < sum(first) < 14
    assert whole.batch(7) == Sampler(length=59, batch_size=6, seed=3, shares=SHARES).batch(7), "of nothing before"


def test_one_part_of_weight_one_sees_every_image_in_every_epoch() -> None:
    sampler = Sampler(length=10, batch_size=5, seed=0, shares=(Share(10, 10),))
    assert sorted(position for _, position in seen(sampler, 2)) == list(range(10))


def test_the_epoch_is_that_of_the_first_image() -> None:
    sampler = Sampler(length=59, batch_size=10, seed=0, shares=SHARES)
    assert [sampler.epoch(step) for step in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    plain = Sampler(length=15, batch_size=10, seed=0, rank=5, world_size=10)
    assert [plain.epoch(step) for step in range(4)] == [plain.batch(step)[0][0] for step in range(4)] == [0, 1, 1, 2]
