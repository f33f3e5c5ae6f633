"""Figures of an encoder in training, on a held-out part of train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Real
from torch import Tensor

from contextae.evaluation.features import FrozenEncoder, Precision, extract
from contextae.evaluation.knn import KnnSettings, classify, unit
from contextae.evaluation.protocols import select
from contextae.evaluation.representation import Representation
from contextae.evaluation.standardise import Standardisation

KNN, K = "knn", 20


def probe(
    encoder: FrozenEncoder,
    train_images: Real[np.ndarray, "n c h w"],
    train_labels: Int[np.ndarray, " n"],
    held_out_images: Real[np.ndarray, "m c h w"],
    held_out_labels: Int[np.ndarray, " m"],
    *,
    protocols: Sequence[str] = (KNN,),
    mean: Sequence[float],
    deviation: Sequence[float],
    seed: int = 0,
    batch_size: int = 128,
    precision: Precision = "float32",
) -> dict[str, float]:
    """Accuracy by each of `evaluate`'s protocols for frozen encoders, from the same features.

    kNN is weighted, on mean latents, of 20 neighbours: nothing is chosen, which makes it comparable between epochs. The
    others choose within the first images as they do in an evaluation. Both sets of images are of train; the test split
    is read by `evaluate` alone. The encoder is left as it was found.
    """
    chosen = select(protocols)
    with_tokens = any(protocol.reads_tokens for protocol in chosen.values())
    bank, queries = (
        extract(
            encoder,
            images,
            mean=mean,
            deviation=deviation,
            with_tokens=with_tokens,
            batch_size=batch_size,
            precision=precision,
        )
        for images in (train_images, held_out_images)
    )
    labels = torch.from_numpy(train_labels).long()
    classes = int(labels.max()) + 1
    found = {}
    for name, protocol in chosen.items():
        if name == KNN:
            predicted = _neighbours(bank.mean_latents, queries.mean_latents, labels, classes).numpy()
        else:
            parts = [
                Representation(vectors=each.vectors, tokens=each.tokens, num_heads=encoder.num_heads)
                for each in (bank, queries)
            ]
            predicted = protocol.run(
                parts[0], labels, parts[1], num_classes=classes, seed=seed, progress=None
            ).predicted
        found[name] = float((predicted == held_out_labels).mean())
    return found


def _neighbours(bank: Tensor, queries: Tensor, labels: Tensor, classes: int) -> Tensor:
    standardise = Standardisation.of(bank)
    return classify(
        standardise(queries), unit(standardise(bank)), labels, ks=[K], classes=classes, settings=KnnSettings()
    )[K]
