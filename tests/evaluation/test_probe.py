"""The figure of an encoder in training."""

from __future__ import annotations

import torch

from contextae.evaluation.features import fingerprint
from contextae.evaluation.probe import knn_probe
from evaluation.stand_in import DEVIATION, MEAN, StandIn, separable


def test_tells_separable_from_shuffled_and_leaves_the_encoder_alone() -> None:
    encoder, (images, labels), (held_out, wanted) = StandIn(), separable(300), separable(90, seed=1)
    with torch.no_grad():
        encoder.embed.bias[0] = 1e4  # a direction that all images share and that tells nothing
    before = fingerprint(encoder)
    right = knn_probe(encoder, images, labels, held_out, wanted, mean=MEAN, deviation=DEVIATION)
    shuffled = knn_probe(encoder, images, labels[::-1].copy(), held_out, wanted, mean=MEAN, deviation=DEVIATION)
    assert right > 0.8 and shuffled < 0.5
    assert fingerprint(encoder) == before and encoder.training
