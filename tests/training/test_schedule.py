"""The learning rate of each update, against its definition and torch's own cosine."""

from __future__ import annotations

import pytest
import torch

from contextae.training.schedule import Schedule


def test_warm_up_rises_by_equal_steps_from_the_first_one_to_the_peak() -> None:
    rate = Schedule(peak=0.8, final=0.01, warmup_steps=4, total_steps=20)
    assert [rate(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_the_cosine_is_torchs_own() -> None:
    rate = Schedule(peak=0.8, final=0.1, warmup_steps=0, total_steps=12)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=11, eta_min=0.1)
    for step in range(12):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rate(11) == pytest.approx(0.1)


def test_it_peaks_once_and_ends_at_the_final_rate() -> None:
    rate = Schedule(peak=1.0, final=0.05, warmup_steps=7, total_steps=31)
    rates = [rate(step) for step in range(31)]
    assert max(rates) == rates[6] == rates[7] == 1.0 and rates[-1] == pytest.approx(0.05)
    assert rates[:7] == sorted(rates[:7]) and rates[7:] == sorted(rates[7:], reverse=True)


@pytest.mark.parametrize(("warmup", "total"), [(10, 5), (5, 5), (0, 1), (1, 1)])
def test_short_trainings(warmup: int, total: int) -> None:
    rate = Schedule(peak=1.0, final=0.0, warmup_steps=warmup, total_steps=total)
    assert all(0 < rate(step) <= 1 for step in range(total))
