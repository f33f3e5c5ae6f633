"""One update: parts of a batch add up to it, gradients are clipped, and nothing is applied after a bad one."""

from __future__ import annotations

import pytest
import torch

from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.training.distributed import start
from contextae.training.optimizer import adamw
from contextae.training.schedule import Schedule
from contextae.training.step import Step, split
from networks import masked_batch, small_cae


def make(method: CAE, *, accumulate: int = 1, clip_norm: float = 0.5) -> Step:
    return Step(
        method=method,
        optimizer=adamw(method, lr=1.0, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=Schedule(peak=1e-3, final=1e-5, warmup_steps=2, total_steps=10),
        clip_norm=clip_norm,
        accumulate=accumulate,
        precision="float32",
        distributed=start("cpu"),
    )


def test_accumulated_parts_are_the_batch() -> None:
    whole, parts = small_cae(), small_cae()
    first, second = make(whole), make(parts, accumulate=3)
    for index in range(3):
        batch = masked_batch(size=6, seed=index)
        a, b = first(batch, index), second(batch, index)
        torch.testing.assert_close(a.loss, b.loss)
        torch.testing.assert_close(a.gradient_norm, b.gradient_norm, rtol=1e-4, atol=1e-6)
        assert a.parts.keys() == b.parts.keys() == {"reconstruction", "alignment"}
        torch.testing.assert_close(a.parts["alignment"], b.parts["alignment"])
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6, msg=name)


def test_an_update_is_adamw_on_clipped_gradients_at_the_schedules_rate() -> None:
    method, plain = small_cae(), small_cae()
    step = make(method)
    batch = masked_batch(size=4)
    norm = step(batch, 0).gradient_norm
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in plain.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=0.5e-3,
        betas=(0.9, 0.95),
    )
    plain(batch).total.backward()
    expected = torch.sqrt(sum(p.grad.square().sum() for p in plain.parameters() if p.grad is not None))
    torch.testing.assert_close(norm, expected)
    assert norm > 0.5
    for p in plain.parameters():
        if p.grad is not None:
            p.grad *= 0.5 / (expected + 1e-6)
    optimizer.step()
    for (name, a), b in zip(method.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a, b[1], rtol=1e-4, atol=2e-6, msg=name)


def test_from_a_bad_step_on_the_weights_stay_those_before_it() -> None:
    method = small_cae()
    step = make(method)
    step(masked_batch(seed=0), 0)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    bad = masked_batch(seed=1)
    bad.images[0, 0, 0, 0] = torch.nan
    update = step(bad, 1)
    assert not update.loss.isfinite() and step.first_bad.item() == 1
    step(masked_batch(seed=2), 2)
    assert step.first_bad.item() == 1
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_a_share_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="Got 4 images for 3 parts"):
        next(split(masked_batch(size=4), 3))
    parts = list(split(masked_batch(size=4), 2))
    assert [len(part.images) for part in parts] == [2, 2] and len(parts[1].mask.masked) == 2


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_one_bad_gradient_does_not_spread_to_the_others(value: float) -> None:
    method = small_cae()
    step = make(method)
    wrong = method.encoder.blocks[0].mlp.fc1.weight
    wrong.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), value))
    assert not step(masked_batch(size=4), 0).gradient_norm.isfinite()
    bad = {name for name, p in method.named_parameters() if p.grad is not None and not p.grad.isfinite().all()}
    assert bad == {"encoder.blocks.0.mlp.fc1.weight"} and step.first_bad == 0
