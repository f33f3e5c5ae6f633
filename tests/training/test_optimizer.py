"""AdamW: what is decayed, and its state as tensors by name."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.training.optimizer import adamw, load_optimizer_tensors, optimizer_tensors
from networks import masked_batch, small_cae


def trained(steps: int, method: CAE | None = None) -> tuple[CAE, torch.optim.AdamW]:
    method = method or small_cae()
    optimizer = adamw(method, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    go_on(method, optimizer, range(steps))
    return method, optimizer


def go_on(method: CAE, optimizer: torch.optim.AdamW, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        method(masked_batch(seed=seed)).total.backward()
        optimizer.step()


def test_only_matrices_are_decayed_and_everything_is_trained() -> None:
    method = small_cae()
    groups = adamw(method, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained_ones = {name: p for name, p in method.named_parameters() if p.requires_grad}
    for name, parameter in trained_ones.items():
        assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert len(decay) == len(trained_ones)
    assert decay[id(method.encoder.class_token)] == decay[id(method.regressor.mask_query)] == 0.0


def test_state_goes_to_tensors_and_back_exactly() -> None:
    method, optimizer = trained(3)
    tensors = {name: value.clone() for name, value in optimizer_tensors(optimizer, method).items()}
    other = small_cae()
    other.load_state_dict(method.state_dict())
    again = adamw(other, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    load_optimizer_tensors(again, other, tensors)
    assert {name: value.tolist() for name, value in optimizer_tensors(again, other).items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
    go_on(method, optimizer, range(3, 5))
    go_on(other, again, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), other.parameters(), strict=True))


def test_before_the_first_update_there_is_nothing_to_keep() -> None:
    method, optimizer = trained(0)
    assert optimizer_tensors(optimizer, method) == {}
    load_optimizer_tensors(optimizer, method, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("exp_avg/encoder.class_token"), "exp_avg/encoder.class_token is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more is unknown"),
        (
            lambda t: t.update({"exp_avg_sq/encoder.class_token": torch.zeros(3)}),
            r"exp_avg_sq/encoder.class_token has shape (3,) instead of (22,)",
        ),
    ],
)
def test_state_of_another_network_is_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    method, optimizer = trained(1)
    tensors = optimizer_tensors(optimizer, method)
    change(tensors)
    with pytest.raises(UserError, match=re.escape(message)):
        load_optimizer_tensors(optimizer, method, tensors)
