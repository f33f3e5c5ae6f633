"""Targets by the words of a setting: each kind opened, what a start writes down, and every refusal."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from contextae.errors import UserError
from contextae.grid import Grid
from contextae.methods.cae import CAEConfig
from contextae.methods.cae_v2 import CAEv2Config
from contextae.named_targets import absolute_target, asked_of_target, open_target
from contextae.targets import HOG, Codes, Features, Pixels
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.kmeans import PatchCodebook
from contextae.tokenizers.stored import save_tokenizer
from contextae.tokenizers.teacher import open_teacher

GRID = Grid(image_size=(24, 40), patch_size=(8, 8))  # 3 x 5 patches of three channels
MEAN, DEVIATION = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
RANDOM = "timm:test_efficientnet=random"
SMALL = "test_vit"


def opened(target: str, grid: Grid = GRID, **settings: Any) -> Any:
    return open_target(CAEConfig(target=target, **settings), grid, mean=MEAN, deviation=DEVIATION)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a d-VAE whose codes are 4 x 4 pixels."""
    torch.manual_seed(3)
    save_tokenizer(DVAE(channels=3, num_codes=13, stride=4, width=8), tmp_path)
    return tmp_path


@pytest.fixture
def teachers_file(tmp_path: Path) -> Path:
    """Weights of a small network of timm, as a file."""
    path = tmp_path / "teacher.safetensors"
    save_file(timm.create_model(SMALL).state_dict(), path)
    return path


# --- each kind


def test_pixels_and_hog_need_nothing_else() -> None:
    pixels, raw = (opened("pixels", normalise_target=normalise) for normalise in (True, False))
    assert isinstance(pixels, Pixels) and pixels.normalise and not raw.normalise
    hog = open_target(CAEConfig(target="hog"), GRID, mean=None, deviation=None)
    assert isinstance(hog, HOG) and hog.grid == pixels.grid == GRID


def test_codes_are_those_of_the_file(folder: Path) -> None:
    target = opened(f"codes:{folder}")
    assert isinstance(target, Codes) and target.width == 13
    assert isinstance(target.tokenizer, DVAE) and target.tokenizer.stride == 4 and not target.tokenizer.training
    shown = torch.rand(2, 3, 12, 20)
    second = (shown - torch.tensor(MEAN).reshape(-1, 1, 1)) / torch.tensor(DEVIATION).reshape(-1, 1, 1)
    codes = target.value(torch.randn(2, 3, 24, 40), second).squeeze(-1)
    assert torch.equal(codes, target.tokenizer.codes(shown)) and len(codes.unique()) > 1
    assert isinstance(opened(f"codes:{folder / 'tokenizer.safetensors'}"), Codes)


def test_codes_of_k_means_are_of_patches_of_any_shape(tmp_path: Path) -> None:
    save_tokenizer(PatchCodebook(channels=3, patch_size=(2, 3), num_codes=5), tmp_path)
    asked = asked_of_target(CAEConfig(target=f"codes:{tmp_path}"), GRID)
    assert asked.values["method.target_size"] == [6, 15]


def test_features_are_those_of_the_teacher() -> None:
    target, teacher = opened(f"features:{RANDOM}"), open_teacher(RANDOM)
    assert isinstance(target, Features) and target.width == teacher.width
    shown = torch.rand(2, 3, 24, 40)
    normalised = (shown - torch.tensor(MEAN).reshape(-1, 1, 1)) / torch.tensor(DEVIATION).reshape(-1, 1, 1)
    torch.testing.assert_close(target.tokens(normalised), teacher.features(shown, (3, 5)), atol=1e-5, rtol=1e-4)


def test_a_teacher_takes_the_size_that_was_written_down(teachers_file: Path) -> None:
    target = opened(f"features:timm:{SMALL}={teachers_file}", target_size=(32, 48))
    assert target.teacher.image_size == (32, 48)
    assert target.tokens(torch.randn(1, 3, 24, 40), torch.randn(1, 3, 32, 48)).shape == (1, 16, target.width)


