"""One frozen encoder under several protocols, beside its baselines, on the same images: the numbers of one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from contextae.errors import UserError, nearest
from contextae.evaluation import attentive, knn, linear, ridge
from contextae.evaluation.baselines import HOG, KMEANS, RAW, KMeansPatches, hog_and_thumbnail, raw_pixels
from contextae.evaluation.features import FrozenEncoder, Progress, extract
from contextae.evaluation.metrics import accuracy, interval, paired_interval

ENCODER, RANDOM = "this encoder", "random initialisation"
TRAINING_FREE = (RAW, HOG, KMEANS)


class Fitted(Protocol):
    """A classifier with what was chosen for it on a held-out part of train."""

    @property
    def chosen(self) -> dict[str, Any]: ...

    def predict(self, features: Any) -> Tensor: ...


class Representation(NamedTuple):
    """Train and test images as vectors by name and, of an encoder, as tokens; one of several with random weights."""

    name: str
    train: dict[str, Tensor]
    test: dict[str, Tensor]
    train_tokens: Tensor | None
    test_tokens: Tensor | None
    num_heads: int


def _by_vectors(module: Any) -> Callable[..., tuple[Fitted, Tensor] | None]:
    def run(it: Representation, labels: Tensor, num_classes: int, progress: Progress | None) -> tuple[Fitted, Tensor]:
        fitted = module.fit(it.train, labels, num_classes=num_classes, progress=progress)
        return fitted, fitted.predict(it.test)

    return run


def _attentive(
    it: Representation, labels: Tensor, num_classes: int, progress: Progress | None
) -> tuple[Fitted, Tensor] | None:
    if it.train_tokens is None:
        return None
    fitted = attentive.fit(it.train_tokens, labels, num_heads=it.num_heads, num_classes=num_classes, progress=progress)
    return fitted, fitted.predict(it.test_tokens)


PROTOCOLS: dict[str, tuple[int, Callable[..., tuple[Fitted, Tensor] | None]]] = {
    "knn": (knn.KnnSettings.version, _by_vectors(knn)),
    "linear": (linear.LinearSettings.version, _by_vectors(linear)),
    "attentive": (attentive.AttentiveSettings.version, _attentive),
    "ridge": (ridge.RidgeSettings.version, _by_vectors(ridge)),
}
"""Version of the settings, and what it does; a protocol that a representation has nothing for gives None."""


@dataclass(frozen=True)
class Result:
    """Of one representation under one protocol; accuracies are shares, means over the seeds of random weights."""

    representation: str
    protocol: str
    version: int
    accuracy: float
    interval: tuple[float, float]
    chosen: list[dict[str, Any]]
    seconds: float
    correct: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Difference:
    """Accuracy of the encoder minus a baseline's over the same test images, with its 95 % paired bootstrap interval."""

    protocol: str
    baseline: str
    difference: float
    interval: tuple[float, float]

    @property
    def outside(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Evaluation:
    """All results and the encoder's differences to every baseline."""

    results: list[Result]
    differences: list[Difference]
    num_train: int
    num_test: int
    classes: list[str]
    seeds: int

    def result(self, representation: str, protocol: str) -> Result | None:
        """The one of that name, or None where the protocol does not apply."""
        return next((r for r in self.results if (r.representation, r.protocol) == (representation, protocol)), None)

    def difference(self, protocol: str, baseline: str) -> Difference | None:
        """The one to that baseline, or None where the protocol does not apply to it."""
        return next((d for d in self.differences if (d.protocol, d.baseline) == (protocol, baseline)), None)


def evaluate(
    encoder: FrozenEncoder,
    *,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], FrozenEncoder],
    protocols: Sequence[str] = ("knn", "linear", "attentive"),
    seeds: int = 3,
    progress: Progress | None = None,
) -> Evaluation:
    """Every protocol on the encoder and on every baseline. `train` and `test` are uint8 images n c h w with labels.

    All settings are chosen on a held-out part of train, for the baselines as for the encoder; test images are met once,
    by a finished classifier. Random weights are those of `seeds` networks, their accuracies averaged.
    """
    _check(train, test, classes, protocols)
    wanted = torch.from_numpy(test[1]).long()
    labels = torch.from_numpy(train[1]).long()
    found: dict[tuple[str, str], list[tuple[Tensor, dict[str, Any], float]]] = {}
    for it in _representations(encoder, train[0], test[0], mean, deviation, random_encoder, protocols, seeds, progress):
        for name in protocols:
            start = time.perf_counter()
            told = (lambda what, share, it=it: progress(f"{it.name}: {what}", share)) if progress else None
            done = PROTOCOLS[name][1](it, labels, len(classes), told)
            if done is not None:
                fitted, predicted = done
                taken = time.perf_counter() - start
                found.setdefault((it.name, name), []).append((predicted == wanted, fitted.chosen, taken))
    results = [_result(name, protocol, runs) for (name, protocol), runs in found.items()]
    own = {result.protocol: result for result in results if result.representation == ENCODER}
    differences = [
        Difference(
            result.protocol,
            result.representation,
            own[result.protocol].accuracy - result.accuracy,
            paired_interval(own[result.protocol].correct, result.correct),
        )
        for result in results
        if result.representation != ENCODER
    ]
    return Evaluation(results, differences, len(labels), len(wanted), list(classes), seeds)


