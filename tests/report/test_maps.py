"""Attention of the class token and components of latents: by hand, by invariance, and where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid, patchify
from contextae.report.maps import COMPONENTS, class_attention, colours, look, principal
from contextae.report.run_pictures import MOST_ATTENTION, attention_rows, component_rows, shown_pixels
from networks import shake

GRID = Grid(image_size=(10, 21), patch_size=(2, 3), channels=2)
RNG = np.random.default_rng(0)


def encoder(depth: int = 2) -> Encoder:
    made = Encoder(grid=GRID, width=12, depth=depth, num_heads=3).eval()
    shake(made, scale=0.3)
    return made


def skewed(count: int, width: int = 11) -> np.ndarray:
    """Three skewed directions of 9, 4 and 1 in deviation among little noise, rotated."""
    scores = (RNG.exponential(size=(count, 3)) - 1) * [9, 4, 1]
    directions = np.linalg.qr(RNG.normal(size=(width, width)))[0][:3]
    return scores @ directions + 5 + 0.01 * RNG.normal(size=(count, width))


@pytest.mark.parametrize("depth", [1, 3])
def test_the_class_token_reads_with_these_weights(depth: int) -> None:
    """What they weigh is what the block's own attention gives to the class token."""
    made, entering, given = encoder(depth), [], []
    made.blocks[-1].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    made.blocks[-1].attn.register_forward_hook(lambda _, args, out: given.append(out))
    images = torch.randn(4, 2, 10, 21)
    with torch.no_grad():
        made.summary_and_latents(images)
        weights = class_attention(made, entering[0])
        attn, x = made.blocks[-1].attn, made.blocks[-1].norm1(entering[0])
        values = (x @ attn.qkv.weight[24:].T + attn.v_bias).reshape(4, 36, 3, 4).transpose(1, 2)
        read = attn.proj((weights[:, :, None] @ values)[:, :, 0].flatten(1))
    torch.testing.assert_close(read, given[0][:, 0])
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))


def test_maps_lie_on_the_grid_and_do_not_depend_on_company() -> None:
    made = encoder()
    images = torch.randn(4, 2, 10, 21)
    looked, alone = look(made, images), look(made, images[2:3])
    assert looked.attention.shape == (4, 3, 5, 7) and looked.latents.shape == (4, 5, 7, 12)
    np.testing.assert_allclose(looked.attention.mean((2, 3)), 1, rtol=1e-5)
    np.testing.assert_array_equal(looked.attention[2], alone.attention[0])
    with torch.no_grad():
        latents = made.encode(made.embed(patchify(images, GRID)))[:, 1:]
    np.testing.assert_allclose(looked.latents[3, 1, 2], latents[3, 9].numpy(), atol=1e-5)
    assert not made.blocks[-1]._forward_pre_hooks, "nothing stays behind"


def test_what_is_no_number_is_refused() -> None:
    made = encoder()
    with torch.no_grad():
        made.blocks[0].attn.v_bias.fill_(torch.nan)
    with pytest.raises(UserError, match=r"outputs must be finite numbers.* Look at an earlier checkpoint"):
        look(made, torch.randn(1, 2, 10, 21))


def test_components_are_those_of_the_covariance() -> None:
    latents = skewed(4000)
    basis = principal(latents)
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(latents.T, bias=True)))[::-1]
    np.testing.assert_allclose(basis.deviations**2, spectrum[:3], rtol=1e-9)
    np.testing.assert_allclose(basis.shares, spectrum[:3] / spectrum.sum(), rtol=1e-9)
    np.testing.assert_allclose(basis.components @ basis.components.T, np.eye(3), atol=1e-9)


def test_colours_are_those_of_any_rotation_and_mirror_image_of_the_latents() -> None:
    latents = skewed(500)
    shown = colours(latents, principal(latents))
    for turn in range(4):
        rotation = np.linalg.qr(np.random.default_rng(turn).normal(size=(11, 11)))[0]
        other = latents @ rotation + turn
        np.testing.assert_allclose(colours(other, principal(other)), shown, atol=1e-6)
    scores = (latents - latents.mean(0)) @ principal(latents).components.T
    assert (np.median(scores, axis=0) < 0).all(), "few are bright, many a little dark"
    np.testing.assert_allclose(colours(latents.mean(0), principal(latents)), 0.5)


def test_one_basis_gives_equal_latents_equal_colours_in_every_image() -> None:
    latents = RNG.normal(size=(3, 5, 7, 12))
    latents[2, 4, 6] = latents[0, 0, 0]
    maps = colours(latents, principal(latents))
    np.testing.assert_array_equal(maps[2, 4, 6], maps[0, 0, 0])
    alone = colours(latents[:1], principal(latents[:1]))
    assert not np.allclose(alone, maps[:1]), "a basis of its own would be another one"


@pytest.mark.parametrize("latents", [np.ones((6, 4)), RNG.normal(size=(9, 2)), RNG.normal(size=(1, 5))])
def test_where_there_are_fewer_components_the_rest_is_gray(latents: np.ndarray) -> None:
    basis = principal(latents)
    shown = colours(latents, basis)
    assert shown.shape == (len(latents), COMPONENTS) and np.isfinite(shown).all() and np.isfinite(basis.shares).all()
    assert (shown[:, basis.shares == 0] == 0.5).all() and (basis.shares == 0).any()


def test_rows_say_what_the_maps_hold() -> None:
    looked = look(encoder(), torch.randn(5, 2, 10, 21))
    attention = looked.attention.copy()
    attention[0, 1] = 0
    attention[0, 1, 3, 3] = 2 * MOST_ATTENTION
    looked = looked._replace(attention=attention, itself=np.full((5, 3), 0.25))
    names = list("abcde")
    pixels = shown_pixels(torch.randn(5, 2, 10, 21), mean=[0, 0], deviation=[1, 1], windowed=True)
    rows = attention_rows(looked, pixels, names)
    assert [row.name for row in rows] == ["a", "b", "c"] and len(rows[0].cells) == 2 + 3
    assert rows[0].cells[1].caption.startswith("mean, 25 % on itself; peak ")
    assert rows[0].cells[3].caption == f"head 2, 25 %; peak {2 * MOST_ATTENTION:.1f}"
    assert (rows[0].cells[0].width, rows[0].cells[0].height) == (96, 46)
    components, shares = component_rows(looked, pixels, names)
    assert len(components) == 5 and len(shares) == 3 and shares[0] >= shares[1] >= shares[2]
