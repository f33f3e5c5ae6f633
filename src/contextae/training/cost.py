"""What one image costs a method: FLOPs of a step and bytes of memory, counted without computing anything."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from contextae.methods.method import Trainable

FLOAT32 = 4


class Cost(NamedTuple):
    """`*_flops` of one image (a multiplication and an addition are two), `activation_bytes` kept for one image's
    backward pass in float32; `parameters` of all parts, `trained` of those the optimiser moves.
    """

    parameters: int
    trained: int
    encoder: int
    forward_flops: int
    step_flops: int
    activation_bytes: int

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and both moments of AdamW in float32."""
        return FLOAT32 * (self.parameters + 3 * self.trained)

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and both moments."""
        return FLOAT32 * (self.parameters + 2 * self.trained)


def measure_cost(method: Trainable, batch: Any, images: int) -> Cost:
    """Of a method and a batch of so many images on the meta device, where tensors have shapes and no values."""
    kept: dict[int, int] = {}
    weights = {id(p) for p in method.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in weights:
            kept[id(base)] = base.numel() * base.element_size()
            alive.append(base)  # or its id would be given to another
        return tensor

    alive: list[Tensor] = []
    with FlopCounterMode(display=False) as forward:
        method(batch)
    with FlopCounterMode(display=False) as step, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        method(batch).total.backward()
    encoder = getattr(method, "encoder", None)
    return Cost(
        parameters=sum(p.numel() for p in method.parameters()),
        trained=sum(p.numel() for p in method.parameters() if p.requires_grad),
        encoder=sum(p.numel() for p in encoder.parameters()) if encoder is not None else 0,
        forward_flops=forward.get_total_flops() // images,
        step_flops=step.get_total_flops() // images,
        activation_bytes=sum(kept.values()) // images,
    )
