"""A run that looks at its losses only now and then, as on an accelerator, where each look makes the host wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.methods.method import Loss
from contextae.training.log import read_lines
from contextae.training.loop import Loop
from contextae.verbs import run as run_verb

Run = Callable[..., int]
EVERY = 10


class Rare(Loop):
    """Looks every `log_steps`."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.look_steps = self.cadence.log_steps


@pytest.fixture(autouse=True)
def rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_verb, "Loop", Rare)


def test_losses_are_logged_at_looks_and_at_the_end(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    assert pretrain(photographs, None, f"training.log_steps={EVERY}", "training.epochs=5") == 0
    steps = [line["step"] for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "step"]
    assert steps == [10, 20, 25]


@pytest.mark.parametrize("bad", [5, 12])
def test_no_checkpoint_is_written_of_steps_that_were_not_applied(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    whole, steps = CAE.forward, []

    def forward(self: CAE, batch: Any) -> Loss:
        loss = whole(self, batch)
        if self.training:
            steps.append(len(steps))
        return Loss(loss.total * (torch.nan if self.training and steps[-1] == bad else 1.0), loss.parts)

    monkeypatch.setattr(CAE, "forward", forward)
    settings = [f"training.log_steps={EVERY}", "training.epochs=6", "training.save_minutes=1000"]
    with pytest.raises(UserError, match=rf"not a finite number at step {bad}\b"):
        pretrain(photographs, None, *settings)  # checks and saves every 5 steps
    saved = [int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert saved and max(saved) <= bad
    assert len(steps) - 1 < bad + EVERY
    (bundle,) = (tmp_path / "run" / "non-finite").glob("step-*")
    assert bundle.name == f"step-{bad:08d}"
