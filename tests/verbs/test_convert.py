"""`contextae convert`: what it writes can be used, what it says is true, what it refuses is one paragraph."""

from __future__ import annotations

import argparse
import copy
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import contextae
import contextae.encoder as trunk
from contextae import cli
from contextae.errors import UserError
from contextae.interop.official import to_state_dict
from contextae.pretrained import load_encoder
from contextae.tokenizers.dalle import DalleEncoder
from contextae.tokenizers.stored import open_tokenizer
from contextae.verbs.convert import as_file, run_convert
from published_files import EARLIER, OPENMMLAB, SQUARE, cae, cae_v2, classifier, classify, released, renamed

SIZES = {"image_size": "10x21", "patch_size": "2,3", "num_heads": 2}
SQUARE_SIZES = {"image_size": "12", "patch_size": "3", "num_heads": 2}
FIVE = {"mean": "0.1,0.2,0.3,0.4,0.5", "deviation": "0.5,0.4,0.3,0.2,0.1"}


def checkpoint(state: Any, path: Path) -> Path:
    """As the published code saves it."""
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize("kind", ["released", "earlier", "OpenMMLab", "v2", "encoder"])
def test_every_family_becomes_weights_that_load(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method: Any = {"v2": cae_v2, "encoder": lambda: cae().encoder}.get(kind, cae)()
    file = to_state_dict(method, alignment_copy=kind in ("released", "earlier", "OpenMMLab"))
    rules: Any = {"earlier": EARLIER, "OpenMMLab": OPENMMLAB}.get(kind)
    source = checkpoint(renamed(file, rules) if rules else file, tmp_path / "published.pth")
    out = tmp_path / "weights.safetensors"
    run_convert(source=source, out=out, **SIZES, **FIVE)
    said = capsys.readouterr().out
    encoder, transform = contextae.load(out)
    own = method if kind == "encoder" else method.encoder
    images = torch.randn(2, 5, 10, 21)
    with torch.no_grad():
        assert torch.equal(encoder.summary_and_latents(images)[0], own.summary_and_latents(images)[0])
    assert encoder.num_heads == 2 and transform.mean == (0.1, 0.2, 0.3, 0.4, 0.5) and transform.size == (10, 21)
    assert "2 attention heads in the encoder" in said and f"tensors -> {out}" in said
    tensors = load_file(out)
    if kind == "encoder":
        assert all(name.startswith("encoder.") for name in tensors) and "published.pth: an encoder" in said
    else:
        assert tensors.keys() == method.state_dict().keys()
        assert "the header names" in said and (f"published.pth: CAE{' v2' if kind == 'v2' else ''} of width 24") in said
    if kind in ("released", "earlier", "OpenMMLab"):
        copied = sum(name.startswith("alignment_encoder.") for name in file)
        assert f"{copied} tensors left out: " in said and ": equal to the encoder" in said
    with safe_open(out, framework="pt") as opened:
        assert '"file": "published.pth"' in opened.metadata()["converted"]
    assert load_encoder(out)[1].experiment.method.name == ("cae_v2" if kind == "v2" else "cae")


def test_a_whole_method_builds_again_from_its_header(tmp_path: Path) -> None:
    """With another width, number of heads and depth of regressor and decoder."""
    method, out = cae(decoder_width=18, depths=(3, 2, 1)), tmp_path / "a.safetensors"
    source = checkpoint(released(method), tmp_path / "a.pth")
    run_convert(source=source, out=out, decoder_num_heads=3, target="codes:mine.safetensors", **SIZES, **FIVE)
    experiment = load_encoder(out)[1].experiment
    settings = experiment.method
    assert settings.target == "codes:mine.safetensors" and experiment.data.source == "unknown: converted from a.pth"
    built = settings.build(experiment.encoder, image_size=(10, 21), channels=5, target=method.target)
    built.load_state_dict(load_file(out))
    assert built.regressor.blocks[0].attn.num_heads == built.decoder.blocks[0].attn.num_heads == 3
    assert built.encoder.num_heads == 2


def test_what_settings_cannot_say_is_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = released(cae(layer_scale=None))
    file["regresser.regressor_blocks.0.gamma_1_cross"] = torch.full((24,), 0.5)
    out = tmp_path / "a.safetensors"
    run_convert(source=checkpoint(file, tmp_path / "a.pth"), out=out, **SIZES, **FIVE)
    assert all(name.startswith("encoder.") for name in load_file(out))
    assert "built otherwise than settings can say" in capsys.readouterr().out
    contextae.load(out)


def test_the_encoder_alone_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.safetensors"
    source = checkpoint(released(cae()), tmp_path / "a.pth")
    run_convert(source=source, out=out, encoder_only=True, **SIZES, **FIVE)
    assert all(name.startswith("encoder.") for name in load_file(out))
    said = capsys.readouterr().out
    assert "tensors left out: " in said and "not asked for: the encoder alone is" in said


def test_normalisation_is_imagenets_of_three_channels_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    save_file(released(cae(SQUARE).encoder), tmp_path / "in.safetensors")
    run_convert(source=tmp_path / "in.safetensors", out=out, **SQUARE_SIZES)
    assert contextae.load(out)[1].mean == (0.485, 0.456, 0.406)
    assert (
        "those of ImageNet, as in the published recipes; --mean and --deviation set others" in capsys.readouterr().out
    )
    out.unlink()
    run_convert(source=tmp_path / "in.safetensors", out=out, mean="0,0,0", deviation="1,1,1", **SQUARE_SIZES)
    assert contextae.load(out)[1].deviation == (1, 1, 1)
    out.unlink()
    for given in ({"mean": "0,0,0"}, {"mean": "0,0", "deviation": "1,1"}):
        with pytest.raises(UserError, match=r"--mean and --deviation need one number for each of the 3 channel"):
            run_convert(source=tmp_path / "in.safetensors", out=out, **given, **SQUARE_SIZES)
    with pytest.raises(UserError, match=r"--mean is a list of numbers with commas.* Got '0;0;0'"):
        run_convert(source=tmp_path / "in.safetensors", out=out, mean="0;0;0", deviation="1,1,1", **SQUARE_SIZES)
    save_file(released(cae().encoder), tmp_path / "in.safetensors")
    with pytest.raises(UserError, match="one number for each of the 5 channel"):
        run_convert(source=tmp_path / "in.safetensors", out=out, **SIZES)


def test_heads_are_the_published_ones_or_must_be_said(tmp_path: Path) -> None:
    out, source = tmp_path / "a.safetensors", tmp_path / "in.safetensors"
    save_file(to_state_dict(trunk.Encoder(grid=SQUARE, width=192, depth=1, num_heads=12, mlp_ratio=1.0)), source)
    sizes: dict[str, Any] = {"image_size": "12", "patch_size": "3"}
    run_convert(source=source, out=out, **sizes)
    assert contextae.load(out)[0].num_heads == 12
    out.unlink()
    with pytest.raises(UserError, match=r"of width 192 have 12 heads. Got 3 .*--allow-other-heads"):
        run_convert(source=source, out=out, num_heads=3, **sizes)
    run_convert(source=source, out=out, num_heads=3, allow_other_heads=True, **sizes)
    assert contextae.load(out)[0].num_heads == 3
    out.unlink()
    save_file(released(cae(SQUARE).encoder), source)
    with pytest.raises(UserError, match=r"no published CAE is 24 wide \(they are 192, 384, 768, 1024\). Give --num-h"):
        run_convert(source=source, out=out, **sizes)


def test_a_copy_that_lags_behind(tmp_path: Path) -> None:
    file = renamed(to_state_dict(cae(), alignment_copy=True), OPENMMLAB)
    file["teacher.ln1.bias"] = file["teacher.ln1.bias"] + 1
    source, out = checkpoint(file, tmp_path / "a.pth"), tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"teacher.ln1.bias.*\(--drop-encoder-copy\)"):
        run_convert(source=source, out=out, **SIZES, **FIVE)
    assert not out.exists()
    run_convert(source=source, out=out, drop_encoder_copy=True, **SIZES, **FIVE)
    contextae.load(out)


