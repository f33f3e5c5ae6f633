"""Segmentation by a frozen encoder: one linear layer on its last latents, resized to pixels.

Differs from published frozen protocols (for ADE20K: 512 x 512 crops, random scales and flips, batch norm): the latents
are those of the windows of the unchanged training images, computed once, and whitened by their own statistics; the
learning rate is chosen on held-out images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from contextae.encoder import Encoder
from contextae.evaluation.bounds import check
from contextae.evaluation.features import Precision
from contextae.evaluation.heads.dense import LinearDenseHead, at_size, pixel_loss
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.segmentation.batches import Decoded
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.data import Annotated
from contextae.evaluation.segmentation.metrics import mean_value
from contextae.evaluation.segmentation.sliding import starts, stride_of
from contextae.evaluation.segmentation.task import CHOSEN_BY, Task, Trained, best_of
from contextae.evaluation.segmentation.views import Place, covering, cut_out, stacked
from contextae.evaluation.supervised import Recipe, fit, positions_of_batch
from contextae.evaluation.trunk import Trunk
from contextae.randomness import Shuffle, key
from contextae.training.precision import autocast

MOST_FOR_MOMENTS = 2048


@dataclass(frozen=True, kw_only=True)
class LinearSegmentationSettings:
    """`image_size` is that of windows, height and width; none: the encoder's own. AdamW without weight decay, a cosine
    to zero; the rate is chosen on held-out images. Latents up to `held_bytes` are kept, else computed at every step."""

    version: int = 2
    image_size: tuple[int, int] | None = None
    steps: int = 600
    batch_size: int = 16
    warmup_steps: int = 30
    learning_rates: tuple[float, ...] = (0.16, 0.64, 2.5, 10.0, 40.0)
    precision: Precision = "float32"
    held_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        check(self, "at least 1", ("image_size", "steps", "batch_size"))
        check(self, "above 0", ("learning_rates",))
        check(self, "at least 0", ("warmup_steps", "held_bytes"))


def train_linear(
    encoder: Encoder,
    task: Task,
    settings: LinearSegmentationSettings,
    *,
    seed: int,
    state: Path | None,
    identity: str,
    progress: Progress | None,
) -> Trained:
    """One head per learning rate on the part to fit on, the best of held-out kept, on all of train.

    The encoder is copied and frozen. Where `fit` is all of train the best head is the one that was tried.
    """
    trunk = Trunk(encoder, image_size=task.window, frozen=True).to(task.device)

    def latents_of(images: Tensor) -> Tensor:
        with torch.no_grad(), autocast(settings.precision, task.device):
            return trunk.tokens(images)[:, 1:].mT.unflatten(2, trunk.grid.size).half().float()

    def heads_on(part: Annotated, rates: Sequence[float], place: str, told: Progress | None) -> list[LinearDenseHead]:
        features = WindowLatents(latents_of, trunk, part, task, settings, part_of(told, "features", 0.0, 0.4))
        heads = []
        for number, rate in enumerate(rates):
            span = (0.4 + 0.6 * number / len(rates), 0.4 + 0.6 * (number + 1) / len(rates))
            heads.append(
                _fitted(
                    features,
                    task,
                    settings,
                    rate,
                    seed=seed,
                    identity=identity,
                    progress=part_of(told, f"linear, rate {rate:g}", *span),
                    state=state / f"{place}-{rate:g}" if state else None,
                )
            )
        return heads

    def logits_by(heads: Sequence[LinearDenseHead]) -> Callable[[Tensor], Tensor]:
        def logits_of(images: Tensor) -> Tensor:
            latents = latents_of(images)
            return torch.cat([at_size(head(latents), task.window) for head in heads], dim=1)

        return logits_of

    rates, data = settings.learning_rates, task.data
    heads = heads_on(data.fit, rates, "fit", part_of(progress, "choosing", 0.0, 0.5))
    found = task.tallied(
        logits_by(heads), data.held_out, networks=len(heads), progress=part_of(progress, "choosing", 0.5, 0.6)
    )
    scores = [mean_value([each], CHOSEN_BY) for each in found]
    best = best_of(rates, scores)
    head = heads[best]
    if data.refits:
        (head,) = heads_on(data.train, [rates[best]], "train", part_of(progress, "all of train", 0.6, 1.0))
    return Trained(logits_by([head]), {"learning rate": rates[best]}, scores[best])


def _fitted(
    features: WindowLatents,
    task: Task,
    settings: LinearSegmentationSettings,
    rate: float,
    *,
    seed: int,
    identity: str,
    state: Path | None,
    progress: Progress | None,
) -> LinearDenseHead:
    mean, covariance = features.moments
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("segmentation head", seed))
        head = LinearDenseHead(mean=mean, covariance=covariance, num_classes=task.num_classes).to(task.device)

    def loss_of(step: int) -> Tensor:
        chosen = positions_of_batch(step, num_images=len(features), batch_size=settings.batch_size, seed=seed)
        latents, labels = features(chosen)
        return pixel_loss(head(latents), labels, VOID)

    recipe = Recipe(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=rate,
        weight_decay=0.0,
        warmup_steps=settings.warmup_steps,
    )
    fit(head, loss_of, recipe, encoder=None, seed=seed, state=state, progress=progress, identity=identity)
    return head


class WindowLatents:
    """Latents and classes of all windows of a part's images, each resized so that a window just covers one axis.

    Latents are rounded to float16, whether they are kept or computed again.
    """

    def __init__(
        self,
        latents_of: Callable[[Tensor], Tensor],
        trunk: Trunk,
        part: Annotated,
        task: Task,
        settings: LinearSegmentationSettings,
        progress: Progress | None,
    ) -> None:
        self.latents_of, self.task, self.width = latents_of, task, trunk.width
        self.decoded, self.batch_size = Decoded(part), settings.batch_size
        self.windows = [(i, place) for i in range(len(part)) for place in _places(part.size(i), task.window)]
        grid, count = trunk.grid.size, len(self.windows)
        needed = count * (2 * trunk.width * grid[0] * grid[1] + 2 * task.window[0] * task.window[1])
        self.held: tuple[Float[Tensor, "n d i j"], Int16[Tensor, "n h w"]] | None = None
        if needed > settings.held_bytes:
            return
        latents = torch.empty(count, trunk.width, *grid, dtype=torch.float16)
        labels = torch.empty(count, *task.window, dtype=torch.int16)
        for first in range(0, count, settings.batch_size):
            rows = np.arange(first, min(first + settings.batch_size, count))
            some, classes = self.computed(rows)
            latents[first : first + len(rows)], labels[first : first + len(rows)] = some.cpu(), classes.cpu()
            if progress:
                progress("latents", (first + len(rows)) / count)
        self.held = latents, labels
        self.decoded = Decoded(part, most_bytes=0)

    def __len__(self) -> int:
        return len(self.windows)

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Of the windows at `rows`: latents b d i j in float32, and classes b h w, on the device."""
        if self.held is None:
            return self.computed(rows)
        at = torch.from_numpy(rows)
        latents, labels = (each[at].to(self.task.device) for each in self.held)
        return latents.float(), labels.long()

    @cached_property
    def moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and covariance of the latents of at most MOST_FOR_MOMENTS windows, in float64, on the CPU."""
        rows = np.sort(Shuffle(len(self), "moments of latents").first(MOST_FOR_MOMENTS))
        total = torch.zeros(self.width, dtype=torch.float64)
        products = torch.zeros(self.width, self.width, dtype=torch.float64)
        count = 0
        for first in range(0, len(rows), self.batch_size):
            latents = self(rows[first : first + self.batch_size])[0].cpu().double().transpose(0, 1).flatten(1)
            total += latents.sum(dim=1)
            products += latents @ latents.T
            count += latents.shape[1]
        mean = total / count
        return mean, products / count - torch.outer(mean, mean)

    def computed(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        seen = []
        for image, place in (self.windows[row] for row in rows):
            seen.append(cut_out(*self.decoded(image), place, self.task.window, self.task.normalise))
        pixels, labels = stacked(seen)
        return self.latents_of(pixels.to(self.task.device)), labels.to(self.task.device)


def _places(size: tuple[int, int], window: tuple[int, int]) -> list[Place]:
    """The windows of an image of this size, as in inference."""
    height, width = covering(size, window)
    stride = stride_of(window)
    return [
        Place(height, width, top, left)
        for top in starts(height, window[0], stride[0])
        for left in starts(width, window[1], stride[1])
    ]
