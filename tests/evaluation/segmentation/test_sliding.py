"""Windows cover every pixel, and what overlapping ones say is averaged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.segmentation.sliding import slide, starts, stride_of


@given(st.integers(1, 90), st.integers(1, 30), st.data())
def test_windows_cover_an_axis_and_stay_inside(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    begins = starts(length, window, stride)
    assert begins[0] == 0 and begins == sorted(set(begins))
    assert {i for begin in begins for i in range(begin, begin + window)} >= set(range(length))
    assert length <= window or begins[-1] + window == length


def test_the_published_windows() -> None:
    assert stride_of((512, 512)) == (341, 341)
    assert starts(683, 512, 341) == [0, 171]
    assert starts(1024, 512, 341) == [0, 341, 512]


def per_pixel(images: Tensor) -> Tensor:
    return torch.cat([images.sum(1, keepdim=True), images[:, :1] * 3], dim=1)


@pytest.mark.parametrize("size", [(16, 24), (23, 24), (31, 50), (9, 40), (7, 11)])
def test_what_is_said_of_a_pixel_alone_is_what_windows_say(size: tuple[int, int]) -> None:
    image = torch.randn(3, *size)
    found = slide(per_pixel, image, window=(16, 24), stride=(11, 16), batch_size=3)
    assert torch.allclose(found, per_pixel(image[None])[0], atol=1e-6)


def test_overlapping_windows_are_averaged() -> None:
    said: list[float] = []

    def numbered(images: Tensor) -> Tensor:
        logits = torch.stack([torch.full((1, 4, 4), float(len(said) + i)) for i in range(len(images))])
        said.extend(range(len(images)))
        return logits

    found = slide(numbered, torch.zeros(1, 4, 7), window=(4, 4), stride=(3, 3), batch_size=1)
    assert found[0, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1]


def test_a_stride_that_leaves_pixels_out_is_refused() -> None:
    with pytest.raises(UserError, match="or pixels would be left out"):
        starts(20, 8, 9)
