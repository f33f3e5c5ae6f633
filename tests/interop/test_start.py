"""Starting from weights of others: same outputs where nothing is adapted, words where something is, no silent gaps."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_vit import GRID, built, columns_first, foreign, refused, tokens, write_config
from safetensors.torch import save_file
from torch import nn

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid, patchify
from contextae.interop.input_facts import input_facts
from contextae.interop.start import Source, encoder_settings, fill_encoder, read_timm
from contextae.interop.timm import write
from contextae.positions import sine_cosine
from networks import SPECTROGRAM, shake

KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "learned": ({}, ["class token"]),
    "learned, class token apart": ({"no_embed_class": True}, []),
    "fixed": ({"table": sine_cosine((5, 7), 24)}, []),
    "fixed as MAE's": ({"table": columns_first(5, 7, 24)}, ["positions: a fixed table with columns first"]),
    "layer scale": ({"init_values": 0.1}, ["class token"]),
    "layer scale, fixed": ({"init_values": 1e-5, "table": sine_cosine((5, 7), 24)}, []),
    "any image size": ({"dynamic_img_size": True}, ["class token"]),
    "average pooling": ({"global_pool": "avg"}, ["final norm", "class token"]),
    "no biases": ({"qkv_bias": False, "proj_bias": False}, ["class token", "biases"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_timm_network_where_nothing_is_adapted(kind: str, tmp_path: Path) -> None:
    arguments, words = KINDS[kind]
    vit, spec = foreign(tmp_path, **arguments)
    source = read_timm(spec)
    encoder = built(source)
    said = fill_encoder(encoder, source)
    images = torch.randn(3, 3, 10, 21)
    with torch.no_grad():
        expected = vit.fc_norm(vit.forward_features(images))
        torch.testing.assert_close(tokens(encoder, images), expected, atol=1e-5, rtol=0)
    assert encoder.learned_positions is source.learned_positions is (arguments.get("table") is None or "MAE" in kind)
    assert said[0] == "left out, for the encoder ends before it: head.bias, head.weight"
    assert len(said) == 1 + len(words)
    for sentence, word in zip(said[1:], words, strict=True):
        assert sentence.startswith(word)


def test_the_facts_of_a_source(tmp_path: Path) -> None:
    _, spec = foreign(tmp_path, init_values=0.1)
    source = read_timm(spec)
    assert (source.name, source.grid) == (spec, GRID)
    assert (source.width, source.depth, source.num_heads, source.mlp_width) == (24, 2, 3, 60)
    assert (source.mean, source.deviation) == ((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    assert source.sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert source.layer_scale and source.learned_positions
    assert encoder_settings(source) == {
        "encoder.width": 24,
        "encoder.depth": 2,
        "encoder.num_heads": 3,
        "encoder.mlp_ratio": 2.5,
        "encoder.layer_scale": 0.1,
        "encoder.positions": "learned",
    }


def test_means_of_other_channels_are_not_taken(tmp_path: Path) -> None:
    _, spec = foreign(tmp_path, in_chans=5)
    source = read_timm(spec)
    assert (source.mean, source.deviation, source.grid.channels) == (None, None, 5)


def test_a_hidden_width_that_no_quotient_gives_back(tmp_path: Path) -> None:
    assert int(22 * (30 / 22)) == 29
    vit, spec = foreign(tmp_path, embed_dim=22, num_heads=2, mlp_ratio=1.38)
    source = read_timm(spec)
    encoder = built(source)
    fill_encoder(encoder, source)
    assert vit.blocks[0].mlp.fc1.out_features == encoder.blocks[0].mlp.fc1.out_features == source.mlp_width == 30


def test_weights_by_name_and_file_or_from_the_cache(tmp_path: Path) -> None:
    vit = timm.create_model("test_vit", num_classes=4).eval()
    shake(vit)
    cached = tmp_path / "models--timm--test_vit.r160_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    file = cached / "snapshots" / "abc" / "model.safetensors"
    half = {name: value.half() if name == "norm.bias" else value for name, value in vit.state_dict().items()}
    save_file(half, file)
    state = torch.get_rng_state()
    for source in (read_timm("timm:test_vit", cache=tmp_path), read_timm(f"timm:test_vit.r160_in1k={file}")):
        assert source.grid == Grid(image_size=(160, 160), patch_size=(16, 16), channels=3)
        assert (source.width, source.depth, source.num_heads, source.mlp_width) == (64, 6, 2, 192)
        assert torch.equal(source.tensors["norm.weight"], vit.norm.weight)
        assert {value.dtype for value in source.tensors.values()} == {torch.float32}
        assert source.mean == (0.5, 0.5, 0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_may_have_the_name_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_vit").mkdir()
    monkeypatch.chdir(tmp_path)
    refused("timm:test_vit", "not in the local Hugging Face cache", cache=tmp_path)
    foreign(tmp_path / "test_vit")
    assert read_timm("timm:test_vit").width == 24


# Adapting


def test_other_channels_patches_and_grid_keep_the_response_to_one_gray(tmp_path: Path) -> None:
    vit, spec = foreign(tmp_path)
    source = read_timm(spec)
    encoder = built(source, image_size=(12, 20), channels=1, patch_size=(4, 2))
    said = fill_encoder(encoder, source)
    for value in (-1.3, 0.0, 0.7):
        before = vit.patch_embed(torch.full((1, 3, 10, 21), value))[0, 0]
        after = encoder.patch_embed(patchify(torch.full((1, 1, 12, 20), value), encoder.grid))[0]
        torch.testing.assert_close(after, before.expand(30, -1), atol=1e-5, rtol=0)
    resized = vit.pos_embed[:, 1:].reshape(1, 5, 7, 24).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(resized, size=(3, 10), mode="bicubic", antialias=True)
    torch.testing.assert_close(encoder.positions, resized[0].flatten(1).T, atol=1e-6, rtol=0)
    assert said[2:] == [
        "patch embedding: patches of 2 x 3 pixels and 3 channel(s) became patches of 4 x 2 and 1, with the same "
        "response to one gray",
        "positions: the learned table was resized (bicubic): it was for 5 x 7 patches, now for 3 x 10",
    ]
    assert torch.equal(encoder.class_token, (vit.cls_token + vit.pos_embed[:, :1]).flatten())
    assert torch.equal(encoder.blocks[1].mlp.fc2.weight, vit.blocks[1].mlp.fc2.weight)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_gray_picture_means_the_same_to_an_encoder_of_other_channels(channels: int, tmp_path: Path) -> None:
    vit, spec = foreign(tmp_path)
    source = read_timm(spec)
    encoder = built(source, channels=channels)
    fill_encoder(encoder, source)
    gray = torch.randn(2, 1, 10, 21)
    expected = vit.forward_features(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(tokens(encoder, gray.expand(-1, channels, -1, -1)), expected, atol=1e-5, rtol=0)


def test_pictures_resized_to_larger_patches_mean_the_same(tmp_path: Path) -> None:
    vit, spec = foreign(tmp_path)
    source = read_timm(spec)
    encoder = built(source, image_size=(20, 35), patch_size=(4, 5))
    fill_encoder(encoder, source)
    patches = torch.randn(35, 3, 2, 3)
    resized = nn.functional.interpolate(patches, size=(4, 5), mode="bicubic", antialias=True)
    before = nn.functional.conv2d(patches, vit.patch_embed.proj.weight, vit.patch_embed.proj.bias).flatten(1)
    torch.testing.assert_close(encoder.patch_embed(resized.flatten(1)), before, atol=1e-4, rtol=0)


def test_fixed_positions_are_computed_for_another_grid(tmp_path: Path) -> None:
    _, spec = foreign(tmp_path, table=sine_cosine((5, 7), 24))
    source = read_timm(spec)
    encoder = built(source, image_size=(12, 9))
    said = fill_encoder(encoder, source)
    assert torch.equal(encoder.positions, sine_cosine((6, 3), 24))
    assert said[1:] == [
        "positions: the fixed sine-cosine table is computed anew: it was for 5 x 7 patches, now for 6 x 3"
    ]


def test_learned_positions_can_start_from_fixed_ones(tmp_path: Path) -> None:
    vit, spec = foreign(tmp_path, table=sine_cosine((5, 7), 24))
    source = read_timm(spec)
    encoder = built(source, positions="learned")
    assert fill_encoder(encoder, source)[1].startswith("positions: learned ones start at the fixed sine-cosine table")
    images = torch.randn(2, 3, 10, 21)
    torch.testing.assert_close(tokens(encoder, images), vit.forward_features(images), atol=1e-5, rtol=0)


def test_layer_scale_that_the_source_has_not_starts_at_one(tmp_path: Path) -> None:
    vit, spec = foreign(tmp_path)
    source = read_timm(spec)
    encoder = built(source, layer_scale=0.1)
    assert fill_encoder(encoder, source)[-1] == "layer scale: starts at 1, for the source has none"
    images = torch.randn(2, 3, 10, 21)
    torch.testing.assert_close(tokens(encoder, images), vit.forward_features(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("learned", [False, True])
def test_an_encoder_of_our_own_is_a_source(learned: bool) -> None:
    trained = Encoder(grid=GRID, width=24, depth=2, num_heads=3, learned_positions=learned)
    shake(trained)
    source = Source.of_encoder(trained, mean=[0.1, 0.2, 0.3], deviation=None, name="runs/a")
    assert (source.mean, source.deviation, source.said) == ((0.1, 0.2, 0.3), None, ())
    encoder = built(source, layer_scale=0.3)
    assert fill_encoder(encoder, source) == []
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), trained.parameters(), strict=True))
    shake(trained)
    assert torch.equal(source.tensors["norm.bias"], encoder.norm.bias), "it is a copy"


def test_nothing_is_left_as_it_was_drawn(tmp_path: Path) -> None:
    _, spec = foreign(tmp_path, init_values=0.1, qkv_bias=False)
    source = read_timm(spec)
    filled = []
    for seed in (1, 2):
        encoder = built(source, channels=2)
        shake(encoder, seed=seed)
        fill_encoder(encoder, source)
        filled.append(encoder.state_dict())
    assert all(torch.equal(value, filled[1][name]) for name, value in filled[0].items())


# What is refused


def test_names_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    refused("timm:vit_tiny_patch16_225", "timm:vit_tiny_patch16_225 names neither a network of timm nor a folder.")
    refused("timm:vit_tiny_patch16_225", "Did you mean 'vit_tiny_patch16_224'?")
    refused(f"timm:{tmp_path}/none", "names neither a network of timm nor a folder")
    refused("timm:" + "a" * 5000, "names neither a network of timm nor a folder")
    refused("timm:test_vit." + "a" * 5000, "cannot build the network of")
    refused("timm:vit_tiny_patch16_224.none", "cannot build the network of timm:vit_tiny_patch16_224.none: RuntimeErr")


def test_weights_that_are_not_there_are_not_downloaded(tmp_path: Path) -> None:
    refused(
        "timm:vit_tiny_patch16_224",
        "not in the local Hugging Face cache, and contextae downloads nothing. Where there is a network, `hf download "
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k model.safetensors` puts them there.",
        cache=tmp_path,
    )
    refused("timm:vit_base_patch32_plus_256", "nothing. A file of them is given as timm:vit_base_patch32_plus_256=FILE")
    refused(f"timm:test_vit={tmp_path / 'none.safetensors'}", "There is no weights file at")


def test_folders_that_are_not_timms_are_refused(tmp_path: Path) -> None:
    _, spec = foreign(tmp_path)
    for config, words in (
        ({"hidden_size": 3}, "KeyError"),
        ({"architecture": "none", "model_args": {}, "pretrained_cfg": {}}, "Unknown model (none)"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"n": 1}, "pretrained_cfg": {}}, "TypeError"),
        ("text", "AttributeError"),
    ):
        write_config(tmp_path, config)
        refused(spec, "cannot build the network of")
        refused(spec, words)
    (tmp_path / "config.json").unlink()
    refused(spec, f"There is no config.json in {tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    refused(spec, f"There is no model.safetensors in {tmp_path}")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    vit = timm.create_model("test_vit")
    for name in ("weights.pth", "weights.safetensors"):
        torch.save(vit.state_dict(), tmp_path / name)
        refused(
            f"timm:test_vit={tmp_path / name}",
            f"`contextae convert {tmp_path / name} --out OUT.safetensors --to tensors` reads",
        )
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "weights.pth").unlink()
    refused(f"timm:{tmp_path}", f"{tmp_path / 'pytorch_model.bin'} is a pickle")


def test_a_name_with_other_heads_than_the_files_own_network_is_refused(tmp_path: Path) -> None:
    """Shapes are alike: only config.json knows."""
    encoder = Encoder(grid=Grid(image_size=(16, 16), patch_size=(8, 8), channels=3), width=24, depth=1, num_heads=2)
    facts = input_facts(image_size=(16, 16), channels=3, mean=(0.1,) * 3, deviation=(0.2,) * 3)
    write(encoder, facts, tmp_path)
    assert read_timm(f"timm:{tmp_path}").num_heads == 2
    message = "is an export of contextae's, whose number of heads, mean and deviation stand in its config.json alone"
    refused(f"timm:test_vit={tmp_path / 'model.safetensors'}", f"{message}. Give its folder, timm:{tmp_path}.")
    shutil.move(tmp_path / "model.safetensors", tmp_path / "elsewhere.safetensors")
    refused(f"timm:test_vit={tmp_path / 'elsewhere.safetensors'}", message)

    vit = timm.create_model("test_vit", num_classes=0)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    spec = f"timm:test_vit={tmp_path / 'model.safetensors'}"
    write_config(tmp_path, {"architecture": "test_vit", "model_args": {"num_heads": 4}})
    refused(spec, "the config.json beside it says 4 heads and this network has 2, which tensors do not show")
    for agreeing in ({"model_args": {"num_heads": 2}}, {"model_args": {}}, {}, []):
        write_config(tmp_path, agreeing)
        assert read_timm(spec).num_heads == 2
    (tmp_path / "config.json").write_text("{")
    assert read_timm(spec).num_heads == 2


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    _, spec = foreign(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    refused(spec, f"{file} is no readable safetensors file")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 30}, "width is 24 there and 30 here; mlp_width is 60 there and 75 here"),
        ({"depth": 3}, "depth is 2 there and 3 here"),
        ({"num_heads": 4}, "num_heads is 3 there and 4 here"),
        ({"mlp_ratio": 4.0}, "mlp_width is 60 there and 96 here"),
        ({"positions": "sine-cosine"}, "its positions are a learned table and here they are a fixed one"),
        ({"layer_scale": None}, "it has layer scale and here there is none"),
    ],
)
def test_sizes_that_cannot_be_adapted_are_refused_and_nothing_is_loaded(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _, spec = foreign(tmp_path, init_values=0.1)
    source = read_timm(spec)
    encoder = built(source, **changed)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        fill_encoder(encoder, source)
    assert "Set encoder.width=24, encoder.depth=2, encoder.num_heads=3" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_patches_of_one_axis_are_not_adapted() -> None:
    trained = Encoder(grid=SPECTROGRAM, width=24, depth=2, num_heads=3)
    source = Source.of_encoder(trained, mean=None, deviation=None, name="a")
    assert fill_encoder(Encoder(grid=SPECTROGRAM, width=24, depth=2, num_heads=3), source) == []
    other = dataclasses.replace(SPECTROGRAM, channels=1)
    with pytest.raises(UserError, match="only those of images, with two axes, can be adapted"):
        fill_encoder(Encoder(grid=other, width=24, depth=2, num_heads=3), source)