def _result(name: str, protocol: str, runs: list[tuple[Tensor, dict[str, Any], float]]) -> Result:
    correct = torch.stack([run[0] for run in runs]).numpy()
    return Result(
        representation=name,
        protocol=protocol,
        version=PROTOCOLS[protocol][0],
        accuracy=float(np.mean([accuracy(row, np.ones_like(row)) for row in correct])),
        interval=interval(correct),
        chosen=[run[1] for run in runs],
        seconds=sum(run[2] for run in runs),
        correct=correct,
    )


def _representations(
    encoder: FrozenEncoder,
    train: np.ndarray,
    test: np.ndarray,
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], FrozenEncoder],
    protocols: Sequence[str],
    seeds: int,
    progress: Progress | None,
) -> Iterator[Representation]:
    """One after the other, so that the tokens of one encoder at a time are in memory."""

    def encoded(name: str, it: FrozenEncoder) -> Representation:
        told = (lambda what, share: progress(f"{name}: {what}", share)) if progress else None
        parts = [
            extract(it, images, mean=mean, deviation=deviation, with_tokens="attentive" in protocols, progress=told)
            for images in (train, test)
        ]
        vectors = [part.vectors for part in parts]
        return Representation(name, vectors[0], vectors[1], parts[0].tokens, parts[1].tokens, it.num_heads)

    def plain(name: str, describe: Callable[[np.ndarray], Tensor]) -> Representation:
        return Representation(name, {name: describe(train)}, {name: describe(test)}, None, None, 1)

    yield encoded(ENCODER, encoder)
    for seed in range(seeds):
        yield encoded(RANDOM, random_encoder(seed))
    if not set(protocols) - {"attentive"}:
        return
    yield plain(RAW, raw_pixels)
    yield plain(HOG, hog_and_thumbnail)
    yield plain(KMEANS, KMeansPatches(train, progress=progress))


def _check(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
    protocols: Sequence[str],
) -> None:
    if not protocols:
        raise UserError(f"At least one protocol is needed: {', '.join(PROTOCOLS)}. Got none.")
    for name in protocols:
        if name not in PROTOCOLS:
            raise UserError(
                f"There is no protocol {name!r}.{nearest(name, PROTOCOLS)} Protocols: {', '.join(PROTOCOLS)}."
            )
    for what, (images, labels) in (("train", train), ("test", test)):
        if len(images) != len(labels) or not len(images):
            raise UserError(f"Each image of {what} needs a label. Got {len(images)} images and {len(labels)} labels.")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise UserError(
                f"Labels of {what} are positions in the {len(classes)} classes. Got {labels.min()} to {labels.max()}."
            )
