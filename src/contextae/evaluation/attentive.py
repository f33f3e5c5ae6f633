"""Attentive probing: the published head trained on cached tokens of a frozen encoder.

Differs from the published protocol: the tokens are those of the whole images, without crops and flips; epochs, batch
and learning rates are for sets of thousands of images and two CPU cores; the learning rate is chosen on a held-out
part of train.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.heads.attentive import AttentiveHead, attend
from contextae.evaluation.heldout import split
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.record import Chosen
from contextae.randomness import key


@dataclass(frozen=True, kw_only=True)
class AttentiveSettings:
    """Learning rates are for a batch of 256 and scale with it; the published 0.4 at 8,192 is 0.0125 of these.

    Large sets are seen `epochs` times, small ones more often, until `images_seen` or `most_epochs`. The rate is chosen
    by heads trained on at most `most_to_choose_on` images.

    `legacy_batch_stats` is for comparison with published attentive figures: the released code never tells its head that
    it is evaluated, so its batch normalisation takes the statistics of each batch of test images, of 256 here, and what
    is predicted for an image depends on those beside it. Choosing does the same then.
    """

    version: int = 1
    epochs: int = 10
    images_seen: int = 100_000
    most_epochs: int = 50
    warmup: float = 0.1
    batch_size: int = 256
    smallest_batch: int = 32
    steps_per_epoch: int = 32
    learning_rates: tuple[float, ...] = (0.006, 0.03, 0.15)
    final_learning_rate: float = 1e-6
    momentum: float = 0.9
    most_to_choose_on: int = 20_000
    legacy_batch_stats: bool = False

    def batch_of(self, n: int) -> int:
        """The batch for n images: `batch_size` halved until there are enough steps per epoch."""
        batch = self.batch_size
        while batch > self.smallest_batch and n // batch < self.steps_per_epoch:
            batch //= 2
        return min(batch, n)

    def epochs_of(self, n: int) -> int:
        """How often n images are seen."""
        return max(self.epochs, min(self.most_epochs, math.ceil(self.images_seen / n)))


@dataclass(frozen=True)
class Attentive:
    """A head trained on all of train, with what was chosen on its held-out part."""

    head: AttentiveHead
    learning_rate: float
    batch_size: int
    epochs: int
    held_out: float
    legacy_batch_stats: bool = False

    @property
    def chosen(self) -> Chosen:
        return {
            "learning rate": self.learning_rate,
            "batch size": self.batch_size,
            "epochs": self.epochs,
            **({"legacy batch statistics": True} if self.legacy_batch_stats else {}),
        }

    def predict(self, tokens: Float[Tensor, "n t d"]) -> Int[Tensor, " n"]:
        return predict([self.head], tokens, legacy_batch_stats=self.legacy_batch_stats)[0]


def fit(
    tokens: Float[Tensor, "n t d"],
    labels: Int[Tensor, " n"],
    *,
    num_heads: int,
    num_classes: int,
    seed: int = 0,
    settings: AttentiveSettings | None = None,
    progress: Progress | None = None,
) -> Attentive:
    """Chooses the learning rate on a held-out part of train, then trains a new head on all of train.

    Sees train alone: the test images are met in `predict`. Tokens are normalised (`heads.attentive.normalise`), in any
    precision.
    """
    settings = settings or AttentiveSettings()
    parts = split(labels, seed=seed)

    order = torch.randperm(len(parts.fit), generator=torch.Generator().manual_seed(key("attentive choice", seed)))
    heads = train(
        tokens,
        labels,
        parts.fit[order[: settings.most_to_choose_on]],
        learning_rates=settings.learning_rates,
        num_heads=num_heads,
        num_classes=num_classes,
        seed=seed,
        settings=settings,
        progress=part_of(progress, "", 0.0, 0.6),
    )
    legacy = settings.legacy_batch_stats
    right = [
        (classes == labels[parts.held_out]).float().mean().item()
        for classes in predict(heads, tokens, parts.held_out, legacy_batch_stats=legacy)
    ]
    best = max(range(len(heads)), key=right.__getitem__)
    rate = settings.learning_rates[best]
    (head,) = train(
        tokens,
        labels,
        torch.arange(len(labels)),
        learning_rates=[rate],
        num_heads=num_heads,
        num_classes=num_classes,
        seed=seed,
        settings=settings,
        progress=part_of(progress, "", 0.6, 1.0),
    )
    n = len(labels)
    return Attentive(head, rate, settings.batch_of(n), settings.epochs_of(n), right[best], legacy)


def train(
    tokens: Float[Tensor, "n t d"],
    labels: Int[Tensor, " n"],
    positions: Int[Tensor, " f"],
    *,
    learning_rates: Sequence[float],
    num_heads: int,
    num_classes: int,
    seed: int,
    settings: AttentiveSettings,
    progress: Progress | None = None,
) -> list[AttentiveHead]:
    """One head per learning rate, all from the same start and in one pass over the tokens at `positions`.

    They share only the reading of the tokens: each has its own loss and parameters. SGD with Nesterov momentum and no
    weight decay; linear warm-up, then half a cosine, per step; an epoch's incomplete batch is left out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("attentive head", seed))
        heads = [AttentiveHead(width=tokens.shape[2], num_heads=num_heads, num_classes=num_classes)]
    heads += [copy.deepcopy(heads[0]) for _ in learning_rates[1:]]
    batch = settings.batch_of(len(positions))
    steps, epochs = len(positions) // batch, settings.epochs_of(len(positions))
    scale = batch / settings.batch_size
    groups = [{"params": list(head.parameters())} for head in heads]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=True)
    for epoch in range(epochs):
        order = torch.randperm(
            len(positions), generator=torch.Generator().manual_seed(key("attentive order", seed, epoch))
        )
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, learning_rates, strict=True):
                group["lr"] = _learning_rate(rate * scale, (epoch + step / steps) / epochs, settings)
            chosen = positions[order[step * batch : (step + 1) * batch]]
            attended = _attended(heads, tokens[chosen])
            losses = [
                F.cross_entropy(head.classify(each), labels[chosen]) for head, each in zip(heads, attended, strict=True)
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
        if progress:
            progress("attentive", (epoch + 1) / epochs)
    if not any(all(parameter.isfinite().all() for parameter in head.parameters()) for head in heads):
        raise UserError(
            f"No learning rate of {tuple(learning_rates)} trained an attentive head without infinite weights. Use "
            f"smaller ones, or leave the protocol out."
        )
    for head in heads:
        head.eval()
    return heads


@torch.no_grad()
def predict(
    heads: Sequence[AttentiveHead],
    tokens: Float[Tensor, "n t d"],
    positions: Int[Tensor, " m"] | None = None,
    *,
    legacy_batch_stats: bool = False,
) -> list[Int[Tensor, " _"]]:
    """Classes by each head as `train` returns it: in evaluation mode, with the running statistics of train.

    Or with those of each batch of 256, by a copy of the head; a single image left over joins the batch before it.
    """
    if legacy_batch_stats:
        heads = [copy.deepcopy(head).train() for head in heads]
    found: list[list[Tensor]] = [[] for _ in heads]
    wanted = torch.arange(len(tokens)) if positions is None else positions
    batches = list(wanted.split(256))
    if legacy_batch_stats and len(batches) > 1 and len(batches[-1]) == 1:  # one image has no statistics of its own
        batches[-2:] = [torch.cat(batches[-2:])]
    for chunk in (tokens[each] for each in batches):
        for classes, head, attended in zip(found, heads, _attended(heads, chunk), strict=True):
            classes.append(head.classify(attended).argmax(dim=1))
    return [torch.cat(classes) for classes in found]


def _attended(heads: Sequence[AttentiveHead], tokens: Float[Tensor, "b t d"]) -> Sequence[Float[Tensor, "b q d"]]:
    return attend(tokens.float(), torch.cat([head.keys() for head in heads])).chunk(len(heads), dim=1)


def _learning_rate(peak: float, share: float, settings: AttentiveSettings) -> float:
    """After a share of the training: linear from 0, then half a cosine to the final one."""
    if share < settings.warmup:
        return peak * share / settings.warmup
    cosine = math.cos(math.pi * (share - settings.warmup) / (1 - settings.warmup))
    return settings.final_learning_rate + (peak - settings.final_learning_rate) * 0.5 * (1 + cosine)
