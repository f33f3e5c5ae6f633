"""A run from existing weights while it trains: frozen, thawed, layers at rates of their own, a resume across it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import interrupt
from starts import DEEP, FAST, Tensors, own, same

import contextae
from contextae.encoder import Encoder
from contextae.experiment import Experiment
from contextae.methods.cae import CAE
from contextae.training.log import read_lines
from contextae.training.weights import load_weights
from contextae.verbs import run as run_verb

Run = Callable[..., int]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Tensors]:
    """The method's weights after every step."""
    kept: list[Tensors] = []
    whole = CAE.after_step

    def after_step(self: CAE, progress: float) -> None:
        whole(self, progress)
        kept.append({name: value.detach().cpu().clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(CAE, "after_step", after_step)
    return kept


def unmoved(now: Tensors, before: Tensors) -> list[str]:
    """Weights that are as before; the bias of keys' norms may be, for softmax does not see it."""
    return [name for name in now if torch.equal(now[name], before[name]) and not name.endswith("norm_k.bias")]


def test_the_encoder_is_left_alone_until_the_thaw(
    pretrain: Run, photographs: Path, source: Path, steps: list[Tensors], capsys: pytest.CaptureFixture[str]
) -> None:
    """20 steps, 0.3 of them frozen: bit for bit, while every other weight moves from the first step on."""
    settings = ("training.epochs=4", "init.frozen_share=0.3", "health.every_epochs=9")
    before = dict(contextae.load(source)[0].state_dict())
    assert pretrain(photographs, None, DEEP, *settings, init=str(source)) == 0
    assert "frozen for the first 6 step(s), while the other parts are trained" in capsys.readouterr().out
    encoders = [{name.removeprefix("encoder."): value for name, value in own(step).items()} for step in steps]
    assert len(steps) == 20 and all(same(encoder, before) for encoder in encoders[:6])
    assert not unmoved(encoders[6], before)
    others = [{name: value for name, value in step.items() if not name.startswith("encoder.")} for step in steps]
    for earlier, later in itertools.pairwise(others[:9]):
        assert not unmoved(later, earlier)


def test_the_parts_move_from_the_very_first_step(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, steps: list[Tensors], monkeypatch: Any
) -> None:
    initial: list[Tensors] = []
    whole = run_verb.started

    def started(encoder: Encoder, *facts: Any) -> list[str]:
        lines = whole(encoder, *facts)
        initial.append({name: value.clone() for name, value in method[0].state_dict().items()})
        return lines

    method: list[Any] = []
    build = Experiment.build_method

    def build_method(self: Experiment, channels: int) -> Any:
        method.append(build(self, channels))
        return method[-1]

    monkeypatch.setattr(run_verb, "started", started)
    monkeypatch.setattr(Experiment, "build_method", build_method)
    assert pretrain(photographs, None, DEEP, *FAST, "init.frozen_share=0.5", init=str(source)) == 0
    assert same(own(steps[0]), own(initial[0]))
    assert all(name.startswith("encoder.") for name in unmoved(steps[0], initial[0]))


def test_layer_decay_slows_the_lower_blocks(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, steps: list[Tensors]
) -> None:
    """AdamW's first steps are as large as its rate: 0.5 to the power of the blocks above."""
    one_step = ("training.batch_size=40", "training.epochs=1", "training.warmup_epochs=0", "init.frozen_share=0")
    before = dict(contextae.load(source)[0].state_dict())
    for decay in (0.5, 1):
        out = tmp_path / f"decay {decay}"
        settings = (*one_step, "optimizer.weight_decay=0", f"optimizer.layer_decay={decay}")
        assert pretrain(photographs, out, DEEP, *settings, init=str(source)) == 0

    def moved(number: int, name: str) -> float:
        return float((steps[number][f"encoder.{name}"] - before[name]).abs().median())

    weights = {"norm.weight": 1, "blocks.1.mlp.fc1.weight": 2, "blocks.0.mlp.fc1.weight": 4, "patch_embed.weight": 8}
    for name, times in weights.items():
        assert moved(1, name) == pytest.approx(moved(0, name) * times, rel=0.02), name


@pytest.mark.parametrize("step", [4, 6, 9])
def test_a_resume_across_the_thaw_is_bit_for_bit_the_uninterrupted_run(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Frozen for 6 steps of 15; the weights it started from may be gone."""
    settings = (DEEP, "training.epochs=3", "init.frozen_share=0.4")
    assert pretrain(photographs, tmp_path / "whole", *settings, init=str(source)) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, CAE, step)
        assert pretrain(photographs, None, *settings, init=str(source)) == 130
    source.rename(tmp_path / "elsewhere")
    assert pretrain(None, resume=True) == 0
    expected, found = (dict(load_weights(tmp_path / name)[0]) for name in ("whole", "run"))
    assert same(expected, found)
    losses = [
        [
            (line["step"], line["loss"], line["lr"])
            for line in read_lines(tmp_path / name / "log.jsonl")
            if "loss" in line
        ]
        for name in ("whole", "run")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 15
