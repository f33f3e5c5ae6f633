"""`contextae fit-tokenizer`: what it leaves behind, training on it, resumes, refusals."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_run import interrupt

import contextae
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.methods.cae import CAE
from contextae.methods.dvae import DVAEConfig, DVAETraining
from contextae.randomness import stream
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.kmeans import PatchCodebook
from contextae.tokenizers.stored import open_tokenizer
from contextae.training.log import read_lines
from contextae.training.weights import load_weights
from contextae.verbs import fit_kmeans
from contextae.verbs import fit_tokenizer as verb
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.fit_tokenizer import run_fit_tokenizer
from contextae.verbs.reconstruct import run_reconstruct

Run = Callable[..., int]
CODES = 24
GEOMETRY = ["data.image_size=[16, 12]", "encoder.patch_size=[4, 4]"]
OWN = [
    "method.width=8",
    "training.epochs=2",
    "training.batch_size=8",
    "training.workers=0",
    "training.precision=float32",
    "training.log_steps=1",
    "health.images=16",
]


@pytest.fixture
def fit(tmp_path: Path) -> Run:
    """`run_fit_tokenizer` with everything but what a test is about."""

    def run(data: Path | None, *settings: str, out: Path | None = None, kind: str = "dvae", **options: Any) -> int:
        given: dict[str, Any] = {"codes": CODES, "preset": None, "config": None, "resume": False}
        own = [] if data is None or options.get("config") else GEOMETRY if kind != "dvae" else [*GEOMETRY, *OWN]
        return run_fit_tokenizer(
            data=data and str(data),
            out=out or tmp_path / "tok",
            kind=kind,
            settings=[*own, *settings],
            **{**given, **options},
        )

    return run


def step_lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run / "log.jsonl") if line["kind"] == "step"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", verb.KINDS)
def test_a_tokenizer_a_sheet_and_a_training_that_starts_at_chance(
    fit: Run, pretrain: Run, photographs: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(photographs, kind=kind) == 0
    tok = tmp_path / "tok"
    said = capsys.readouterr().out
    assert "Next: contextae pretrain DATA --out RUN --set method.target=codes:" + str(tok) in said
    with Image.open(tok / "reconstructions.png") as sheet:
        assert sheet.width > 200 and np.asarray(sheet.convert("L")).std() > 10
    tokenizer: Any = open_tokenizer(tok)
    assert isinstance(tokenizer, DVAE if kind == "dvae" else PatchCodebook)
    assert (tokenizer.num_codes, tokenizer.channels, tokenizer.input_size((4, 3))) == (CODES, 3, (16, 12))
    if kind == "dvae":
        assert "a code of 4 x 4 pixels, at 16 x 12, for each of 4 x 3 patches; 2 epochs; changed by --set" in said
        assert Experiment.read(tok / "experiment.yaml").training.warmup_epochs == 0.1  # of 2 epochs
        checks = [line for line in read_lines(tok / "log.jsonl") if line["kind"] == "health"]
        assert all({"error", "used", "perplexity", "temperature"} <= line.keys() for line in checks)
        assert checks[-1]["temperature"] == pytest.approx(1 / 16)
    else:
        assert "on 4 images kept apart" in said
    small = "encoder.initialisation=beit"  # weights that make all logits small, where xavier's of 16 inputs are not
    assert pretrain(photographs, None, f"method.target=codes:{tok}", small) == 0
    assert f"target: one of {CODES} codes a patch" in capsys.readouterr().out
    settings = Experiment.read(tmp_path / "run" / "experiment.yaml").method
    assert settings.target_size == (16, 12) and settings.target == f"codes:{tok}"
    assert abs(step_lines(tmp_path / "run")[0]["reconstruction"] - math.log(CODES)) < 0.03


def test_a_patch_of_16_gets_codes_of_8_pixels_and_a_second_view(
    fit: Run, pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    geometry = ("data.image_size=[48, 32]", "encoder.patch_size=[16, 16]")
    assert fit(photographs, *geometry) == 0
    own = Experiment.read(tmp_path / "tok" / "experiment.yaml")
    assert (own.data.image_size, own.encoder.patch_size) == ((24, 16), (8, 8))
    assert open_tokenizer(tmp_path / "tok").input_size((3, 2)) == (24, 16)
    masked = "method.mask_ratio=0.34"
    assert pretrain(photographs, None, *geometry, masked, f"method.target=codes:{tmp_path / 'tok'}") == 0
    experiment = Experiment.read(tmp_path / "run" / "experiment.yaml")
    assert experiment.method.target_size == (24, 16)
    views = experiment.build_views()
    view = views(np.zeros((50, 40, 3), np.uint8), stream("a view"))
    assert view.images.shape == (3, 48, 32) and view.second.shape == (3, 24, 16) and views.second.lanczos
    assert len(step_lines(tmp_path / "run")) == 10


@pytest.mark.parametrize("step", [1, 4, 7])
def test_stopped_and_resumed_it_is_the_same_tokenizer(
    fit: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, capsys: Any
) -> None:
    whole, tok = tmp_path / "whole", tmp_path / "a tok"
    assert fit(photographs, out=whole) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, DVAETraining, step)
        assert fit(photographs, out=tok) == 130
    assert f"Go on with: contextae fit-tokenizer --out '{tok}' --resume" in capsys.readouterr().out
    assert not (tok / "tokenizer.safetensors").exists()
    with pytest.raises(UserError, match=r"There is no tokenizer at .*a fit that was interrupted goes on with --resume"):
        open_tokenizer(tok)
    assert fit(None, out=tok, resume=True, codes=None) == 0
    expected, found = (load_file(folder / "tokenizer.safetensors") for folder in (whole, tok))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    logged = [[(line["step"], line["loss"], line["lr"]) for line in step_lines(folder)] for folder in (whole, tok)]
    assert logged[0] == logged[1] and len(logged[0]) == 10
    (tok / "tokenizer.safetensors").unlink()
    assert fit(None, out=tok, resume=True) == 0, "what is there no more is written again"
    assert load_file(tok / "tokenizer.safetensors").keys() == expected.keys()


def test_the_same_command_may_be_repeated_with_resume(fit: Run, photographs: Path, tmp_path: Path) -> None:
    geometry = ("data.image_size=[48, 32]", "encoder.patch_size=[16, 16]")
    for _ in range(2):
        assert fit(photographs, *geometry, resume=True) == 0
    again = {"data": None, "resume": True, "out": tmp_path / "tok"}
    refused = r"(?s)1 setting\(s\) differ.*method.num_codes: 24 in the run, 25 now"
    for settings in ((), (*geometry, *OWN)):
        with pytest.raises(UserError, match=refused):
            fit(again["data"], *settings, resume=True, codes=25)
        with pytest.raises(UserError, match=r"method.num_codes: 24 in the run, 512 now"):  # 512 is what none would be
            fit(again["data"], *settings, resume=True, codes=512)
    with pytest.raises(UserError, match=r"(?s)data.image_size: \[24, 16\] in the run, \[16, 16\] now"):
        fit(photographs, "data.image_size=[32, 32]", "encoder.patch_size=[16, 16]", resume=True)
    with pytest.raises(UserError, match=r"(?s)training.epochs: 2 in the run, 3 now"):
        fit(photographs, *geometry, "training.epochs=3", resume=True)
    assert fit(photographs, *geometry, "training.workers=1", resume=True) == 0  # harmless
    for _ in range(2):
        preset = {"preset": "demo", "out": tmp_path / "preset", "resume": True}
        assert fit(photographs, "health.every_epochs=2", **preset) == 0


def test_its_experiment_runs_again_by_config(fit: Run, photographs: Path, tmp_path: Path) -> None:
    assert fit(photographs) == 0
    config, out = tmp_path / "tok" / "experiment.yaml", tmp_path / "again"
    for _ in range(2):
        assert fit(None, out=out, config=config, resume=True, codes=None) == 0
    expected, found = (load_file(folder / "tokenizer.safetensors") for folder in (tmp_path / "tok", out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert fit(None, out=tmp_path / "more", config=config, codes=30) == 0
    assert open_tokenizer(tmp_path / "more").num_codes == 30
    assert DVAEConfig().num_codes == verb.CODES == 512  # of the command line as well


def test_kmeans_goes_where_a_refused_start_was(fit: Run, photographs: Path) -> None:
    with pytest.raises(UserError, match="patch_size must divide image_size"):
        fit(photographs, "encoder.patch_size=[5, 4]")
    assert fit(photographs, kind="kmeans") == 0


def test_epochs_are_for_a_number_of_images(photographs: Path) -> None:
    """And warm up for a twentieth, whatever --set makes of them."""
    from contextae.data.sources import open_index
    from contextae.verbs.request import Request

    index, cpu = open_index(str(photographs)), torch.device("cpu")
    request = Request(str(photographs), None, [], None)
    experiment, said = verb.tokenizer_experiment(request, index, cpu, CODES)
    assert (experiment.training.epochs, experiment.training.warmup_epochs) == (2500, 125)
    assert (
        said.endswith("400 epochs with 16 images a step")
        and "The training to come is taken for this one: no pr" in said
    )
    settings = ["training.epochs=40", "training.warmup_epochs=3"]
    for given, warm in ((settings[:1], 2), (settings, 3)):
        experiment, _ = verb.tokenizer_experiment(request._replace(settings=given), index, cpu, CODES)
        assert (experiment.training.epochs, experiment.training.warmup_epochs) == (40, warm)


def test_what_fit_tokenizer_refuses(fit: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no kind of tokenizer 'kmean'\. Did you mean 'kmeans'\? Kinds: dvae, kmeans"):
        fit(photographs, kind="kmean")
    with pytest.raises(UserError, match=r"--resume is for --kind dvae: k-means takes a minute"):
        fit(photographs, kind="kmeans", resume=True)
    with pytest.raises(UserError, match=r"as many patches as codes\. Got 432 patches for 433 codes .*; ask for fewer"):
        fit(photographs, kind="kmeans", codes=433)
    for setting in ("training.epochs=3", "method.num_codes=8", "optimizer.weight_decay=0.1", "health.images=16"):
        said = (
            rf"k-means is no training: .* is --codes\. Got {setting.partition('=')[0]}; leave it out, or take --kind dv"
        )
        with pytest.raises(UserError, match=said):
            fit(photographs, setting, kind="kmeans")
    for kind in verb.KINDS:
        with pytest.raises(UserError, match="patch_size must divide image_size"):
            fit(photographs, "encoder.patch_size=[5, 4]", kind=kind)
        assert not any((tmp_path / "tok" / name).exists() for name in ("experiment.yaml", "tokenizer.safetensors"))
    for setting in ("optimizer.layer_decay=0.5", "init.frozen_share=0.1", "init.source=x"):
        with pytest.raises(
            UserError,
            match=r"There is nothing at|A d-VAE starts from random weights.*for `con|frozen_share needs init.source",
        ):
            fit(photographs, setting)
    with pytest.raises(UserError, match="DATA is missing"):
        fit(None)
    assert not (tmp_path / "tok" / "experiment.yaml").exists()


def test_a_patch_that_is_no_code(fit: Run, photographs: Path, tmp_path: Path) -> None:
    assert fit(photographs) == 0
    config = tmp_path / "mine.yaml"
    config.write_text((tmp_path / "tok" / "experiment.yaml").read_text())
    for patch, size in (("[6, 6]", "[18, 12]"), ("[4, 2]", "[16, 12]")):
        settings = (f"encoder.patch_size={patch}", f"data.image_size={size}")
        with pytest.raises(UserError, match=r"is the pixels of a code: square, a power of two, 2 at least"):
            fit(None, *settings, out=tmp_path / "other", config=config)


@pytest.mark.parametrize("kind", verb.KINDS)
def test_a_folder_that_is_not_empty(fit: Run, photographs: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"a new or empty folder|holds 'mine\.txt' and no experiment\.yaml"):
        fit(photographs, kind=kind)
    (tmp_path / "tok" / "mine.txt").unlink()
    assert fit(photographs, kind=kind) == 0
    before = (tmp_path / "tok" / "tokenizer.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"There is something at|holds a run already, which nothing overwrites"):
        fit(photographs, kind=kind)
    assert (tmp_path / "tok" / "tokenizer.safetensors").read_bytes() == before


def test_pretrain_and_fit_tokenizer_refuse_what_is_the_others(
    fit: Run, pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    assert fit(photographs) == 0 and pretrain(photographs, None, "training.epochs=1") == 0
    tok, run = tmp_path / "tok", tmp_path / "run"
    theirs, ours = (
        r"settings of a tokenizer, which `contextae fit-tokenizer`",
        r"settings of method cae, which `contextae",
    )
    with pytest.raises(UserError, match=theirs):
        pretrain(None, tok, resume=True)
    with pytest.raises(UserError, match=theirs):
        pretrain(None, tmp_path / "new", config=tok / "experiment.yaml")
    for settings in ((), GEOMETRY):
        with pytest.raises(UserError, match=ours):
            fit(None, *settings, out=run, resume=True, codes=None)
    with pytest.raises(UserError, match=ours):
        fit(None, out=tmp_path / "new", config=run / "experiment.yaml", codes=None)
    assert not (tmp_path / "new" / "experiment.yaml").exists()


def test_tokenizers_that_pretrain_refuses(fit: Run, pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no tokenizer at .*nowhere"):
        pretrain(photographs, None, f"method.target=codes:{tmp_path / 'nowhere'}")
    assert fit(photographs, "data.channels=1", kind="kmeans") == 0
    with pytest.raises(
        UserError, match=r"is of images with 1 channel\(s\), and these have 3\. Fit one to these images"
    ):
        pretrain(photographs, None, f"method.target=codes:{tmp_path / 'tok'}")
    assert not (tmp_path / "run" / "experiment.yaml").exists()


def test_another_tokenizer_at_resume_is_refused_and_nothing_is_lost(
    fit: Run, pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tok, run = tmp_path / "tok", tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert fit(photographs, kind="kmeans") == 0
    assert pretrain(photographs, tmp_path / "whole", "method.target=codes:tok") == 0
    with monkeypatch.context() as patch:
        interrupt(patch, CAE, 6)
        assert pretrain(photographs, run, "method.target=codes:tok") == 130
    tok.rename(tmp_path / "first")
    before = contents(run)
    with pytest.raises(UserError, match="There is no tokenizer at"):
        pretrain(None, run, resume=True)
    assert fit(photographs, "training.seed=7", kind="kmeans") == 0
    with pytest.raises(UserError, match=r"not the one that this run started with: its sha256 is \w{64} and was \w{64}"):
        pretrain(None, run, resume=True)
    after = contents(run)
    assert {name for name in before if before[name] != after[name]} <= {"lock"} and before.keys() == after.keys()
    shutil.rmtree(tok)
    (tmp_path / "first").rename(tok)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pretrain(None, run, resume=True) == 0
    expected, found = load_weights(tmp_path / "whole")[0], load_weights(run)[0]
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("kind", verb.KINDS)
def test_what_wants_an_encoder_says_that_this_is_a_tokenizer(
    fit: Run, photographs: Path, tmp_path: Path, kind: str
) -> None:
    assert fit(photographs, kind=kind) == 0
    tok = tmp_path / "tok"
    common: dict[str, Any] = {"checkpoint": "last", "seed": 0, "count": 1, "images": []}
    checkpoints = list((tok / "checkpoints").glob("step-*"))[:1] if kind == "dvae" else []
    for place in (tok, tok / "tokenizer.safetensors", *checkpoints):
        with pytest.raises(UserError, match=r"holds a tokenizer, which has no encoder .*method\.target=codes:"):
            contextae.load(place)
        with pytest.raises(UserError, match="holds a tokenizer"):
            run_evaluate(weights=place, data=str(photographs), protocols="knn", checkpoint="last", seeds=1, out=None)
        with pytest.raises(UserError, match="holds a tokenizer"):
            run_reconstruct(weights=place, out=tmp_path / "sheet.png", **common)


def test_a_full_disk_is_the_users(fit: Run, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verb, "save_tokenizer", full)
    with pytest.raises(UserError, match=r"tok cannot be written: No space left on device"):
        fit(photographs)
    monkeypatch.undo()
    assert fit(None, resume=True) == 0


def test_no_more_codes_than_patches_that_are_looked_at(
    fit: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_kmeans, "MOST_PATCHES", 30)
    with pytest.raises(
        UserError, match=r"Got 30 patches for 31 codes \(at most 30 patches are looked at\); ask for fewer"
    ):
        fit(photographs, kind="kmeans", codes=31)
    monkeypatch.setattr(fit_kmeans, "MOST_IMAGES", 20)
    assert fit(photographs, "crop.flip=0", "training.seed=3", kind="kmeans", codes=30) == 0
    assert "k-means looks at 20 of 40 images, 2 of them kept apart" in capsys.readouterr().out
    assert open_tokenizer(tmp_path / "tok").num_codes == 30


def test_unreadable_images_are_said_by_kmeans(fit: Run, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = photographs / "cats" / "01.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    assert fit(photographs, kind="kmeans") == 0
    assert "Left out: cats/01.png: truncated file" in capsys.readouterr().err
