"""The whole protocol: it learns what can be learned, repeats itself, goes on where it was stopped, and checks first."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.detection.made import FACTS, TINY, tiny_encoder, write_squares

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation import supervised
from contextae.evaluation.detection.images import Decoded
from contextae.evaluation.detection.layouts import DetectionSplits, open_detection
from contextae.evaluation.detection.objects import AnnotatedImage, Detections
from contextae.evaluation.detection.run import Figures, run
from contextae.evaluation.detection.settings import DetectionSettings, published, small
from contextae.evaluation.detection.task import Task
from contextae.evaluation.detection.views import Normalisation, factor_of
from contextae.evaluation.features import fingerprint
from contextae.evaluation.results import Compared, Result


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> DetectionSplits:
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder, "train", 12)
    write_squares(folder, "test", 8)
    return open_detection(folder)


def task_of(data: DetectionSplits, settings: DetectionSettings = TINY) -> Task:
    return Task(
        data=data,
        settings=settings,
        normalise=Normalisation(mean=tuple(FACTS["mean"]), deviation=tuple(FACTS["deviation"])),
        factor=factor_of(data.train, settings),
        masks=True,
        decoded=Decoded(channels=3, dtype="uint8"),
        device=torch.device("cpu"),
    )


def figures(results: list[Result], compared: list[Compared]) -> list[object]:
    return [(r.row, r.metric, r.value, r.interval) for r in results] + [(c.metric, c.interval) for c in compared]


def test_it_learns_and_says_how_sure_it_is_and_a_second_call_has_nothing_to_do(
    squares: DetectionSplits, tmp_path: Path
) -> None:
    encoder, said, asked = tiny_encoder(), list[str](), list[int]()
    before = fingerprint(encoder)

    def random_encoder(seed: int) -> Encoder:
        asked.append(seed)
        return tiny_encoder(100 + seed)

    def once() -> tuple[list[Result], list[Compared]]:
        return run(
            encoder,
            data=squares,
            **FACTS,
            random_encoder=random_encoder,
            settings=TINY,
            state=tmp_path / "state",
            pictures=tmp_path / "found.png",
            progress=lambda what, share: said.append(what),
        )

    results, compared = once()
    by_name = {(r.row, r.metric): r for r in results}
    metrics = ["box AP", "box AP50", "mask AP", "mask AP50"]
    assert list(by_name) == [(row, m) for row in ("this encoder", "from scratch") for m in metrics]
    assert [(c.baseline, c.metric) for c in compared] == [("from scratch", m) for m in metrics]
    ours = by_name["this encoder", "box AP50"]
    assert ours.value > 0.5 and ours.interval[0] <= ours.value <= ours.interval[1]
    assert by_name["this encoder", "mask AP50"].value > 0.4
    assert (ours.protocol, ours.version, ours.num_images, ours.seeds) == ("detection", 2, 8, 1)
    details = by_name["this encoder", "box AP"].details
    assert set(details["per_class"]) == {"red", "green"} and details["large"] is None and details["small"] > 0
    assert details["settings"]["regions"] == 16 and details["num_train"] == 12 and details["resized_by"] == 1.0
    assert asked == [0] and by_name["from scratch", "box AP"].value != by_name["this encoder", "box AP"].value
    difference = compared[1]
    assert difference.difference == pytest.approx(ours.value - by_name["from scratch", "box AP50"].value)
    json.dumps([asdict(each) for each in (*results, *compared)])
    assert fingerprint(encoder) == before
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.size[1] > 500
    assert "this encoder 1 (1 of 2): training" in said and "from scratch 1 (2 of 2): finding" in said
    said.clear()
    assert figures(*once()) == figures(results, compared)
    assert set(said) == {"checking images"}


def test_labels_of_other_images_teach_nothing(squares: DetectionSplits, tmp_path: Path) -> None:
    write_squares(tmp_path, "train", 12, shuffled=True)
    write_squares(tmp_path, "test", 8)
    task = task_of(open_detection(tmp_path))
    trained = task.trained(tiny_encoder())
    found = task.detections(trained, task.data.test)
    assert (Figures.of(task, found, "box", 0).precision.ap50 or 0) < 0.3


def same(one: list[Detections], other: list[Detections]) -> bool:
    return all(
        np.array_equal(a.boxes, b.boxes)
        and np.array_equal(a.scores, b.scores)
        and all(np.array_equal(x.pixels, y.pixels) for x, y in zip(a.masks or (), b.masks or (), strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_a_stopped_training_goes_on_bit_equal_and_seeds_differ(
    squares: DetectionSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(squares, replace(TINY, steps=6))
    whole = task.trained(tiny_encoder())
    monkeypatch.setattr(supervised, "SAVE_SECONDS", 0.0)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(what: str, share: float) -> None:
        if share >= 0.5:
            raise Stop

    with pytest.raises(Stop):
        task.trained(tiny_encoder(), state=tmp_path, progress=stop)
    shares: list[float] = []
    again = task.trained(tiny_encoder(), state=tmp_path, progress=lambda what, share: shares.append(share))
    assert shares == [4 / 6, 5 / 6, 1.0]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    other = task.trained(tiny_encoder(), seed=1)
    assert not torch.equal(other.regions.box_head.fc6.weight, whole.regions.box_head.fc6.weight)
    with pytest.raises(UserError, match="holds the state of another training"):
        task_of(squares, replace(TINY, steps=6, nms=0.4)).trained(tiny_encoder(), state=tmp_path)


def test_finding_goes_on_where_it_was_stopped(
    squares: DetectionSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextae.evaluation.detection import task as module

    task = task_of(squares, replace(TINY, steps=1, least_score=0.01))
    trained = task.trained(tiny_encoder())
    whole = task.detections(trained, squares.test)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)

    def stop(what: str, share: float) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task.detections(trained, squares.test, state=tmp_path, progress=stop)
    shares: list[float] = []
    again = task.detections(trained, squares.test, state=tmp_path, progress=lambda what, share: shares.append(share))
    assert shares[0] == 5 / 8 and same(whole, again)
    monkeypatch.setattr(module, "SAVE_SECONDS", 3600.0)

    class Interrupted(Decoded):
        def __call__(self, image: AnnotatedImage) -> np.ndarray:
            if image is squares.test.images[3]:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(image)

    with pytest.raises(supervised.StoppedError, match="SIGTERM"):
        stopped = replace(task, decoded=Interrupted(channels=3, dtype="uint8"))
        stopped.detections(trained, squares.test, state=tmp_path / "other")
    shares.clear()
    last = task.detections(
        trained, squares.test, state=tmp_path / "other", progress=lambda what, share: shares.append(share)
    )
    assert shares[0] == 5 / 8 and same(whole, last), "the image under way is done, and kept"


def test_whole_images_of_any_size_as_published(squares: DetectionSplits) -> None:
    settings = replace(
        TINY,
        object_side=None,
        tile=None,
        short_sides=(40, 56),
        long_side=80,
        crop_short_sides=(40, 50),
        crop_sides=(30, 50),
        pyramid="simple",
        box_convolutions=1,
        steps=3,
        least_score=0.01,
    )
    task = task_of(squares, settings)
    found = task.detections(task.trained(tiny_encoder()), squares.test)
    assert len(found) == 8 and sum(map(len, found)) > 0


def test_bad_input_is_refused_before_any_training(squares: DetectionSplits, tmp_path: Path) -> None:
    given = {"data": squares, "random_encoder": tiny_encoder, "settings": TINY, "state": tmp_path / "state"}
    with pytest.raises(UserError, match=r"one number per channel.*mean=\(0.3,\)"):
        run(tiny_encoder(), mean=[0.3], deviation=[0.2], **given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"A detector is trained once at least. Got seeds=0"):
        run(tiny_encoder(), **FACTS, seeds=0, **given)  # type: ignore[arg-type]
    write_squares(tmp_path, "train", 3)
    write_squares(tmp_path, "test", 3)
    data = open_detection(tmp_path)
    (tmp_path / "images" / "test" / "2.png").unlink()
    with pytest.raises(UserError, match=r"Of the 3 of .* 1 cannot be used: 2.png"):
        run(tiny_encoder(), **FACTS, **{**given, "data": data})  # type: ignore[arg-type]
    assert not (tmp_path / "state").exists()
    task = task_of(data)
    with pytest.raises(UserError, match=r"2.png cannot be read any more: No such file"):
        task.decoded(data.test.images[1])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"steps": 0}, "steps must be at least 1. Got 0"),
        ({"epochs": float("nan")}, "epochs must be above 0"),
        ({"jitter": (0.0, 1.0)}, "jitter must be .* above 0"),
        ({"jitter": (2.0, 1.0)}, "jitter are two numbers, the smaller first"),
        ({"crop_sides": (9, 3)}, "crop_sides are two numbers, the smaller first"),
        ({"object_side": 0.0}, "object_side must be above 0"),
        ({"nms": 5.0}, "nms must be from 0 to 1"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"schedule": "step"}, "for the schedule 'step', which needs them"),
    ],
)
def test_settings_are_refused_when_they_are_made(given: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        replace(TINY, **given)


def test_settings_are_those_of_their_version() -> None:
    """Other settings are another protocol: give them a new `version`, and this test the new digest."""
    told = json.dumps([asdict(each) for each in (DetectionSettings(), published(24), small())], sort_keys=True)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "c178d685eafb2f95"
    assert {DetectionSettings().version, published(24).version, small().version} == {2}
    assert (published(12).lr, published(12).layer_decay, published(12).drop_path) == (3e-4, 0.75, 0.2)
    assert (published(24).lr, published(24).layer_decay) == (2e-4, 0.85)
    recipe = DetectionSettings().recipe(118_287)
    assert (recipe.rate(33_268), recipe.rate(33_269)) == pytest.approx((3e-4, 3e-5))  # 9 of 12 epochs
    assert recipe.rate(44_357) == pytest.approx(3e-6)
    assert (recipe.steps, recipe.batch_size, recipe.warmup_steps) == (44_358, 32, 500)
    assert DetectionSettings().recipe(64, from_scratch=True).layer_decay == 1.0
    assert DetectionSettings().recipe(64).warmup_steps == 4
