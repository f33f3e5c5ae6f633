"""What an encoder is made of, as foreign libraries ask for it, and the same encoder for images of another size."""

from __future__ import annotations

from contextae import encoder as of_encoder
from contextae.encoder import Encoder
from contextae.errors import UserError


def hidden_width(encoder: Encoder) -> int:
    """Width inside the MLP of a block."""
    return encoder.hidden_width


def mlp_ratio(encoder: Encoder) -> float:
    """A ratio of which `int(width * ratio)` is the hidden width."""
    return encoder.mlp_ratio


def has_layer_scale(encoder: Encoder) -> bool:
    """Whether its residual branches are scaled."""
    return encoder.has_layer_scale


def resized(encoder: Encoder, image_size: tuple[int, ...]) -> Encoder:
    """A copy for images of `image_size`, on the CPU, in evaluation mode; sine-cosine positions are computed anew.

    Exact: an export interpolates no table, so learned positions stay at their own size.
    """
    own = encoder.grid.image_size
    if encoder.learned_positions and image_size != own:
        raise UserError(
            f"The positions of this encoder are a table learned for images of {_times(own)} pixels, and an "
            f"export resizes no table. Got {_times(image_size)}. Export it for its own size, or train it further at "
            f"the other one, which resizes the table first: contextae pretrain DATA --init WEIGHTS --set "
            f"data.image_size=[{', '.join(map(str, image_size))}]."
        )
    return of_encoder.resized(encoder, image_size)


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
