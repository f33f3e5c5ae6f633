"""The kNN figure of an encoder in training, on a held-out part of train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Real

from contextae.evaluation.features import FrozenEncoder, Precision, extract
from contextae.evaluation.knn import KnnSettings, classify, unit
from contextae.evaluation.standardise import Standardisation


def knn_probe(
    encoder: FrozenEncoder,
    train_images: Real[np.ndarray, "n c h w"],
    train_labels: Int[np.ndarray, " n"],
    held_out_images: Real[np.ndarray, "m c h w"],
    held_out_labels: Int[np.ndarray, " m"],
    *,
    mean: Sequence[float],
    deviation: Sequence[float],
    k: int = 20,
    batch_size: int = 128,
    precision: Precision = "float32",
) -> float:
    """Accuracy of weighted kNN on mean latents, with nothing chosen: one figure that is comparable between epochs.

    Both sets of images are of train; the test split is read by `evaluate` alone. The encoder is left as it was found.
    """
    bank, queries = (
        extract(
            encoder, images, mean=mean, deviation=deviation, batch_size=batch_size, precision=precision
        ).mean_latents
        for images in (train_images, held_out_images)
    )
    labels = torch.from_numpy(train_labels).long()
    standardise = Standardisation.of(bank)
    predicted = classify(
        standardise(queries),
        unit(standardise(bank)),
        labels,
        ks=[k],
        classes=int(labels.max()) + 1,
        settings=KnnSettings(),
    )[k]
    return float((predicted.numpy() == held_out_labels).mean())
