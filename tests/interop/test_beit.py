"""Fine-tuned classifiers as timm's Beit: strict, equal to a forward of its own, and loadable by timm alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.beit import arguments_of, to_beit, write_beit
from published_files import SQUARE, SQUARE_SIZES, classifier, classify

OBLONG = Grid(image_size=(12, 20), patch_size=(3, 4), channels=5)
NORMALISATION: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "deviation": (0.2, 0.3, 0.25)}


@pytest.mark.parametrize("layer_scale", [True, False])
@pytest.mark.parametrize("grid", [SQUARE, OBLONG], ids=str)
def test_outputs_are_those_of_the_tensors(grid: Grid, layer_scale: bool) -> None:
    state = classifier(grid=grid, num_heads=3, layer_scale=layer_scale)
    model = to_beit(state, image_size=grid.image_size, patch_size=grid.patch_size, num_heads=3)
    images = torch.randn(2, grid.channels, *grid.image_size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), classify(state, images, num_heads=3), atol=1e-5, rtol=1e-5)
    assert not model.training
    weights = model.state_dict()
    assert weights.keys() == {name for name in state if not name.endswith("index")}
    assert all(torch.equal(value, state[name]) for name, value in weights.items())


def test_the_comparison_sees_a_wrong_number_of_heads_and_a_swap() -> None:
    state = classifier(num_heads=2)
    images = torch.randn(2, 3, 12, 12)
    expected = classify(state, images, num_heads=2)
    for i in (0, 1):
        state[f"blocks.{i}.attn.relative_position_bias_table"].zero_()
    flat = classify(state, images, num_heads=2)
    assert (expected - flat).abs().max() > 1e-3
    swapped = dict(state)
    swapped["blocks.0.attn.q_bias"], swapped["blocks.0.attn.v_bias"] = (
        state["blocks.0.attn.v_bias"],
        state["blocks.0.attn.q_bias"],
    )
    model = to_beit(swapped, **SQUARE_SIZES)
    assert (model(images) - flat).abs().max() > 1e-3


def test_wrapped_files_and_a_classifier_on_the_class_token() -> None:
    state = classifier()
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = state.pop(f"fc_norm.{part}")
    model = to_beit({"model": {f"module.{name}": value for name, value in state.items()}}, **SQUARE_SIZES)
    assert model.global_pool == "token" and torch.equal(model.norm.weight, state["norm.weight"])


def test_a_folder_that_timm_loads_by_itself(tmp_path: Path) -> None:
    model = to_beit(classifier(), **SQUARE_SIZES)
    assert write_beit(model, tmp_path, **NORMALISATION) <= 1e-5
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(again(images), model(images), atol=1e-6, rtol=1e-6)
    assert arguments_of(again) == arguments_of(model)
    data = timm.data.resolve_model_data_config(again)
    assert [list(data[name]) for name in ("mean", "std", "input_size")] == [
        [0.4, 0.5, 0.6],
        [0.2, 0.3, 0.25],
        [3, 12, 12],
    ]


def test_a_hidden_width_that_a_plain_ratio_would_miss(tmp_path: Path) -> None:
    state = classifier(width=22)
    for i in (0, 1):
        for name in ("fc1.weight", "fc1.bias"):
            state[f"blocks.{i}.mlp.{name}"] = state[f"blocks.{i}.mlp.{name}"][:15]
        state[f"blocks.{i}.mlp.fc2.weight"] = state[f"blocks.{i}.mlp.fc2.weight"][:, :15]
    write_beit(to_beit(state, **SQUARE_SIZES), tmp_path, **NORMALISATION)


def test_an_export_that_timm_reads_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = to_beit(classifier(), **SQUARE_SIZES)
    other = to_beit(classifier(num_heads=3), **(SQUARE_SIZES | {"num_heads": 3}))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: other)
    with pytest.raises(UserError, match=r"gives other outputs, by up to .*, so nothing is written"):
        write_beit(model, tmp_path, **NORMALISATION)


def test_heads_must_agree_with_the_tables() -> None:
    with pytest.raises(UserError, match=r"blocks.0.attn.relative_position_bias_table has 2 columns, .* num_heads=3"):
        to_beit(classifier(), **(SQUARE_SIZES | {"num_heads": 3}))
    with pytest.raises(UserError, match=r"must divide the width. The classifier .* 24 wide; got 5 heads"):
        to_beit(classifier(), **(SQUARE_SIZES | {"num_heads": 5}))
    with pytest.raises(UserError, match=r"of width 192 have 12 heads. Got 2 for the classifier"):
        to_beit(classifier(width=192, depth=1), **SQUARE_SIZES)
    assert to_beit(classifier(width=192, depth=1), allow_other_heads=True, **SQUARE_SIZES).embed_dim == 192


@pytest.mark.parametrize("name", sorted(set(classifier()) - {"pos_embed", "fc_norm.weight"}))
def test_every_tensor_that_is_missing_is_named(name: str) -> None:
    state = classifier()
    del state[name]
    if name.endswith("index"):
        assert to_beit(state, **SQUARE_SIZES).state_dict().keys() <= state.keys()
        return
    with pytest.raises(UserError, match=rf"missing: {name}|holds {name}, and this|without a place: {name[:13]}"):
        to_beit(state, **SQUARE_SIZES)


def test_what_does_not_belong_is_named() -> None:
    attentive = classifier() | {"query_token": torch.zeros(1, 1, 24)}
    with pytest.raises(UserError, match=r"not a whole fine-tuned CAE classifier: without a place: query_token\. "):
        to_beit(attentive, **SQUARE_SIZES)
    plain = {name: value for name, value in classifier().items() if "relative" not in name}
    plain["blocks.1.attn.relative_position_index"] = torch.zeros(17, 17)
    with pytest.raises(UserError, match=r"without a place: blocks.1.attn.relative_position_index"):
        to_beit(plain, **SQUARE_SIZES)
    shape = classifier() | {"pos_embed": torch.zeros(1, 26, 24)}
    with pytest.raises(UserError, match=r"of another shape: pos_embed is \[1, 26, 24\] instead of \[1, 17, 24\]"):
        to_beit(shape, **SQUARE_SIZES)
    with pytest.raises(UserError, match=r"A fine-tuned CAE classifier holds cls_token, .*it holds encoder.norm.weight"):
        to_beit({"encoder.norm.weight": torch.ones(3)}, **SQUARE_SIZES)


def test_sizes_are_the_files_own() -> None:
    with pytest.raises(UserError, match=r"has patches of 3 x 3; got 4 x 4"):
        to_beit(classifier(), **(SQUARE_SIZES | {"patch_size": (4, 4)}))
    state = classifier()
    state["blocks.1.attn.relative_position_index"] = state["blocks.1.attn.relative_position_index"].T
    with pytest.raises(
        UserError, match=r"blocks.1.attn.relative_position_index is not the index of relative positions"
    ):
        to_beit(state, **SQUARE_SIZES)
