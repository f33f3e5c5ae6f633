"""The forgetting meter: kNN of a run that goes on from existing weights, in words, and on a real training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from small_run import interrupt
from torch import nn

import contextae
from contextae.experiment import Experiment
from contextae.methods.cae import CAE
from contextae.settings import DataConfig
from contextae.training.log import read_lines
from contextae.training.weights import load_weights
from contextae.verbs.checks import Checks, compared, health_batches
from data.small_index import small_index

Run = Callable[..., int]
SANE, HUGE = "optimizer.lr_per_256_images=0.01", "optimizer.lr_per_256_images=1"


@pytest.mark.parametrize(
    ("now", "first", "queries", "words"),
    [
        (0.9, 0.9, 1000, "as at the start"),
        (1.0, 1.0, 10, "as at the start"),
        (0.87, 0.9, 1000, "FORGETTING: 3.0 points less than at the start; lower optimizer.lr_per_256_images"),
        (0.873, 0.9, 1000, "as at the start"),  # two standard errors are 2.8 points
        (0.87, 0.9, 100, "as at the start"),
        (0.93, 0.9, 1000, "3.0 points more than at the start"),
        (0.0, 1.0, 5, "FORGETTING: 100.0 points less than at the start; lower optimizer.lr_per_256_images"),
    ],
)
def test_a_difference_is_said_where_it_is_more_than_chance(now: float, first: float, queries: int, words: str) -> None:
    assert compared(now, first, queries) == words


class Figures:
    """kNN as written down beforehand."""

    num_queries = 400

    def __init__(self, *figures: float) -> None:
        self.figures = list(figures)

    def __call__(self) -> dict[str, float]:
        return {"knn": self.figures.pop(0)}


def said(*figures: float, at: int = 0, **options: Any) -> list[str]:
    """What checks from step `at` on say behind the figure."""
    checks = Checks(lambda waiting: ({}, 0.0, "healthy"), Figures(*figures), **options)  # type: ignore[arg-type]
    words = [checks(at + i, 0.0).words for i in range(len(figures))]
    return [re.sub(r"^healthy; on a held-out part of train: kNN [\d.]+ %(, )?", "", each) for each in words]


def test_what_later_checks_are_compared_with() -> None:
    less, more = "FORGETTING: 40.0 points less than at the start; lower optimizer.lr_per_256_images", "10.0 points more"
    assert said(0.8, 0.4, 0.8, continued=True) == ["", less, "as at the start"]
    assert said(0.8, 0.9, continued=True) == ["", f"{more} than at the start"]
    assert said(0.4, at=5, continued=True, first={"knn": 0.8}) == [less]
    assert said(0.4, 0.1, at=5, continued=True) == ["", ""], "of the start nothing is known"
    assert said(0.8, 0.4) == ["", ""], "a run from random weights knows nothing that it could forget"


def test_every_probe_has_its_figure_and_its_own_start() -> None:
    class Two(Figures):
        def __call__(self) -> dict[str, float]:
            return {"knn": self.figures.pop(0), "linear": self.figures.pop(0)}

    probes = Two(0.5, 0.5, 0.5, 0.9)
    checks = Checks(lambda waiting: ({}, 0.0, "healthy"), probes, continued=True)  # type: ignore[arg-type]
    assert checks(0, 0.0).words == "healthy; on a held-out part of train: kNN 50.0 %; linear 50.0 %"
    later = checks(1, 0.0)
    assert later.fields == {"knn": 0.5, "linear": 0.9}
    assert later.words.endswith("kNN 50.0 %, as at the start; linear 90.0 %, 40.0 points more than at the start")


def test_checks_without_labels_say_nothing_of_it() -> None:
    checks = Checks(lambda waiting: ({"score": 1.0}, 1.0, "healthy"), None, continued=True)  # type: ignore[arg-type]
    found = checks(3, 0.0)
    assert found.words == "healthy" and "knn" not in found.fields


def test_images_for_the_health_check_that_end_their_process_are_replaced() -> None:
    """A decoder that dies takes a loader process with it, not the training."""
    index = small_index(trouble={3: "segfault", 5: "exit", 8: "bad"})
    experiment = Experiment(data=DataConfig(source="a set", image_size=(32, 32))).with_settings(["health.images=23"])
    batches = health_batches(experiment, index, most=10)
    assert [len(batch.images) for batch in batches] == [8, 8, 8]


def stripes(folder: Path) -> Path:
    """Two classes that colours do not tell apart: stripes along rows or columns, at any place and of any colours."""
    rows, columns = np.mgrid[:16, :12]
    for i in range(240):
        rng = np.random.default_rng(i)
        wave = ((rows if i % 2 else columns) + rng.integers(0, 4)) // 2 % 2 == 1
        one, other = rng.integers(0, 256, (2, 3))
        pixels = np.where(wave[..., None], one, other) + rng.normal(0, 10, (16, 12, 3))
        path = folder / ("rows" if i % 2 else "columns") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture
def good(pretrain: Run, tmp_path: Path) -> tuple[Path, Path]:
    """Images, and weights of an encoder that was taught their classes."""
    images = stripes(tmp_path / "stripes")
    settings = ("encoder.depth=2", "training.batch_size=16", "training.epochs=1", "health.every_epochs=9")
    assert pretrain(images, tmp_path / "base", *settings) == 0
    encoder, transform = contextae.load(tmp_path / "base")
    paths = sorted(images.rglob("*.png"))
    seen, labels = transform(paths), torch.tensor([int(path.parent.name == "rows") for path in paths])
    torch.manual_seed(0)
    head = nn.Linear(16, 2)
    optimizer = torch.optim.AdamW([*encoder.train().parameters(), *head.parameters()], lr=3e-3)
    for _ in range(60):
        some = torch.randint(len(seen), (48,))
        _, latents = encoder.summary_and_latents(seen[some])
        optimizer.zero_grad()
        F.cross_entropy(head(latents.mean(1)), labels[some]).backward()
        optimizer.step()
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    save_file(tensors, tmp_path / "good.safetensors", metadata=dict(load_weights(tmp_path / "base")[1]))
    return images, tmp_path / "good.safetensors"


def figures(run: Path) -> list[float]:
    return [line["knn"] for line in read_lines(run / "log.jsonl") if "knn" in line]


def test_a_rate_a_hundred_times_too_high_forgets_and_it_is_said(
    pretrain: Run, good: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, weights = good
    long = ("training.epochs=4", "health.every_epochs=2")
    common = ("encoder.depth=2", "training.batch_size=16", "crop.scale=[0.8, 1]", *long)
    options = {"init": str(weights), "labelled": str(images)}
    assert pretrain(images, tmp_path / "sane", *common, SANE, **options) == 0
    kept = figures(tmp_path / "sane")
    words = capfd.readouterr().err
    assert min(kept) > 0.85 and "FORGETTING" not in words and words.count("than at the start") <= words.count("more")
    assert words.count("as at the start") + words.count("more than at the start") == 2
    assert pretrain(images, tmp_path / "huge", *common, HUGE, **options) == 0
    lost = figures(tmp_path / "huge")
    assert lost[0] == kept[0] and lost[-1] < kept[0] - 0.16
    words = capfd.readouterr().err
    points = 100 * (lost[0] - lost[-1])
    assert f"FORGETTING: {points:.1f} points less than at the start; lower optimizer.lr_per_256_images" in words


def test_a_resume_keeps_the_first_figure_of_the_log(
    pretrain: Run,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert pretrain(photographs, tmp_path / "source", "training.epochs=1") == 0
    options = {"init": str(tmp_path / "source"), "labelled": str(photographs)}
    with monkeypatch.context() as patch:
        interrupt(patch, CAE, 7)
        assert pretrain(photographs, None, "training.epochs=3", **options) == 130
    log = tmp_path / "run" / "log.jsonl"
    lines = read_lines(log)
    assert [line["step"] for line in lines if "knn" in line] == [0, 5]
    for line in lines:
        if "knn" in line:
            line["knn"] = 0.0 if line["step"] == 0 else 1.0  # so that it is seen which one is taken
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    capfd.readouterr()
    assert pretrain(None, resume=True, labelled=str(photographs)) == 0
    words = capfd.readouterr().err
    now = figures(tmp_path / "run")[-1]
    assert now > 0.4 and f"{100 * now:.1f} points more than at the start" in words


def test_labels_that_came_with_a_resume_have_no_start_to_be_compared_with(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    assert pretrain(photographs, tmp_path / "source", "training.epochs=1") == 0
    with monkeypatch.context() as patch:
        interrupt(patch, CAE, 7)
        assert pretrain(photographs, None, "training.epochs=4", init=str(tmp_path / "source")) == 130
    with monkeypatch.context() as patch:  # in step 12, after a check that is none of the start either
        interrupt(patch, CAE, 5)
        assert pretrain(None, resume=True, labelled=str(photographs)) == 130
    assert len(figures(tmp_path / "run")) == 1
    assert pretrain(None, resume=True, labelled=str(photographs)) == 0
    words = capfd.readouterr().err
    assert "on a held-out part of train: kNN" in words
    assert "as at the start" not in words and "than at the start" not in words
