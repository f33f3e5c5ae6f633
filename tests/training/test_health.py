"""Measurements of latents against their definitions, and the word each situation gets."""

from __future__ import annotations

import math

import pytest
import torch

from contextae.training.health import Health, effective_rank, error_of_mean, measure, score, spread, verdict
from networks import masked_batch, small_cae

START = Health(1.5, 2.0, 2.0, 0.4, 0.9, 0.9, 20.0, 15.0, 0.06, 0.0)
GOOD = Health(0.7, 0.4, 0.5, 0.5, 0.9, 0.8, 18.0, 12.0, 0.07, 0.02)


@pytest.mark.parametrize(
    ("now", "word"),
    [
        (GOOD, "healthy"),
        (GOOD._replace(effective_rank_visible=2.0), "collapsing"),
        (GOOD._replace(content=0.05), "collapsing"),
        (GOOD._replace(reconstruction=math.nan), "diverging"),
        (GOOD._replace(effective_rank_visible=math.nan), "diverging"),
        (GOOD._replace(reconstruction=1.4), "diverging"),
        (GOOD._replace(weights=0.2), "diverging"),
        (GOOD._replace(waiting=0.6), "data-bound"),
        (GOOD._replace(weights=0.2, content=0.05, waiting=0.6), "diverging"),
        (GOOD._replace(content=0.05, waiting=0.6), "collapsing"),
    ],
)
def test_one_word_by_the_history(now: Health, word: str) -> None:
    found = verdict([START, GOOD, now])
    assert found.word == word and found.reason


def test_the_untrained_network_is_healthy_and_reasons_carry_figures() -> None:
    assert verdict([START]).word == "healthy"
    assert "2, 20 at the start" in verdict([START, GOOD._replace(effective_rank_visible=2.0)]).reason
    assert "60%" in verdict([START, GOOD._replace(waiting=0.6)]).reason


def test_effective_rank_counts_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.linalg.qr(torch.randn(4000, 5, generator=generator) - 0.0)[0]
    base = base - base.mean(0)
    wide = base @ torch.linalg.qr(torch.randn(11, 11, generator=generator))[0][:5]
    assert effective_rank(wide.reshape(40, 100, 11)) == pytest.approx(5, rel=0.02)
    assert effective_rank(torch.ones(3, 4, 7)) == 1.0
    assert math.isnan(effective_rank(torch.full((3, 4, 7), math.nan)))


def test_spread_is_between_patches_and_images_not_between_dimensions() -> None:
    assert spread(torch.arange(7.0).expand(3, 4, 7)) == 0.0
    assert spread(torch.randn(50, 40, 6)) == pytest.approx(1.0, rel=0.05)


def test_the_mean_predictor_is_one_mean_for_each_place() -> None:
    wanted, places = torch.randn(6, 3, 4), torch.tensor([[0, 1, 4]] * 3 + [[4, 2, 1]] * 3)
    expected = 0.0
    for place in (0, 1, 2, 4):
        here = wanted[places == place]
        expected += (here - here.mean(0)).square().sum().item()
    assert error_of_mean(wanted, places) == pytest.approx(expected / wanted.numel(), rel=1e-5)


def test_measuring_leaves_the_method_as_it_was_and_repeats_itself() -> None:
    method = small_cae(drop_path=0.5).train()
    batches = [masked_batch(seed=seed) for seed in range(3)]
    before = [p.clone() for p in method.parameters()]
    first, again = (measure(method, batches, waiting=0.25) for _ in range(2))
    assert first == again and method.training and first.waiting == 0.25
    assert all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
    traces = [method.eval().trace(batch) for batch in batches]
    alignment = torch.cat([trace.predicted - trace.aligned_to for trace in traces]).square().mean().item()
    assert first.alignment == pytest.approx(alignment, rel=1e-5)
    assert first.alignment_over_mean > 0 and first.spread_visible > 0 and first.content > 0
    matrices = torch.cat([p.detach().flatten() for p in method.parameters() if p.ndim > 1])
    assert first.weights == pytest.approx(matrices.square().mean().sqrt().item(), rel=1e-5)


def test_without_a_trained_reconstruction_its_growth_says_nothing() -> None:
    assert verdict([START, START._replace(reconstruction=3.0)]).word == "healthy"


def test_latents_that_only_repeat_positions_have_no_content() -> None:
    places = torch.stack([torch.randperm(5)[:3] for _ in range(40)])
    table = torch.randn(5, 4)
    assert error_of_mean(table[places], places) == pytest.approx(0.0, abs=1e-10)


def test_the_score_prefers_the_better_reconstruction() -> None:
    assert score(GOOD) > score(START)