def test_a_teacher_may_be_an_inner_stage(teachers_file: Path) -> None:
    assert opened(f"features:timm:{SMALL}={teachers_file}@1").teacher.name == f"{SMALL}@1"


# --- what a start writes down


@pytest.mark.parametrize("target", ["pixels", "hog"])
def test_pixels_and_hog_have_nothing_to_ask(target: str) -> None:
    assert asked_of_target(CAEConfig(target=target), GRID) == ({}, [])


def test_a_tokenizer_says_its_size_and_which_file_it_is(folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "tokenizer.safetensors").read_bytes()).hexdigest()
    asked = asked_of_target(CAEConfig(target=f"codes:{folder}"), GRID)
    assert asked.values == {"method.target_size": [12, 20], "method.target_sha256": sha256}
    assert asked.notes == [f"target: one of 13 codes a patch, by {folder}, which sees each crop at 12 x 20"]
    assert asked_of_target(CAEConfig(target=f"codes:{folder}", target_size=(12, 20)), GRID) == asked
    for size in ((24, 40), (20, 12)):  # other codes than patches, and as many of a grid on its side
        said = rf"each of 3 x 5 patches one code where it sees 12 x 20 pixels\. Got \S+=\[{size[0]}, .*out\."
        with pytest.raises(UserError, match=said):
            asked_of_target(CAEConfig(target=f"codes:{folder}", target_size=size), GRID)
    opened(f"codes:{folder}", target_size=asked.values["method.target_size"], target_sha256=sha256)


def test_a_teacher_says_its_size_which_file_it_is_and_what_it_was_taught_by(teachers_file: Path) -> None:
    sha256 = hashlib.sha256(teachers_file.read_bytes()).hexdigest()
    (height, width), line = timm.create_model(SMALL).patch_embed.img_size, f"features:timm:{SMALL}={teachers_file}"
    asked = asked_of_target(CAEv2Config(target=line), GRID)
    assert asked.values == {"method.target_size": [height, width], "method.target_sha256": sha256}
    (note,) = asked.notes
    assert note.startswith("target: 64 features a patch, by test_vit") and note.endswith(f"at {height} x {width}")
    tagged = asked_of_target(CAEv2Config(target=line.replace(SMALL, f"{SMALL}.r160_in1k")), GRID)
    assert "by test_vit.r160_in1k (ImageNet-supervised), which sees each crop at" in tagged.notes[0]
    given = asked_of_target(CAEv2Config(target=line, target_size=(32, 48)), GRID)
    assert given.values["method.target_size"] == [32, 48]


def test_a_random_teacher_is_no_file_and_says_what_it_is() -> None:
    asked = asked_of_target(CAEv2Config(target=f"features:{RANDOM}"), GRID)
    assert asked.values["method.target_sha256"] is None
    assert "by test_efficientnet (randomly initialised)" in asked.notes[0]
    opened(f"features:{RANDOM}", target_sha256=None)


# --- from any working folder


def test_paths_of_a_target_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for given, wanted in (
        ("codes:tok", f"codes:{tmp_path}/tok"),
        ("codes:~/tok", "codes:/home/someone/tok"),
        ("codes:/else/where=x", "codes:/else/where=x"),
        ("features:timm:test_vit=w.safetensors", f"features:timm:test_vit={tmp_path}/w.safetensors"),
        ("features:timm:test_vit=~/w.safetensors@1", "features:timm:test_vit=/home/someone/w.safetensors@1"),
        ("features:timm:local-dir:exported", f"features:timm:local-dir:{tmp_path}/exported"),
        ("features:timm:local-dir:~/lr=1@2", "features:timm:local-dir:/home/someone/lr=1@2"),
        ("features:timm:local-dir:/a/b", "features:timm:local-dir:/a/b"),
    ):
        assert absolute_target(given) == wanted
        assert absolute_target(wanted) == wanted
    for same in (
        "pixels",
        "hog",
        "features:timm:test_vit",
        "features:timm:test_vit=",
        f"features:{RANDOM}",
        f"features:{RANDOM}@2",
    ):
        assert absolute_target(same) == same


# --- refusals


