"""Hugging Face: ViTModel with every key, layer scale folded away, and its image processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import array_files, close, facts_for, odd_encoder, ours
from PIL import Image
from safetensors.torch import load_file, save_file

from contextae.encoder import Encoder
from contextae.grid import Grid
from contextae.interop import huggingface as exported
from contextae.interop.huggingface import weights, write
from contextae.interop.input_facts import input_facts
from networks import shake

transformers = pytest.importorskip("transformers")


def written(encoder: Encoder, folder: Path) -> Path:
    write(encoder, facts_for(encoder), folder)
    (folder / "contextae.json").write_text(facts_for(encoder).to_json())
    return folder


@pytest.mark.parametrize("layer_scale", [0.3, None])
@pytest.mark.parametrize("num_heads", [3, 7])
def test_what_is_reloaded_from_files_is_the_encoder(layer_scale: float | None, num_heads: int, tmp_path: Path) -> None:
    encoder, files = odd_encoder(layer_scale=layer_scale, num_heads=num_heads), array_files(tmp_path)
    close(exported.reload(written(encoder, tmp_path), files, []), *ours(encoder, files)[1:])


def test_no_key_is_missing_or_unexpected_and_the_pooler_gives_the_summary(tmp_path: Path) -> None:
    encoder = odd_encoder()
    model, loading = transformers.ViTModel.from_pretrained(written(encoder, tmp_path), output_loading_info=True)
    assert not any(loading.values()), loading
    assert model.layernorm.eps == model.layers[1].layernorm_after.eps == 1e-6
    images, summary, latents = ours(encoder, array_files(tmp_path))
    with torch.no_grad():
        found = model(pixel_values=images)
    torch.testing.assert_close(found.pooler_output, summary, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.last_hidden_state[:, 1:], latents, atol=1e-5, rtol=0)
    assert torch.equal(found.pooler_output, found.last_hidden_state[:, 0])
    assert type(transformers.AutoModel.from_pretrained(tmp_path)).__name__ == "ViTModel"


def test_layer_scale_is_folded_into_weight_and_bias(tmp_path: Path) -> None:
    encoder = odd_encoder()
    block, named = encoder.blocks[1], weights(encoder)
    for part, gamma, place in (
        (block.attn.proj, block.ls1.gamma, "attention.output"),
        (block.mlp.fc2, block.ls2.gamma, "output"),
    ):
        for row in range(21):
            torch.testing.assert_close(
                named[f"encoder.layer.1.{place}.dense.weight"][row], part.weight[row] * gamma[row]
            )
        torch.testing.assert_close(named[f"encoder.layer.1.{place}.dense.bias"], part.bias * gamma)


def test_heads_are_what_config_json_says(tmp_path: Path) -> None:
    encoder, files = odd_encoder(), array_files(tmp_path)
    config = json.loads((written(encoder, tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 7}))
    with pytest.raises(AssertionError, match="not close"):
        close(exported.reload(tmp_path, files, []), *ours(encoder, files)[1:])


def test_names_that_do_not_fit_are_told_and_a_missing_one_can_be_allowed(tmp_path: Path) -> None:
    encoder, files = odd_encoder(), array_files(tmp_path)
    with torch.no_grad():
        encoder.norm.bias.zero_()  # the library's own initial value, so that its absence changes nothing
    tensors = load_file(written(encoder, tmp_path) / "model.safetensors")
    bias = tensors.pop("layernorm.bias")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = exported.reload(tmp_path, files, [])
    assert (found.missing, found.unexpected, found.summary.size) == (["layernorm.bias"], [], 0)
    allowed = exported.reload(tmp_path, files, ["layernorm.bias"])
    torch.testing.assert_close(torch.from_numpy(allowed.summary), ours(encoder, files)[1], atol=1e-5, rtol=0)
    more = {**tensors, "layernorm.bias": bias, "more": bias.clone()}
    save_file(more, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert exported.reload(tmp_path, files, []).unexpected == ["more"]


def square_encoder(channels: int) -> Encoder:
    encoder = Encoder(
        grid=Grid(image_size=(12, 12), patch_size=(3, 3), channels=channels), width=20, depth=1, num_heads=5
    )
    shake(encoder, scale=0.2)
    return encoder.eval()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_square_images_are_cut_by_its_own_processor_as_by_ours(channels: int, mode: str, tmp_path: Path) -> None:
    encoder = square_encoder(channels)
    rows, columns = np.mgrid[:32, :24]  # to 16 x 12, of which the middle begins at a whole pixel
    smooth = (128 + 100 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, turn in zip(files, (smooth, smooth.T), strict=True):
        Image.fromarray(turn).convert(mode).save(path)
    facts = input_facts(image_size=(12, 12), channels=channels, mean=[0.4] * channels, deviation=[0.2] * channels)
    write(encoder, facts, tmp_path)
    (tmp_path / "contextae.json").write_text(facts.to_json())
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["image_size"], config["patch_size"]) == (12, 3)
    found = exported.reload(tmp_path, files, [])
    assert found.preprocessing is not None
    assert found.preprocessing.mean_pixel_difference < 0.5 and found.preprocessing.smallest_cosine > 0.999
    images = torch.from_numpy(facts.normalised(facts.pixels(files)))
    with torch.no_grad():
        close(found, *encoder.summary_and_latents(images))
