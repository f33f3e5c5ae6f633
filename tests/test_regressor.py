"""Regressor H: its block against the equations, and where its context and positions come from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contextae.masking import Mask
from contextae.regressor import Regressor, RegressorBlock
from networks import IMAGE, largest, masked_batch, reordered, shake, shuffles

HEADS, WIDTH = 2, 22


def regressor_of(*, drop_path: float = 0.0, depth: int = 2) -> Regressor:
    regressor = Regressor(grid=IMAGE, width=WIDTH, depth=depth, num_heads=HEADS, drop_path=drop_path)
    shake(regressor, scale=0.2)
    return regressor


def normed(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def block_by_hand(
    block: RegressorBlock, x: torch.Tensor, visible: torch.Tensor, at_m: torch.Tensor, at_v: torch.Tensor
) -> torch.Tensor:
    """spec: queries x + p_m; keys [Z_v; x] + p; values [Z_v; x]; x = LN2(x + g1 A); x = x + g2 MLP(x)."""
    attn = block.attn
    queries = F.linear(normed(x + at_m, block.norm_q), attn.q.weight, attn.q_bias)
    keys = torch.cat([normed(visible + at_v, block.norm_k), normed(x + at_m, block.norm_k)], 1) @ attn.k.weight.T
    values = torch.cat([normed(visible, block.norm_v), normed(x, block.norm_v)], 1) @ attn.v.weight.T + attn.v_bias
    size, seen = WIDTH // HEADS, []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / size**0.5
        seen.append(scores.softmax(-1) @ values[..., part])
    attended = F.linear(torch.cat(seen, -1), attn.proj.weight, attn.proj.bias)
    x = normed(x + block.ls1.gamma * attended, block.norm2)
    hidden = F.gelu(F.linear(x, block.mlp.fc1.weight, block.mlp.fc1.bias))
    return x + block.ls2.gamma * F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)


def test_the_whole_regressor_equals_its_equations() -> None:
    regressor, mask = regressor_of(depth=3).double(), masked_batch().mask
    visible = torch.randn(3, 22, WIDTH, dtype=torch.float64)
    at_v, at_m = regressor.positions[mask.visible], regressor.positions[mask.masked]
    x = regressor.mask_query.expand(3, 13, WIDTH)
    for block in regressor.blocks:
        x = block_by_hand(block, x, visible, at_m, at_v)
    torch.testing.assert_close(regressor(visible, mask), normed(x, regressor.norm), atol=1e-10, rtol=0)


def test_the_second_norm_replaces_the_residual_stream() -> None:
    """With the MLP branch silenced a block's output is the norm of the stream, not the stream itself."""
    block = RegressorBlock(width=WIDTH, num_heads=HEADS, scale=0.1)
    for weight in block.mlp.fc2.parameters():
        torch.nn.init.zeros_(weight)
    x, context = 5 + 3 * torch.randn(3, 13, WIDTH), torch.randn(3, 22, WIDTH)
    out = block(x, context, torch.zeros_like(x), torch.zeros_like(context))
    assert largest(out.mean(-1)) < 1e-5
    assert largest(out.var(-1, correction=0) - 1) < 1e-4


def test_running_mask_tokens_join_keys_and_values() -> None:
    """So the prediction of a patch depends on which others are masked; among visible latents alone it would not."""
    regressor, mask = regressor_of(), masked_batch().mask
    visible = torch.randn(3, 22, WIDTH)
    fewer = regressor(visible, Mask(mask.visible, mask.masked[:, :-2]))
    assert largest(fewer - regressor(visible, mask)[:, :-2]) > 1e-3


def test_no_block_updates_the_visible_latents() -> None:
    regressor, mask = regressor_of(depth=3), masked_batch().mask
    visible, seen = torch.randn(3, 22, WIDTH), []
    for block in regressor.blocks:
        block.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[1]))
    regressor(visible, mask)
    assert len(seen) == 3 and all(torch.equal(given, visible) for given in seen)


