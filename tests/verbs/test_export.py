"""`contextae export` on a real run: four formats, each reloaded from image files by a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from small_run import paint

import contextae
from contextae.data.decode import decode
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.interop.reload import FORMATS
from contextae.pretrained import Transform
from contextae.verbs.export import _own, run_export

Run = Callable[..., int]


@pytest.fixture
def run(pretrain: Run, photographs: Path, tmp_path: Path) -> Path:
    settings = ("encoder.patch_size=[4, 2]", "encoder.width=18", "encoder.num_heads=3", "encoder.depth=2")
    assert pretrain(photographs, None, *settings, "training.epochs=1") == 0
    return tmp_path / "run"


@pytest.mark.parametrize("to", ["timm", *(pytest.param(to, marks=pytest.mark.slow) for to in FORMATS if to != "timm")])
def test_a_run_in_every_format_said_in_a_few_lines(to: str, run: Path, tmp_path: Path) -> None:
    """By the command itself, whose terminal sees nothing of what the libraries say."""
    for name in FORMATS[to].needs:
        pytest.importorskip(name)
    out = tmp_path / "exports" / to
    done = subprocess.run(
        [sys.executable, "-m", "contextae", "export", str(run), "--to", to, "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert said[0] == f"{run}: width 18, 2 blocks, 3 heads, for images of 16 x 12 pixels, 3 channel(s)"
    assert "in a fresh process, from 8 image file(s)" in said[1] and "1e-04 would be refused" in said[1]
    assert f"{to} -> {out}, with receipt.json" in said and len(said) <= 6
    assert ("Without pretrained=True timm gives random weights and does not say so." in said) == (to == "timm")
    assert any("Preprocessed by" in line for line in said) == (to in ("timm", "huggingface"))
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["largest_difference"] < 1e-5 and receipt["batch_sizes"] == [1, 3, 3, 1]
    assert receipt["weights"] == f"{run}, checkpoint last"
    facts = json.loads((out / "contextae.json").read_text())
    transform = contextae.load(run)[1]
    assert (facts["height"], facts["width"], facts["channels"], facts["channel_order"]) == (16, 12, 3, "RGB")
    assert (facts["bit_depth"], facts["value_range"]) == (8, [0, 1])
    assert (tuple(facts["mean"]), tuple(facts["deviation"])) == (transform.mean, transform.deviation)
    assert [path.name for path in out.parent.iterdir()] == [to]


def test_another_size_other_images_and_another_checkpoint(
    run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        paint(tmp_path / "others" / f"{i}.png", 100 + i, size=(40, 30))
    receipt = run_export(
        weights=run,
        to="timm",
        out=tmp_path / "out",
        checkpoint="5",
        image_size=(24, 10),
        allow_missing=["head.weight"],
        images=[photographs / "cats" / "01.png", tmp_path / "others"],
    )
    assert receipt.num_images == 4 and receipt.weights == f"{run}, checkpoint 5"
    said = capsys.readouterr().out
    assert "for images of 24 x 10 pixels" in said
    assert "Not missing, so --allow-missing did nothing for: head.weight" in said
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert model.pos_embed.shape == (1, 1 + 6 * 5, 18)
    assert model.pretrained_cfg["input_size"] == (3, 24, 10)


@pytest.mark.slow
def test_gray_images_and_the_receipt_of_a_missing_weight(
    pretrain: Run,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from contextae.interop import timm as exported

    assert pretrain(photographs, tmp_path / "gray", "data.channels=1", "training.epochs=1") == 0
    weights = exported.weights
    monkeypatch.setattr(
        exported, "weights", lambda given: {k: v for k, v in weights(given).items() if k != "norm.bias"}
    )
    with pytest.raises(UserError, match=r"\(missing: norm\.bias\)"):
        run_export(weights=tmp_path / "gray", to="timm", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(exported, "weights", weights)
    run_export(weights=tmp_path / "gray", to="timm", out=tmp_path / "out")
    assert "1 channel(s)" in capsys.readouterr().out
    encoder, transform = contextae.load(tmp_path / "gray")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = transform([photographs / "cats" / "01.png", photographs / "dogs" / "02.png"])
    with torch.no_grad():
        torch.testing.assert_close(model(images), encoder.summary_and_latents(images)[0], atol=1e-5, rtol=0)


def test_what_is_allowed_to_be_missing_is_said(run: Path, tmp_path: Path) -> None:
    from contextae.interop.receipt import Receipt
    from contextae.verbs.export import lines

    receipt = Receipt("timm", "", "", 1e-6, 1e-4, 8, [1, 3], ["norm.bias"], {"timm": "1"}, {}, None)
    assert "Missing, as allowed: norm.bias" in lines(receipt, tmp_path, ["norm.bias"])


def test_what_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Got 'tim'\. Did you mean 'timm'\?"):
        run_export(weights=tmp_path / "nowhere", to="tim", out=tmp_path / "out")
    with pytest.raises(UserError, match="There is something at"):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "a").write_text("")
        run_export(weights=tmp_path / "nowhere", to="timm", out=tmp_path / "full")


def test_what_is_refused_of_sizes_and_images(
    run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"weights": run, "to": "timm", "out": tmp_path / "out"}
    with pytest.raises(UserError, match=r"18 is not a multiple of 4"):
        run_export(image_size=(18, 12), **common)
    with pytest.raises(UserError, match=r"none\.png cannot be read"):
        run_export(images=[tmp_path / "none.png"], **common)
    for path in photographs.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-60])  # the headers still pass
    with pytest.raises(UserError, match=rf"^None of the images of {photographs} can be read\. .* with --images\.$"):
        run_export(**common)
    assert capsys.readouterr().err.count("is left out: ") == 40
    shutil.rmtree(photographs)
    with pytest.raises(UserError, match=r"There is nothing at .* Or name images for the receipt with --images\."):
        run_export(**common)
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_files_become_some(tmp_path: Path) -> None:
    """The embedded set holds arrays; of a folder the very bytes are taken."""
    transform = Transform(size=(28, 28), channels=1, mean=(0.3,), deviation=(0.3,))
    files = _own("builtin:fashion-mnist", transform, tmp_path)
    assert len(files) == 8
    index = open_index("builtin:fashion-mnist", channels=1)
    every = {np.asarray(decode(index.read(i), channels=1)).tobytes() for i in range(len(index))}
    assert all(decode(path.read_bytes(), channels=1).tobytes() in every for path in files)
