"""Batches of crops, each a function of (seed, step), made by threads one step ahead of the training."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from contextae.evaluation.segmentation.data import Annotated
from contextae.evaluation.segmentation.views import CropSettings, Normalisation, Seen, stacked
from contextae.evaluation.supervised import positions_of_batch
from contextae.randomness import stream

THREADS = 4
HELD_BYTES = 2 << 30
"""Of decoded images and masks that are kept for the next time."""


class Decoded:
    """Images and masks of a part, decoded once as far as they fit into memory."""

    def __init__(self, part: Annotated, *, most_bytes: int = HELD_BYTES) -> None:
        self.part, self.left = part, most_bytes
        self.held: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """h w c, and class positions h w."""
        if (found := self.held.get(position)) is not None:
            return found
        image, mask = self.part.image(position), self.part.mask(position)
        if (size := image.nbytes + mask.nbytes) <= self.left:
            self.left -= size
            self.held[position] = image, mask
        return image, mask


class CropBatches:
    """`batches(step)` gives normalised crops b c h w and their classes b h w, on the device.

    The order is new every epoch. An image's crop is a function of (seed, step, place in the batch, its id).
    """

    def __init__(
        self,
        decoded: Decoded,
        *,
        window: tuple[int, int],
        batch_size: int,
        crop: CropSettings,
        normalise: Normalisation,
        seed: int,
        device: torch.device,
    ) -> None:
        self.decoded, self.window, self.batch_size = decoded, window, batch_size
        self.crop, self.normalise, self.seed, self.device = crop, normalise, seed, device
        self.makers, self.ahead = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(1)
        self.waiting: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        made = self.waiting.pop(step, None) or self.ahead.submit(self.make, step)
        self.waiting = {step + 1: self.ahead.submit(self.make, step + 1)}
        images, labels = made.result()
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def make(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, on the CPU."""
        part = self.decoded.part
        positions = positions_of_batch(step, num_images=len(part), batch_size=self.batch_size, seed=self.seed)

        def one(place: int) -> Seen:
            position = int(positions[place])
            rng = stream("segmentation crop", self.seed, step, place, part.images.ids[position])
            image, mask = self.decoded(position)
            return self.crop(image, mask, self.window, self.normalise, rng)

        return stacked(list(self.makers.map(one, range(len(positions)))))

    def __enter__(self) -> CropBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ahead.shutdown(cancel_futures=True)
        self.makers.shutdown(cancel_futures=True)
