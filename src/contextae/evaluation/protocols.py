"""The table of protocols: how a frozen representation is read out and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from torch import Tensor

from contextae.errors import UserError, nearest
from contextae.evaluation import attentive, knn, linear, ridge
from contextae.evaluation.progress import Progress
from contextae.evaluation.record import Chosen
from contextae.evaluation.representation import Representation


@dataclass(frozen=True)
class Answer:
    """Classes predicted for the test images, and what was chosen with which accuracy on the held-out part of train."""

    predicted: Int[np.ndarray, " m"]
    chosen: Chosen
    held_out: float


@runtime_checkable
class Readout(Protocol):
    """Fits on train, choosing on its held-out part, and predicts test; it is never given the labels of test."""

    def __call__(
        self,
        train: Representation,
        labels: Int[Tensor, " n"],
        test: Representation,
        *,
        num_classes: int,
        seed: int,
        progress: Progress | None,
    ) -> Answer: ...


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """`version` rises whenever a change to the protocol could move a figure."""

    title: str
    version: int
    reads_tokens: bool
    run: Readout


def _of_vectors(fit: Callable[..., knn.Knn | linear.Linear | ridge.Ridge]) -> Readout:
    def run(
        train: Representation,
        labels: Int[Tensor, " n"],
        test: Representation,
        *,
        num_classes: int,
        seed: int,
        progress: Progress | None,
    ) -> Answer:
        fitted = fit(train.vectors, labels, num_classes=num_classes, seed=seed, progress=progress)
        return Answer(fitted.predict(test.vectors).numpy(), fitted.chosen, fitted.held_out)

    return run


def _attentive(
    train: Representation,
    labels: Int[Tensor, " n"],
    test: Representation,
    *,
    num_classes: int,
    seed: int,
    progress: Progress | None,
) -> Answer:
    assert train.tokens is not None and test.tokens is not None
    fitted = attentive.fit(
        train.tokens, labels, num_heads=train.num_heads, num_classes=num_classes, seed=seed, progress=progress
    )
    return Answer(fitted.predict(test.tokens).numpy(), fitted.chosen, fitted.held_out)


PROTOCOLS = {
    "knn": EvaluationProtocol(
        title="kNN", version=knn.KnnSettings.version, reads_tokens=False, run=_of_vectors(knn.fit)
    ),
    "linear": EvaluationProtocol(
        title="linear", version=linear.LinearSettings.version, reads_tokens=False, run=_of_vectors(linear.fit)
    ),
    "attentive": EvaluationProtocol(
        title="attentive", version=attentive.AttentiveSettings.version, reads_tokens=True, run=_attentive
    ),
    "ridge": EvaluationProtocol(
        title="ridge", version=ridge.RidgeSettings.version, reads_tokens=False, run=_of_vectors(ridge.fit)
    ),
}


def select(names: Sequence[str]) -> dict[str, EvaluationProtocol]:
    """The named protocols in the given order, each once; UserError for none and for an unknown one."""
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(
                f"{name!r} is not a protocol of evaluation.{nearest(name, PROTOCOLS)} "
                f"There are: {', '.join(PROTOCOLS)}."
            )
    if not names:
        raise UserError(f"An evaluation needs at least one protocol. Got none; there are: {', '.join(PROTOCOLS)}.")
    return {name: PROTOCOLS[name] for name in names}
