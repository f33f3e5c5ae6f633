"""The figure of an encoder in training."""

from __future__ import annotations

import numpy as np
import torch

from contextae.evaluation.features import fingerprint
from contextae.evaluation.probe import probe
from evaluation.stand_in import DEVIATION, MEAN, StandIn, separable


def test_tells_separable_from_shuffled_and_leaves_the_encoder_alone() -> None:
    encoder, (images, labels), (held_out, wanted) = StandIn(), separable(300), separable(90, seed=1)
    with torch.no_grad():
        encoder.embed.bias[0] = 1e4  # a direction that all images share and that tells nothing
    before = fingerprint(encoder)
    right = probe(encoder, images, labels, held_out, wanted, mean=MEAN, deviation=DEVIATION)
    shuffled = probe(encoder, images, labels[::-1].copy(), held_out, wanted, mean=MEAN, deviation=DEVIATION)
    assert right.keys() == {"knn"} and right["knn"] > 0.8 and shuffled["knn"] < 0.5
    assert fingerprint(encoder) == before and encoder.training


def test_other_protocols_read_the_same_features() -> None:
    encoder, (images, labels), (held_out, wanted) = StandIn(), separable(300), separable(90, seed=1)
    others = ("linear", "attentive", "ridge")
    found = probe(encoder, images, labels, held_out, wanted, protocols=others, mean=MEAN, deviation=DEVIATION)
    assert tuple(found) == others and min(found.values()) > 0.8
    again = probe(encoder, images, labels, held_out, wanted, protocols=("linear",), mean=MEAN, deviation=DEVIATION)
    assert again == {"linear": found["linear"]}
    shuffled = np.random.default_rng(0).permutation(labels)
    for name, chance in probe(
        encoder, images, shuffled, held_out, wanted, protocols=others, mean=MEAN, deviation=DEVIATION
    ).items():
        assert chance < 0.6, name