class Conv2d(nn.Module):
    """DALL-E's convolution, whose tensors are `w` and `b`."""

    def __init__(self, like: nn.Conv2d) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(like.weight.detach().clone()), nn.Parameter(like.bias.detach().clone())


class Encoder(nn.Module):
    """DALL-E's encoder as it is pickled: our blocks with its convolutions."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Conv2d):
                    setattr(module, name, Conv2d(child))


@pytest.mark.parametrize("new", [True, False])
def test_dalles_encoder_without_its_code(
    tmp_path: Path, new: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pickled module of a package that is not there when it is read."""
    own = DalleEncoder(width=8, num_groups=3, group_depth=2, num_codes=17)
    package = types.ModuleType("dall_e")
    package.__file__ = __file__
    for kind in (Conv2d, Encoder):
        monkeypatch.setattr(kind, "__module__", "dall_e")
        setattr(package, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "dall_e", package)
    source, out = tmp_path / "encoder.pkl", tmp_path / "dalle.safetensors"
    torch.save(Encoder(copy.deepcopy(own.blocks)), source, _use_new_zipfile_serialization=new)
    del sys.modules["dall_e"]
    run_convert(source=source, out=out)
    said = capsys.readouterr().out
    assert "A pickled dall_e.Encoder, of which the tensors alone were read" in said and "none was imported" in said
    assert {"blocks.input.w", "blocks.group_1.block_1.res_path.conv_1.w", "blocks.output.conv.b"} <= load_file(
        out
    ).keys()
    images = torch.rand(2, 3, 8, 12)
    codes = open_tokenizer(out).codes(images)
    assert torch.equal(codes, own.eval()(0.8 * images + 0.1).argmax(1).flatten(1))
    assert "method.target=codes:" in said