@pytest.mark.parametrize("target", ["codes:x", "features:timm:test_vit=random"])
@pytest.mark.parametrize("facts", [(None, DEVIATION), (MEAN, None)])
def test_without_mean_and_deviation_it_says_what_is_missing(target: str, facts: tuple[Any, Any]) -> None:
    kind = target.partition(":")[0]
    with pytest.raises(UserError, match=rf"^A target of {kind} needs data\.mean and data\.deviation, .* Set both, or"):
        open_target(CAEConfig(target=target), GRID, mean=facts[0], deviation=facts[1])


@pytest.mark.parametrize("ask", [opened, lambda target, grid: asked_of_target(CAEConfig(target=target), grid)])
def test_images_of_other_channels_are_refused_before_the_first_step(ask: Any, folder: Path) -> None:
    gray = Grid(image_size=(24, 40), patch_size=(8, 8), channels=1)
    with pytest.raises(UserError, match=r"of images with 3 channel\(s\), and these have 1\. Fit one to these images"):
        ask(f"codes:{folder}", gray)
    with pytest.raises(
        UserError, match=r"The teacher test_efficientnet takes images of 3 channels.* these have 1\. Set "
    ):
        ask(f"features:{RANDOM}", gray)


def test_a_tokenizer_or_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no tokenizer at .*absent"):
        opened(f"codes:{tmp_path / 'absent'}")
    with pytest.raises(UserError, match=r"none named 'test_vitt'"):
        opened("features:timm:test_vitt=random")
    with pytest.raises(UserError, match=r"no weights file at .*absent"):
        opened(f"features:timm:{SMALL}={tmp_path / 'absent.safetensors'}")
    with pytest.raises(UserError, match=r"^A teacher is written timm:NAME=PATH"):
        opened("features:clip")


def test_another_file_than_at_the_start_of_the_run_is_refused(folder: Path, teachers_file: Path) -> None:
    was = "0" * 64
    for what, name in (("tokenizer", str(folder)), ("teacher", f"timm:{SMALL}={teachers_file}")):
        kind = {"tokenizer": "codes", "teacher": "features"}[what]
        right = asked_of_target(CAEConfig(target=f"{kind}:{name}"), GRID).values["method.target_sha256"]
        opened(f"{kind}:{name}", target_sha256=right)
        said = (
            rf"The {what} {name} is not the one that this run started with: its sha256 is {right} and was {was}\. Put"
        )
        with pytest.raises(UserError, match=said):
            opened(f"{kind}:{name}", target_sha256=was)
    with pytest.raises(UserError, match=r"its sha256 is None and was 0000"):
        opened(f"features:{RANDOM}", target_sha256=was)


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("pixels", {"target_size": (16, 16)}),
        ("hog", {"target_size": (16, 16)}),
        ("pixels", {"target_cache_gib": 0.5}),
        ("codes:x", {"target_cache_gib": 0.5}),
        ("hog", {"normalise_target": False}),
        ("codes:x", {"normalise_target": False}),
        (f"features:{RANDOM}", {"normalise_target": False}),
    ],
    ids=str,
)
def test_a_setting_that_the_target_does_not_read_is_refused(target: str, settings: dict[str, Any]) -> None:
    (name,) = settings
    said = (
        rf"method\.{name} is for a target of \w.*\. Got method\.target={target}, which does not read it; leave it out\."
    )
    with pytest.raises(UserError, match=said):
        asked_of_target(CAEConfig(target=target, **settings), GRID)


# --- the method's own weights


@pytest.mark.parametrize("kind", ["codes", "teacher's file", "random teacher", "pixels", "hog"])
def test_opening_leaves_the_random_numbers_to_the_method(kind: str, folder: Path, teachers_file: Path) -> None:
    target = {
        "codes": f"codes:{folder}",
        "teacher's file": f"features:timm:{SMALL}={teachers_file}",
        "random teacher": f"features:{RANDOM}",
    }.get(kind, kind)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    opened(target)
    asked_of_target(CAEConfig(target=target), GRID)
    assert torch.equal(torch.get_rng_state(), before)
