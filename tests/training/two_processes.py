"""Run by torchrun in a test: five steps of some processes, and what they exchange."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from contextae.training.distributed import start
from contextae.training.optimizer import adamw
from contextae.training.schedule import Schedule
from contextae.training.step import Step
from networks import masked_batch, small_cae

SIZE, STEPS = 6, 5


def steps(rank: int, world_size: int, accumulate: int, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Weights after five steps in which this process sees every `world_size`-th image."""
    distributed = start(device)
    method = small_cae().to(distributed.device)
    step = Step(
        method=method,
        optimizer=adamw(method, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=Schedule(peak=1e-3, final=1e-5, warmup_steps=2, total_steps=STEPS),
        clip_norm=0.5,
        accumulate=accumulate,
        precision="float32",
        distributed=distributed,
    )
    for index in range(STEPS):
        whole = masked_batch(size=SIZE, seed=index)
        own = slice(rank, None, world_size)
        parts = (whole.images, whole.mask.visible, whole.mask.masked, whole.key)
        images, visible, masked, key = (part[own].to(distributed.device) for part in parts)
        step(whole._replace(images=images, mask=type(whole.mask)(visible, masked), key=key), index)
    if world_size > 1:
        assert distributed.mean(torch.tensor(float(rank))).item() == 0.5
        assert distributed.any(rank == 1) and not distributed.any(False)
        assert distributed.gather({"rank": rank, "names": ["ä"] * rank}) == [
            {"rank": 0, "names": []},
            {"rank": 1, "names": ["ä"]},
        ]
    elif not distributed.alone:
        assert distributed.gather("ä") == ["ä"] and isinstance(step.model, DistributedDataParallel)
    distributed.barrier()
    distributed.close()
    return {name: value.cpu().clone() for name, value in method.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    from os import environ

    found = steps(int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(sys.argv[2]), sys.argv[3])
    save_file(found, Path(sys.argv[1]) / f"rank{environ['RANK']}.safetensors")
