"""Attention against torch and timm, counted stochastic depth, initialisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn

from contextae.blocks import (
    Attention,
    Block,
    CrossAttention,
    DropPath,
    attend,
    counted_uniform,
    drop_path_rates,
    initialise,
    initialise_token,
    join_heads,
    layer_scale,
    mlp,
    split_heads,
)
from contextae.decoder import Decoder
from contextae.encoder import Encoder, EncoderConfig
from contextae.regressor import Regressor
from networks import IMAGE, largest, shake


def qkv_for_timm(attention: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    """timm's fused weight and bias; the key bias is zero."""
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    return attention.qkv.weight.detach(), bias.detach()


def test_attend_equals_torchs_own() -> None:
    queries, keys, values = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7), torch.randn(2, 3, 11, 7)
    expected = F.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(attend(queries, keys, values), expected, atol=1e-6, rtol=1e-5)


def test_attend_takes_the_fused_kernel_off_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    fused = lambda q, k, v, attn_mask: called.append(attn_mask) or v[:, :, : q.shape[2]]  # noqa: E731
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    off_cpu = [torch.empty(2, 3, 5, 7, device="meta") for _ in range(3)]
    attend(*off_cpu)
    assert called
    attend(*(torch.randn(2, 3, 5, 7) for _ in range(3)))
    assert len(called) == 1


def test_heads_are_consecutive_parts_of_the_width() -> None:
    x = torch.randn(2, 5, 21)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 7)
    assert torch.equal(heads[1, 2, 4], x[1, 4, 14:21])
    assert torch.equal(join_heads(heads), x)


def test_self_attention_equals_timms_with_a_zero_key_bias() -> None:
    ours, theirs = Attention(width=21, num_heads=3), TimmAttention(21, num_heads=3, qkv_bias=True)
    shake(ours, scale=0.5)
    weight, bias = qkv_for_timm(ours)
    theirs.load_state_dict(
        {"qkv.weight": weight, "qkv.bias": bias, "proj.weight": ours.proj.weight, "proj.bias": ours.proj.bias}
    )
    x = torch.randn(2, 5, 21)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_no_attention_has_a_key_bias() -> None:
    assert set(dict(Attention(width=6, num_heads=2).named_parameters())) == {
        "qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias",
    }  # fmt: skip
    assert set(dict(CrossAttention(width=6, num_heads=2).named_parameters())) == {
        "q.weight", "k.weight", "v.weight", "q_bias", "v_bias", "proj.weight", "proj.bias",
    }  # fmt: skip


def test_cross_attention_equals_an_explicit_loop() -> None:
    part = CrossAttention(width=15, num_heads=3).double()
    shake(part, scale=0.5)
    queries, keys, values = torch.randn(2, 4, 15), torch.randn(2, 7, 15), torch.randn(2, 7, 15)
    queries, keys, values = queries.double(), keys.double(), values.double()
    out = torch.empty(2, 4, 15, dtype=torch.float64)
    for b in range(2):
        for i in range(4):
            heads = []
            for h in range(3):
                rows = slice(5 * h, 5 * h + 5)
                q = part.q.weight[rows] @ queries[b, i] + part.q_bias[rows]
                scores = torch.stack([q @ (part.k.weight[rows] @ keys[b, j]) / 5**0.5 for j in range(7)])
                weights = scores.exp() / scores.exp().sum()
                heads.append(
                    sum(weights[j] * (part.v.weight[rows] @ values[b, j] + part.v_bias[rows]) for j in range(7))
                )
            out[b, i] = part.proj.weight @ torch.cat(heads) + part.proj.bias
    torch.testing.assert_close(part(queries, keys, values), out)


@pytest.mark.parametrize("kind", [Attention, CrossAttention])
@pytest.mark.parametrize("num_heads", [4, 0])
def test_heads_that_do_not_divide_the_width_are_refused(kind: type[nn.Module], num_heads: int) -> None:
    with pytest.raises(ValueError, match=rf"num_heads must divide the width. Got num_heads={num_heads} and width=21"):
        kind(width=21, num_heads=num_heads)