def test_dalles_decoder_is_not_wanted(tmp_path: Path) -> None:
    torch.save({"blocks.input.w": torch.zeros(3, 5, 1, 1)}, tmp_path / "decoder.pth")
    with pytest.raises(UserError, match=r"holds DALL-E's decoder, which pretraining never uses. Give its encoder"):
        run_convert(source=tmp_path / "decoder.pth", out=tmp_path / "a.safetensors")
    torch.save({"blocks.input.w": torch.zeros(3, 5, 7, 7)}, tmp_path / "encoder.pth")
    with pytest.raises(UserError, match=r"holds DALL-E's encoder, a tokenizer and no ViT"):
        run_convert(source=tmp_path / "encoder.pth", out=tmp_path / "folder", to="timm")


def test_a_classifier_becomes_a_folder_for_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = classifier(num_heads=3)
    out = tmp_path / "beit"
    run_convert(source=checkpoint(state, tmp_path / "tuned.pth"), out=out, to="beit", image_size="12", patch_size="3")
    said = capsys.readouterr().out
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        outputs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()(images)
    torch.testing.assert_close(outputs, classify(state, images, num_heads=3), atol=1e-5, rtol=1e-5)
    assert "A classifier of 7 classes" in said and "timm has loaded it" in said
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(UserError, match=r"There is something at .*beit; name another"):
        run_convert(source=tmp_path / "tuned.pth", out=out, to="beit", image_size="12", patch_size="3")
    with pytest.raises(UserError, match="is not the index of relative positions of this grid"):
        run_convert(source=tmp_path / "tuned.pth", out=tmp_path / "no", to="beit", image_size="15", patch_size="3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beit", "tuned.pth"]
    with pytest.raises(UserError, match=r"A fine-tuned classifier is read by to_beit \(--to beit\)"):
        run_convert(source=tmp_path / "tuned.pth", out=tmp_path / "a.safetensors", **SQUARE_SIZES)


def test_an_encoder_becomes_a_folder_for_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method, out = cae(), tmp_path / "vit"
    run_convert(source=checkpoint(released(method), tmp_path / "a.pth"), out=out, to="timm", **SIZES, **FIVE)
    images = torch.randn(2, 5, 10, 21)
    with torch.no_grad():
        summary = timm.create_model(f"local-dir:{out}", pretrained=True).eval()(images)
        torch.testing.assert_close(summary, method.encoder.summary_and_latents(images)[0], atol=1e-5, rtol=1e-5)
    said = capsys.readouterr().out
    assert "timm has loaded it: its outputs differ by at most" in said and "pretrained=True" in said


def test_where_it_writes(tmp_path: Path) -> None:
    source = checkpoint(released(cae()), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"--out is the safetensors file to write. Got .*a.pth; give it a name that ends"
    ):
        run_convert(source=source, out=source, **SIZES)
    with pytest.raises(UserError, match="The folder of --out must exist"):
        run_convert(source=source, out=tmp_path / "no" / "a.safetensors", **SIZES)
    with pytest.raises(
        UserError, match=r"--to is one of contextae, timm, beit, tensors. Got 'tim'. Did you mean 'timm'"
    ):
        run_convert(source=source, out=tmp_path / "vit", to="tim", **SIZES)