def test_positions_join_queries_and_keys_in_every_block_and_never_values() -> None:
    regressor, mask = regressor_of(depth=3), masked_batch().mask
    at_v, at_m = regressor.positions[mask.visible], regressor.positions[mask.masked]
    visible = torch.randn(3, 22, WIDTH)
    for block in regressor.blocks:
        given: dict[str, torch.Tensor] = {}
        for name in ("norm_q", "norm_k", "norm_v"):
            getattr(block, name).register_forward_pre_hook(
                lambda _module, inputs, name=name, given=given: given.update({name: inputs[0]})
            )
        x = torch.randn(3, 13, WIDTH)
        block(x, visible, at_m, at_v)
        assert torch.equal(given["norm_q"], x + at_m)
        assert torch.equal(given["norm_k"], torch.cat([visible + at_v, x + at_m], 1))
        assert torch.equal(given["norm_v"], torch.cat([visible, x], 1))


def test_permuting_the_masked_patches_permutes_the_prediction() -> None:
    regressor, mask = regressor_of(), masked_batch().mask
    visible, order = torch.randn(3, 22, WIDTH), shuffles(3, 13)
    predicted = regressor(visible, mask)
    shuffled = regressor(visible, Mask(mask.visible, reordered(mask.masked, order)))
    torch.testing.assert_close(shuffled, reordered(predicted, order), atol=1e-5, rtol=0)
    assert largest(shuffled - predicted) > 0.05  # positions tell the queries apart


def test_the_order_of_the_visible_patches_does_not_matter_but_their_places_do() -> None:
    regressor, mask = regressor_of(), masked_batch().mask
    visible, order = torch.randn(3, 22, WIDTH), shuffles(3, 22)
    predicted = regressor(visible, mask)
    together = regressor(reordered(visible, order), Mask(reordered(mask.visible, order), mask.masked))
    torch.testing.assert_close(together, predicted, atol=1e-5, rtol=0)
    displaced = regressor(reordered(visible, order), mask)
    assert largest(displaced - predicted) > 1e-3


def test_every_query_starts_as_the_same_mask_query() -> None:
    regressor, mask = regressor_of(), masked_batch().mask
    first: list[torch.Tensor] = []
    regressor.blocks[0].register_forward_pre_hook(lambda _module, inputs: first.append(inputs[0]))
    regressor(torch.randn(3, 22, WIDTH), mask)
    assert torch.equal(first[0], regressor.mask_query.expand(3, 13, -1))


def test_stochastic_depth_has_salts_apart_from_the_encoders() -> None:
    regressor = regressor_of(drop_path=0.3)
    parts = [part for block in regressor.blocks for part in (block.drop_path1, block.drop_path2)]
    assert [part.rate for part in parts] == pytest.approx([0, 0, 0.3, 0.3])
    assert len({part.salt for part in parts}) == 4 and min(part.salt for part in parts) >= 2_000


def test_initialisation() -> None:
    regressor = Regressor(grid=IMAGE, width=WIDTH, depth=1, num_heads=HEADS, layer_scale=0.3)
    block = regressor.blocks[0]
    assert 0 < largest(regressor.mask_query) <= 0.02
    assert (block.ls1.gamma == 0.3).all() and (block.attn.q_bias == 0).all()
    bound = (6 / (2 * WIDTH)) ** 0.5
    assert 0.95 * bound < largest(block.attn.k.weight) <= bound


def test_the_bias_of_the_key_norm_is_not_trained_for_softmax_does_not_see_it() -> None:
    regressor, mask = regressor_of(), masked_batch().mask
    visible = torch.randn(3, 22, WIDTH)
    predicted = regressor(visible, mask)
    with torch.no_grad():
        for block in regressor.blocks:
            assert not block.norm_k.bias.requires_grad
            block.norm_k.bias += torch.randn(WIDTH)
    torch.testing.assert_close(regressor(visible, mask), predicted, atol=1e-4, rtol=0)
    assert {name for name, weight in regressor.named_parameters() if not weight.requires_grad} == {
        f"blocks.{i}.norm_k.bias" for i in range(2)
    }
