"""Fine-tuning: the whole encoder trained with all labels or few, beside the same network trained from scratch.

Protocol of the published CAE (arXiv 2202.03026 and its code), whose numbers are the defaults of `FinetuneSettings`:
AdamW, layer-wise decay, a relative-position bias on top of the positions, mean pooling. Differs from it: the rate is
chosen on a held-out part of the labels; test images are seen whole, where it cuts 224 out of 256; RandAugment is
torchvision's; the class token and a learned table of positions bear no weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.bounds import check
from contextae.evaluation.classifier import Outcome, Training, at_middle, outcome
from contextae.evaluation.features import Precision
from contextae.evaluation.heldout import split
from contextae.evaluation.metrics import interval, mean_per_class_accuracy, paired_interval
from contextae.evaluation.mixing import Mixing
from contextae.evaluation.progress import Progress
from contextae.evaluation.record import THIS_ENCODER
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.subset import Labels
from contextae.evaluation.supervised import Recipe
from contextae.evaluation.task import LabelledImages, Task

PROTOCOL, FROM_SCRATCH = "finetune", "from scratch"
SHARES = (0.01, 0.1, 1.0)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Defaults are those of the published base model, whose rate of 8e-3 at a batch of 4,096 is the 5e-4 here.

    `learning_rates` are for 256 images a batch and scale with it. Steps are those of `epochs`, within `least_steps` and
    `most_steps`. Each rate is tried on the part of the labels that is not held out, for `choice` of the steps; what is
    held out are `held_out` images or more, at least a tenth and at most a third. A training from scratch has the same
    rates to choose from, and no layer decay, which would only slow down weights that know nothing yet.
    """

    version: int = 2
    batch_size: int = 4_096
    epochs: int = 100
    least_steps: int = 1
    most_steps: int | None = None
    warmup: float = 0.05
    learning_rates: tuple[float, ...] = (2.5e-4, 5e-4, 1e-3)
    choice: float = 0.25
    held_out: int = 100
    final_lr: float = 1e-6
    layer_decay: float = 0.65
    layer_decay_from_scratch: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    drop_path: float = 0.1
    relative_bias: bool = True
    head_scale: float = 0.001
    precision: Precision = "float32"
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        check(self, "at least 1", ("batch_size", "epochs", "least_steps", "most_steps", "held_out"))
        check(self, "above 0", ("learning_rates",))
        check(self, "above 0 and at most 1", ("choice", "layer_decay", "layer_decay_from_scratch"))
        check(self, "at least 0 and below 1", ("warmup", "drop_path", "betas"))
        check(self, "at least 0", ("final_lr", "weight_decay", "head_scale"))

    def batch_of(self, n: int) -> int:
        """The batch for n images."""
        return min(self.batch_size, n)

    def steps_of(self, n: int) -> int:
        """The updates for n images."""
        steps = max(self.least_steps, math.ceil(self.epochs * n / self.batch_of(n)))
        return min(steps, self.most_steps or steps)


PUBLISHED = FinetuneSettings()
PUBLISHED_LARGE = replace(
    PUBLISHED, learning_rates=(6.25e-5, 1.25e-4, 2.5e-4), layer_decay=0.75, epochs=50, warmup=0.1, drop_path=0.2
)
"""The published large model's: rate 2e-3 at 4,096, 50 epochs of which 5 warm up."""
SMALL = replace(
    PUBLISHED,
    batch_size=64,
    epochs=20,
    least_steps=200,
    most_steps=1_000,
    warmup=0.1,
    learning_rates=(1e-3, 4e-3, 1.6e-2),
    choice=0.5,
    layer_decay=0.75,
    mixing=Mixing(crop_scale=(0.35, 1.0), rand_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0),
)
"""For some thousands of images and a CPU: few updates, which strong changes of the images would only slow down."""
MANY_IMAGES = 100_000


LARGE_DEPTH = 24
"""Blocks of the published large model."""


def settings_for(num_images: int, device: torch.device, depth: int) -> FinetuneSettings:
    """The published settings for many images on an accelerator, by the encoder's depth; else a small budget's."""
    if num_images < MANY_IMAGES or device.type == "cpu":
        return SMALL
    return PUBLISHED_LARGE if depth >= LARGE_DEPTH else PUBLISHED


