"""The one loop of everything trained with labels: AdamW, layer-wise decay, a schedule, and a resumable state."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from contextae.disk import reason
from contextae.errors import UserError
from contextae.evaluation.features import Precision
from contextae.evaluation.progress import Progress
from contextae.evaluation.sealed import read_sealed, seal, write_sealed
from contextae.evaluation.trunk import Trunk
from contextae.randomness import Shuffle, key
from contextae.training.loop import Ending, caught_signals
from contextae.training.manifest import Damaged
from contextae.training.optimizer import STATE, set_rates
from contextae.training.precision import autocast
from contextae.training.schedule import Schedule

SAVE_SECONDS = 60.0
STATE_FILE = "training.safetensors"


class DivergedError(UserError):
    """A loss or gradient that is not a finite number: this learning rate is too large for this network."""


class StoppedError(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, as `ending` says, after the step under way was done and the state saved."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: `steps` updates of batches of `batch_size`.

    The rate rises linearly to `lr` over `warmup_steps` and falls to `final_lr` by half a cosine, by a polynomial of
    power 1, or to a tenth of itself at each of `milestones`, which are shares of the steps. With `layer_decay` d a
    trunk of L blocks learns more slowly the nearer to the pixels: layer i of
    `Trunk.layer_of` at d^(L+1-i) of the rate, everything else at all of it [published CAE, BEiT]. Weight decay is for
    matrices: not for norms, biases, scales, the class token and learned positions; relative biases are matrices
    [published CAE].
    """

    steps: int
    batch_size: int
    lr: float
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    warmup_steps: int = 0
    final_lr: float = 0.0
    schedule: Literal["cosine", "poly", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    clip_norm: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0 or not 0 <= self.warmup_steps:
            raise UserError(
                f"A training needs at least one step, one image a batch and a learning rate above 0. Got steps="
                f"{self.steps}, batch_size={self.batch_size}, lr={self.lr:g}, warmup_steps={self.warmup_steps}."
            )
        if (self.schedule == "step") != bool(self.milestones) or not all(0 < each < 1 for each in self.milestones):
            raise UserError(
                "milestones are shares of the steps between 0 and 1, for the schedule 'step', which needs them. Got "
                f"milestones={self.milestones} and schedule={self.schedule!r}."
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay must be above 0 and at most 1, where 1 is none. Got {self.layer_decay:g}.")

    def rate(self, step: int) -> float:
        """The learning rate of an update, counted from 0: the last one is at `final_lr`, but of `step`."""
        if self.schedule == "cosine" or step < self.warmup_steps:
            return Schedule(peak=self.lr, final=self.final_lr, warmup_steps=self.warmup_steps, total_steps=self.steps)(
                step
            )
        if self.schedule == "step":
            return float(self.lr * 0.1 ** sum(step >= each * self.steps for each in self.milestones))
        left = (self.steps - 1 - step) / max(1, self.steps - 1 - self.warmup_steps)
        return self.final_lr + (self.lr - self.final_lr) * left


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Float[Tensor, ""]],
    recipe: Recipe,
    *,
    encoder: str | None,
    seed: int,
    state: Path | None,
    progress: Progress | None = None,
    identity: str = "",
) -> None:
    """Trains `model` in place and leaves it in evaluation mode: update i follows the gradient of `loss_of(i)`.

    `loss_of(i)` is the mean loss of a batch that is a function of (seed, i); torch's generators are seeded with both
    before each call, so what draws from them (drop path, dropout, torchvision's transforms) repeats itself, and are
    afterwards as they were. `encoder` names the `Trunk` within the model, for layer-wise decay.

    With `state`, a folder, all of the training is saved there every minute, at its end and on Ctrl-C or SIGTERM
    (`StoppedError`), and a later call goes on from it, bit-equal. Another training's state is refused: other recipe,
    seed, start weights, or `identity`, in which the caller puts what else the losses depend on, as a hash of the data.
    `DivergedError` for a loss or gradient that is not finite.
    """
    device = next(model.parameters()).device
    optimizer = optimizer_of(model, recipe, encoder)
    model.train()
    saved = Saved(model, optimizer, recipe, seed=seed, identity=identity, folder=state)
    first = saved.load()
    saved_at, done = time.monotonic(), first
    with _generators(device), caught_signals() as caught:
        for step in range(first, recipe.steps):
            torch.manual_seed(key("supervised", seed, step))
            set_rates(optimizer, recipe.rate(step))
            optimizer.zero_grad()
            with autocast(recipe.precision, device):
                loss = loss_of(step)
            loss.backward()
            trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
            norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm or math.inf)
            if not (loss.isfinite() and norm.isfinite()):
                raise DivergedError(
                    f"The loss or its gradient was not a finite number at step {step} of {recipe.steps}, at a learning "
                    f"rate of {recipe.lr:g}. Use a smaller one, or look at the images and labels."
                )
            optimizer.step()
            done = step + 1
            ending = caught[0] if caught else None  # one look: a signal that comes after it ends the next step, saved
            if ending or done == recipe.steps or time.monotonic() - saved_at > SAVE_SECONDS:
                saved.save(done)
                saved_at = time.monotonic()
            if progress:
                progress("training", done / recipe.steps)
            if ending:
                raise StoppedError(ending)
    model.eval()


