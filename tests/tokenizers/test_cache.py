"""A cached teacher answers as the teacher does, asks once for a view and its mirror image, and keeps to its memory."""

from __future__ import annotations

import pytest
import torch

from contextae.tokenizers.cache import CachedTeacher
from networks import ColourTeacher


class Counting(ColourTeacher):
    """Counts the images it was asked about; what it says depends on where things are."""

    def __init__(self) -> None:
        self.asked = 0

    def features(self, images: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        self.asked += len(images)
        return super().features(images, grid)


def test_it_says_what_the_teacher_says_rounded() -> None:
    images = torch.rand(3, 5, 10, 21)
    cached = CachedTeacher(teacher=Counting(), most_bytes=2**20)
    expected = ColourTeacher().features(images, (5, 7))
    for _ in range(2):
        torch.testing.assert_close(cached.features(images, (5, 7)), expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(cached.features(images, (5, 7)), expected.half().float())


def test_a_view_and_its_mirror_image_are_asked_about_once() -> None:
    teacher, images = Counting(), torch.rand(4, 5, 10, 21)
    cached = CachedTeacher(teacher=teacher, most_bytes=2**20)
    cached.features(images, (5, 7))
    assert teacher.asked == 8
    mixed = torch.stack([images[0].flip(-1), images[1], images[2], images[3].flip(-1)])
    again = cached.features(mixed, (5, 7))
    assert teacher.asked == 8
    assert torch.equal(again, ColourTeacher().features(mixed, (5, 7)).half().float())


def test_another_image_or_another_grid_is_not_taken_for_a_known_one() -> None:
    teacher, images = Counting(), torch.rand(2, 5, 10, 21)
    cached = CachedTeacher(teacher=teacher, most_bytes=2**20)
    cached.features(images, (5, 7))
    changed = images.clone()
    changed[1, 4, 9, 20] += 1e-3
    assert not torch.equal(cached.features(changed, (5, 7))[1], cached.features(images, (5, 7))[1])
    assert cached.features(images, (7, 5)).shape == (2, 36, 15)
    assert teacher.asked > 4


@pytest.mark.parametrize("room", [0, 1, 3])
def test_it_keeps_to_its_memory_and_answers_all_the_same(room: int) -> None:
    images = torch.rand(4, 5, 10, 21)
    one = 36 * 15 * 2
    cached = CachedTeacher(teacher=Counting(), most_bytes=room * one)
    for _ in range(2):
        assert torch.equal(cached.features(images, (5, 7)), ColourTeacher().features(images, (5, 7)).half().float())
    assert cached.bytes == room * one == sum(value.nbytes for value in cached.known.values())


def test_a_grid_of_any_length_has_a_name() -> None:
    cached = CachedTeacher(teacher=ColourTeacher(), most_bytes=2**20)
    assert cached.features(torch.rand(1, 5, 2, 300), (1, 300)).shape == (1, 301, 15)