def run(
    encoder: Encoder,
    *,
    train: LabelledImages,
    test: LabelledImages,
    classes: Sequence[str],
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], Encoder],
    shares: Sequence[float] = SHARES,
    draws: int = 3,
    seeds: int = 1,
    seed: int = 0,
    settings: FinetuneSettings | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> tuple[list[Result], list[Compared]]:
    """Accuracies on test at each share of the labels, of this encoder and of the same network from scratch.

    Images, labels and `random_encoder` are those of `evaluate`. Few labels are drawn `draws` times, of every class and
    the same for both rows; with all labels each row is trained `seeds` times. Intervals are over test images and draws
    or seeds. It runs where the encoder's weights lie and leaves the encoder as it was. With `state`, a folder, a later
    call goes on where this one was stopped.
    """
    wanted = [Labels(share=share) for share in shares]
    if not wanted or draws < 1 or seeds < 1:
        raise UserError(
            f"Fine-tuning needs at least one share of the labels, one draw and one seed. Got shares={tuple(shares)}, "
            f"draws={draws}, seeds={seeds}."
        )
    task = Task.of(encoder, train=train, test=test, classes=classes)
    device = next(encoder.parameters()).device
    settings = settings or settings_for(len(task.train_images), device, encoder.depth)
    results, compared = [], []
    for labels in wanted:
        correct: dict[str, np.ndarray] = {}
        for row, starts in ((THIS_ENCODER, lambda _: encoder), (FROM_SCRATCH, random_encoder)):
            rows = Row(
                name=row, starts=starts, task=task, settings=settings, mean=tuple(mean), deviation=tuple(deviation),
                device=device, seed=seed, state=state, progress=progress,
            )  # fmt: skip
            result, correct[row] = rows.result(labels, seeds if labels.all else draws)
            results.append(result)
        ours, theirs = correct[THIS_ENCODER], correct[FROM_SCRATCH]
        compared.append(
            Compared(
                protocol=PROTOCOL,
                row=THIS_ENCODER,
                baseline=FROM_SCRATCH,
                metric=metric_of(labels),
                difference=float(ours.mean() - theirs.mean()),
                interval=paired_interval(ours, theirs, seed),
            )
        )
    return results, compared


