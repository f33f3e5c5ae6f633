"""Few labels: images drawn of every class of train, as a function of a seed and the number of the draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from contextae.errors import UserError
from contextae.randomness import Shuffle


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How many labels there are: a number `per_class`, or a `share` of those of every class."""

    per_class: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.per_class is None) == (self.share is None):
            raise ValueError("Labels are so many per class or a share of them, one of both.")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"Labels per class must be at least 1. Got {self.per_class}.")
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(
                f"A share of the labels must be above 0 and at most 1, which is all of them. Got {self.share:g}; it is "
                f"a share, not a percentage."
            )

    @property
    def all(self) -> bool:
        """Whether no label is left out."""
        return self.share == 1

    def __str__(self) -> str:
        return f"{self.per_class} per class" if self.per_class else f"{100 * (self.share or 0):g} % of labels"

    def draw(self, labels: Int[Tensor, " n"], *, seed: int, draw: int = 0) -> Int[Tensor, " f"]:
        """Positions of the images drawn, ascending: at least one of each class; all of a class that has no more."""
        found = []
        for each in labels.unique().tolist():
            positions = torch.nonzero(labels == each).squeeze(1)
            count = self.per_class or max(1, round((self.share or 0) * len(positions)))
            order = Shuffle(len(positions), "labels drawn", seed, draw, each)
            found.append(positions[torch.from_numpy(order.first(count))])
        return torch.cat(found).sort().values
