"""What an encoder is made of, as foreign libraries ask for it, and the same encoder for images of another size."""

from __future__ import annotations

import torch
from torch import nn

from contextae.blocks import Block
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid
from contextae.positions import sine_cosine


def first_block(encoder: Encoder) -> Block:
    """All of them are alike."""
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    return block


def hidden_width(encoder: Encoder) -> int:
    """Width inside the MLP of a block."""
    return first_block(encoder).mlp.fc1.out_features


def mlp_ratio(encoder: Encoder) -> float:
    """A ratio of which `int(width * ratio)` is the hidden width: rounding can take the plain one to the next below."""
    hidden = hidden_width(encoder)
    ratio = hidden / encoder.width
    return ratio if int(encoder.width * ratio) == hidden else (hidden + 0.5) / encoder.width


def has_layer_scale(encoder: Encoder) -> bool:
    """Whether its residual branches are scaled."""
    return not isinstance(first_block(encoder).ls1, nn.Identity)


def resized(encoder: Encoder, image_size: tuple[int, ...]) -> Encoder:
    """A copy for images of `image_size`, on the CPU, in evaluation mode; sine-cosine positions are computed anew.

    Exact: no table is interpolated. Refused for an encoder whose positions are learned, or are not the sine-cosine
    table of its grid for another reason.
    """
    grid, own = encoder.grid, image_size == encoder.grid.image_size
    if encoder.learned_positions and not own:
        raise UserError(
            f"The positions of this encoder are a table learned for images of {_times(grid.image_size)} pixels, and an "
            f"export resizes no table. Got {_times(image_size)}. Export it for its own size, or train it further at "
            f"the other one, which resizes the table first: contextae pretrain DATA --init WEIGHTS --set "
            f"data.image_size=[{', '.join(map(str, image_size))}]."
        )
    if not own and not torch.equal(encoder.positions.cpu(), sine_cosine(grid.size, encoder.width)):
        raise UserError(
            "The positions of this encoder are not the sine-cosine table of its grid, so they cannot be computed for "
            f"another one. Export it for its own size, {grid.image_size}."
        )
    copy = Encoder(
        grid=Grid(image_size=image_size, patch_size=grid.patch_size, channels=grid.channels),
        width=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.num_heads,
        mlp_ratio=mlp_ratio(encoder),
        layer_scale=1.0 if has_layer_scale(encoder) else None,
        learned_positions=encoder.learned_positions,
    )
    copy.load_state_dict(encoder.state_dict())
    if own and not encoder.learned_positions:
        copy.positions.copy_(encoder.positions)
    return copy.eval()


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