def metric_of(labels: Labels) -> str:
    """How a result says which labels it is of."""
    return "accuracy" if labels.all else f"accuracy, {labels}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One start, this encoder or random weights, and everything that both rows have in common."""

    name: str
    starts: Callable[[int], Encoder]
    task: Task
    settings: FinetuneSettings
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    device: torch.device
    seed: int
    state: Path | None
    progress: Progress | None

    def result(self, labels: Labels, repeats: int) -> tuple[Result, np.ndarray]:
        """The figure, and for every repeat and test image whether it was classified right."""
        task, settings = self.task, self.settings
        every = torch.from_numpy(task.train_labels)
        drawn = [labels.draw(every, seed=self.seed, draw=draw) for draw in range(repeats)]
        rate, tried, chosen_seconds = self._rate(labels, drawn[0])
        outcomes = [
            self._outcome(f"{labels}, {draw + 1} of {repeats}", each, None, rate=rate, share=1.0, repeat=draw)
            for draw, each in enumerate(drawn)
        ]
        if any((each.predicted < 0).any() for each in outcomes):
            raise UserError(
                f"Fine-tuning {self.name} with {labels} diverged at a learning rate of {rate:g} for 256 images, the "
                "best of those that were tried. Give smaller learning_rates."
            )
        correct = np.stack([each.predicted == task.test_labels for each in outcomes])
        n = len(drawn[0])
        told = self._training(n, rate, 1.0, 0)
        steps, batch = told.recipe.steps, told.recipe.batch_size
        choosing = self._training(n, rate, settings.choice, 0).recipe.steps
        details: dict[str, Any] = {
            "labels": n,
            "learning rate for 256 images": rate,
            "tried": tried,
            "budget": (
                (f"{len(tried)} rates of {choosing:,} steps to choose, then " if tried else "")
                + f"{repeats} training(s) of {steps:,} steps of {batch} images; the same for {THIS_ENCODER} and "
                f"{FROM_SCRATCH}"
            ),
            "layer decay": told.recipe.layer_decay,
            "images": str(told.mix(task.train_images)),
            "accuracy of each repeat": [float(value) for value in correct.mean(axis=1)],
            "mean per class": float(
                np.mean([mean_per_class_accuracy(each.predicted, task.test_labels) for each in outcomes])
            ),
            "chance": task.chance,
            "notes": list(task.notes),
            "settings": asdict(settings),
        }
        result = Result(
            protocol=PROTOCOL,
            version=settings.version,
            row=self.name,
            metric=metric_of(labels),
            value=float(correct.mean()),
            interval=interval(correct, self.seed),
            num_images=len(task.test_labels),
            seeds=repeats,
            seconds=chosen_seconds + sum(each.seconds for each in outcomes),
            details=details,
        )
        return result, correct

    def _rate(self, labels: Labels, drawn: Int[Tensor, " f"]) -> tuple[float, list[dict[str, float | None]], float]:
        """The rate whose training has the lowest cross-entropy on the held-out part of the first draw.

        On some tens of images that tells more than their accuracy, which chance moves by several points; none stands
        for a training that diverged. With one image of each class there is nothing to hold out, and the middle rate is
        taken.
        """
        rates = self.settings.learning_rates
        of_drawn = torch.from_numpy(self.task.train_labels)[drawn]
        if len(rates) == 1 or int(of_drawn.bincount().max()) < 2:
            return at_middle(rates), [], 0.0
        share = min(1 / 3, max(0.1, self.settings.held_out / len(drawn)))
        parts = split(of_drawn, seed=self.seed, share=share)
        tried = []
        for number, rate in enumerate(rates):
            what = f"{labels}, choosing, {number + 1} of {len(rates)}"
            found = self._outcome(
                what, drawn[parts.fit], drawn[parts.held_out], rate=rate, share=self.settings.choice, repeat=0
            )
            right = float((found.predicted == of_drawn[parts.held_out].numpy()).mean())
            tried.append((found.loss, rate, right, found.seconds))
        best = min(tried)
        told: list[dict[str, float | None]] = [
            {"learning rate": rate, "held out": right, "loss": loss if math.isfinite(loss) else None}
            for loss, rate, right, _ in tried
        ]
        return best[1], told, sum(seconds for *_, seconds in tried)

    def _outcome(
        self, what: str, on: Tensor, asked: Tensor | None, *, rate: float, share: float, repeat: int
    ) -> Outcome:
        """Trained on these images of train, asked about others of it, or about test."""
        task, progress = self.task, self.progress
        labels = torch.from_numpy(task.train_labels)
        return outcome(
            self._training(len(on), rate, share, repeat),
            self.starts(repeat),
            task.train_images[on.numpy()],
            labels[on],
            task.test_images if asked is None else task.train_images[asked.numpy()],
            torch.from_numpy(task.test_labels) if asked is None else labels[asked],
            state=self.state,
            progress=(lambda doing, done: progress(f"{self.name}, {what}: {doing}", done)) if progress else None,
        )

    def _training(self, n: int, rate: float, share: float, repeat: int) -> Training:
        """For n images: a rate for 256 of them, a share of the steps, and the number of the repeat."""
        settings = self.settings
        steps, batch = max(1, round(share * settings.steps_of(n))), settings.batch_of(n)
        recipe = Recipe(
            steps=steps,
            batch_size=batch,
            lr=rate * batch / 256,
            layer_decay=settings.layer_decay if self.name == THIS_ENCODER else settings.layer_decay_from_scratch,
            weight_decay=settings.weight_decay,
            warmup_steps=round(settings.warmup * steps),
            final_lr=settings.final_lr,
            betas=settings.betas,
            precision=settings.precision,
        )
        return Training(
            recipe=recipe,
            mixing=settings.mixing,
            num_classes=len(self.task.classes),
            mean=self.mean,
            deviation=self.deviation,
            drop_path=settings.drop_path,
            relative_bias=settings.relative_bias,
            head_scale=settings.head_scale,
            seed=self.seed + 1_000 * repeat,
        )
