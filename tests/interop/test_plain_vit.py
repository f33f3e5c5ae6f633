"""Which networks of timm our encoder can hold, which it refuses by name, and that no tensor is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_vit import SMALL, built, foreign, refused, tokens, write_config
from safetensors.torch import save_file
from torch import Tensor, nn

from contextae.interop.plain_vit import differences, our_tensors
from contextae.interop.start import fill_encoder, read_timm


def test_a_norm_behind_the_pooling_may_stand_in_the_file_alone(tmp_path: Path) -> None:
    vit, _ = foreign(tmp_path, global_pool="avg")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": SMALL, "pretrained_cfg": {}}
    write_config(tmp_path, config)
    source = read_timm(f"timm:local-dir:{tmp_path}")
    assert torch.equal(source.tensors["norm.bias"], vit.fc_norm.bias)


def test_a_norm_with_another_addend_is_said_aloud_and_differs_little(tmp_path: Path) -> None:
    vit, spec = foreign(tmp_path)
    source = read_timm(spec)
    for norm in (module for module in vit.modules() if isinstance(module, nn.LayerNorm)):
        norm.eps = 1e-5
    encoder = built(source)
    fill_encoder(encoder, source)
    images = torch.randn(3, 3, 10, 21)
    difference = (tokens(encoder, images) - vit.forward_features(images)).abs().max()
    assert 1e-6 < difference < 1e-3
    _, said = our_tensors(vit, vit.state_dict(), origin="")
    assert said[-1] == "norms: the source adds 1e-05 to variances, the encoder 1e-06; latents differ a little"


# What is refused

ANOTHER_NETWORK: dict[str, tuple[dict[str, Any], str]] = {
    "registers": ({"reg_tokens": 4}, "4 register token(s)"),
    "no class token": ({"class_token": False, "global_pool": "avg"}, "it has no class token."),
    "no positions": ({"pos_embed": "none"}, "no table of positions"),
    "pre-norm": ({"pre_norm": True}, "a norm before its blocks, as CLIP's"),
    "qk-norm": ({"qk_norm": True}, "norms of queries and keys"),
    "scaled attention": ({"scale_attn_norm": True}, "a norm within attention"),
    "scaled MLP": ({"scale_mlp_norm": True}, "norms within its MLPs"),
    "no final norm": ({"final_norm": False}, "no final norm"),
    "RMS norm": ({"norm_layer": "rmsnorm"}, "a final norm of the kind RmsNorm (eps 1e-06), blocks with norms of the"),
    "tanh GELU": ({"act_layer": "gelu_tanh"}, "an activation that is not the exact GELU (GELUTanh())"),
    "quick GELU": ({"act_layer": "quick_gelu"}, "an activation that is not the exact GELU (QuickGELU())"),
    "embedding norm": ({"embed_norm_layer": "layernorm"}, "a norm in its patch embedding"),
}


@pytest.mark.parametrize("kind", ANOTHER_NETWORK)
def test_what_our_encoder_has_not_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    arguments, message = ANOTHER_NETWORK[kind]
    _, spec = foreign(tmp_path, **arguments)
    refused(spec, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deit_tiny_distilled_patch16_224", "a distillation token, the class VisionTransformerDistilled"),
        ("beit_base_patch16_224", "the class Beit instead of VisionTransformer"),
        ("eva02_tiny_patch14_224", "the class Eva"),
        ("vit_tiny_r_s16_p8_224", "a patch embedding of the kind HybridEmbed"),
        ("vit_small_patch16_18x2_224", "blocks of the kind ParallelThingsBlock"),
        ("vit_giant_patch14_reg4_dinov2", "MLPs of the kind GluMlp"),
        ("vit_dwee_patch16_reg1_gap_256", "attention of the kind DiffAttention"),
        ("resnet18", "the class ResNet"),
    ],
)
def test_other_networks_of_timm_are_refused_by_name(name: str, message: str) -> None:
    refused(f"timm:{name}", message)


def test_gated_attention_and_large_addends_are_refused() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", device="meta", **SMALL)
    assert differences(vit) == []
    vit.blocks[1].attn.gate = nn.Linear(24, 24, device="meta")
    vit.blocks[0].norm2.eps = 1e-3
    assert differences(vit) == ["blocks with norms of the kind LayerNorm (eps 0.001)", "gates in attention"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.attn.proj.bias"), "blocks.1.attn.proj.bias is missing"),
        (lambda t: t.pop("pos_embed"), "pos_embed is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more is unknown"),
        (lambda t: t.update(pos_embed=torch.zeros(1, 36, 20)), "pos_embed is (1, 36, 20) instead of (1, 36, 24)"),
        (lambda t: t["norm.bias"].fill_(float("nan")), "norm.bias holds numbers that are not finite"),
        (lambda t: t.update({"fc_norm.bias": torch.zeros(24)}), "fc_norm.bias stands beside norm.bias"),
    ],
)
def test_tensors_of_another_network_are_refused(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    vit, spec = foreign(tmp_path)
    tensors = {name: value.clone() for name, value in vit.state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(spec, message)