@pytest.mark.parametrize("scale", [None, 0.1])
def test_a_block_equals_timms(scale: float | None) -> None:
    ours = Block(width=14, num_heads=2, mlp_ratio=3.0, layer_scale=scale).eval()
    theirs = TimmBlock(14, 2, mlp_ratio=3.0, qkv_bias=True, init_values=scale, norm_layer=nn.LayerNorm).eval()
    for norm in (theirs.norm1, theirs.norm2):
        norm.eps = 1e-6
    shake(ours, scale=0.3)
    state = dict(ours.state_dict())
    state["attn.qkv.weight"], state["attn.qkv.bias"] = qkv_for_timm(ours.attn)
    del state["attn.q_bias"], state["attn.v_bias"]
    theirs.load_state_dict(state)
    x = torch.randn(3, 5, 14)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


SPLITMIX64 = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC)
"""The first outputs of the generator started from 0: vectors that every implementation of it is checked with."""


@pytest.mark.parametrize(("salt", "expected"), list(enumerate(SPLITMIX64)))
def test_counted_uniform_is_splitmix64(salt: int, expected: int) -> None:
    drawn = counted_uniform(torch.tensor([0]), salt)
    assert drawn.dtype == torch.float64
    assert drawn.item() == (expected >> 11) / 2**53


def test_counted_uniform_is_uniform_and_independent_over_keys_and_salts() -> None:
    keys = torch.arange(20_000) * 7 + 2**61
    rows = torch.stack([counted_uniform(keys, salt) for salt in (0, 1, 2, 5001)] + [counted_uniform(keys + 1, 0)])
    assert ((rows >= 0) & (rows < 1)).all()
    torch.testing.assert_close(rows.mean(1), torch.full((5,), 0.5, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(rows.var(1), torch.full((5,), 1 / 12, dtype=torch.float64), atol=0.003, rtol=0)
    assert largest(torch.corrcoef(rows) - torch.eye(5)) < 0.03  # four deviations of 1 / sqrt(20,000)
    lagged = torch.corrcoef(torch.stack([rows[0, 1:], rows[0, :-1]]))[0, 1]
    assert abs(lagged) < 0.03


@pytest.mark.parametrize("key", [0, -1, 2**62 + 5, 2**63 - 1])
def test_counted_uniform_takes_any_key_and_any_salt(key: int) -> None:
    """Salts reach beyond 4,000 in the decoder; their step wraps around as unsigned numbers do."""
    for salt in (0, 1, 47, 2001, 4005):
        state = (key + (salt + 1) * 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
        expected = ((state ^ state >> 31) >> 11) / 2**53
        assert counted_uniform(torch.tensor([key]), salt).item() == expected


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    x, keys = torch.ones(6_000, 2, 3), torch.arange(6_000)
    dropped = DropPath(rate=0.3, salt=5)
    for out in (dropped(x, keys), dropped(x, None)):
        per_sample = out.flatten(1)
        assert (per_sample == per_sample[:, :1]).all()
        assert sorted(per_sample[:, 0].unique().tolist()) == pytest.approx([0, 1 / 0.7])
        assert float(out.mean()) == pytest.approx(1, abs=0.035)


def test_drop_path_is_a_function_of_key_and_salt() -> None:
    x, keys = torch.randn(50, 2, 3), torch.arange(50)
    one, two = DropPath(rate=0.5, salt=1), DropPath(rate=0.5, salt=2)
    state = torch.get_rng_state()
    assert torch.equal(one(x, keys), one(x, keys))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one(x, keys), two(x, keys))
    assert torch.equal(one(x.flip(0), keys.flip(0)), one(x, keys).flip(0))
    one(x, None)
    assert not torch.equal(torch.get_rng_state(), state)


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero() -> None:
    x, keys = torch.randn(20, 2, 3), torch.arange(20)
    assert torch.equal(DropPath(rate=0.5, salt=1).eval()(x, keys), x)
    assert torch.equal(DropPath(rate=0.0, salt=1)(x, keys), x)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_outside_0_and_1_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"drop_path must be at least 0 and below 1. Got {rate}"):
        DropPath(rate=rate, salt=0)


def test_rates_rise_linearly_to_the_last_block() -> None:
    assert drop_path_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert drop_path_rates(0.2, 1) == [0]
    assert drop_path_rates(0.2, 0) == []


def test_a_block_gives_its_two_branches_different_salts() -> None:
    """Otherwise attention and MLP would always be dropped together, in neighbouring blocks as well."""
    salts = [part.salt for i in range(3) for part in (
        Block(width=4, num_heads=1, salt=i).drop_path1, Block(width=4, num_heads=1, salt=i).drop_path2
    )]  # fmt: skip
    assert len(set(salts)) == 6


def test_layer_scale_and_mlp() -> None:
    assert isinstance(layer_scale(7, None), nn.Identity)
    x = torch.randn(2, 3, 7)
    torch.testing.assert_close(layer_scale(7, 0.1)(x), 0.1 * x)
    part = mlp(7, 3.0)
    expected = part.fc2(F.gelu(part.fc1(x)))
    assert part.fc1.out_features == 21
    torch.testing.assert_close(part(x), expected)


def test_initialisation_is_xavier_uniform_with_zero_biases_and_unit_norms() -> None:
    part = Block(width=60, num_heads=3)
    shake(part)
    initialise(part)
    for name, weight in part.named_parameters():
        if name.endswith("weight") and weight.ndim == 2:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert 0.97 * bound < largest(weight) <= bound, name
            assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05), name
        elif "norm" in name and name.endswith("weight"):
            assert (weight == 1).all(), name
        elif name.endswith(".bias"):
            assert (weight == 0).all(), name


