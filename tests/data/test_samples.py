import random
from typing import Any, NamedTuple

import numpy as np
import pytest
from small_index import VIEWS, name, same, small_index

from contextae.data.decode import decode
from contextae.data.facts import BadImage
from contextae.data.samples import Bad, Samples, stack
from contextae.masking import Mask
from contextae.methods.views import MaskedView
from contextae.randomness import stream


def samples(count: int = 23, trouble: dict[int, str] | None = None, **others: Any) -> Samples:
    return Samples(**{"index": small_index(count, trouble), "views": VIEWS, "seed": 5} | others)


def view(position: int, *drawn_for: int | str) -> MaskedView:
    """Of an image, by the contract: the draws are keyed by seed, epoch and sample id."""
    image = decode(small_index().read(position), channels=3)
    return VIEWS(image, stream(5, "view", *drawn_for))


def test_a_batch_is_the_stacked_views_of_its_images_under_their_own_keys() -> None:
    made = samples().make([(0, 3), (4, 3), (0, 1)], set())
    expected = stack([view(3, 0, name(3)), view(3, 4, name(3)), view(1, 0, name(1))])
    assert same(made.batch, expected)
    assert (made.positions, made.bad, made.failure) == ([3, 3, 1], [], None)
    assert made.batch.images.shape == (3, 3, 10, 14) and made.batch.images.dtype == np.uint8
    assert made.batch.images.flags.c_contiguous and made.batch.images.flags.writeable
    assert made.batch.mask.visible.shape == (3, 22) and made.batch.mask.masked.shape == (3, 13)
    assert made.batch.key.shape == (3,) and made.batch.key.dtype == np.int64
    assert not np.array_equal(made.batch.images[0], made.batch.images[1])  # another epoch, another view


def test_a_bad_image_is_replaced_by_a_keyed_draw_under_its_own_key() -> None:
    made = samples(trouble={3: "bad"}).make([(2, 1), (2, 3), (2, 4)], set())
    other = int(stream(5, "replacement", 2, name(3)).random() * 23)
    assert made.positions == [1, other, 4] and other != 3
    assert same(made.batch, stack([view(1, 2, name(1)), view(other, 2, name(3)), view(4, 2, name(4))]))
    assert made.bad == [Bad(3, "damaged pixels", 2)]


def test_a_known_one_is_not_read_and_replaced_as_if_it_had_been() -> None:
    begun: list[tuple[int, int]] = []
    wanted = [(0, 3), (0, 4)]
    found = samples(trouble={3: "bad"}).make(wanted, set(), lambda *at: begun.append(at))
    known = samples().make(wanted, {3}, lambda *at: begun.append(at))
    assert same(found.batch, known.batch) and found.positions == known.positions and known.bad == []
    other = found.positions[0]
    # after the last of a batch none is to blame for what happens
    assert begun == [(0, 3), (0, other), (0, 4), (-1, -1), (0, other), (0, 4), (-1, -1)]


def test_replacements_that_are_bad_too_are_replaced_in_turn() -> None:
    draws = stream(5, "replacement", 6, name(3))
    first, second = (int(draws.random() * 23) for _ in range(2))
    assert len({3, first, second}) == 3
    made = samples(trouble={3: "bad", first: "missing"}).make([(6, 3)], set())
    assert made.positions == [second]
    assert [bad.position for bad in made.bad] == [3, first]


def test_a_file_that_cannot_be_read_is_bad_for_the_systems_reason_without_its_path() -> None:
    made = samples(trouble={7: "missing"}).make([(1, 7)], set())
    assert made.bad == [Bad(7, "cannot be read (No such file or directory)", 1)]


def test_an_image_for_which_memory_does_not_suffice_is_bad() -> None:
    def greedy(image: Any, rng: random.Random) -> Any:
        if np.array_equal(image.image, small_index().read(3)):
            raise MemoryError
        return VIEWS(image, rng)

    made = samples(views=greedy).make([(0, 3), (0, 4)], set())
    assert made.bad == [Bad(3, "not enough memory to decode it", 0)] and made.positions[1] == 4


def test_an_image_whose_pixels_turn_out_bad_in_the_views_is_bad() -> None:
    """As those do that are decoded no sooner than the view knows which part it wants."""

    def late(image: Any, rng: random.Random) -> Any:
        if np.array_equal(image.image, small_index().read(3)):
            raise BadImage("truncated file")
        return VIEWS(image, rng)

    made = samples(views=late).make([(0, 3)], set())
    assert made.bad == [Bad(3, "truncated file", 0)]


def test_a_sample_has_a_name_for_messages() -> None:
    assert samples().name([(0, 3)], 3) == name(3)


def test_the_same_bad_image_twice_in_a_batch_is_met_once_and_replaced_twice() -> None:
    made = samples(trouble={3: "bad"}).make([(0, 3), (1, 3)], set())
    assert len(made.bad) == 1 and len(made.positions) == 2


def test_half_a_set_may_be_bad() -> None:
    trouble = dict.fromkeys(range(0, 40, 2), "bad")
    made = samples(40, trouble).make([(0, i) for i in range(40)], set())
    assert made.failure is None and all(position % 2 for position in made.positions)


def test_where_nothing_can_be_read_it_says_so_with_what_it_met() -> None:
    made = samples(3, dict.fromkeys(range(3), "bad")).make([(0, 1), (0, 0)], set())
    assert made.failure == f"none of 100 replacements of {name(1)} could be read"
    assert sorted(bad.position for bad in made.bad) == [0, 1, 2] and made.batch is None


class Pair(NamedTuple):
    left: Any
    right: Any


def test_stacking_keeps_the_classes_and_puts_the_batch_first() -> None:
    one, two = (Pair(Mask(np.arange(3) + i, np.zeros((2, 4), np.uint8)), np.float32(i)) for i in range(2))
    both = stack([one, two])
    assert type(both) is Pair and type(both.left) is Mask
    assert both.left.visible.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert both.left.masked.shape == (2, 2, 4) and both.left.masked.dtype == np.uint8
    assert both.right.tolist() == [0.0, 1.0] and both.right.dtype == np.float32


def test_rows_are_in_the_order_of_their_views_whatever_the_order_of_their_bytes() -> None:
    image = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    views = [image, image.transpose(1, 2, 0).copy().transpose(2, 0, 1)[:, :, ::-1], image + 100]
    assert np.array_equal(stack(views), np.stack(views)) and stack(views).flags.c_contiguous
    assert stack([np.int64(7), np.int64(5)]).tolist() == [7, 5]


def test_a_defect_in_views_is_not_taken_for_bad_data() -> None:
    def broken(image: np.ndarray, rng: random.Random) -> Any:
        raise ZeroDivisionError("in the views")

    with pytest.raises(ZeroDivisionError, match="in the views"):
        samples(views=broken).make([(0, 0)], set())
    with pytest.raises(ZeroDivisionError, match="a defect at"):
        samples(trouble={0: "defect"}).make([(0, 0)], set())
