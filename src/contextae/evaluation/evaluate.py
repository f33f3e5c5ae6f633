"""The frozen encoder under every protocol, beside random weights and baselines that need no training at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8

from contextae.evaluation.baselines import BASELINES
from contextae.evaluation.features import FrozenEncoder, Precision, Progress, extract, fingerprint
from contextae.evaluation.metrics import interval, mean_per_class_accuracy, paired_interval
from contextae.evaluation.protocols import Answer, EvaluationProtocol, select
from contextae.evaluation.record import RANDOM, THIS_ENCODER, Difference, Entry, Evaluation
from contextae.evaluation.representation import Representation
from contextae.evaluation.task import Task

DEFAULT_PROTOCOLS = ("knn", "linear", "attentive")


def evaluate(
    encoder: FrozenEncoder,
    *,
    train_images: UInt8[np.ndarray, "n c h w"],
    train_labels: Int[np.ndarray, " n"] | None,
    test_images: UInt8[np.ndarray, "m c h w"],
    test_labels: Int[np.ndarray, " m"] | None,
    classes: Sequence[str],
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], FrozenEncoder],
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    seeds: int = 3,
    seed: int = 0,
    batch_size: int = 128,
    precision: Precision = "float32",
    progress: Progress | None = None,
) -> Evaluation:
    """Accuracies on test of this encoder, of `seeds` random initialisations and of every training-free baseline.

    `random_encoder(s)` gives the same network with random weights. Everything is chosen on a held-out part of train,
    for each representation alike; the labels of test are compared with finished predictions and used for nothing else.
    The encoder runs where its weights lie and is left as it was found; read-outs run on the CPU.
    """
    started = time.monotonic()
    chosen = select(protocols)
    task = Task.of(
        encoder,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=classes,
        seeds=seeds,
    )
    raise NotImplementedError
