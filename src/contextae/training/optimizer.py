"""AdamW over a method's weights, its learning rates layer by layer, and its state as plain named tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from contextae.errors import UserError

STATE = ("exp_avg", "exp_avg_sq", "step")


def adamw(
    method: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    layer_decay: float = 1.0,
    encoder_apart: bool = False,
) -> torch.optim.AdamW:
    """Matrices are decayed; what has one dimension (norms, biases, scales, class token, mask query) is not.

    Differs from the published code, which decays class token and mask token because they are stored as 1 x 1 x d. A
    learned table of positions is not decayed either, as in timm.

    With `layer_decay` d below 1 an encoder of L blocks learns more slowly the nearer to the pixels: patch embedding,
    class token and positions at d^(L+1) of the rate, block i, counted from 0, at d^(L-i), its final norm and all other
    parts at the whole rate [published CAE's fine-tuning, BEiT]. Then, and with `encoder_apart`, groups say their share
    as `lr_scale` and whose they are as `part`, "encoder" or "rest", for `set_rates`; the first is at the whole rate.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay must be above 0 and at most 1, where 1 is none. Got {layer_decay:g}.")
    positions = [p for name, p in method.named_parameters() if name == "encoder.positions"]
    decayed = {id(p) for p in method.parameters() if p.ndim > 1} - {id(p) for p in positions}
    if layer_decay == 1 and not encoder_apart:
        trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trainable if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for p in trainable if id(p) not in decayed], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    members: dict[tuple[float, str, float], list[nn.Parameter]] = {}
    for parameter, scale, part in _placed(method, layer_decay):
        key = (scale, part, weight_decay if id(parameter) in decayed else 0.0)
        members.setdefault(key, []).append(parameter)
    groups = [
        {"params": members[key], "weight_decay": key[2], "lr_scale": key[0], "part": key[1]}
        for key in sorted(members, key=lambda key: (key[1] == "encoder", -key[0], -key[2]))
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def _placed(method: nn.Module, layer_decay: float) -> Iterator[tuple[nn.Parameter, float, str]]:
    """Each trainable weight, its share of the learning rate, and whose it is."""
    depth = len(method.encoder.blocks)  # type: ignore[arg-type, union-attr]
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        module, _, rest = name.partition(".")
        kind, _, inner = rest.partition(".")
        if module != "encoder" or kind == "norm":
            layer = depth + 1
        elif kind == "blocks":
            layer = int(inner.partition(".")[0]) + 1
        else:
            layer = 0
        yield parameter, layer_decay ** (depth + 1 - layer), "encoder" if module == "encoder" else "rest"


def set_rates(optimizer: torch.optim.Optimizer, lr: float, *, encoder_frozen: bool = False) -> None:
    """The learning rate of a step in every group, scaled by its `lr_scale`; that of a frozen encoder is 0.

    At rate 0 AdamW leaves weights as they are, exactly (only -0 may become 0), and goes on averaging their gradients.
    That is wanted: the state is whole in every checkpoint, so whether the encoder is frozen is a function of the step
    alone and a resumed run is equal to an uninterrupted one; and the first step after the thaw is one among many. With
    gradients set to zero while frozen it would be 3.2 times too large at betas of 0.9 and 0.999, since the averages
    start at zero and the count that corrects for that does not. New parts gain nothing in speed from it.
    """
    for group in optimizer.param_groups:
        if encoder_frozen and "part" not in group:
            raise ValueError("An encoder can be frozen only where its weights have groups of their own: encoder_apart.")
        frozen = encoder_frozen and group["part"] == "encoder"
        group["lr"] = 0.0 if frozen else lr * group.get("lr_scale", 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer, method: nn.Module) -> dict[str, Tensor]:
    """Moments and step counts by `<state>/<name of the weight>`; nothing before the first update."""
    return {
        f"{state}/{name}": optimizer.state[parameter][state]
        for name, parameter in method.named_parameters()
        if parameter in optimizer.state
        for state in STATE
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, method: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; missing, unknown or differently shaped tensors are refused by name."""
    if not tensors:
        return
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    wanted = {f"{state}/{name}": p for name, p in parameters.items() for state in STATE}
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(p.shape)}"
        for name, p in wanted.items()
        if name in tensors and not name.startswith("step/") and tensors[name].shape != p.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"The optimiser's state is not that of this network: {'; '.join(problems[:3])}{more}. It comes from "
            "another configuration; resume with the experiment.yaml of its own run."
        )
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            state: tensors[f"{state}/{name}"].to(parameter.device, copy=True) for state in STATE
        }
