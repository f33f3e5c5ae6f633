"""What every protocol of the table has to keep, whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from contextae.evaluation import attentive
from contextae.evaluation.evaluate import RANDOM, THIS_ENCODER, evaluate
from contextae.evaluation.features import extract, fingerprint
from contextae.evaluation.protocols import PROTOCOLS, Answer
from contextae.evaluation.record import Evaluation
from contextae.evaluation.representation import Representation
from evaluation.stand_in import DEVIATION, MEAN, StandIn, separable


@pytest.fixture(autouse=True, scope="module")
def _few_epochs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attentive, "AttentiveSettings", partial(attentive.AttentiveSettings, images_seen=4_000))
        yield


every_protocol = pytest.mark.parametrize("name", PROTOCOLS)


def represent(images: np.ndarray, encoder: StandIn) -> Representation:
    features = extract(encoder, images, mean=MEAN, deviation=DEVIATION, with_tokens=True)
    return Representation(vectors=features.vectors, tokens=features.tokens, num_heads=encoder.num_heads)


@pytest.fixture(scope="module")
def parts() -> tuple[Representation, torch.Tensor, Representation, np.ndarray]:
    torch.manual_seed(0)
    encoder = StandIn()
    (images, labels), (test_images, test_labels) = separable(320), separable(300, seed=1)
    return represent(images, encoder), torch.from_numpy(labels), represent(test_images, encoder), test_labels


def answer(name: str, parts: Any, labels: torch.Tensor | None = None) -> Answer:
    train, own, test, _ = parts
    return PROTOCOLS[name].run(
        train, own if labels is None else labels, test, num_classes=3, seed=0, progress=lambda what, share: None
    )


@every_protocol
def test_above_chance_on_separable_data(name: str, parts: Any) -> None:
    found = answer(name, parts)
    assert (found.predicted == parts[3]).mean() > 0.8
    assert 0.7 < found.held_out <= 1


@every_protocol
def test_at_chance_on_shuffled_labels(name: str, parts: Any) -> None:
    """Test's are shuffled too: else its classes, each given one label by accident, are right or wrong as a whole."""
    rng = np.random.default_rng(3)
    found = answer(name, parts, torch.from_numpy(rng.permutation(parts[1].numpy())))
    assert abs((found.predicted == rng.permutation(parts[3])).mean() - 1 / 3) < 0.09
    assert found.held_out < 0.6


@every_protocol
def test_a_function_of_its_seed_that_leaves_torchs_generator_alone(name: str, parts: Any) -> None:
    state = torch.get_rng_state()
    first = answer(name, parts)
    torch.manual_seed(1)
    second = answer(name, parts)
    torch.set_rng_state(state)
    third = answer(name, parts)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first.predicted, second.predicted) and first.chosen == second.chosen
    assert np.array_equal(first.predicted, third.predicted) and first.held_out == third.held_out


@every_protocol
def test_a_test_image_is_judged_alone(name: str, parts: Any) -> None:
    """Neither what is chosen nor a prediction depends on which other test images there are."""
    train, labels, test, wanted = parts
    assert test.tokens is not None
    few = Representation(
        vectors={key: values[:7] for key, values in test.vectors.items()},
        tokens=test.tokens[:7],
        num_heads=test.num_heads,
    )
    all_of_them, some = answer(name, parts), answer(name, (train, labels, few, wanted))
    assert all_of_them.chosen == some.chosen and np.array_equal(all_of_them.predicted[:7], some.predicted)


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if not protocol.reads_tokens])
def test_dimensions_of_any_length_count_alike(name: str, parts: Any) -> None:
    """A dimension without information, thousands of times as long as the others, changes little: standardised away."""
    train, labels, test, wanted = parts
    noise = [torch.randn(len(each.vectors["class token"]), 1) * 1e4 for each in (train, test)]
    longer = [
        Representation(vectors={"long": torch.cat([each.vectors["mean of latents"], extra], dim=1)})
        for each, extra in zip((train, test), noise, strict=True)
    ]
    found = answer(name, (longer[0], labels, longer[1], wanted))
    assert (found.predicted == wanted).mean() > 0.75


@pytest.fixture(scope="module")
def evaluations() -> tuple[StandIn, list[Any], Evaluation, Evaluation]:
    """The same evaluation twice, the second time with poisoned labels of test, and what the encoder was before."""
    torch.manual_seed(0)
    encoder = StandIn()
    encoder.norm.eval()
    before = [
        fingerprint(encoder),
        [module.training for module in encoder.modules()],
        [parameter.requires_grad for parameter in encoder.parameters()],
    ]
    images, labels = separable(90, seed=1)

    def random_encoder(seed: int) -> StandIn:
        torch.manual_seed(seed)
        return StandIn()

    def run(test_labels: np.ndarray) -> Evaluation:
        return evaluate(
            encoder,
            train=separable(130),
            test=(images, test_labels),
            classes=["a", "b", "c"],
            mean=MEAN,
            deviation=DEVIATION,
            random_encoder=random_encoder,
            protocols=tuple(PROTOCOLS),
            seeds=1,
        )

    return encoder, before, run(labels), run((labels + 1) % 3)


def test_the_encoder_is_left_as_it_was_found(evaluations: Any) -> None:
    encoder, before, _, _ = evaluations
    assert before == [
        fingerprint(encoder),
        [module.training for module in encoder.modules()],
        [parameter.requires_grad for parameter in encoder.parameters()],
    ]


def test_labels_of_test_choose_nothing(evaluations: Any) -> None:
    _, _, honest, poisoned = evaluations
    assert len(honest.entries) == len(poisoned.entries) == 2 * 4 + 3 * 3
    for ours, theirs in zip(honest.entries, poisoned.entries, strict=True):
        assert (ours.representation, ours.protocol) == (theirs.representation, theirs.protocol)
        assert ours.chosen == theirs.chosen and ours.held_out_accuracy == theirs.held_out_accuracy
        assert not (ours.correct & theirs.correct).any(), "one prediction cannot be right for two different labels"


def test_tokens_are_read_of_encoders_alone(evaluations: Any) -> None:
    for row in evaluations[2].representations:
        assert (evaluations[2].entry(row, "attentive") is not None) == (row in (THIS_ENCODER, RANDOM))
