"""Both protocols as a whole: above chance on what can be told, at chance on what cannot, repeatable and resumable."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import contextae.evaluation.supervised as supervised
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.features import fingerprint
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.segmentation.data import SegmentationData
from contextae.evaluation.segmentation.linear import LinearSegmentationSettings
from contextae.evaluation.segmentation.run import FROM_SCRATCH, MAJORITY, run
from contextae.evaluation.segmentation.upernet import SMALL, UPerNetSettings
from contextae.evaluation.segmentation.upernet import published as upernet_published
from contextae.evaluation.segmentation.views import CropSettings
from contextae.grid import Grid

from .scenes import DEVIATION, MEAN, NAMES, opened, small_encoder, write_scenes

LINEAR = LinearSegmentationSettings(steps=60, batch_size=4, warmup_steps=5, learning_rates=(1e-3, 2e-2))
UPERNET = replace(SMALL, steps=80, batch_size=4, channels=8, auxiliary_channels=8, warmup_steps=3)
PROTOCOLS = {"segmentation-linear": LINEAR, "segmentation-upernet": UPERNET}


def measured(
    data: SegmentationData, protocol: Any = "segmentation-linear", **given: Any
) -> tuple[list[Result], list[Compared]]:
    given = {"settings": PROTOCOLS[protocol], "seeds": 1, **given}
    encoder = given.pop("encoder", None) or small_encoder()
    return run(
        encoder,
        data=data,
        mean=MEAN,
        deviation=DEVIATION,
        random_encoder=lambda seed: small_encoder(seed + 10),
        protocol=protocol,
        **given,
    )


def values(results: list[Result], metric: str = "mIoU") -> dict[str, float]:
    return {each.row: each.value for each in results if each.metric == metric}


def plain(results: list[Result]) -> list[dict[str, Any]]:
    return [{**asdict(each), "seconds": 0} for each in results]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    return opened(write_scenes(tmp_path_factory.mktemp("scenes"), parts={"train": 16, "val": 4, "test": 8}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_colours_are_told_apart_and_the_encoder_stays_as_it_is(
    scenes: SegmentationData, protocol: str, tmp_path: Path
) -> None:
    encoder = small_encoder()
    before, mode = fingerprint(encoder), encoder.training
    told: list[tuple[str, float]] = []
    results, compared = measured(
        scenes,
        protocol,
        encoder=encoder,
        pictures=tmp_path / "sheet.png",
        progress=lambda what, share: told.append((what, share)),
    )
    assert (fingerprint(encoder), encoder.training) == (before, mode)
    found, chance = values(results), values(results)[MAJORITY]
    assert found["this encoder"] > chance + 0.25
    other = FROM_SCRATCH if "upernet" in protocol else "random initialisation"
    assert set(found) == {"this encoder", other, MAJORITY}
    assert {each.metric for each in results} == {"mIoU", "pixel accuracy", "mean class accuracy"}
    ours = next(each for each in results if each.row == "this encoder" and each.metric == "mIoU")
    assert ours.interval[0] <= ours.value <= ours.interval[1] and ours.num_images == 8 and ours.seeds == 1
    assert set(ours.details["iou"]) == set(NAMES) and np.mean(list(ours.details["iou"].values())) == pytest.approx(
        ours.value
    )
    assert ours.details["settings"]["image_size"] == [16, 24] and ours.details["settings"]["stride"] == [11, 16]
    chosen = next(each for each in compared if each.baseline == MAJORITY and each.metric == "mIoU")
    assert chosen.outside and chosen.difference == pytest.approx(ours.value - chance)
    shares = [share for _, share in told]
    assert shares == sorted(shares) and 0.99 < shares[-1] <= 1 and any("test" in what for what, _ in told)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height > 1000


def test_where_masks_say_nothing_of_images_nothing_is_above_chance(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path, parts={"train": 16, "val": 4, "test": 12}, shuffled=True))
    results, compared = measured(data)
    assert values(results, "pixel accuracy")["this encoder"] < values(results, "pixel accuracy")[MAJORITY] + 0.1
    assert values(results)["this encoder"] < values(results)[MAJORITY] + 0.12
    assert len(compared) == 6


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_runs_with_one_seed_agree_and_other_seeds_differ(scenes: SegmentationData, protocol: str) -> None:
    settings = replace(PROTOCOLS[protocol], steps=6)  # type: ignore[type-var]
    first, again = (measured(scenes, protocol, settings=settings) for _ in range(2))
    assert plain(first[0]) == plain(again[0]) and first[1] == again[1]
    other = measured(scenes, protocol, settings=settings, seed=1)
    assert values(other[0])["this encoder"] != values(first[0])["this encoder"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_interrupted_run_goes_on_bit_equal(
    scenes: SegmentationData, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(PROTOCOLS[protocol], steps=7)  # type: ignore[type-var]
    whole = measured(scenes, protocol, settings=settings)

    calls = 0

    def stop(what: str, share: float) -> None:
        nonlocal calls
        calls += "training" in what
        if calls == 11:
            raise KeyboardInterrupt

    monkeypatch.setattr(supervised, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        measured(scenes, protocol, settings=settings, state=tmp_path, progress=stop)
    assert list(tmp_path.rglob("training.safetensors"))
    after: list[str] = []
    resumed = measured(
        scenes, protocol, settings=settings, state=tmp_path, progress=lambda what, share: after.append(what)
    )
    assert plain(resumed[0]) == plain(whole[0])
    trainings = 4 if protocol == "segmentation-linear" else 2
    assert sum("training" in what for what in after) == 7 * trainings - 11
    finished: list[str] = []
    again = measured(
        scenes, protocol, settings=settings, state=tmp_path, progress=lambda what, share: finished.append(what)
    )
    assert again[0] == resumed[0] and finished == []


def test_the_state_of_another_evaluation_is_refused(scenes: SegmentationData, tmp_path: Path) -> None:
    settings = replace(LINEAR, steps=2)
    measured(scenes, settings=settings, state=tmp_path)
    with pytest.raises(UserError, match="the state of another evaluation"):
        measured(scenes, settings=replace(settings, steps=3), state=tmp_path)
    with pytest.raises(UserError, match="the state of another evaluation"):
        measured(scenes, settings=settings, state=tmp_path, encoder=small_encoder(5))
    path = next(tmp_path.rglob("figures.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="are damaged"):
        measured(scenes, settings=settings, state=tmp_path)


def test_settings_are_chosen_without_a_look_at_test(scenes: SegmentationData, tmp_path: Path) -> None:
    settings = replace(LINEAR, steps=10)
    plain_run, _ = measured(scenes, settings=settings)
    other = write_scenes(tmp_path, parts={"train": 16, "val": 4, "test": 8})
    for path in (other / "masks/test").iterdir():
        values_of = np.asarray(Image.open(path))
        Image.fromarray(np.where(values_of == 255, 255, (values_of + 1) % 3).astype(np.uint8)).save(path)
    turned, _ = measured(opened(other), settings=settings)
    for a, b in zip(plain_run, turned, strict=True):
        assert a.details.get("chosen") == b.details.get("chosen")
        assert a.details.get("held_out_mIoU") == b.details.get("held_out_mIoU")
    assert values(turned)["this encoder"] < values(plain_run)["this encoder"]


def test_latents_are_the_same_whether_they_are_kept_or_computed_again(scenes: SegmentationData) -> None:
    settings = replace(LINEAR, steps=6)
    kept, computed = (measured(scenes, settings=replace(settings, held_bytes=held)) for held in (1 << 30, 0))
    assert values(kept[0]) == pytest.approx(values(computed[0]), abs=1e-3)


def test_upernet_chooses_a_rate_and_refits_where_there_is_no_val(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path, parts={"train": 10, "test": 3}))
    told: list[str] = []
    settings = replace(UPERNET, steps=3, learning_rates=(1e-3, 1e-7))
    results, _ = measured(
        data, "segmentation-upernet", settings=settings, progress=lambda what, share: told.append(what)
    )
    ours = results[0]
    assert ours.details["chosen"][0]["learning rate"] in settings.learning_rates
    assert 0 <= ours.details["held_out_mIoU"][0] <= 1
    assert sum("this encoder" in what and "training" in what for what in told) == 9


def test_rectangles_and_larger_crops_than_the_encoders(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path, parts={"train": 6, "val": 2, "test": 3}, size=(22, 47)))
    for learned in (False, True):
        encoder = small_encoder(learned=learned)
        settings = replace(UPERNET, image_size=(20, 32), steps=2, relative_bias=True, drop_path=0.2)
        results, _ = measured(data, "segmentation-upernet", settings=settings, encoder=encoder)
        assert results[0].details["settings"]["image_size"] == [20, 32]
    results, _ = measured(data, settings=replace(LINEAR, image_size=(24, 32), steps=2))
    assert results[0].num_images == 3


def test_bad_requests_are_refused_before_anything_is_trained(scenes: SegmentationData, tmp_path: Path) -> None:
    for match, given in (
        ("needs at least one seed", {"seeds": 0}),
        ("has settings of its own", {"settings": UPERNET}),
        ("one number per channel", {"deviation": (0.2, 0.2)}),
        ("is not a multiple of 4", {"settings": replace(LINEAR, image_size=(18, 24))}),
    ):
        with pytest.raises(UserError, match=match):
            run(
                small_encoder(),
                **{  # type: ignore[arg-type]
                    "data": scenes,
                    "mean": MEAN,
                    "deviation": DEVIATION,
                    "random_encoder": small_encoder,
                    "settings": LINEAR,
                    "state": tmp_path / "state",
                    **given,
                },
            )
    assert not (tmp_path / "state").exists()
    gray = Encoder(grid=Grid(image_size=(16, 24), patch_size=(4, 4), channels=1), width=8, depth=1, num_heads=2)
    with pytest.raises(UserError, match="takes images of 1 channel"):
        measured(scenes, encoder=gray)
    with pytest.raises(UserError, match="two crops or more"):
        UPerNetSettings(batch_size=1)
    with pytest.raises(UserError, match="needs a learning rate"):
        UPerNetSettings(learning_rates=())


@pytest.mark.parametrize(
    ("settings", "given", "match"),
    [
        (LINEAR, {"learning_rates": ()}, "learning_rates must be one number or more, each above 0"),
        (LINEAR, {"steps": 0}, "steps must be at least 1. Got 0"),
        (LINEAR, {"image_size": (0, 24)}, "image_size must be"),
        (LINEAR, {"held_bytes": -1}, "held_bytes must be at least 0"),
        (UPERNET, {"learning_rates": (1e-3, -1.0)}, "learning_rates must be"),
        (UPERNET, {"channels": 0}, "channels must be at least 1"),
        (UPERNET, {"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1"),
        (UPERNET, {"drop_path": 1.0}, "drop_path must be at least 0 and below 1"),
        (UPERNET, {"weight_decay": -0.1}, "weight_decay must be at least 0"),
        (UPERNET.crop, {"flip": 1.5}, "flip must be from 0 to 1"),
        (UPERNET.crop, {"scale": (1.0, math.inf)}, "scale must be"),
    ],
)
def test_settings_are_refused_when_they_are_made(settings: Any, given: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        replace(settings, **given)


def test_settings_are_those_of_their_version() -> None:
    assert asdict(LinearSegmentationSettings()) == {
        "version": 2,
        "image_size": None,
        "steps": 600,
        "batch_size": 16,
        "warmup_steps": 30,
        "learning_rates": (0.16, 0.64, 2.5, 10.0, 40.0),
        "precision": "float32",
        "held_bytes": 4 << 30,
    }
    published = {
        "version": 1,
        "image_size": (512, 512),
        "steps": 160_000,
        "batch_size": 16,
        "learning_rates": (1e-4,),
        "warmup_steps": 1_500,
        "schedule": "poly",
        "layer_decay": 0.65,
        "scratch_layer_decay": 1.0,
        "weight_decay": 0.05,
        "drop_path": 0.1,
        "relative_bias": True,
        "channels": 768,
        "auxiliary_channels": 256,
        "auxiliary_weight": 0.4,
        "crop": {"scale": (0.5, 2.0), "flip": 0.5, "most_of_one_class": 0.75},
        "precision": "float32",
    }
    assert asdict(UPerNetSettings()) == published
    assert asdict(SMALL) == published | {
        "image_size": None,
        "steps": 400,
        "batch_size": 8,
        "learning_rates": (1e-3,),
        "warmup_steps": 40,
        "layer_decay": 0.75,
        "drop_path": 0.0,
        "relative_bias": False,
        "channels": 128,
        "auxiliary_channels": 64,
    }
    assert upernet_published(23) == UPerNetSettings()
    large = {"version": 2, "learning_rates": (4e-5,), "layer_decay": 0.95, "drop_path": 0.15, "channels": 1_024}
    assert asdict(upernet_published(24)) == published | large
    assert CropSettings() == UPerNetSettings().crop and torch.get_num_threads() == 1
