"""Several processes under `torchrun`, or one without it: the same calls for both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from contextae.errors import UserError

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others: longer than any health check, and not for ever when one has died."""


class AgreedError(UserError):
    """Raised by all processes alike, so that it is enough when one of them says it."""


@dataclass(frozen=True)
class Distributed:
    """One of `world_size` processes; `is_main` is the one that writes. Without `torchrun` nothing is exchanged."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no group; `torchrun` makes one of a single process too, to try there what many will do."""
        return self.world_size == 1 and not dist.is_initialized()

    def wrap(self, method: nn.Module) -> nn.Module:
        """The method itself, or in DDP, which averages gradients; every trainable weight takes part in every loss."""
        if self.alone:
            return method
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(method, device_ids=devices)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes, on each of them."""
        if self.alone:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)).item() > 0)

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all processes, by rank, on each of them."""
        if self.alone:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        lengths = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(lengths, torch.tensor([len(text)], device=self.device))
        longest = int(max(lengths).item())
        parts = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(parts, nn.functional.pad(text, (0, longest - len(text))))
        return [
            json.loads(part[: int(length.item())].cpu().numpy().tobytes())
            for part, length in zip(parts, lengths, strict=True)
        ]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What one process refuses in here, all refuse at its end, in the same words: none waits for one that left."""
        if self.alone:
            yield
            return
        words = None
        try:
            yield
        except UserError as error:
            words = str(error)
        said = [each for each in self.gather(words) if each]
        if said:
            raise AgreedError(said[0])

    def barrier(self) -> None:
        """Waits for all."""
        if not self.alone:
            self.any(False)

    def close(self) -> None:
        """Leaves the group."""
        if not self.alone:
            dist.destroy_process_group()


def start(device: str | None) -> Distributed:
    """From the environment `torchrun` sets; alone without it. `device` None takes a GPU where there is one."""
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"Every process needs a GPU of its own. Process {local} of this machine found "
                f"{torch.cuda.device_count()}; start fewer processes with --nproc-per-node."
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if world_size > 1 or dist.is_torchelastic_launched():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    return Distributed(rank, world_size, place)
