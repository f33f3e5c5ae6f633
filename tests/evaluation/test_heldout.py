"""The held-out part of train: every class, exact counts, never both sides."""

from __future__ import annotations

import pytest
import torch

from contextae.errors import UserError
from contextae.evaluation.heldout import split


def test_every_image_is_on_one_side_and_every_class_on_both() -> None:
    labels = torch.tensor([0] * 70 + [1] * 30 + [2] * 3 + [3])[torch.randperm(104)]
    parts = split(labels, seed=0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(104))
    assert torch.bincount(labels[parts.held_out], minlength=4).tolist() == [7, 3, 1, 0]


def test_at_most_and_seed() -> None:
    labels = torch.arange(2_000) % 4
    assert len(split(labels, seed=0, at_most=100).held_out) == 100
    assert torch.equal(split(labels, seed=5).held_out, split(labels, seed=5).held_out)
    assert not torch.equal(split(labels, seed=5).held_out, split(labels, seed=6).held_out)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1], [4]])
def test_too_little_to_choose_on_is_refused(labels: list[int]) -> None:
    with pytest.raises(UserError, match="needs two classes and two images of one of them"):
        split(torch.tensor(labels), seed=0)
