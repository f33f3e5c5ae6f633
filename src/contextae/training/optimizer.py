"""AdamW over a method's weights, and its state as plain named tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contextae.errors import UserError

STATE = ("exp_avg", "exp_avg_sq", "step")


def adamw(method: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Matrices are decayed; what has one dimension (norms, biases, scales, class token, mask query) is not.

    Differs from the published code, which decays class token and mask token because they are stored as 1 x 1 x d.
    """
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


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
