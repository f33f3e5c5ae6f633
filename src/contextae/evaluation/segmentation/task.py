"""What every training and every figure of one evaluation share, and what a training hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.progress import Progress
from contextae.evaluation.segmentation.data import Annotated, SegmentationData
from contextae.evaluation.segmentation.metrics import Tallies
from contextae.evaluation.segmentation.predict import Logits, class_maps, tallied
from contextae.evaluation.segmentation.sliding import stride_of
from contextae.evaluation.segmentation.views import Normalisation

CHOSEN_BY = "mIoU"


@dataclass(frozen=True, kw_only=True)
class Task:
    """`window` is what the network sees at once, height and width."""

    data: SegmentationData
    window: tuple[int, int]
    normalise: Normalisation
    device: torch.device

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)

    def maps(
        self, logits_of: Logits, part: Annotated, *, networks: int = 1, positions: Sequence[int] | None = None
    ) -> Iterator[list[Int16[np.ndarray, "h w"]]]:
        """Per image what each network makes of it, at the size of its mask."""
        return class_maps(
            logits_of,
            part,
            window=self.window,
            stride=stride_of(self.window),
            normalise=self.normalise,
            device=self.device,
            networks=networks,
            positions=positions,
        )

    def tallied(
        self, logits_of: Logits, part: Annotated, *, networks: int = 1, progress: Progress | None = None
    ) -> list[Tallies]:
        """What each network says of a part, compared with its masks."""
        maps = self.maps(logits_of, part, networks=networks)
        return tallied(maps, part, networks=networks, progress=progress)


@dataclass(frozen=True)
class Trained:
    """Logits of windows by what was trained on all of train, what was chosen for it, and by which score on
    held-out images, if there was a choice."""

    logits_of: Callable[[Tensor], Tensor]
    chosen: Mapping[str, float | int]
    held_out: float | None


def best_of(rates: tuple[float, ...], scores: list[float]) -> int:
    """The position of the best score, the first of equals."""
    if not rates or len(rates) != len(scores):
        raise UserError(f"A learning rate is chosen among one or more. Got {rates}.")
    return max(range(len(scores)), key=scores.__getitem__)
