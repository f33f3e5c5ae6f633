"""Published weights in and out: every family, exact round trips, every tensor placed or refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.interop.official import ONES, from_state_dict, read_state_dict, to_state_dict
from contextae.methods.cae import CAE
from contextae.methods.cae_v2 import CAEv2
from networks import masked_batch
from published_files import EARLIER, OPENMMLAB, SIZES, SQUARE, cae, cae_v2, released, renamed

REFERENCE = Path(os.environ.get("CONTEXTAE_REFERENCE", Path(__file__).parents[2] / ".." / "shared" / "reference"))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def methods() -> dict[str, nn.Module]:
    return {
        "v1": cae(),
        "v1, projected": cae(decoder_width=18),
        "v1, no layer scale": cae(layer_scale=None),
        "v1, odd mlp": cae(width=22, mlp_ratio=15 / 22),
        "v2": cae_v2(),
        "v2, projected": cae_v2(regressor_width=18),
        "encoder": cae().encoder,
        "encoder, no layer scale": cae(layer_scale=None).encoder,
    }


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("copy", [False, True])
def test_round_trips_are_exact_both_ways(name: str, copy: bool) -> None:
    module = methods()[name]
    copy = copy and name.startswith("v1")  # the others have none
    file = to_state_dict(module, alignment_copy=copy)
    back = from_state_dict(file, **SIZES)
    assert type(back) is type(module) and not back.training
    assert same(back.state_dict(), module.state_dict())
    assert same(to_state_dict(back, alignment_copy=copy), file)
    if not isinstance(module, Encoder):
        assert back.target.width == module.target.width and type(back.target) is type(module.target)


def test_what_is_read_computes_the_same() -> None:
    method, batch = cae(decoder_width=18), masked_batch()
    back = from_state_dict(released(method), **SIZES)
    patches = torch.randn(3, 35, 30)
    for module in (method, back):
        module.visible = module.projection(module.encoder(patches, batch.mask.visible))
        module.predicted = module.regressor(module.visible, batch.mask)
        module.prediction = module.decoder(module.predicted, batch.mask.masked)
    assert torch.equal(method.prediction, back.prediction)


@pytest.mark.parametrize("name", ["cae_v1_small", "cae_v1_projected", "cae_v2_small"])
def test_captured_files_survive_to_the_bit_position_tables_included(name: str) -> None:
    path = REFERENCE / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no captured numbers at {path}; set CONTEXTAE_REFERENCE to the folder that holds them")
    with np.load(path) as arrays:
        state = {
            key.removeprefix("state/"): torch.from_numpy(arrays[key]) for key in arrays.files if key[:6] == "state/"
        }
    read = read_state_dict(state, image_size=(40, 40), patch_size=(8, 8), num_heads=3)
    assert isinstance(read.module, CAEv2 if "v2" in name else CAE)
    assert read.placed == len(state) and not read.left_out and not read.notes
    assert same(to_state_dict(read.module), state)


def test_the_layout_is_the_published_one() -> None:
    """524 tensors of v1 base with the copy, 337 of the earlier release, 186 of the encoder [as released]."""
    method = cae(SQUARE, width=8, depths=(12, 4, 4))
    file = to_state_dict(method, alignment_copy=True)
    assert len(file) == 524
    assert sum(name.startswith("encoder.") for name in file) == 186
    assert sum(name.startswith("alignment_encoder.") for name in file) == 186
    assert len(renamed(to_state_dict(method), EARLIER)) == 337
    assert file["rd_pos_embed"].shape == (1, 17, 8) and not file["rd_pos_embed"][0, 0].any()
    assert file["mask_token"].shape == file["encoder.cls_token"].shape == (1, 1, 8)
    assert file["encoder.patch_embed.proj.weight"].shape == (8, 3, 3, 3)
    assert file["regresser.regressor_blocks.3.cross_attn.q.weight"].shape == (8, 8)
    assert "decoder.decoder_blocks.3.gamma_2" in file and "regresser.regressor_blocks.0.gamma_1_cross" in file


def test_what_is_written_shares_no_memory() -> None:
    method = cae()
    file = to_state_dict(method, alignment_copy=True)
    pointers = [value.data_ptr() for value in (*file.values(), *method.state_dict().values())]
    assert len(set(pointers)) == len(pointers)


def test_each_name_means_what_it_means_there() -> None:
    """Names that a swap would leave consistent: round trips alone do not see it."""
    method = cae(decoder_width=18)
    file, ours = released(method), method.state_dict()
    meanings = {
        "encoder.blocks.1.gamma_1": "encoder.blocks.1.ls1.gamma",
        "encoder.blocks.1.gamma_2": "encoder.blocks.1.ls2.gamma",
        "encoder.blocks.1.norm1.weight": "encoder.blocks.1.norm1.weight",
        "encoder.blocks.1.norm2.weight": "encoder.blocks.1.norm2.weight",
        "encoder.blocks.2.attn.q_bias": "encoder.blocks.2.attn.q_bias",
        "encoder.blocks.2.attn.v_bias": "encoder.blocks.2.attn.v_bias",
        "encoder_to_regresser.weight": "projection.0.weight",
        "encoder_to_regresser_norm.weight": "projection.1.weight",
        "regresser.regressor_blocks.1.gamma_1_cross": "regressor.blocks.1.ls1.gamma",
        "regresser.regressor_blocks.1.gamma_2_cross": "regressor.blocks.1.ls2.gamma",
        "regresser.regressor_blocks.0.norm1_q.weight": "regressor.blocks.0.norm_q.weight",
        "regresser.regressor_blocks.0.norm1_k.weight": "regressor.blocks.0.norm_k.weight",
        "regresser.regressor_blocks.0.norm1_v.weight": "regressor.blocks.0.norm_v.weight",
        "regresser.regressor_blocks.0.norm2_cross.bias": "regressor.blocks.0.norm2.bias",
        "regresser.regressor_blocks.0.cross_attn.q.weight": "regressor.blocks.0.attn.q.weight",
        "regresser.regressor_blocks.0.cross_attn.k.weight": "regressor.blocks.0.attn.k.weight",
        "regresser.regressor_blocks.0.cross_attn.v.weight": "regressor.blocks.0.attn.v.weight",
        "regresser.regressor_blocks.1.mlp_cross.fc1.weight": "regressor.blocks.1.mlp.fc1.weight",
        "regresser.norm.weight": "regressor.norm.weight",
        "decoder.decoder_blocks.0.gamma_2": "decoder.blocks.0.ls2.gamma",
        "decoder.norm.weight": "decoder.norm.weight",
        "decoder.head.weight": "decoder.head.weight",
    }
    for theirs, own in meanings.items():
        assert torch.equal(file[theirs], ours[own]), theirs
    patch = ours["encoder.patch_embed.weight"].reshape(24, 5, 2, 3)
    assert torch.equal(file["encoder.patch_embed.proj.weight"], patch)
    second, own = released(cae_v2()), cae_v2().state_dict()
    assert torch.equal(second["decoder.norm.weight"], own["norm.weight"])
    assert torch.equal(second["regresser.norm.weight"], own["regressor.norm.weight"])


@pytest.mark.parametrize(("rules", "family"), [(EARLIER, "earlier release"), (OPENMMLAB, "OpenMMLab")])
def test_other_families_are_the_same_network(rules: Any, family: str) -> None:
    method = cae(decoder_width=18) if rules is EARLIER else cae()
    file = renamed(released(method), rules)
    assert not any(name.startswith(("regresser", "decoder")) for name in file)
    read = read_state_dict(file, **SIZES)
    assert read.family.startswith(family)
    assert same(read.module.state_dict(), method.state_dict())
    assert read.placed == len(file) and not read.left_out


@pytest.mark.parametrize("rules", [EARLIER, OPENMMLAB])
def test_these_families_have_no_v2(rules: Any) -> None:
    file = renamed(released(cae(depths=(2, 1, 0))), rules)
    assert isinstance(from_state_dict(file, **SIZES), CAE)


def test_a_released_cae_without_decoder_blocks_is_told_by_its_copy_or_by_the_user() -> None:
    method = cae(depths=(2, 1, 0))
    assert isinstance(from_state_dict(to_state_dict(method, alignment_copy=True), **SIZES), CAE)
    assert isinstance(from_state_dict(to_state_dict(method), **SIZES), CAEv2)
    assert same(from_state_dict(to_state_dict(method), v2=False, **SIZES).state_dict(), method.state_dict())


def encoders(encoder: Encoder) -> dict[str, dict[str, Tensor]]:
    file = to_state_dict(encoder)
    openmmlab = renamed(file, OPENMMLAB)
    return {
        "released": file,
        "without its prefix": {name.removeprefix("encoder."): value for name, value in file.items()},
        "OpenMMLab": openmmlab,
        "OpenMMLab without its prefix": {name.removeprefix("backbone."): value for name, value in openmmlab.items()},
        "wrapped": {"model": {f"module.{name}": value for name, value in file.items()}, "epoch": 3},
        "wrapped twice": {"state_dict": {"module": file}},
    }


@pytest.mark.parametrize("kind", encoders(cae().encoder))
def test_files_of_the_encoder_alone(kind: str) -> None:
    encoder = cae().encoder
    read = read_state_dict(encoders(encoder)[kind], **SIZES)
    assert isinstance(read.module, Encoder)
    assert same(read.module.state_dict(), encoder.state_dict())


def test_the_encoder_alone_of_a_whole_file() -> None:
    method = cae()
    file = to_state_dict(method, alignment_copy=True)
    read = read_state_dict(file, encoder_only=True, **SIZES)
    assert same(read.module.state_dict(), method.encoder.state_dict())
    assert read.placed + len(read.left_out) == len(file)
    assert read.left_out["rd_pos_embed"] == read.left_out["mask_token"] == "not asked for: the encoder alone is"


@pytest.mark.parametrize("rules", [(), EARLIER, OPENMMLAB])
def test_an_equal_copy_of_the_encoder_is_left_out_and_another_refused_by_name(rules: Any) -> None:
    method = cae()
    file = to_state_dict(method, alignment_copy=True)
    file = renamed(file, rules) if rules else file
    read = read_state_dict(file, **SIZES)
    assert same(read.module.state_dict(), method.state_dict())
    assert len(read.left_out) == sum(re.match("alignment_encoder|teacher", name) is not None for name in file)
    assert set(read.left_out.values()) == {"equal to the encoder"}
    other = next(name for name in file if re.match(r"(alignment_encoder|teacher)\..*1\.attn\.v_bias", name))
    file[other] = file[other] + 1e-6
    with pytest.raises(UserError, match=rf"only where it is equal .* Here 1 of \d+ tensors differ: {other}\."):
        read_state_dict(file, **SIZES)
    read = read_state_dict(file, drop_encoder_copy=True, **SIZES)
    assert same(read.module.state_dict(), method.state_dict())
    assert set(read.left_out.values()) == {"a copy of the encoder that differs from it, left out as asked"}


def test_a_copy_that_the_encoder_lacks_a_tensor_of_is_refused() -> None:
    file = to_state_dict(cae(), alignment_copy=True) | {"alignment_encoder.extra": torch.zeros(2)}
    with pytest.raises(UserError, match=r"Here 1 of \d+ tensors differ: alignment_encoder.extra"):
        read_state_dict(file, **SIZES)


@pytest.mark.parametrize("place", ["target_generator", "head.encoder"])
def test_openmmlabs_tokenizer_is_left_out_with_a_reason(place: str) -> None:
    """Where it stands since 1.0, and where it stood when the public weights were made."""
    method = cae()
    file = renamed(released(method), OPENMMLAB) | {f"{place}.blocks.input.w": torch.zeros(2)}
    read = read_state_dict(file, **SIZES)
    assert same(read.module.state_dict(), method.state_dict())
    assert "convert its own file" in read.left_out[f"{place}.blocks.input.w"]


def test_the_norm_that_cae_v2_never_uses_is_kept() -> None:
    method = cae_v2()
    back = from_state_dict(released(method), **SIZES)
    assert torch.equal(back.regressor.norm.weight, method.regressor.norm.weight)
    assert not back.regressor.norm.weight.requires_grad


def test_scales_of_a_regressor_whose_encoder_has_none() -> None:
    """The release saves them, frozen at one; anything else is a scale and stays one."""
    file = released(cae(layer_scale=None))
    read = read_state_dict(file, **SIZES)
    assert [name for name, why in read.left_out.items() if why == ONES] == [
        f"regresser.regressor_blocks.{i}.gamma_{j}_cross" for i in (0, 1) for j in (1, 2)
    ]
    assert isinstance(read.module.regressor.blocks[0].ls1, nn.Identity)
    file["regresser.regressor_blocks.1.gamma_2_cross"] = torch.full((24,), 0.5)
    read = read_state_dict(file, **SIZES)
    assert not read.left_out and (read.module.regressor.blocks[1].ls2.gamma == 0.5).all()
    assert isinstance(read.module.encoder.blocks[0].ls1, nn.Identity)


def test_half_precision_is_read_in_float32_and_said() -> None:
    file = {name: value.half() for name, value in released(cae()).items()}
    read = read_state_dict(file, **SIZES)
    assert read.notes == ("Read in float32; the file holds torch.float16.",)
    assert {value.dtype for value in read.module.state_dict().values()} == {torch.float32}
