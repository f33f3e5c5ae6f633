"""Training steps on a CUDA device, eager and by torch.compile: images/s, first loss, graph breaks, peak memory.

    python benchmarks/compiled.py [--batch 256] [--steps 12]

CAE at ViT-S/16 and ViT-B/16, 224 px, regressor 4, decoder 4, 98 of 196 patches masked, pixels, fused AdamW, one batch
that stays on the device. Timed after five steps, of which the first compiles; its seconds are printed. Equal first
losses say that both compute the same.
"""

from __future__ import annotations

import argparse
import time

import torch
from step import make
from torch._dynamo.utils import counters

from contextae.masking import Mask
from contextae.methods.views import MaskedView
from contextae.training.precision import autocast

SIZES = {"ViT-S/16": (384, 6), "ViT-B/16": (768, 12)}
CUDA = torch.device("cuda")


def on_device(batch: MaskedView) -> MaskedView:
    """All of it there."""
    mask = Mask(*(part.to(CUDA) for part in batch.mask))
    return batch._replace(images=batch.images.to(CUDA), mask=mask, key=batch.key.to(CUDA))


def measure(name: str, precision: str, *, compiled: bool, batch: int, steps: int) -> str:
    """A line of figures."""
    width, num_heads = SIZES[name]
    method, batches = make(batch, width=width, num_heads=num_heads)
    method, data = method.to(CUDA), on_device(batches)
    torch._dynamo.reset()
    counters.clear()
    model = torch.compile(method) if compiled else method
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with autocast(precision, CUDA):
            loss = model(data)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 3.0)
        optimizer.step()
        return loss.total.detach()

    begun = time.perf_counter()
    first = step().item()
    waited = time.perf_counter() - begun
    for _ in range(4):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    rate = batch * steps / (time.perf_counter() - begun)
    breaks = f", {sum(counters['graph_break'].values())} graph breaks" if compiled else ""
    return (
        f"{name} {precision} {'compiled' if compiled else 'eager'}: {rate:.0f} images/s, first loss {first:.5f} after "
        f"{waited:.1f} s, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB{breaks}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for name in SIZES:
        for precision in ("float32", "bfloat16"):
            for compiled in (False, True):
                print(measure(name, precision, compiled=compiled, batch=arguments.batch, steps=arguments.steps))


if __name__ == "__main__":
    main()
