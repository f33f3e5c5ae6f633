"""What a protocol reads of a set of images: vectors to choose between and, of encoders, all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Of n images; `vectors` are [n d] by name. `tokens` and the attention heads to read them with are an encoder's."""

    vectors: Mapping[str, Tensor]
    tokens: Float[Tensor, "n t d"] | None = None
    num_heads: int = 1
