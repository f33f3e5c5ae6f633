"""Class maps of whole images at the size of their masks, and how they compare with these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int16, Int64
from torch import Tensor

from contextae.evaluation.progress import Progress
from contextae.evaluation.segmentation.data import Annotated
from contextae.evaluation.segmentation.metrics import Tallies, confusion
from contextae.evaluation.segmentation.sliding import slide
from contextae.evaluation.segmentation.views import Normalisation, covering, resized_image

Logits = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]]
"""Of windows: for every pixel a logit per class; of several networks one after the other, s k in all."""


@torch.no_grad()
def class_maps(
    logits_of: Logits,
    part: Annotated,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    normalise: Normalisation,
    device: torch.device,
    networks: int = 1,
    positions: Sequence[int] | None = None,
) -> Iterator[list[Int16[np.ndarray, "h w"]]]:
    """Per image the class map of each network.

    An image is resized so that a window just covers one axis; logits are averaged over sliding windows, resized to the
    size of the mask (bilinear), and the largest names the class.
    """
    for position in range(len(part)) if positions is None else positions:
        size = part.size(position)
        image = normalise(resized_image(part.image(position), covering(size, window))).to(device)
        logits = slide(logits_of, image, window=window, stride=stride)
        of_each = logits.unflatten(0, (networks, -1))
        yield [
            F.interpolate(each[None], size, mode="bilinear")[0].argmax(dim=0).to(torch.int16).cpu().numpy()
            for each in of_each
        ]


def tallied(
    maps: Iterable[Sequence[Int16[np.ndarray, "h w"]]],
    part: Annotated,
    *,
    networks: int = 1,
    progress: Progress | None = None,
) -> list[Tallies]:
    """Of each network, its class maps of all images of a part, compared with their masks."""
    rows: list[list[Tallies]] = [[] for _ in range(networks)]
    for position, predicted in enumerate(maps):
        truth = part.mask(position)
        for row, each in zip(rows, predicted, strict=True):
            row.append(Tallies.of([confusion(truth, each, len(part.classes))]))
        if progress:
            progress("predicting", (position + 1) / len(part))
    return [Tallies.joined(row) for row in rows]


def tallied_constant(pixels: Int64[np.ndarray, "n k"], named: int) -> Tallies:
    """Of always naming one class, where images have so many pixels of each class."""
    predicted, both = np.zeros_like(pixels), np.zeros_like(pixels)
    predicted[:, named] = pixels.sum(axis=1)
    both[:, named] = pixels[:, named]
    return Tallies(pixels, predicted, both)
