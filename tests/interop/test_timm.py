"""timm: equal outputs by Python and by folder, and no weight without a place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from exports import DEVIATION, MEAN, array_files, close, facts_for, in_this_process, odd_encoder, ours
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config

from contextae.encoder import Encoder
from contextae.interop import timm as exported
from contextae.interop.export import export
from contextae.interop.input_facts import InputFacts
from contextae.interop.reload import FORMATS
from contextae.interop.timm import to_timm, weights, write
from networks import shake


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("layer_scale", [0.3, None])
@pytest.mark.parametrize("num_heads", [3, 7])
def test_the_model_is_the_encoder(channels: int, layer_scale: float | None, num_heads: int, tmp_path: Path) -> None:
    encoder = odd_encoder(channels, layer_scale=layer_scale, num_heads=num_heads)
    model = to_timm(encoder)
    assert not model.training and not model.pos_embed.requires_grad
    images, summary, latents = ours(encoder, array_files(tmp_path, channels))
    with torch.no_grad():
        torch.testing.assert_close(model(images), summary, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.forward_features(images)[:, 1:], latents, atol=1e-5, rtol=0)


def test_learned_positions_are_timms_table_and_stay_trainable(tmp_path: Path) -> None:
    encoder = odd_encoder(learned_positions=True)
    model = to_timm(encoder)
    assert model.pos_embed.requires_grad and torch.equal(model.pos_embed[0, 1:], encoder.positions)
    assert not model.pos_embed[0, 0].any() and not weights(encoder)["pos_embed"].requires_grad
    images, summary, latents = ours(encoder, array_files(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model(images), summary, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.forward_features(images)[:, 1:], latents, atol=1e-5, rtol=0)


@pytest.mark.parametrize("to", FORMATS)
def test_learned_positions_go_out_in_every_format(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FORMATS[to].needs:
        pytest.importorskip(name)
    in_this_process(monkeypatch)
    encoder, files = odd_encoder(3, learned_positions=True), array_files(tmp_path, 3)
    for path in files:
        Image.fromarray(np.load(path)).save(path.with_suffix(".png"))
    files = [path.with_suffix(".png") for path in files]
    images, *_ = ours(encoder, files)
    facts = {"mean": MEAN[:3], "deviation": DEVIATION[:3]}
    receipt = export(encoder, to=to, out=tmp_path / "out", files=files, images=images, **facts)
    assert receipt.largest_difference < 1e-5 and not receipt.missing


def test_what_our_encoder_does_not_have_is_zero() -> None:
    named = weights(odd_encoder())
    assert not named["pos_embed"][0, 0].any() and named["pos_embed"].shape == (1, 36, 21)
    q, k, v = named["blocks.1.attn.qkv.bias"].chunk(3)
    assert q.all() and not k.any() and v.all()


def test_a_weight_that_is_left_out_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = odd_encoder()
    fewer = {name: value for name, value in weights(encoder).items() if name != "blocks.1.ls2.gamma"}
    monkeypatch.setattr(exported, "weights", lambda _: fewer)
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.1\.ls2\.gamma"):
        to_timm(encoder)


def test_stock_timm_loads_the_folder(tmp_path: Path) -> None:
    encoder = odd_encoder(layer_scale=None)
    write(encoder, facts_for(encoder), tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights(encoder).items())
    assert model.num_classes == 0 and model.global_pool == "token" and model.norm.eps == 1e-6
    assert "first_conv" not in json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"], (
        "timm before 1.0.31 would make that layer anew, for channels other than 1 and 3"
    )
    data = resolve_model_data_config(model)
    assert tuple(data["input_size"]) == (5, 10, 21) and data["crop_pct"] == 1.0 and data["interpolation"] == "bicubic"
    assert (tuple(data["mean"]), tuple(data["std"])) == (MEAN, DEVIATION)
    with_head = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=4)
    assert with_head.head.out_features == 4 and torch.equal(with_head.norm.weight, encoder.norm.weight)
    random = timm.create_model(f"local-dir:{tmp_path}")
    assert not torch.equal(random.norm.weight, encoder.norm.weight), "what the README warns of"


def test_the_weights_file_is_readable_and_says_what_the_input_is(tmp_path: Path) -> None:
    from safetensors import safe_open

    encoder = odd_encoder()
    write(encoder, facts_for(encoder), tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert InputFacts.from_json(file.metadata()["contextae"]) == facts_for(encoder)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_what_is_reloaded_from_files_is_the_encoder(channels: int, tmp_path: Path) -> None:
    encoder, files = odd_encoder(channels), array_files(tmp_path, channels)
    write(encoder, facts_for(encoder), tmp_path)
    (tmp_path / "contextae.json").write_text(facts_for(encoder).to_json())
    if channels == 5:
        close(exported.reload(tmp_path, files, []), *ours(encoder, files)[1:])
    else:
        with pytest.raises(OSError, match="cannot identify image file"):  # .npy is nothing for timm's own preprocessing
            exported.reload(tmp_path, files, [])


def test_heads_are_what_config_json_says(tmp_path: Path) -> None:
    encoder, files = odd_encoder(), array_files(tmp_path)
    write(encoder, facts_for(encoder), tmp_path)
    (tmp_path / "contextae.json").write_text(facts_for(encoder).to_json())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["num_heads"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AssertionError, match="not close"):
        close(exported.reload(tmp_path, files, []), *ours(encoder, files)[1:])


def test_names_that_do_not_fit_are_told_and_a_missing_one_can_be_allowed(tmp_path: Path) -> None:
    encoder, files = odd_encoder(), array_files(tmp_path)
    with torch.no_grad():
        encoder.norm.bias.zero_()  # timm's own initial value, so that its absence changes nothing
    write(encoder, facts_for(encoder), tmp_path)
    (tmp_path / "contextae.json").write_text(facts_for(encoder).to_json())
    tensors = load_file(tmp_path / "model.safetensors")
    bias = tensors.pop("norm.bias")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = exported.reload(tmp_path, files, [])
    assert (found.missing, found.unexpected, found.summary.size) == (["norm.bias"], [], 0)
    allowed = exported.reload(tmp_path, files, ["norm.bias"])
    assert allowed.missing == ["norm.bias"]
    torch.testing.assert_close(torch.from_numpy(allowed.summary), ours(encoder, files)[1], atol=1e-5, rtol=0)
    save_file({**tensors, "norm.bias": bias, "more": bias.clone()}, tmp_path / "model.safetensors")
    assert exported.reload(tmp_path, files, ["more"]).unexpected == ["more"]


def test_drop_path_has_no_part_in_it(tmp_path: Path) -> None:
    encoder = Encoder(grid=odd_encoder().grid, width=21, depth=3, num_heads=3, drop_path=0.5).eval()
    shake(encoder, scale=0.2)
    images, summary, _ = ours(encoder, array_files(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(to_timm(encoder)(images), summary, atol=1e-5, rtol=0)
