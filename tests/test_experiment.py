"""Experiments survive writing and reading, refuse what cannot work in one report, and hold no dead setting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import contextae
from contextae.data.samples import stack
from contextae.encoder import EncoderConfig
from contextae.errors import UserError
from contextae.experiment import Experiment, parse, setting_names
from contextae.methods.cae import CAEConfig
from contextae.randomness import stream
from contextae.settings import DataConfig
from contextae.training.record import flat

SMALL = Experiment(
    data=DataConfig(source="images", image_size=(20, 28)),
    encoder=EncoderConfig(patch_size=(4, 4), width=24, depth=2, num_heads=2),
    method=CAEConfig(regressor_depth=1, decoder_depth=1),
)
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def positive(most: float) -> st.SearchStrategy[float]:
    return st.floats(0, most, exclude_min=True)


TREES = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {
                "source": st.text(st.characters(exclude_categories=["Cs"])),
                "image_size": st.just([32, 48]),
                "channels": st.sampled_from(["auto", 1, 3]),
                "mean": st.none() | st.lists(st.floats(0, 1), min_size=1, max_size=5),
                "deviation": st.none() | st.lists(positive(1), min_size=1, max_size=5),
                "max_bad_share": positive(1),
            }
        ),
        "crop": st.fixed_dictionaries({"scale": st.just([0.1, 0.9]), "flip": st.floats(0, 1)}),
        "encoder": st.fixed_dictionaries(
            {
                "patch_size": st.sampled_from([[16, 16], [8, 16], [4, 3]]),
                "width": st.sampled_from([12, 48]),
                "num_heads": st.sampled_from([1, 3]),
                "layer_scale": st.none() | positive(2),
                "drop_path": st.floats(0, 1, exclude_max=True),
            }
        ),
        "method": st.fixed_dictionaries(
            {
                "mask_ratio": st.floats(0, 1, exclude_min=True, exclude_max=True),
                "min_block": st.none() | st.integers(1, 99),
                "decoder_width": st.none() | st.just(24),
                "alignment_weight": st.floats(0, 1e300),
                "masker": st.sampled_from(["block", "random"]),
                "normalise_target": st.booleans(),
            }
        ),
        "optimizer": st.fixed_dictionaries(
            {"lr_per_256_images": positive(1), "betas": st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2)}
        ),
        "training": st.fixed_dictionaries(
            {"seed": st.integers(0, 2**63 - 1), "workers": st.none() | st.integers(0, 9), "accumulate": st.just(4)}
        ),
    }
)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(tree=TREES)
def test_any_experiment_survives_writing_and_reading(
    tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    experiment = parse(tree, origin="drawn")
    path = tmp_path_factory.getbasetemp() / "experiment.yaml"
    experiment.write(path)
    assert Experiment.read(path) == experiment
    assert experiment.values()["method.alignment_weight"] == tree["method"]["alignment_weight"]


def test_every_value_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    SMALL.write(path)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    written = {f"{section}.{name}" for section in tree for name in tree[section]}
    assert written == {name for name in setting_names() if name[:7] != "method."} | {
        f"method.{name}" for name in CAEConfig.model_fields
    }
    assert list(tree) == ["data", "crop", "encoder", "init", "method", "optimizer", "training", "health"]
    assert SMALL.values()["data.image_size"] == [20, 28]
    assert set(SMALL.values()) == written


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("optimizer.lr_per_256_images=1e-3", 1e-3),
        ("data.image_size=96,128", (96, 128)),
        ("crop.scale=1e-1, .5", (0.1, 0.5)),
        ("optimizer.weight_decay=0", 0.0),
        ("training.epochs=7", 7),
        ("training.epochs=1e2", 100),
        (" training.epochs = 7", 7),
        ("optimizer.betas=[0.9, 0.95]", (0.9, 0.95)),
        ("optimizer.betas=[9e-1, 0.95]", (0.9, 0.95)),
        ("data.image_size=[40, 56]", (40, 56)),
        ("encoder.layer_scale=null", None),
        ("data.mean=[0.5]", (0.5,)),
        ("data.channels=auto", "auto"),
        ("data.source=a=b c", "a=b c"),
        ("training.precision=bfloat16", "bfloat16"),
        ("method.normalise_target=false", False),
        ("method.masker=random", "random"),
    ],
)
def test_settings_are_read_as_yaml(setting: str, expected: object) -> None:
    changed = SMALL.with_settings([setting])
    section, name = setting.partition("=")[0].strip().split(".")
    value = getattr(getattr(changed, section), name)
    assert value == expected and type(value) is type(expected)


def test_settings_apply_together_and_leave_the_original_alone() -> None:
    before = SMALL.model_dump()
    # neither of these two would be possible alone
    changed = SMALL.with_settings(["encoder.width=35", "encoder.num_heads=5"])
    assert (changed.encoder.width, changed.encoder.num_heads) == (35, 5)
    assert SMALL.model_dump() == before
    assert SMALL.with_settings(["training.seed=1", "training.seed=2"]).training.seed == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=3", r"There is no setting 'training.epoch'. Did you mean 'training.epochs'\? Settings are"),
        ("zebra=3", r"There is no setting 'zebra'. Settings are written SECTION.NAME; the sections are data, crop,"),
        ("training=3", r"There is no setting 'training'"),
        ("training.epochs", r"A setting is NAME=VALUE, such as training.epochs=100. Got 'training.epochs'"),
        ("data.image_size=[1,", r"The value of 'data.image_size=\[1,' is not readable; lists are written \[a, b\]"),
        ("training.epochs=many", r"training.epochs: Input should be a valid integer, .*\(got 'many'\)"),
        ("training.epochs=0", r"training.epochs: Input should be greater than or equal to 1 \(got 0\)"),
        ("training.epochs=2.5", r"training.epochs: Input should be a valid integer"),
        ("training.seed=99999999999999999999", r"training.seed: Input should be less than 9223372036854775808"),
        ("optimizer.lr_per_256_images=.inf", r"lr_per_256_images: Input should be a finite number \(got inf\)"),
        ("encoder.layer_scale=nan", r"encoder.layer_scale: Input should be a finite number"),
        ("method.alignment_weight=.nan", r"method.alignment_weight: Input should be a finite number"),
        ("optimizer.betas=[0.9, 1]", r"optimizer.betas: Input should be less than 1 \(got 1\)"),
        ("data.deviation=[0.2, 0]", r"data.deviation: Input should be greater than 0 \(got 0\)"),
        ("health.probes=linear", r"health.probes: a list, also one of one thing, is written \[linear\]"),
        ("data.channels=rgb", r": 1 setting\(s\).*\n  - data.channels: .*valid integer.*, or: Input should be 'auto'"),
        ("method.mask_ratio=75", r"method.mask_ratio: Input should be less than 1 \(got 75\)"),
        ("crop.scale=[0.5, 0.2]", r"crop.scale must be two positive numbers, the smaller first. Got \[0.5, 0.2\]"),
        ("crop.ratio=[0, 2]", r"crop.ratio must be two positive numbers, the smaller first. Got \[0.0, 2.0\]"),
        ("crop.scale=[0.5, 1.2]", r"crop.scale is a share of the image's area, at most 1. Got \[0.5, 1.2\]"),
        ("encoder.num_heads=7", r"encoder.num_heads must divide encoder.width. Got 7 and 24"),
        ("method.decoder_num_heads=5", r"method.decoder_num_heads must divide method.decoder_width. Got 5 and 24"),
        ("method.decoder_width=25", r"method.decoder_num_heads must divide method.decoder_width. Got 2 and 25"),
        ("training.accumulate=3", r"training.accumulate must divide training.batch_size. Got 3 and 256"),
        ("data.image_size=[20, 30]", r"patch_size must divide image_size on every axis.* 30 is not a multiple of 4"),
        ("encoder.patch_size=[0, 4]", r"image_size, patch_size and channels must be positive"),
        ("encoder.patch_size=[20, 28]", r"A mask needs at least two patches"),
    ],
)
def test_what_cannot_work_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMALL.with_settings([setting])


def test_all_problems_stand_in_one_report(tmp_path: Path) -> None:
    path = tmp_path / "by-hand.yaml"
    path.write_text("training: {epochs: 0, batchsize: 7, seed: x}\nencoder: {widht: 3}\nmodel: {}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Experiment.read(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 6 setting(s) cannot be used."
    assert all(line.startswith("  - ") for line in lines[1:]) and len(lines) == 7
    for part in (
        "data is required",
        "training.epochs: Input should be greater than or equal to 1 (got 0)",
        "training.seed: Input should be a valid integer",
        "there is no setting 'training.batchsize'. Did you mean 'training.batch_size'?",
        "there is no setting 'encoder.widht'. Did you mean 'encoder.width'?",
        "there is no setting 'model'.",
    ):
        assert part in str(caught.value)


def test_broken_rules_between_settings_stand_in_one_report() -> None:
    with pytest.raises(UserError) as caught:
        SMALL.with_settings(["encoder.num_heads=7", "training.accumulate=3", "data.image_size=[20, 30]"])
    assert str(caught.value).startswith("--set: 3 setting(s) cannot be used.\n")
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"There is no experiment file at .*none.yaml. A run folder holds one as experiment.yaml"),
        (b"a: [1", r"^.*none.yaml is not readable as YAML: .*Write it anew or take a run's own"),
        (b"\xff\xfe\xfa", r"none.yaml is not readable as YAML"),
        (b"- 1", r"none.yaml must hold settings by name. It holds list"),
        (b"", r"none.yaml must hold settings by name. It holds NoneType"),
    ],
)
def test_files_that_hold_no_experiment_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Experiment.read(path)


def test_a_folder_is_no_experiment_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: Is a directory. Give the path of an experiment file"):
        Experiment.read(tmp_path)


def test_a_file_cannot_make_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("data: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(UserError, match="is not readable as YAML"):
        Experiment.read(path)


def test_a_device_that_crops_changes_no_colours_and_draws_no_crop_again() -> None:
    for setting in ("crop.colour_jitter=0.4", "method.target_size=[56, 80]"):
        with pytest.raises(UserError, match=r"crop\.where=device leaves no one to change colours, nor to draw"):
            SMALL.with_settings(["crop.where=device", "method.target=codes:TOK", setting])
    assert SMALL.with_settings(["crop.where=device"]).build_views().crop.where == "device"


def test_the_peak_rate_is_linear_in_the_batch() -> None:
    """The released recipe: 1.5e-3 for 2,048 images."""
    released = SMALL.with_settings(["training.batch_size=2048"])
    assert released.peak_lr == pytest.approx(1.5e-3)
    assert released.peak_lr * released.optimizer.final_lr_share == pytest.approx(1e-5)
    assert SMALL.with_settings(["optimizer.lr_per_256_images=0.5", "training.batch_size=64"]).peak_lr == 0.125


def test_a_method_needs_no_defaults_of_its_own_to_be_built() -> None:
    assert SMALL.grid_size == (5, 7)
    method = SMALL.build_method(5)
    assert method.encoder.grid.size == (5, 7) and method.encoder.grid.channels == 5
    views = SMALL.build_views()
    assert views.crop.size == (20, 28) and views.masker.num_patches == 35


# No dead settings: another value of each changes what is built from it, or else a verb reads it.
V2 = SMALL.with_values({"method.name": "cae_v2", "method.target": "features:timm:test_vit=random"})
MASKED = SMALL.with_values(
    {"method.name": "mae", "method.decoder_depth": 2, "method.decoder_width": 24, "method.decoder_num_heads": 2}
)
TOKENIZER = SMALL.with_values({"method.name": "dvae", "data.mean": [0.5] * 3, "data.deviation": [0.2] * 3})
V2 = V2.with_values({"data.mean": [0.5] * 3, "data.deviation": [0.2] * 3, "method.target_size": [160, 160]})
OTHER: dict[str, dict[str, Any]] = {
    "cae": {
        "data.image_size": [28, 20],
        "crop.scale": [0.8, 1.0],
        "crop.ratio": [0.3, 0.4],
        "crop.flip": 0.0,
        "crop.colour_jitter": 0.4,
        "crop.where": "device",
        "encoder.patch_size": [2, 4],
        "encoder.width": 32,
        "encoder.depth": 3,
        "encoder.num_heads": 4,
        "encoder.mlp_ratio": 3.0,
        "encoder.layer_scale": None,
        "encoder.drop_path": 0.7,
        "encoder.positions": "learned",
        "encoder.initialisation": "beit",
        "method.name": "cae_v2",
        "method.regressor_depth": 2,
        "method.decoder_depth": 0,
        "method.decoder_width": 28,
        "method.decoder_num_heads": 3,
        "method.masker": "random",
        "method.mask_ratio": 0.3,
        "method.min_block": 12,
        "method.target": "hog",
        "method.normalise_target": False,
        "method.alignment_weight": 1.0,
        "method.reconstruction_weight": 0.5,
    },
    "cae_v2": {
        "method.regressor_depth": 2,
        "method.regressor_width": 28,
        "method.regressor_num_heads": 3,
        "method.masker": "random",
        "method.mask_ratio": 0.3,
        "method.min_block": 12,
        "method.target": "features:timm:test_vit2=random",
        "method.target_size": [96, 128],
        "method.target_cache_gib": 0.01,
    },
    "mae": {
        "method.decoder_depth": 0,
        "method.decoder_width": 28,
        "method.decoder_num_heads": 3,
        "method.masker": "block",
        "method.mask_ratio": 0.3,
        "method.target": "hog",
        "method.normalise_target": False,
    },
    "dvae": {
        "method.num_codes": 30,
        "method.width": 16,
        "method.first_temperature": 2.0,
        "method.last_temperature": 0.5,
        "method.kl_weight": 0.1,
        "method.usage_weight": 0.0,
    },
}
BASE = {"cae": SMALL, "cae_v2": V2, "mae": MASKED, "dvae": TOKENIZER}
# Of the masked methods' shared settings, one that only a target with a file behind it knows, and one that is of pixels.
ELSEWHERE = {
    "cae_v2": ("method.normalise_target", "method.target_sha256"),
    "cae": ("method.target_sha256", "method.target_cache_gib"),
    "mae": ("method.target_sha256", "method.target_cache_gib", "method.target_size", "method.min_block"),
}
OF_THE_PEAK_RATE = ("optimizer.lr_per_256_images",)


def outcome(experiment: Experiment) -> tuple[list[bytes], float]:
    """Views of one image, and the loss of a freshly built method on a batch of them, after one step is over."""
    made = [experiment.build_views()(IMAGE, stream(i)) for i in range(6)]
    torch.manual_seed(0)
    experiment = experiment.with_values({"data.mean": [0.5] * 3, "data.deviation": [0.2] * 3})
    batch = experiment.build_transfer(torch.device("cpu"))(stack(made))
    method = experiment.build_method(3)
    method.after_step(0.5)
    loss = method(batch).total.item() + sum(p.numel() for p in method.parameters() if p.requires_grad)
    return [b"".join(np.asarray(part).tobytes() for part in flat(view)) for view in made], loss


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in OTHER for name in OTHER[method]])
def test_a_setting_changes_what_is_built(method: str, name: str) -> None:
    base = BASE[method]
    given = {name: OTHER[method][name]}
    if name == "method.name":
        given |= {
            "method.target": V2.method.target,
            "method.target_size": [160, 160],
            "data.mean": [0.5] * 3,
            "data.deviation": [0.2] * 3,
        }
    views, loss = outcome(base)
    other_views, other_loss = outcome(base.with_values(given))
    seen = name.startswith(("data.", "crop.", "method.mask", "method.min_block", "method.target_size"))
    assert outcome(base) == (views, loss)
    assert loss != other_loss
    assert (views != other_views) is (seen or name in ("encoder.patch_size", "method.name"))


@pytest.mark.parametrize("method", BASE)
def test_every_setting_of_a_method_is_among_them(method: str) -> None:
    names = {f"method.{name}" for name in type(BASE[method].method).model_fields} - {"method.name"}
    if method == "cae":
        names -= {"method.target_size"}  # of cae_v2 below
    assert names - set(ELSEWHERE.get(method, ())) == {n for n in OTHER[method] if n[:7] == "method."} - {"method.name"}


def test_a_teacher_that_is_another_file_than_at_the_start_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"The teacher .* is not the one that this run started with: its sha256 is None"
    ):
        V2.with_values({"method.target_sha256": "a" * 64}).build_method(3)


@pytest.mark.parametrize(
    ("given", "still"),
    [
        (["method.target=codes:OTHER"], (None, None)),
        (["method.target=codes:OTHER", "method.target_size=[56, 80]"], (None, (56, 80))),
        (["method.target=codes:TOK"], ("a" * 64, (28, 40))),
        (["training.seed=2"], ("a" * 64, (28, 40))),
    ],
)
def test_what_was_read_from_a_tokenizer_is_open_again_when_another_is_named(
    given: list[str], still: tuple[object, object]
) -> None:
    read = {"method.target": "codes:TOK", "method.target_sha256": "a" * 64, "method.target_size": [28, 40]}
    changed = SMALL.with_values(read).with_settings(given).method
    assert (changed.target_sha256, changed.target_size) == still


def test_what_was_read_from_weights_to_start_from_is_open_again_when_others_are_named() -> None:
    started = SMALL.with_values({"init.source": "a.safetensors", "init.sha256": "b" * 64})
    assert started.with_settings(["init.source=c.safetensors"]).init.sha256 is None
    assert started.with_settings(["init.source=a.safetensors"]).init.sha256 == "b" * 64
    assert started.with_settings(["init.source=c.safetensors", f"init.sha256={'d' * 64}"]).init.sha256 == "d" * 64


@pytest.mark.parametrize(
    ("given", "warmup"),
    [
        (["training.epochs=30"], 1.5),
        (["training.epochs=30", "training.warmup_epochs=4"], 4.0),
        (["training.epochs=1600"], 10.0),
        (["training.seed=1"], 10.0),
    ],
)
def test_a_shorter_training_warms_up_for_the_same_share_of_it(given: list[str], warmup: float) -> None:
    long = SMALL.with_values({"training.epochs": 200, "training.warmup_epochs": 10})
    assert long.with_settings(given).training.warmup_epochs == warmup


def test_another_method_starts_from_its_own_defaults_and_knows_no_setting_of_the_first() -> None:
    changed = V2.with_values({"method.name": "cae"})
    assert changed.method == CAEConfig()
    with pytest.raises(UserError, match=r"method cae_v2 has no setting 'method.decoder_depth'"):
        V2.with_settings(["method.decoder_depth=2"])
    with pytest.raises(UserError, match=r"method.name: .*'cae', 'cae_v2', 'mae', 'dvae' \(got 'moco'\)"):
        V2.with_settings(["method.name=moco"])
    with pytest.raises(UserError, match=r"method.target of cae_v2 is a teacher, features:TEACHER. Got 'pixels'"):
        V2.with_settings(["method.target=pixels"])
    with pytest.raises(UserError, match=r"method.regressor_num_heads must divide method.regressor_width. Got 5 and 24"):
        V2.with_settings(["method.regressor_num_heads=5"])
    with pytest.raises(UserError, match=r"encoder.patch_size of a d-VAE is the pixels of a code: square, a power of"):
        TOKENIZER.with_settings(["encoder.patch_size=[4, 2]"])
    with pytest.raises(UserError, match=r"method.target: a target is written pixels, .* \(got 'pixel'\)"):
        SMALL.with_settings(["method.target=pixel"])


def test_a_target_with_a_frozen_network_needs_the_images_statistics() -> None:
    with pytest.raises(UserError, match=r"A target of features needs data.mean and data.deviation"):
        SMALL.with_values({"method.target": "features:timm:test_vit=random"}).build_method(3)


def reads() -> Iterator[tuple[str, str]]:
    """(section, field) of every `...section.field` in the verbs and in what brings weights back."""
    root = Path(contextae.__file__).parent
    for path in (*(root / "verbs").glob("*.py"), root / "pretrained.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if isinstance(node.value, ast.Attribute):
                    yield node.value.attr, node.attr
                elif isinstance(node.value, ast.Name):
                    yield node.value.id, node.attr


def test_every_other_setting_is_read_by_a_verb() -> None:
    elsewhere = {name for names in (*OTHER.values(), *ELSEWHERE.values(), OF_THE_PEAK_RATE) for name in names}
    assert elsewhere <= set(setting_names())
    read = {f"{section}.{field}" for section, field in reads()}
    assert [name for name in setting_names() if name not in elsewhere and name not in read] == []
    assert any(field == "peak_lr" for _, field in reads())
