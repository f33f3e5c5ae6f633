"""Training of attentive heads: rates share a pass and nothing else, and predictions do not depend on their batch."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.attentive import AttentiveSettings, _learning_rate, fit, predict, train
from contextae.evaluation.heads.attentive import normalise

SETTINGS = AttentiveSettings(epochs=3, images_seen=1, batch_size=32, smallest_batch=32, learning_rates=(0.05, 0.4))


def one_telling_token(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens [n 5 8]; the class shows in one token, at a random place, that a key can tell from the others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    tokens = torch.randn(n, 5, 8, generator=generator)
    places = torch.randint(5, (n,), generator=generator)
    tokens[torch.arange(n), places, labels] += 5
    tokens[torch.arange(n), places, 7] += 5
    return normalise(tokens).half(), labels


def heads(tokens: Tensor, labels: Tensor, rates: tuple[float, ...], seed: int = 0) -> list[torch.nn.Module]:
    return list(
        train(
            tokens,
            labels,
            torch.arange(len(labels)),
            learning_rates=rates,
            num_heads=2,
            num_classes=3,
            seed=seed,
            settings=SETTINGS,
        )
    )


def test_rates_trained_together_are_as_alone() -> None:
    tokens, labels = one_telling_token(96)
    together = heads(tokens, labels, (0.05, 0.4))
    for head, rate in zip(together, (0.05, 0.4), strict=True):
        (alone,) = heads(tokens, labels, (rate,))
        for ours, wanted in zip(head.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours, wanted, atol=1e-6)


def test_it_finds_the_telling_token() -> None:
    tokens, labels = one_telling_token(600)
    test_tokens, test_labels = one_telling_token(300, seed=1)
    settings = AttentiveSettings(images_seen=7_200, learning_rates=(0.2, 1.0))
    fitted = fit(tokens, labels, num_heads=2, num_classes=3, settings=settings)
    assert (fitted.predict(test_tokens) == test_labels).float().mean() > 0.9
    assert fitted.held_out > 0.85
    assert fitted.chosen["epochs"] == 12 and fitted.chosen["batch size"] == 32


def test_predictions_do_not_depend_on_the_batch_and_leave_torchs_generator_alone() -> None:
    tokens, labels = one_telling_token(96)
    state = torch.get_rng_state()
    fitted = fit(tokens, labels, num_heads=2, num_classes=3, settings=SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert not fitted.head.training
    assert torch.equal(fitted.predict(tokens)[:3], fitted.predict(tokens[:3]))
    assert torch.equal(predict([fitted.head], tokens, torch.tensor([5, 2]))[0], fitted.predict(tokens)[[5, 2]])


def test_a_small_rate_is_chosen_where_a_large_one_does_harm() -> None:
    tokens, labels = one_telling_token(150)
    settings = AttentiveSettings(images_seen=1, learning_rates=(0.5, 1e6))
    assert fit(tokens, labels, num_heads=2, num_classes=3, settings=settings).learning_rate == 0.5


def test_warm_up_and_cosine() -> None:
    settings = AttentiveSettings(warmup=0.1, final_learning_rate=0.0)
    rates = [_learning_rate(2.0, share, settings) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0, 1, 2, 1, 0])


@pytest.mark.parametrize(
    ("n", "batch", "epochs"), [(50_000, 256, 10), (12_000, 256, 10), (3_409, 64, 30), (100, 32, 50)]
)
def test_small_sets_are_seen_more_often_in_smaller_batches(n: int, batch: int, epochs: int) -> None:
    settings = AttentiveSettings()
    assert (settings.batch_of(n), settings.epochs_of(n)) == (batch, epochs)


def test_nothing_but_infinite_weights_is_refused() -> None:
    tokens, labels = one_telling_token(96)
    with pytest.raises(UserError, match=r"No learning rate of \(1e\+38,\) trained an attentive head"):
        heads(tokens, labels, (1e38,))


def test_legacy_batch_statistics_are_those_of_the_batch_asked_about() -> None:
    tokens, labels = one_telling_token(96)
    settings = replace(SETTINGS, legacy_batch_stats=True)
    fitted = fit(tokens, labels, num_heads=2, num_classes=3, settings=settings)
    assert fitted.chosen["legacy batch statistics"] is True
    before = fitted.head.norm.running_mean.clone()
    # with statistics of their own, images all of one class are spread over the classes
    alike = tokens[labels == 0]
    legacy, correct = fitted.predict(alike), predict([fitted.head], alike)[0]
    assert (correct == 0).float().mean() > 0.8 > 0.6 > (legacy == 0).float().mean()
    wanted = copy.deepcopy(fitted.head).train()(alike.float()).argmax(dim=1)
    assert torch.equal(legacy, wanted)
    assert torch.equal(fitted.head.norm.running_mean, before) and not fitted.head.training


def test_a_single_image_left_over_has_the_statistics_of_the_batch_before_it() -> None:
    tokens, labels = one_telling_token(257)
    settings = replace(SETTINGS, legacy_batch_stats=True)
    fitted = fit(tokens, labels, num_heads=2, num_classes=3, settings=settings)
    wanted = copy.deepcopy(fitted.head).train()(tokens.float()).argmax(dim=1)
    assert torch.equal(fitted.predict(tokens), wanted)
