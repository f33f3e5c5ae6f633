"""The images of a part: checked before minutes are spent on them, decoded, and in batches for a training."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from contextae.data.decode import decode
from contextae.data.each import look_at_each
from contextae.data.facts import BadImage, Refusal
from contextae.data.index import printable
from contextae.data.sources.folder import Files
from contextae.data.sources.regular import read_regular
from contextae.errors import UserError
from contextae.evaluation.detection.objects import AnnotatedImage, DetectionData
from contextae.evaluation.detection.settings import DetectionSettings
from contextae.evaluation.detection.sized import Sized
from contextae.evaluation.detection.views import Normalisation, Seen, drawn_view, objects_in, pixels_of, stacked
from contextae.evaluation.progress import Progress
from contextae.evaluation.supervised import positions_of_batch
from contextae.randomness import stream

CHUNK, PER_PROCESS = 32, 64
THREADS = 4
HELD_BYTES = 2 << 30
"""Of decoded images that are kept for the next time."""


def check_images(data: DetectionData, *, channels: int, dtype: str, progress: Progress | None = None) -> None:
    """UserError unless every image can be decoded and has the size that its labels were made for."""
    bad: list[tuple[str, str]] = []
    done, ids = 0, [str(image.path.absolute()) for image in data.images]
    for sizes in look_at_each(Sized(channels, dtype), Files("/"), ids, chunk=CHUNK, per_process=PER_PROCESS):
        for image, size in zip(data.images[done : done + len(sizes)], sizes, strict=True):
            if isinstance(size, Refusal):
                bad.append((image.name, size.reason))
            elif size != (image.height, image.width):
                raise UserError(
                    f"Labels hold for images of their own size. {printable(image.name)} is {size[1]} x {size[0]} "
                    f"pixels once it is upright, and {data.title} says {image.width} x {image.height} (width x "
                    "height). Give the images that the labels were made for, or labels for these."
                )
        done += len(sizes)
        if progress:
            progress("checking images", done / len(ids))
    if bad:
        named = "; ".join(f"{printable(name)}: {why}" for name, why in bad[:3])
        raise UserError(
            f"Every image that labels name must be there and readable. Of the {len(ids):,} of {data.title} "
            f"{len(bad):,} cannot be used: {named}{'; ...' if len(bad) > 3 else ''}. Put them there, or remove "
            "them from the labels."
        )


class Decoded:
    """Images h w c, decoded once as far as they fit into memory."""

    def __init__(self, *, channels: int, dtype: str, most_bytes: int = HELD_BYTES) -> None:
        self.channels, self.dtype, self.left = channels, dtype, most_bytes
        self.held: dict[str, np.ndarray] = {}
        self.lock = threading.Lock()

    def __call__(self, image: AnnotatedImage) -> np.ndarray:
        """UserError where it cannot be had."""
        name = str(image.path)
        if (found := self.held.get(name)) is not None:
            return found
        try:
            pixels = decode(read_regular(image.path), channels=self.channels, dtype=self.dtype)
        except (BadImage, OSError) as error:
            why = error.reason if isinstance(error, BadImage) else error.strerror
            raise UserError(f"The image {printable(name)} cannot be read any more: {why}.") from None
        with self.lock:
            if pixels.nbytes <= self.left and name not in self.held:
                self.left -= pixels.nbytes
                self.held[name] = pixels
        return pixels


class Batch:
    """Views of some images, normalised and padded to one size, with the sizes that they have themselves."""

    def __init__(self, images: Float[Tensor, "b c h w"], sizes: list[tuple[int, int]], seen: list[Seen]) -> None:
        self.images, self.sizes, self.seen = images, sizes, seen


@dataclass(frozen=True, kw_only=True)
class Views:
    """Batches as functions of (seed, step): which images, which part of each, whether it is flipped."""

    data: DetectionData
    decoded: Decoded
    normalise: Normalisation
    settings: DetectionSettings
    factor: float
    multiple: int
    masks: bool
    seed: int

    def __call__(self, step: int) -> Batch:
        size = self.settings.batch_size
        positions = positions_of_batch(step, num_images=len(self.data.images), batch_size=size, seed=self.seed)
        images, sizes, seen = [], [], []
        for slot, position in enumerate(positions.tolist()):
            image = self.data.images[position]
            rng = stream(self.seed, "detection view", step, slot, image.name)
            view = drawn_view(image.height, image.width, self.factor, self.settings, rng)
            images.append(self.normalise(pixels_of(self.decoded(image), view)))
            sizes.append(view.size)
            seen.append(
                objects_in(
                    image.objects,
                    (image.height, image.width),
                    view,
                    least_visible=self.settings.least_visible,
                    masks=self.masks,
                )
            )
        tile = self.settings.tile
        return Batch(stacked(images, self.multiple, (tile, tile) if tile else None), sizes, seen)


class Ahead:
    """Batches in their order, of which threads make the next ones while one is used. Closes with `with`."""

    def __init__(self, views: Views, steps: int) -> None:
        self.views, self.steps = views, steps
        self.waiting: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Ahead:
        self.pool = ThreadPoolExecutor(THREADS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        for wanted in range(step, min(step + THREADS, self.steps)):
            if wanted not in self.waiting:
                self.waiting[wanted] = self.pool.submit(self.views, wanted)
        return self.waiting.pop(step).result()


def loss_of(batch: Batch, detector: torch.nn.Module) -> Float[Tensor, ""]:
    """On the detector's device."""
    device = next(detector.parameters()).device
    loss: Tensor = detector(batch.images.to(device), batch.sizes, [each.to_target(device) for each in batch.seen])
    return loss
