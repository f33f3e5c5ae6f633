"""Keys that never change, streams that follow from them, permutations that are uniform."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from contextae.randomness import Shuffle, drawn, key, permutation, stream

# Recorded once. A change here changes the data order, crops and masks of every run that is resumed.
KEYS = {
    (): 8238016292129134938,
    (0,): 6711488920161924273,
    (1, 2): 4278138115214837529,
    (12,): 5068922649328766539,
    ("1",): 4874322630454220205,
    (0, "view", 3, "a/b.png"): 2008867032471381302,
    (7, "café", "\udcff"): 8304900455123268520,
}


@pytest.mark.parametrize("parts", KEYS)
def test_keys_are_the_recorded_ones(parts: tuple[int | str, ...]) -> None:
    assert key(*parts) == KEYS[parts]


def test_streams_and_permutations_are_the_recorded_ones() -> None:
    assert stream(0, "view", 3).random() == 0.5973811177313249
    assert permutation(11, stream(0, "epoch", 1)) == [8, 1, 6, 4, 10, 7, 2, 3, 9, 5, 0]


def test_parts_keep_their_type_and_their_borders() -> None:
    parts: list[tuple[int | str, ...]] = [
        (1, 2), (12,), ("1", "2"), ("12",), (1, "2"), ("1", 2), ("1 2",), ("a", "b"), ("ab",), ("a", "", "b"),
        (1,), (-1,),
    ]  # fmt: skip
    assert len({key(*part) for part in parts}) == len(parts)


def test_keys_fit_into_63_bits_and_spread_over_them() -> None:
    keys = [key(0, "view", epoch, i) for epoch in range(7) for i in range(150)]
    assert len(set(keys)) == len(keys)
    assert 0 <= min(keys) and max(keys) < 2**63
    for bit in (0, 17, 62):
        share = sum(k >> bit & 1 for k in keys) / len(keys)
        assert share == pytest.approx(0.5, abs=0.06)


def test_a_permutation_is_uniform() -> None:
    rng = stream(0, "uniform")
    counts = Counter(tuple(permutation(4, rng)) for _ in range(12_000))
    assert set(counts) == set(permutations(range(4)))
    expected = 12_000 / 24
    # chi-squared with 23 degrees of freedom exceeds 49.7 once in a thousand draws; the draws here are fixed
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 49.7


@pytest.mark.parametrize("length", [0, 1, 2, 97])
def test_a_permutation_holds_each_number_once(length: int) -> None:
    assert sorted(permutation(length, stream("any"))) == list(range(length))


def test_permutation_takes_one_number_per_exchange() -> None:
    """So that what is drawn after it does not depend on what came out."""
    one, two = stream(3), stream(3)
    permutation(17, one)
    for _ in range(16):
        two.random()
    assert math.isclose(one.random(), two.random(), rel_tol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_a_shuffle_is_a_permutation_with_and_without_a_table(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    table = Shuffle(length, 3, "order", 1)
    assert table(range(length)).tolist() == permutation(length, stream(3, "order", 1))
    monkeypatch.setattr(Shuffle, "TABLE", 0)
    network = Shuffle(length, 3, "order", 1)
    assert network.table is None and sorted(network(range(length)).tolist()) == list(range(length))
    assert len(network) == length
    places = np.array([length - 1, 0, length // 2, 0])
    assert network(places).tolist() == network(range(length))[places].tolist(), "any entries, in any order"
    assert network.first(3).tolist() == network(range(min(3, length))).tolist()
    assert list(drawn(length, 3, "order", 1)) == network(range(length)).tolist()


def test_a_shuffle_depends_on_its_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shuffle, "TABLE", 0)
    one = Shuffle(5000, 0, "order", 0)(range(5000))
    assert (Shuffle(5000, 0, "order", 0)(range(5000)) == one).all()
    for other in (Shuffle(5000, 0, "order", 1), Shuffle(5000, 1, "order", 0), Shuffle(5000, 0, "statistics", 0)):
        assert (other(range(5000)) == one).sum() < 12, "two random permutations agree at one place on average"
    # recorded once: the order of every large run that is resumed
    assert Shuffle(50_000_000, 0, "order", 0).first(4).tolist() == [17666773, 23731655, 3812571, 24383882]


def test_places_that_do_not_exist_are_refused() -> None:
    for places in ([5], [-1]):
        with pytest.raises(IndexError, match=r"^Places of a permutation of 5 are 0 to 4\.$"):
            Shuffle(5, 0)(np.array(places))


def test_a_large_shuffle_is_as_random_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an entry goes, and where its neighbour goes from there, are uniform: chi-squared over 16 x 16 cells."""
    monkeypatch.setattr(Shuffle, "TABLE", 0)
    length, keys = 1000, 400
    firsts = np.concatenate([Shuffle(length, "uniform", i)(range(0, 1000, 50)) for i in range(keys)])
    steps = np.concatenate([np.diff(Shuffle(length, "uniform", i)(range(40)))[::2] % length for i in range(keys)])
    for values in (firsts, steps):
        counts = np.bincount(values * 16 // length, minlength=16)
        expected = len(values) / 16
        # chi-squared with 15 degrees of freedom exceeds 37.7 once in a thousand draws; the draws here are fixed
        assert ((counts - expected) ** 2 / expected).sum() < 37.7


def test_every_order_of_four_comes_about_equally_often_from_a_table_of_keys() -> None:
    counts = Counter(tuple(Shuffle(4, "uniform", i)(range(4)).tolist()) for i in range(6000))
    assert set(counts) == set(permutations(range(4)))
    assert sum((count - 250) ** 2 / 250 for count in counts.values()) < 49.7
