"""To Hugging Face: a folder for `transformers.ViTModel.from_pretrained(DIR)`, with its image processor.

ViTModel has no layer scale: it is folded into the projection before it, exactly. Its pooler is the identity with a
linear activation, so that no key is missing and `pooler_output` is the summary. Names are those that the library itself
writes to the disk (`encoder.layer.0...`), which all its versions read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from contextae.blocks import NORM_EPS
from contextae.encoder import Encoder
from contextae.interop.input_facts import InputFacts
from contextae.interop.reload import Reloaded, compared, in_batches
from contextae.interop.timm import MODES, write_tensors
from contextae.interop.timm import weights as timm_weights
from contextae.interop.trunk import has_layer_scale, hidden_width

WHOLE = {  # timm's name: theirs
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
SCALED = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}
PROJECTIONS = ("query", "key", "value")


def weights(encoder: Encoder) -> dict[str, Tensor]:
    """Every tensor of ViTModel by its name on the disk."""
    given = timm_weights(encoder)
    named = {theirs: given[name] for name, theirs in WHOLE.items()}
    for i in range(encoder.depth):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            for projection, value in zip(PROJECTIONS, given[f"{ours}.attn.qkv.{kind}"].chunk(3), strict=True):
                named[f"{theirs}.attention.attention.{projection}.{kind}"] = value
            for part, place in BLOCK.items():
                value = given[f"{ours}.{part}.{kind}"]
                if part in SCALED and has_layer_scale(encoder):
                    value = _scaled(value, given[f"{ours}.{SCALED[part]}"])
                named[f"{theirs}.{place}.{kind}"] = value
    named["pooler.dense.weight"] = torch.eye(encoder.width)
    named["pooler.dense.bias"] = torch.zeros(encoder.width)
    return named


def _scaled(value: Tensor, gamma: Tensor) -> Tensor:
    """Rows, or elements, times gamma."""
    return (gamma.double().reshape(-1, *(1,) * (value.ndim - 1)) * value.double()).float()


def config(encoder: Encoder) -> dict[str, Any]:
    """ViTConfig: square sizes as one number, for readers that expect one."""
    grid = encoder.grid
    sizes = {"image_size": list(grid.image_size), "patch_size": list(grid.patch_size)}
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "dtype": "float32",
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": hidden_width(encoder),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": NORM_EPS,
        "qkv_bias": True,
        "num_channels": grid.channels,
        "pooler_act": "linear",
        "pooler_output_size": encoder.width,
        **{name: size[0] if size[0] == size[1] else size for name, size in sizes.items()},
    }


def preprocessor(facts: InputFacts) -> dict[str, Any]:
    """ViTImageProcessor: central crop for square images; others are squeezed to their size, as it knows no better."""
    height, width = facts.height, facts.width
    square = {
        "size": {"shortest_edge": height},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
    }
    least, most = facts.stored_range
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        **(square if height == width else {"size": {"height": height, "width": width}}),
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / (most - least),
        "do_normalize": True,
        "image_mean": [value + least / (most - least) for value in facts.mean],
        "image_std": list(facts.deviation),
        "do_convert_rgb": facts.channels == 3,
    }


def write(encoder: Encoder, facts: InputFacts, folder: Path) -> None:
    """config.json, preprocessor_config.json and model.safetensors."""
    for name, content in (("config", config(encoder)), ("preprocessor_config", preprocessor(facts))):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_tensors(weights(encoder), facts, folder)


def reload(folder: Path, files: Sequence[Path], allow_missing: Sequence[str]) -> Reloaded:
    """By stock transformers, normalised by its own image processor."""
    import transformers

    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    model, loading = transformers.ViTModel.from_pretrained(folder, output_loading_info=True)
    missing, unexpected = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    if unexpected or set(missing) - set(allow_missing):
        return Reloaded.refused(missing, unexpected, versions)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    facts = InputFacts.read(folder)

    def run(images: Float[np.ndarray, "b c h w"]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            found = model.eval()(pixel_values=torch.from_numpy(images))
        return found.pooler_output.numpy(), found.last_hidden_state[:, 1:].numpy()

    def processed(pictures: list[Any], **options: Any) -> Float[np.ndarray, "b c h w"]:
        return processor(images=pictures, return_tensors="pt", **options)["pixel_values"].numpy()

    fitted = {"do_resize": False, "do_center_crop": False, "do_convert_rgb": False}
    images = processed(list(facts.pixels(files)), input_data_format="channels_first", **fitted)
    summary, latents = in_batches(run, images)
    own = None
    if facts.is_photograph:
        pictures = []
        for path in files:
            with Image.open(path) as image:
                pictures.append(image.convert(MODES[facts.channels]))
        own = compared(processed(pictures), images, summary, run, facts)
    return Reloaded(summary, latents, missing, unexpected, versions, own)
