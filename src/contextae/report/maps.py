"""What an encoder makes of whole images: where its class token looks, and principal components of its latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from contextae.blocks import split_heads
from contextae.encoder import Encoder
from contextae.errors import UserError

COMPONENTS = 3  # red, green, blue
SPREAD = 2.0  # deviations from the mean at which a colour is full
LEAST_SHARE = 1e-9  # of the variance; a component with less is rounding, and is shown as nothing


class Looked(NamedTuple):
    """Of b images in order, on a grid of h x w patches.

    `attention`: of the class token in the last block, by head, what it gives to the patches, as a share of what it
    gives to all of them times their number: 1 is even. `itself`: what it gives to itself. `latents`: of the patches,
    after the final norm.
    """

    attention: Float[np.ndarray, "b q h w"]
    itself: Float[np.ndarray, "b q"]
    latents: Float[np.ndarray, "b h w d"]


class Basis(NamedTuple):
    """Principal components of latents: a row each, its deviation, and its share of the variance. Three in any case:
    what is not there is zero."""

    mean: Float[np.ndarray, "d"]
    components: Float[np.ndarray, "k d"]
    deviations: Float[np.ndarray, "k"]
    shares: Float[np.ndarray, "k"]


@torch.no_grad()
def look(encoder: Encoder, images: Float[Tensor, "b c h w"]) -> Looked:
    """Of whole, normalised images; one at a time, so that the result does not depend on their company.

    UserError where the encoder gives what is no number, of which nothing can be drawn.
    """
    entering: list[Tensor] = []
    handle = encoder.blocks[-1].register_forward_pre_hook(lambda _, given: entering.append(given[0]))
    try:
        latents = torch.cat([encoder.summary_and_latents(image[None])[1] for image in images])
    finally:
        handle.remove()
    if not latents.isfinite().all():
        raise UserError(
            "The encoder's outputs must be finite numbers. Got infinite or undefined ones; the training diverged. Look "
            "at an earlier checkpoint (--checkpoint)."
        )
    weights = torch.cat([class_attention(encoder, tokens) for tokens in entering]).float().cpu().numpy()
    height, width = encoder.grid.size
    itself, patches = weights[..., 0], weights[..., 1:]
    even = patches * (patches.shape[-1] / np.maximum(1e-12, patches.sum(-1, keepdims=True)))
    return Looked(
        even.reshape(*even.shape[:2], height, width),
        itself,
        latents.float().cpu().numpy().reshape(len(images), height, width, -1),
    )


def class_attention(encoder: Encoder, tokens: Float[Tensor, "b 1+n d"]) -> Float[Tensor, "b q 1+n"]:
    """Weights with which the class token reads the tokens that enter the last block, itself first; by head."""
    block = encoder.blocks[-1]
    attn, x = block.attn, block.norm1(tokens)  # type: ignore[operator]
    to_queries, to_keys, _ = attn.qkv.weight.chunk(3)  # type: ignore[union-attr,operator]
    queries = split_heads(F.linear(x[:, :1], to_queries, attn.q_bias), encoder.num_heads)  # type: ignore[union-attr,arg-type]
    keys = split_heads(F.linear(x, to_keys), encoder.num_heads)
    return (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]


def principal(latents: Float[np.ndarray, "*any d"]) -> Basis:
    """One basis of all latents given.

    The sign of a component is chosen so that its scores are skewed to the positive side: what few patches have is
    bright. That does not change when the latents are rotated, so that two encoders can be compared.
    """
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    mean = flat.mean(0)
    centred = flat - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(flat))
    order = np.argsort(values)[::-1][:COMPONENTS]
    total = max(values.clip(0).sum(), np.finfo(np.float64).tiny)
    components, variances = np.zeros((COMPONENTS, flat.shape[1])), np.zeros(COMPONENTS)
    for place, at in enumerate(order):
        if values[at] <= max(LEAST_SHARE * total, 1e-12):
            continue
        component = vectors[:, at]
        skewness = ((centred @ component) ** 3).sum()
        components[place], variances[place] = (component if skewness >= 0 else -component), values[at]
    return Basis(mean, components, np.sqrt(variances), variances / total)


def colours(latents: Float[np.ndarray, "*any d"], basis: Basis) -> Float[np.ndarray, "*any k"]:
    """0..1: the scores on the components, of which `SPREAD` deviations below and above the mean are 0 and 1."""
    scores = (latents.astype(np.float64) - basis.mean) @ basis.components.T
    spread = np.where(basis.deviations > 0, 2 * SPREAD * basis.deviations, 1.0)
    return (0.5 + scores / spread).clip(0, 1)
