"""One update of the weights: forward and backward over the parts of a batch, clipping, AdamW, slow copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.methods.method import Trainable
from contextae.training.distributed import Distributed
from contextae.training.optimizer import set_rates
from contextae.training.precision import autocast
from contextae.training.schedule import Schedule


class Update(NamedTuple):
    """What one step came to, on the device and of this process alone: means over its images."""

    loss: Tensor
    parts: dict[str, Tensor]
    gradient_norm: Tensor


class Step:
    """Applies a batch to the weights.

    From the first loss or gradient that is not finite on, nothing is applied any more: the weights stay those before
    it, without the host having to look at every step. `first_bad` names that step, or is -1. In the first
    `frozen_steps` the encoder's weights stay as they are.
    """

    def __init__(
        self,
        *,
        method: Trainable,
        optimizer: torch.optim.AdamW,
        schedule: Schedule,
        clip_norm: float,
        accumulate: int,
        precision: str,
        distributed: Distributed,
        frozen_steps: int = 0,
    ) -> None:
        self.method, self.optimizer, self.schedule = method, optimizer, schedule
        self.clip_norm, self.accumulate, self.precision = clip_norm, accumulate, precision
        self.distributed, self.frozen_steps = distributed, frozen_steps
        self.model = distributed.wrap(method)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=distributed.device)

    def __call__(self, batch: Any, index: int) -> Update:
        """The update number `index`, counted from 0, whose learning rate the schedule gives."""
        set_rates(self.optimizer, self.schedule(index), encoder_frozen=index < self.frozen_steps)
        self.optimizer.zero_grad(set_to_none=True)
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for number, part in enumerate(split(batch, self.accumulate)):
            with self._synchronised(number), autocast(self.precision, self.distributed.device):
                loss = self.model(part)
            with self._synchronised(number):
                (loss.total / self.accumulate).backward()
            totals.append(loss.total.detach())
            for name, value in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + value.detach() / self.accumulate
        total = torch.stack(totals).mean()
        norm = self._clip()
        self._guard(total, norm, index)
        self.optimizer.step()
        self.method.after_step((index + 1) / self.schedule.total_steps)
        return Update(total, parts, norm)

    def _clip(self) -> Tensor:
        """The global norm of the gradients, which are scaled down to `clip_norm` where it is finite."""
        parameters = [each for each in self.method.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        finite = torch.where(norm.isfinite(), norm, 0.0)  # else all gradients would become what one of them is
        nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, finite)
        return norm

    def _guard(self, total: Tensor, norm: Tensor, index: int) -> None:
        """Tells the fused optimiser on the device, as torch's gradient scaler does, to leave the weights alone.

        The norm is that of the gradients averaged over processes, the same everywhere; the loss is each one's own.
        """
        bad = self.distributed.mean((~(total.isfinite() & norm.isfinite())).float()) > 0
        self.first_bad = torch.where(bad & (self.first_bad < 0), index, self.first_bad)
        self.optimizer.found_inf = (self.first_bad >= 0).float()  # type: ignore[attr-defined]

    def _synchronised(self, number: int) -> AbstractContextManager[None]:
        """Gradients cross processes with the last part of a batch only."""
        last = number == self.accumulate - 1
        return (
            self.model.no_sync()
            if isinstance(self.model, nn.parallel.DistributedDataParallel) and not last
            else nullcontext()
        )


def split(batch: Any, parts: int) -> Iterator[Any]:
    """Equal parts of a batch along its first axis, through nested NamedTuples."""
    length = len(next(iter(leaves(batch))))
    if length % parts:
        raise UserError(
            f"A process's share of the batch must divide into training.accumulate equal parts. Got {length} images for "
            f"{parts} parts; change training.batch_size or training.accumulate."
        )
    size = length // parts
    for start in range(0, length, size):
        yield _sliced(batch, slice(start, start + size))


def leaves(batch: Any) -> Iterator[Tensor]:
    """The tensors of nested NamedTuples, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif batch is not None:
        for part in batch:
            yield from leaves(part)


def _sliced(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows]
    return None if batch is None else type(batch)(*(_sliced(part, rows) for part in batch))