def positions_of_batch(step: int, *, num_images: int, batch_size: int, seed: int) -> np.ndarray:
    """Which images the batch of a step is of: a new order of all every epoch, and batches run over its end.

    A set smaller than a batch is seen several times within it.
    """
    counted = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = counted // num_images, counted % num_images
    return np.concatenate(
        [Shuffle(num_images, "supervised order", seed, int(each))(places[epochs == each]) for each in np.unique(epochs)]
    )


def optimizer_of(model: nn.Module, recipe: Recipe, encoder: str | None) -> torch.optim.AdamW:
    """AdamW over what is to be trained, in groups by share of the rate (`lr_scale`) and by weight decay."""
    trunk = model.get_submodule(encoder) if encoder else None
    if trunk is not None and not isinstance(trunk, Trunk):
        raise ValueError(f"`encoder` names the Trunk within the model. {encoder} is a {type(trunk).__name__}.")
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale, positions = 1.0, False
        if trunk is not None and name.startswith(f"{encoder}."):
            own = name.removeprefix(f"{encoder}.")
            scale = recipe.layer_decay ** (trunk.depth + 1 - trunk.layer_of(own))
            positions = own == "encoder.positions"
        decay = recipe.weight_decay if parameter.ndim > 1 and not positions else 0.0
        members.setdefault((scale, decay), []).append(parameter)
    if not members:
        raise UserError("There is nothing to train: all weights are frozen. Give a trunk that is not, or a head.")
    groups: list[dict[str, Any]] = [
        {"params": members[each], "lr_scale": each[0], "weight_decay": each[1]}
        for each in sorted(members, reverse=True)
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


class Saved:
    """The state of one training in its folder: trained weights, buffers, moments, and whose they are."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        *,
        seed: int,
        identity: str,
        folder: Path | None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.path = folder / STATE_FILE if folder else None
        self.whose: dict[str, Any] = {}
        if folder:
            start = {name: value.detach().cpu() for name, value in model.state_dict().items()}
            told = json.loads(json.dumps(asdict(recipe)))  # as it is read again: tuples become lists
            self.whose = {"recipe": told, "seed": seed, "start": seal(start), "identity": identity}

    def load(self) -> int:
        """Steps that are done; 0 where nothing was saved."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            tensors, facts = read_sealed(self.path)
        except Damaged as damage:
            raise UserError(
                f"The state of the training in {self.path.parent} is damaged: {damage}. Remove the folder to begin "
                "this training anew."
            ) from None
        other = [name for name, value in self.whose.items() if facts["whose"].get(name) != value]
        if other:
            raise UserError(
                f"{self.path.parent} holds the state of another training: {', '.join(other)} differ(s). Remove the "
                "folder to begin anew, or name another one."
            )
        kept = self._kept()
        for name, value in kept.items():
            value.copy_(tensors[f"model/{name}"])
        for name, parameter in self.model.named_parameters():
            if f"exp_avg/{name}" in tensors:  # a weight that never had a gradient has no moments
                self.optimizer.state[parameter] = {
                    each: tensors[f"{each}/{name}"].to(parameter.device) for each in STATE
                }
        return int(facts["step"])

    def save(self, step: int) -> None:
        if self.path is None:
            return
        tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in self._kept().items()}
        for name, parameter in self.model.named_parameters():
            for each, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{each}/{name}"] = value
        try:
            write_sealed(self.path, tensors, {"step": step, "whose": self.whose})
        except OSError as error:
            raise UserError(
                f"The state of the training cannot be written to {self.path.parent}: {reason(error)}. Make room there, "
                "or name another folder."
            ) from None

    def _kept(self) -> Mapping[str, Tensor]:
        """What training changes: weights that are not frozen, and buffers."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.model.state_dict().items() if name not in frozen}


@contextmanager
def _generators(device: torch.device) -> Iterator[None]:
    """torch's generators afterwards as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