def test_tokens_start_from_a_normal_of_002_cut_at_one_deviation() -> None:
    token = nn.Parameter(torch.zeros(20_000))
    initialise_token(token)
    assert largest(token) <= 0.02
    assert float(token.detach().std()) == pytest.approx(0.0108, rel=0.03)  # of a normal cut at one deviation: 0.54


CUT = 0.54  # deviation of a normal that is cut at one deviation, over that deviation


def three_blocks(initialisation: str = "xavier") -> dict[str, nn.Module]:
    """Each part of the network, 60 wide."""
    shared = {"grid": IMAGE, "width": 60, "depth": 3, "num_heads": 3, "initialisation": initialisation}
    return {
        "encoder": Encoder(**shared),  # type: ignore[arg-type]
        "regressor": Regressor(**shared),  # type: ignore[arg-type]
        "decoder": Decoder(outputs=30, **shared),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", three_blocks())
def test_beits_initialisation_is_a_cut_normal_and_ends_branches_by_depth(name: str) -> None:
    part = three_blocks("beit")[name]
    seen = 0
    for path, weight in part.named_parameters():
        if path.endswith("weight") and weight.ndim == 2:
            bound = 0.02
            if path.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                bound /= (2 * (int(path.split(".")[1]) + 1)) ** 0.5  # blocks are counted from 1
                seen += 1
            assert 0.97 * bound < largest(weight) <= bound, path
            assert float(weight.detach().std()) == pytest.approx(CUT * bound, rel=0.05), path
            assert abs(float(weight.detach().mean())) < 0.1 * bound, path
        elif path.endswith(("norm1.weight", "norm2.weight")):
            assert (weight == 1).all(), path
        elif path.endswith("bias"):
            assert (weight == 0).all(), path
    assert seen == 6


@pytest.mark.parametrize("name", three_blocks())
def test_every_part_passes_its_initialisation_on_and_xavier_is_the_default(name: str) -> None:
    made = {}
    for way in ("default", "xavier", "beit"):
        torch.manual_seed(3)
        made[way] = (three_blocks() if way == "default" else three_blocks(way))[name].state_dict()
    assert all(torch.equal(value, made["xavier"][path]) for path, value in made["default"].items())
    differ = {path for path, value in made["beit"].items() if not torch.equal(value, made["xavier"][path])}
    linear = {path for path, value in made["beit"].items() if path.endswith("weight") and value.ndim == 2}
    assert differ >= linear and differ - linear <= {"mask_query", "class_token"}
    for i in range(3):
        weight = made["default"][f"blocks.{i}.mlp.fc2.weight"]
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.97 * bound < largest(weight) <= bound, "xavier knows no depth"
    assert EncoderConfig().initialisation == "xavier"
