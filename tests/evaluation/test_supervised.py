"""The loop of trainings with labels: a function of its seed, resumable bit for bit, at the rates that it says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.supervised import (
    STATE_FILE,
    DivergedError,
    Recipe,
    StoppedError,
    fit,
    optimizer_of,
    positions_of_batch,
)
from contextae.evaluation.trunk import Trunk
from contextae.grid import Grid

RECIPE = Recipe(steps=12, batch_size=8, lr=3e-3, layer_decay=0.7, warmup_steps=3)
LABELS = torch.arange(20) % 2
IMAGES = torch.randn(20, 3, 8, 12, generator=torch.Generator().manual_seed(5)) + LABELS.reshape(-1, 1, 1, 1)


class Classifier(nn.Module):
    """A trunk with drop path and a bias, and a head whose norm keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        grid = Grid(image_size=(8, 12), patch_size=(4, 4), channels=3)
        self.trunk = Trunk(
            Encoder(grid=grid, width=12, depth=2, num_heads=2, learned_positions=True),
            drop_path=0.5,
            relative_bias=True,
        )
        self.norm, self.head = nn.BatchNorm1d(12), nn.Linear(12, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.trunk.unnormed(images)[:, 1:].mean(1)))


def losses(model: nn.Module, *, stop_at: int | None = None, number: int = signal.SIGINT) -> Callable[[int], Tensor]:
    def loss_of(step: int) -> Tensor:
        if step == stop_at:
            os.kill(os.getpid(), number)
        chosen = torch.from_numpy(positions_of_batch(step, num_images=20, batch_size=8, seed=1))
        return F.cross_entropy(model(IMAGES[chosen]), LABELS[chosen])

    return loss_of


def trained(recipe: Recipe = RECIPE, *, seed: int = 0, state: Path | None = None) -> Classifier:
    model = Classifier()
    fit(model, losses(model), recipe, encoder="trunk", seed=seed, state=state)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_learns_and_is_a_function_of_its_seed() -> None:
    drawn = torch.get_rng_state()
    model, told = Classifier(), []
    fit(
        model,
        losses(model),
        replace(RECIPE, steps=80),
        encoder="trunk",
        seed=0,
        state=None,
        progress=lambda what, share: told.append((what, share)),
    )
    torch.manual_seed(0)
    assert not model.training and told[0] == ("training", 1 / 80) and told[-1] == ("training", 1.0)
    assert (model(IMAGES).argmax(1) == LABELS).float().mean() > 0.9
    assert same(trained(), trained()) and not same(trained(), trained(seed=1))
    torch.set_rng_state(drawn)
    model = Classifier()
    torch.set_rng_state(drawn)
    fit(model, losses(model), RECIPE, encoder="trunk", seed=0, state=None)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_signal_at_any_moment_is_answered_by_a_saved_state(tmp_path: Path) -> None:
    model = Classifier()

    def at_step_five(_: str, share: float) -> None:
        if share == 5 / 12:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StoppedError):
        fit(model, losses(model), RECIPE, encoder="trunk", seed=0, state=tmp_path, progress=at_step_five)
    assert same(trained(state=tmp_path), trained()) and not same(model, trained())


