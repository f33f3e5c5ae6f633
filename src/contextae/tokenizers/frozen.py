"""What a target asks of the frozen network behind it: codes of a tokenizer, features of a teacher."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Tokenizer(Protocol):
    """Gives images in 0..1 a grid of codes out of `num_codes`, row-major; `input_size` is what a grid is made of."""

    num_codes: int
    channels: int

    def to(self, device: torch.device) -> Any: ...

    def input_size(self, grid: tuple[int, int]) -> tuple[int, int]: ...

    def codes(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, "b n"]: ...


@runtime_checkable
class Pictured(Protocol):
    """A tokenizer that can show what codes stand for: images in 0..1 of a grid of codes."""

    def decode(self, codes: Int[Tensor, "b n"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]: ...


@runtime_checkable
class Teacher(Protocol):
    """Gives images in 0..1 `width` features for the whole image and for each patch of a grid, the former first."""

    width: int
    name: str
    trained_on: str | None
    image_size: tuple[int, int]

    def to(self, device: torch.device) -> Any: ...

    def features(self, images: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b s k"]: ...
