"""Published weights that are refused, each by name and in one paragraph: names, shapes, position tables, heads."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.official import from_state_dict, to_state_dict
from contextae.interop.official_tables import single_precision
from contextae.positions import sine_cosine
from networks import small_cae
from published_files import GRID, OPENMMLAB, SIZES, SQUARE, SQUARE_SIZES, cae, released, renamed


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("name", sorted(released(cae())))
def test_every_tensor_that_is_missing_is_named(name: str) -> None:
    """But for the tables, which are constants."""
    file = released(cae())
    del file[name]
    if "pos_embed" in name:
        assert same(from_state_dict(file, **SIZES).state_dict(), cae().state_dict())
        return
    with pytest.raises(UserError, match=rf"missing: .*{re.escape(name)}|Sizes are read from {re.escape(name)}"):
        from_state_dict(file, **SIZES)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.blocks.1.attn.k_bias",
        "encoder.blocks.7.norm1.weight",
        "encoder.norm3.weight",
        "decoder.decoder_blocks.0.extra",
        "regresser.regressor_blocks.0.norm2.weight",
        "predictor.weight",
        "mask_tokens",
    ],
)
def test_every_tensor_that_has_no_place_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"(have none|without a place|missing).*{re.escape(name)}"):
        from_state_dict(released(cae()) | {name: torch.zeros(24)}, **SIZES)


def test_a_name_of_another_family_has_no_place_in_this_one() -> None:
    file = renamed(released(cae()), OPENMMLAB) | {"neck.regressors.0.norm2.weight": torch.zeros(24)}
    with pytest.raises(UserError, match=r"read as OpenMMLab: neck.regressors.0.norm2.weight"):
        from_state_dict(file, **SIZES)


def test_a_shape_that_does_not_fit_is_named_by_the_files_own_name() -> None:
    file = renamed(released(cae()), OPENMMLAB)
    file["backbone.layers.1.ln2.bias"] = torch.zeros(23)
    with pytest.raises(UserError, match=r"of another shape: backbone.layers.1.ln2.bias is \[23\] instead of \[24\]"):
        from_state_dict(file, **SIZES)


def test_sizes_are_read_from_tensors_of_the_right_axes() -> None:
    file = released(cae()) | {"encoder.cls_token": torch.zeros(24)}
    with pytest.raises(UserError, match=r"Sizes are read from encoder.cls_token, a tensor of 3 axes .* shape \[24\]"):
        from_state_dict(file, **SIZES)


def test_integers_are_no_weights() -> None:
    file = released(cae()) | {"encoder.norm.bias": torch.zeros(24, dtype=torch.int64)}
    with pytest.raises(UserError, match=r"floating-point numbers. encoder.norm.bias are not"):
        from_state_dict(file, **SIZES)


def test_another_networks_file_is_refused() -> None:
    vit = {"conv1.weight": torch.zeros(3), "layer1.0.conv1.weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"not CAE weights by any of the names known: OpenMMLab.*holds conv1.weight"):
        from_state_dict(vit, **SIZES)
    with pytest.raises(UserError, match=r"have contextae's own names already. Use them as they are"):
        from_state_dict(small_cae().state_dict(), **SIZES)
    plain = {name.removeprefix("encoder."): value for name, value in to_state_dict(cae().encoder).items()}
    timm = {name: value for name, value in plain.items() if "_bias" not in name}
    timm |= {"blocks.0.attn.qkv.bias": torch.zeros(72)}
    with pytest.raises(UserError, match=r"missing: encoder.blocks.0.attn.q_bias.*without a place: blocks.0.attn.qkv"):
        from_state_dict(timm, **SIZES)
    with pytest.raises(UserError, match=r"is timm's or another method's and not CAE's: .*--init timm:NAME=FILE"):
        from_state_dict(timm | {"head.weight": torch.zeros(7, 24)}, **SIZES)
    tuned = plain | {"fc_norm.weight": torch.zeros(24), "head.weight": torch.zeros(7, 24)}
    with pytest.raises(UserError, match=r"without a place: fc_norm.weight, head.weight.* classifier .* \(--to beit\)"):
        from_state_dict(tuned, **SIZES)


@pytest.mark.parametrize("name", ["decoder.head.extra", "neck.head.extra", "head.loss.extra"])
def test_not_every_head_is_a_classifiers(name: str) -> None:
    file = released(cae()) if name.startswith("decoder") else renamed(released(cae()), OPENMMLAB)
    with pytest.raises(UserError, match=rf"{name}\. .*Give an unchanged CAE or CAE v2 checkpoint\.$"):
        from_state_dict(file | {name: torch.zeros(2)}, **SIZES)


def test_heads_of_a_regressor_that_is_not_read_are_refused() -> None:
    for file, options in ((to_state_dict(cae().encoder), {}), (released(cae()), {"encoder_only": True})):
        with pytest.raises(
            UserError, match=r"\(--decoder-num-heads\) is of regressor .* Got 3 where the encoder alone"
        ):
            from_state_dict(file, decoder_num_heads=3, **options, **SIZES)


def test_what_is_no_state_dict() -> None:
    with pytest.raises(UserError, match=r"Under epoch there is none; give the file of a model"):
        from_state_dict({"epoch": 3}, **SIZES)
    with pytest.raises(UserError, match="This one is empty"):
        from_state_dict({"model": {}}, **SIZES)


@pytest.mark.parametrize("table", ["encoder.pos_embed", "rd_pos_embed"])
def test_a_table_that_is_not_ours_is_refused_by_name(table: str) -> None:
    file = released(cae(decoder_width=20))
    file[table][0, 4, 5] += 2e-6
    with pytest.raises(UserError, match=rf"{table} must be the fixed sine-cosine table .* It differs by up to 2"):
        from_state_dict(file, **SIZES)
    file = released(cae(decoder_width=20))
    file[table][0, 0, 1] = 0.5
    with pytest.raises(UserError, match=rf"{table} must be the fixed .* differs by up to 0.5"):
        from_state_dict(file, **SIZES)
    file[table] = file[table][:, :-1]
    with pytest.raises(UserError, match=rf"{table} must have one row for the class token .* have 35 patches"):
        from_state_dict(file, **SIZES)


def test_the_released_order_of_a_grid_that_is_not_square_is_explained() -> None:
    file = released(cae())
    file["encoder.pos_embed"][0, 1:] = sine_cosine((7, 5), 24)
    with pytest.raises(UserError, match=r"a grid with its axes exchanged: the released code .* Only weights of square"):
        from_state_dict(file, **SIZES)


@pytest.mark.parametrize("size", [(14, 14), (48, 48)])
def test_both_precisions_of_a_table_are_taken(size: tuple[int, int]) -> None:
    """At 48 x 48 patches they differ by more than the tolerance."""
    grid = Grid(image_size=(size[0] * 2, size[1] * 2), patch_size=(2, 2), channels=1)
    file = to_state_dict(Encoder(grid=grid, width=96, depth=1, num_heads=2))
    shown: dict[str, Any] = {"image_size": grid.image_size, "patch_size": (2, 2), "num_heads": 2}
    assert torch.equal(file["encoder.pos_embed"][0, 1:], single_precision(size, 96))
    from_state_dict(file, **shown)
    assert ((single_precision(size, 96) - sine_cosine(size, 96)).abs().max() > 1e-6) == (size == (48, 48))
    file["encoder.pos_embed"][0, 1:] = sine_cosine(size, 96)
    from_state_dict(file, **shown)


def test_widths_that_four_does_not_divide_have_a_table_too() -> None:
    assert (single_precision((5, 7), 22) - sine_cosine((5, 7), 22)).abs().max() < 1e-6


def test_patch_size_is_the_files_own() -> None:
    with pytest.raises(UserError, match=r"has patches of 2 x 3; got 2 x 7"):
        from_state_dict(released(cae()), image_size=(10, 21), patch_size=(2, 7), num_heads=2)


@pytest.mark.parametrize(("width", "heads"), [(192, 12), (384, 12), (768, 12), (1024, 16)])
def test_published_widths_have_published_heads(width: int, heads: int) -> None:
    encoder = Encoder(grid=SQUARE, width=width, depth=1, num_heads=heads, mlp_ratio=0.1)
    file = to_state_dict(encoder)
    shown = {name: value for name, value in SQUARE_SIZES.items() if name != "num_heads"}
    assert from_state_dict(file, num_heads=heads, **shown).num_heads == heads
    with pytest.raises(UserError, match=rf"of width {width} have {heads} heads. Got {heads // 2} for the encoder"):
        from_state_dict(file, num_heads=heads // 2, **shown)
    assert from_state_dict(file, num_heads=heads // 2, allow_other_heads=True, **shown).num_heads == heads // 2


@pytest.mark.parametrize("heads", [0, 5, 7, -2])
def test_heads_must_divide_the_width(heads: int) -> None:
    with pytest.raises(UserError, match=rf"must divide the width. The encoder .* 24 wide; got {heads} heads"):
        from_state_dict(released(cae()), **(SIZES | {"num_heads": heads}))


def test_heads_of_regressor_and_decoder() -> None:
    file = released(cae(decoder_width=18))
    method = from_state_dict(file, decoder_num_heads=3, **SIZES)
    assert method.encoder.num_heads == 2 and method.regressor.blocks[0].attn.num_heads == 3
    assert method.decoder.blocks[0].attn.num_heads == 3
    assert from_state_dict(file, **SIZES).regressor.blocks[0].attn.num_heads == 2
    with pytest.raises(UserError, match=r"The regressor and decoder of these weights is 18 wide; got 4 heads"):
        from_state_dict(file, decoder_num_heads=4, **SIZES)
    narrow = released(cae(decoder_width=192, depths=(1, 1, 1)))
    assert from_state_dict(narrow, **SIZES).regressor.blocks[0].attn.num_heads == 12


def test_the_released_large_model_with_heads_of_85_is_explained() -> None:
    file = released(cae())
    for name in list(file):
        if name.startswith("regresser.regressor_blocks") and "cross_attn" in name:
            value = file[name]
            file[name] = value[:, :23] if name.endswith("proj.weight") else value[:23]
    with pytest.raises(
        UserError, match=r"cross_attn.q.weight .* heads of 23 values .* builds 12 heads of 85 .*--encoder"
    ):
        from_state_dict(file, **SIZES)
    assert isinstance(from_state_dict(file, encoder_only=True, **SIZES), Encoder)
    file = released(cae())
    file["decoder.decoder_blocks.0.attn.proj.weight"] = torch.zeros(24, 23)
    with pytest.raises(UserError, match=r"decoder.decoder_blocks.0.attn.proj.weight of this file gives heads of 23"):
        from_state_dict(file, **SIZES)


def test_only_these_methods_have_a_released_layout() -> None:
    with pytest.raises(UserError, match=r"holds CAE, CAE v2 or an encoder. Got Linear"):
        to_state_dict(nn.Linear(2, 3))
    learned = Encoder(grid=GRID, width=24, depth=1, num_heads=2, learned_positions=True)
    with pytest.raises(UserError, match=r"positions has no place in the released layout.*Got Encoder"):
        to_state_dict(learned)