@pytest.mark.parametrize(("number", "ending"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")])
def test_a_stopped_training_goes_on_bit_equal(tmp_path: Path, number: int, ending: str) -> None:
    model = Classifier()
    with pytest.raises(StoppedError) as stopped:
        fit(model, losses(model, stop_at=5, number=number), RECIPE, encoder="trunk", seed=0, state=tmp_path)
    assert stopped.value.ending == ending
    shares: list[float] = []
    again = Classifier()
    fit(
        again,
        losses(again),
        RECIPE,
        encoder="trunk",
        seed=0,
        state=tmp_path,
        progress=lambda _, share: shares.append(share),
    )
    assert shares[0] == 7 / 12, "steps 0 to 5 were done"
    assert same(again, trained()) and not same(again, model)
    finished = Classifier()
    fit(finished, losses(finished, stop_at=11), RECIPE, encoder="trunk", seed=0, state=tmp_path)
    assert same(finished, again), "a finished training is not repeated"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    trained(state=tmp_path)
    with pytest.raises(UserError, match=r"state of another training: recipe differ"):
        trained(replace(RECIPE, lr=1e-3), state=tmp_path)
    with pytest.raises(UserError, match=r"state of another training: seed differ"):
        trained(seed=3, state=tmp_path)
    model = Classifier()
    with pytest.raises(UserError, match=r"state of another training: identity differ"):
        fit(model, losses(model), RECIPE, encoder="trunk", seed=0, state=tmp_path, identity="other images")
    model.head.bias.data += 1
    with pytest.raises(UserError, match=r"state of another training: start differ"):
        fit(model, losses(model), RECIPE, encoder="trunk", seed=0, state=tmp_path)
    file = tmp_path / STATE_FILE
    whole = file.read_bytes()
    for damaged in (whole[:-7], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged: .* Remove the folder"):
            trained(state=tmp_path)
    file.unlink()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to .*/file: "):
        trained(state=tmp_path / "file")


def test_layer_decay_and_weight_decay_of_every_weight() -> None:
    model = Classifier()
    optimizer = optimizer_of(model, replace(RECIPE, layer_decay=0.5, weight_decay=0.1), "trunk")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert set(found) == set(names.values())
    assert found["head.weight"] == (1, 0.1) and found["head.bias"] == (1, 0) and found["norm.weight"] == (1, 0)
    assert found["trunk.encoder.norm.weight"] == (1, 0)
    assert found["trunk.encoder.blocks.1.attn.qkv.weight"] == (0.5, 0.1)
    assert found["trunk.biases.1.table"] == (0.5, 0.1)
    assert found["trunk.encoder.blocks.0.attn.q_bias"] == (0.25, 0)
    assert found["trunk.encoder.patch_embed.weight"] == (0.125, 0.1)
    assert found["trunk.encoder.class_token"] == found["trunk.encoder.positions"] == (0.125, 0)
    plain = optimizer_of(model, RECIPE, None)
    assert {group["lr_scale"] for group in plain.param_groups} == {1.0}
    model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        optimizer_of(model, RECIPE, "trunk")
    with pytest.raises(ValueError, match="head is a Linear"):
        optimizer_of(model, RECIPE, "head")


def test_updates_are_plain_adamws_at_the_rates_of_the_schedule() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    x, wanted = torch.randn(6, 4), torch.randn(6, 2)
    by_hand = nn.Linear(4, 2)
    by_hand.load_state_dict(model.state_dict())
    recipe = Recipe(steps=5, batch_size=6, lr=0.1, weight_decay=0.3, warmup_steps=2, schedule="poly", clip_norm=0.01)
    fit(model, lambda _: F.mse_loss(model(x), wanted), recipe, encoder=None, seed=0, state=None)
    optimizer = torch.optim.AdamW(
        [{"params": [by_hand.weight], "weight_decay": 0.3}, {"params": [by_hand.bias], "weight_decay": 0.0}]
    )
    for rate in (0.05, 0.1, 0.1, 0.05, 0.0):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.mse_loss(by_hand(x), wanted).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.01)
        optimizer.step()
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_rates() -> None:
    cosine = Recipe(steps=11, batch_size=1, lr=2.0, warmup_steps=0, final_lr=1.0)
    assert [cosine.rate(step) for step in (0, 5, 10)] == pytest.approx([2, 1.5, 1])
    poly = replace(cosine, schedule="poly", final_lr=0.5)
    assert [poly.rate(step) for step in (0, 5, 10)] == pytest.approx([2, 1.25, 0.5])
    assert [replace(poly, warmup_steps=4).rate(step) for step in range(5)] == pytest.approx([0.5, 1, 1.5, 2, 2])
    step = Recipe(steps=12, batch_size=1, lr=2.0, warmup_steps=2, schedule="step", milestones=(9 / 12, 11 / 12))
    assert [step.rate(each) for each in (0, 1, 8, 9, 10, 11)] == pytest.approx([1, 2, 2, 0.2, 0.2, 0.02])


def test_a_loss_that_is_not_finite_ends_it() -> None:
    model = Classifier()
    with pytest.raises(DivergedError, match=r"not a finite number at step 4 of 12, at a learning rate of 0\.003"):
        fit(
            model,
            lambda step: losses(model)(step) * (float("nan") if step == 4 else 1.0),
            RECIPE,
            encoder="trunk",
            seed=0,
            state=None,
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "at least one step"),
        ({"batch_size": 0}, "one image a batch"),
        ({"lr": 0.0}, "learning rate above 0"),
        ({"schedule": "step"}, r"milestones are shares of the steps .* which needs them\. Got milestones=\(\)"),
        ({"milestones": (0.5,)}, r"for the schedule 'step'.* and schedule='cosine'"),
        ({"schedule": "step", "milestones": (9.0,)}, r"between 0 and 1.* Got milestones=\(9\.0,\)"),
        ({"layer_decay": 1.5}, r"layer_decay must be above 0 and at most 1, where 1 is none\. Got 1\.5"),
    ],
)
def test_recipes_that_cannot_be(changed: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(RECIPE, **changed)


def test_batches_run_through_every_image_once_an_epoch() -> None:
    drawn = np.concatenate([positions_of_batch(i, num_images=20, batch_size=8, seed=1) for i in range(5)])
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == list(range(20)) and list(drawn[:20]) != list(drawn[20:])
    assert sorted(positions_of_batch(0, num_images=3, batch_size=8, seed=0)[:6]) == [0, 0, 1, 1, 2, 2]
    assert list(positions_of_batch(0, num_images=20, batch_size=8, seed=2)) != list(drawn[:8])


def test_bfloat16_is_close() -> None:
    exact, rounded = trained(), trained(replace(RECIPE, precision="bfloat16"))
    assert not same(exact, rounded)
    assert torch.allclose(exact(IMAGES), rounded(IMAGES), atol=0.2)
