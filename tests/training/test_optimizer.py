"""AdamW: what is decayed, learning rates layer by layer, the frozen encoder, and its state as tensors by name."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.training.optimizer import adamw, load_optimizer_tensors, optimizer_tensors, set_rates
from networks import IMAGE, masked_batch, small_cae


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


# Layer by layer


def with_learned_positions() -> CAE:
    method = small_cae(depth=3)
    method.encoder = Encoder(grid=IMAGE, width=22, depth=3, num_heads=2, learned_positions=True)
    return method


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_every_trainable_weight_has_its_share_and_its_decay(decay: float) -> None:
    method = with_learned_positions()
    method.regressor.mask_query.requires_grad_(False)
    optimizer = adamw(
        method, lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95), layer_decay=decay, encoder_apart=decay == 1
    )
    set_rates(optimizer, 1e-3)
    placed = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert len(placed) == sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable)
    shares = {"patch_embed": decay**4, "class_token": decay**4, "positions": decay**4, "norm": 1.0}
    for name, parameter in trainable.items():
        group, words = placed[id(parameter)], name.split(".")
        inner = words[0] == "encoder"
        expected = (decay ** (3 - int(words[2])) if words[1] == "blocks" else shares[words[1]]) if inner else 1.0
        assert group["lr_scale"] == expected, name
        assert group["lr"] == 1e-3 * expected, name
        assert group["part"] == ("encoder" if inner else "rest"), name
        decayed = parameter.ndim > 1 and name != "encoder.positions"
        assert group["weight_decay"] == (0.05 if decayed else 0.0), name
    assert optimizer.param_groups[0]["lr"] == 1e-3, "the first group tells the whole rate"
    assert len(optimizer.param_groups) == (4 if decay == 1 else 11)


def test_without_layer_decay_the_groups_are_two_and_plain() -> None:
    method = small_cae()
    groups = adamw(method, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95), layer_decay=1.0).param_groups
    assert len(groups) == 2 and not any({"lr_scale", "part"} & set(group) for group in groups)
    trainable = [p for p in method.parameters() if p.requires_grad]
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in trainable if p.ndim > 1]
    assert [id(p) for p in groups[1]["params"]] == [id(p) for p in trainable if p.ndim <= 1]
    table = with_learned_positions()
    decayed = adamw(table, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95)).param_groups[0]["params"]
    assert not any(p is table.encoder.positions for p in decayed)


def test_groups_of_their_own_change_no_step() -> None:
    plain, _ = trained(3)
    apart = small_cae()
    optimizer = adamw(apart, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95), encoder_apart=True)
    go_on(apart, optimizer, range(3))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), apart.parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_layer_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=rf"layer_decay must be above 0 and at most 1, where 1 is none. Got {decay:g}."):
        adamw(small_cae(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95), layer_decay=decay)


# The frozen encoder


def continued(steps: range, *, frozen_steps: int, start: tuple[CAE, torch.optim.AdamW] | None = None) -> CAE:
    """Steps of a run whose encoder is frozen for the first `frozen_steps`."""
    method, optimizer = start or apart()
    for index in steps:
        set_rates(optimizer, 1e-3, encoder_frozen=index < frozen_steps)
        go_on(method, optimizer, range(index, index + 1))
    return method


def apart(betas: tuple[float, float] = (0.9, 0.95)) -> tuple[CAE, torch.optim.AdamW]:
    method = small_cae()
    return method, adamw(method, lr=1e-3, weight_decay=0.5, betas=betas, layer_decay=0.9)


def test_a_frozen_encoder_keeps_every_bit_while_the_rest_learns() -> None:
    before, after = small_cae(), continued(range(4), frozen_steps=4)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        same = torch.equal(old.view(torch.int32), new.view(torch.int32))
        assert same is (name.startswith("encoder.") or not new.requires_grad), name
    thawed = continued(range(5), frozen_steps=4)
    learnt = zip(before.encoder.named_parameters(), thawed.encoder.parameters(), strict=True)
    assert all(not torch.equal(old, new) for (_, old), new in learnt)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_resumed_before_at_or_after_the_thaw_is_equal(stop: int) -> None:
    whole = continued(range(6), frozen_steps=3)
    first, optimizer = apart()
    continued(range(stop), frozen_steps=3, start=(first, optimizer))
    second, again = apart()
    second.load_state_dict(first.state_dict())
    load_optimizer_tensors(again, second, optimizer_tensors(optimizer, first))
    continued(range(stop, 6), frozen_steps=3, start=(second, again))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def first_step_after_the_thaw(*, gradients_while_frozen: bool) -> float:
    """Its length over the learning rate, for a weight whose gradient is always 1."""
    method, optimizer = apart(betas=(0.9, 0.999))
    token = method.encoder.class_token
    for index in range(4000):
        set_rates(optimizer, 1e-3, encoder_frozen=index < 3999)
        token.grad = torch.full_like(token, float(gradients_while_frozen or index == 3999))
        before = token.detach().clone()
        optimizer.step()
    rate = next(group["lr"] for group in optimizer.param_groups if any(p is token for p in group["params"]))
    return float((token.detach() - before).abs().mean() / rate)


def test_moments_of_the_frozen_time_make_the_first_step_one_among_many() -> None:
    assert first_step_after_the_thaw(gradients_while_frozen=True) == pytest.approx(1.0, abs=1e-3)
    assert first_step_after_the_thaw(gradients_while_frozen=False) == pytest.approx(3.13, abs=0.02)


def test_freezing_without_groups_for_it_is_refused() -> None:
    _, optimizer = trained(0)
    set_rates(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    with pytest.raises(ValueError, match="An encoder can be frozen only where its weights have groups of their own"):
        set_rates(optimizer, 0.25, encoder_frozen=True)
