"""`contextae convert`: options that would change nothing, a target that cannot be, and the file that is converted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from contextae.errors import UserError
from contextae.pretrained import load_encoder
from contextae.targets import HOG
from contextae.verbs.convert import run_convert
from published_files import GRID, cae, released

SIZES = {"image_size": "10x21", "patch_size": "2,3", "num_heads": 2}
FIVE = {"mean": "0.1,0.2,0.3,0.4,0.5", "deviation": "0.5,0.4,0.3,0.2,0.1"}


def checkpoint(state: Any, path: Path) -> Path:
    """As the published code saves it."""
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, path)
    return path


def test_the_file_to_convert_is_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    save_file(released(cae()), source)
    before = source.read_bytes()
    for out in (source, tmp_path / "x" / ".." / "a.safetensors"):
        (tmp_path / "x").mkdir(exist_ok=True)
        for to in ("contextae", "tensors"):
            with pytest.raises(UserError, match=r"--out must not be the file to convert, which it would replace"):
                run_convert(source=source, out=out, to=to, **(SIZES | FIVE if to == "contextae" else {}))
    assert source.read_bytes() == before


OF_NO_USE: dict[str, Any] = {
    "tensors": {"image_size": "12", "num_heads": 2, "mean": "0,0,0"},
    "beit": {"encoder_only": True, "drop_encoder_copy": True, "target": "codes:a"},
    "timm": {"decoder_num_heads": 2, "target": "codes:a"},
}


@pytest.mark.parametrize("to", OF_NO_USE)
def test_options_that_would_change_nothing_are_refused_by_name(tmp_path: Path, to: str) -> None:
    for name, value in OF_NO_USE[to].items():
        with pytest.raises(UserError, match=rf"^--to {to} has no use for --{name.replace('_', '-')}\. Leave it out\.$"):
            run_convert(source=tmp_path / "a.pth", out=tmp_path / "out", to=to, **{name: value})
    with pytest.raises(UserError, match=rf"^--to {to} has no use for --.*, --.*\. Leave them out\.$"):
        run_convert(source=tmp_path / "a.pth", out=tmp_path / "out", to=to, **OF_NO_USE[to])


def test_options_of_what_is_not_read_are_refused_by_name(tmp_path: Path) -> None:
    out, source = tmp_path / "a.safetensors", checkpoint(released(cae()), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"^--encoder-only has no use for --decoder-num-heads, --target"):
        run_convert(source=source, out=out, encoder_only=True, decoder_num_heads=2, target="codes:a", **SIZES, **FIVE)
    alone = checkpoint(released(cae().encoder), tmp_path / "encoder.pth")
    with pytest.raises(UserError, match=r"^An encoder alone has no use for --target"):
        run_convert(source=alone, out=out, target="codes:a", **SIZES, **FIVE)
    torch.save({"blocks.input.w": torch.zeros(3, 5, 7, 7)}, tmp_path / "encoder.pth")
    with pytest.raises(UserError, match=r"^DALL-E's file, a tokenizer, has no use for --num-heads"):
        run_convert(source=tmp_path / "encoder.pth", out=out, num_heads=12)
    assert not out.exists()


def test_a_target_of_another_width_than_the_decoders_is_refused(tmp_path: Path) -> None:
    out, source = tmp_path / "a.safetensors", checkpoint(released(cae()), tmp_path / "a.pth")
    for target, width in (("pixels", 30), ("hog", HOG(grid=GRID).width)):
        with pytest.raises(UserError, match=rf"It gives 13 values for a patch, and {target} would be {width}; give"):
            run_convert(source=source, out=out, target=target, **SIZES, **FIVE)
    assert not out.exists()
    state = released(cae())
    for name in ("weight", "bias"):
        state[f"decoder.head.{name}"] = torch.zeros(30, 24) if name == "weight" else torch.zeros(30)
    run_convert(source=checkpoint(state, source), out=out, target="pixels", **SIZES, **FIVE)
    assert load_encoder(out)[1].experiment.method.target == "pixels"


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(
        UserError, match=r"^--out is a new file, and nothing is overwritten\. There is one at .*; name an"
    ):
        run_convert(source=tmp_path / "absent.pth", out=out)
    assert out.read_bytes() == b"mine"
