"""Few-shot: frozen features read out in closed form from a few labels, drawn several times.

The read-out is that of `ridge`, one-against-all least squares with an L2 penalty on standardised features. Penalty and
vectors are chosen by leaving each labelled image out once, which for this read-out is exact and costs nothing, so no
label is lost to a held-out part. Ours: the papers give few-shot figures by fine-tuning or logistic regression.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.baselines import BASELINES, Baseline, Computed
from contextae.evaluation.bounds import check
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.computing import computed
from contextae.evaluation.features import MEAN_OF_LATENTS, FrozenEncoder, Precision
from contextae.evaluation.leave_one_out import Solved
from contextae.evaluation.metrics import interval, paired_interval
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.record import RANDOM, THIS_ENCODER
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.standardise import Standardisation
from contextae.evaluation.subset import Labels
from contextae.evaluation.task import LabelledImages, Task, check_images

PROTOCOL = "fewshot"


@dataclass(frozen=True, kw_only=True)
class FewShotSettings:
    """`l2` are the penalties beside the mean squared error, strongest first.

    With one image per class nothing can be left out: `l2_of_one` is taken, with which the class is nearly that of the
    most similar image, and the mean of the latents where a representation has that, else its first vectors.
    """

    version: int = 1
    per_class: tuple[int, ...] = (1, 5, 10)
    shares: tuple[float, ...] = (0.01, 0.1)
    draws: int = 5
    l2: tuple[float, ...] = (100.0, 10.0, 3.0, 1.0, 0.3, 0.1, 3e-2, 1e-2, 1e-3, 1e-4)
    l2_of_one: float = 10.0

    def __post_init__(self) -> None:
        check(self, "at least 1", ("draws",))
        check(self, "at least 1", ("per_class",), empty=True)
        check(self, "above 0 and at most 1", ("shares",), empty=True)
        check(self, "above 0", ("l2", "l2_of_one"))

    @property
    def labels(self) -> tuple[Labels, ...]:
        return (*(Labels(per_class=each) for each in self.per_class), *(Labels(share=each) for each in self.shares))


class ReadOut(NamedTuple):
    """Weights for standardised features, and what was chosen with which leave-one-out accuracy."""

    standardise: Standardisation
    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]
    features: str
    l2: float
    left_out: float | None

    def predict(self, vectors: Mapping[str, Tensor]) -> Int[Tensor, " m"]:
        return torch.addmm(self.bias, self.standardise(vectors[self.features]), self.weight).argmax(dim=1)


def fit(
    vectors: Mapping[str, Float[Tensor, "n d"]],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    settings: FewShotSettings | None = None,
) -> ReadOut:
    """Of all penalties and vectors those with the most images right when each is left out; of equals, the strongest.

    Statistics of the features are those of the n images.
    """
    settings = settings or FewShotSettings()
    if int(labels.bincount().max()) < 2:
        name = MEAN_OF_LATENTS if MEAN_OF_LATENTS in vectors else next(iter(vectors))
        standardise = Standardisation.of(vectors[name])
        solved = Solved(standardise(vectors[name]), labels, num_classes=num_classes)
        return ReadOut(standardise, *solved.weight_and_bias(settings.l2_of_one), name, settings.l2_of_one, None)
    best: tuple[float, str, float] | None = None
    for name, values in vectors.items():
        solved = Solved(Standardisation.of(values)(values), labels, num_classes=num_classes)
        for l2 in settings.l2:
            right = (solved.left_out(l2).argmax(dim=1) == labels).float().mean().item()
            if best is None or right > best[0]:
                best = (right, name, l2)
    assert best
    right, name, l2 = best
    standardise = Standardisation.of(vectors[name])
    solved = Solved(standardise(vectors[name]), labels, num_classes=num_classes)
    return ReadOut(standardise, *solved.weight_and_bias(l2), name, l2, right)


def run(
    encoder: FrozenEncoder,
    *,
    train: LabelledImages,
    test: LabelledImages,
    classes: Sequence[str],
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], FrozenEncoder],
    settings: FewShotSettings | None = None,
    seeds: int = 3,
    seed: int = 0,
    batch_size: int = 128,
    precision: Precision = "float32",
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> tuple[list[Result], list[Compared]]:
    """Accuracies on test of this encoder, of random initialisations and of every training-free baseline.

    Arguments are those of `evaluate`. Features are made once per representation; every number of labels is drawn
    `settings.draws` times, the same images for every representation, and intervals are over draws, seeds of random
    weights, and test images. An encoder is left as it was found.
    """
    settings = settings or FewShotSettings()
    if seeds < 1 or settings.draws < 1 or not settings.labels:
        raise UserError(
            f"Few-shot needs at least one number of labels, one draw and one seed of random weights. Got per_class="
            f"{settings.per_class}, shares={settings.shares}, draws={settings.draws}, seeds={seeds}."
        )
    task = Task.of(encoder, train=train, test=test, classes=classes)

    def of_network(network: FrozenEncoder) -> Callable[[Progress | None], Computed]:
        return lambda told: computed(
            network,
            task,
            mean=mean,
            deviation=deviation,
            batch_size=batch_size,
            device=next(encoder.parameters()).device,
            precision=precision,
            cache=cache,
            progress=told,
        )

    def of_baseline(baseline: Baseline) -> Callable[[Progress | None], Computed]:
        return lambda told: baseline(task.train_images, task.test_images, seed=seed, progress=told)

    def row(name: str, made: Sequence[Callable[[Progress | None], Computed]]) -> Row:
        found = Row(name=name, task=task, settings=settings, seed=seed)
        for number, each in enumerate(made):
            what = f"{name} {number + 1} of {len(made)}" if len(made) > 1 else name
            found.read_out(each, part_of(progress, what))
        return found

    random = [random_encoder(each) for each in range(seeds)]
    for network in random:
        check_images(network, task.train_images, "train")
    ours = row(THIS_ENCODER, [of_network(encoder)])
    theirs = [row(RANDOM, [of_network(network) for network in random])]
    theirs += [row(name, [of_baseline(baseline)]) for name, baseline in BASELINES.items()]
    results = [each.result(labels) for labels in settings.labels for each in (ours, *theirs)]
    return results, [ours.minus(each, labels) for labels in settings.labels for each in theirs]


class Row:
    """One representation, read out at every number of labels; one of random weights once per seed."""

    def __init__(self, *, name: str, task: Task, settings: FewShotSettings, seed: int) -> None:
        self.name, self.task, self.settings, self.seed = name, task, settings, seed
        self.labels = torch.from_numpy(task.train_labels)
        self.correct: dict[Labels, list[np.ndarray]] = {each: [] for each in settings.labels}
        self.chosen: dict[Labels, list[dict[str, Any]]] = {each: [] for each in settings.labels}
        self.detail, self.seconds = "", 0.0

    def read_out(self, made: Callable[[Progress | None], Computed], progress: Progress | None) -> None:
        """Makes the features of both parts once, and reads them out at every draw of every number of labels."""
        begun = time.monotonic()
        features = made(progress)
        self.detail = features.detail
        every = [(labels, draw) for labels in self.settings.labels for draw in range(self.settings.draws)]
        for done, (labels, draw) in enumerate(every):
            positions = labels.draw(self.labels, seed=self.seed, draw=draw)
            vectors = {name: values[positions] for name, values in features.train.vectors.items()}
            found = fit(vectors, self.labels[positions], num_classes=len(self.task.classes), settings=self.settings)
            self.correct[labels].append(found.predict(features.test.vectors).numpy() == self.task.test_labels)
            self.chosen[labels].append({"features": found.features, "l2": found.l2, "left out": found.left_out})
            if progress:
                progress("few-shot", (done + 1) / len(every))
        self.seconds += time.monotonic() - begun

    def result(self, labels: Labels) -> Result:
        """The figure with so many labels."""
        correct = np.stack(self.correct[labels])
        return Result(
            protocol=PROTOCOL,
            version=self.settings.version,
            row=self.name,
            metric=f"accuracy, {labels}",
            value=float(correct.mean()),
            interval=interval(correct, self.seed),
            num_images=len(self.task.test_labels),
            seeds=len(correct),
            seconds=self.seconds / len(self.settings.labels),
            details={
                "labels": len(labels.draw(self.labels, seed=self.seed)),
                "representation": self.detail,
                "chosen": self.chosen[labels],
                "accuracy of each repeat": [float(value) for value in correct.mean(axis=1)],
                "chance": self.task.chance,
                "notes": list(self.task.notes),
                "settings": asdict(self.settings),
            },
        )

    def minus(self, other: Row, labels: Labels) -> Compared:
        """The difference to another row over the same test images."""
        ours, theirs = np.stack(self.correct[labels]), np.stack(other.correct[labels])
        return Compared(
            protocol=PROTOCOL,
            row=self.name,
            baseline=other.name,
            metric=f"accuracy, {labels}",
            difference=float(ours.mean() - theirs.mean()),
            interval=paired_interval(ours, theirs, self.seed),
        )