@pytest.mark.parametrize(("text", "name"), [("22x4x4", "image_size"), ("0", "patch_size"), ("big", "image_size")])
def test_sizes_are_numbers(tmp_path: Path, text: str, name: str) -> None:
    source = checkpoint(released(cae()), tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"--{name.replace('_', '-')} is one number of pixels.* Got '{text}'"):
        run_convert(source=source, out=tmp_path / "a.safetensors", **(SIZES | {name: text}))


@pytest.mark.parametrize(("shape", "suffix"), [((6, 5, 3), ".png"), ((6, 5, 1), ".png"), ((6, 5, 4), ".npy")])
def test_images_of_a_receipt_keep_every_value(tmp_path: Path, shape: tuple[int, int, int], suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = as_file(tmp_path / "0", pixels)
    assert path.suffix == suffix
    again = np.load(path) if suffix == ".npy" else np.asarray(Image.open(path)).reshape(shape)
    assert np.array_equal(again, pixels)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `contextae convert`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["contextae", "convert", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("bomb", "asks to run posix.system when it is opened"),
        ("cut zip", "it is a zip archive that is cut off or damaged"),
        ("cut safetensors", "is no whole safetensors file"),
        ("another network", "These are not CAE weights by any of the names known"),
        ("wrong heads", "The number of heads must divide the width"),
        ("nothing", "is not there; give the path of a file"),
    ],
)
def test_the_command_says_one_paragraph_and_ends_with_2(
    tmp_path: Path, make: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, mark = tmp_path / ("in.safetensors" if "safetensors" in make else "in.pth"), tmp_path / "mark"
    state = {"conv1.weight": torch.zeros(3)} if make == "another network" else released(cae())
    if make == "bomb":
        torch.save({"model": state, "args": Bomb(mark)}, source)
    elif source.suffix == ".safetensors":
        save_file(state, source)
    elif make != "nothing":
        checkpoint(state, source)
    if make.startswith("cut"):
        source.write_bytes(source.read_bytes()[:5000])
    sizes = ["--image-size", "10x21", "--patch-size", "2x3", "--num-heads", "5" if make == "wrong heads" else "2"]
    assert command(monkeypatch, str(source), "--out", str(tmp_path / "out.safetensors"), *sizes) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and message in error and len(error.strip().splitlines()) == 1
    assert not mark.exists() and not (tmp_path / "out.safetensors").exists()


def test_the_command_with_every_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = checkpoint(released(cae(decoder_width=18)), tmp_path / "a.pth"), tmp_path / "out.safetensors"
    heads = ["--num-heads", "2", "--decoder-num-heads", "3", "--allow-other-heads"]
    sizes = ["--to", "contextae", "--image-size", "10,21", "--patch-size", "2x3", "--target", "codes:a.safetensors"]
    others = ["--drop-encoder-copy", "--mean", FIVE["mean"], "--deviation", FIVE["deviation"]]
    assert command(monkeypatch, str(source), "--out", str(out), *heads, *sizes, *others) == 0
    experiment = load_encoder(out)[1].experiment
    assert experiment.method.target == "codes:a.safetensors" and experiment.method.decoder_num_heads == 3
    out.unlink()
    heads, sizes = heads[:2] + heads[4:], sizes[:-2]  # which are of regressor and decoder
    assert command(monkeypatch, str(source), "--out", str(out), *heads, *sizes, *others, "--encoder-only") == 0
    assert all(name.startswith("encoder.") for name in load_file(out))


def test_tensors_of_any_network_come_out_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"stem.weight": torch.randn(3, 5), "bn.num_batches_tracked": torch.tensor(7)}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "teacher.pth")
    run_convert(source=tmp_path / "teacher.pth", out=tmp_path / "teacher.safetensors", to="tensors")
    read = load_file(tmp_path / "teacher.safetensors")
    assert set(read) == set(weights) and all(torch.equal(read[name], value) for name, value in weights.items())
    assert "2 tensors by the names of the file" in capsys.readouterr().out


def test_a_file_without_tensors_has_none_to_write(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    with pytest.raises(UserError):
        run_convert(source=tmp_path / "nothing.pth", out=tmp_path / "nothing.safetensors", to="tensors")
    assert not (tmp_path / "nothing.safetensors").exists()
