"""The training step's model FLOPs per second as a share of this machine's matrix-product rate, measured in one run.

    python benchmarks/step.py [--rounds 6] [--batch 16] [--threads 2] [--attention] [--allocator]

Counted: floating-point operations of forward and backward by torch's FlopCounterMode (matrix products only; norms,
GELU, softmax and the optimiser are not counted, yet their time is). CAE at ViT-S/16, 224 px: width 384, depth 12, 6
heads, regressor 4, decoder 4, 98 of 196 patches masked, pixels, fused AdamW. The rate is the best of `rounds`
products of two 2048 x 2048 matrices, one before each timed step, so that both see the same noise; the step's time is
the best too. Each row is measured in a process of its own, whose peak resident memory is printed: within one process
that number never falls, so that the second row would show the first one's.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import contextae.blocks
from contextae.encoder import EncoderConfig
from contextae.masking import BlockMasker, Mask
from contextae.methods.cae import CAE, CAEConfig
from contextae.methods.views import MaskedView
from contextae.targets import Pixels
from contextae.training.allocator import keep_freed_memory
from contextae.training.precision import autocast

SIDE = 2048
COUNTED = (
    "counted: matrix products of forward and backward (FlopCounterMode), over the time of the whole step with clipping "
    f"and optimiser; rate: products of {SIDE} x {SIDE}; both the best of {{rounds}}; memory: each row's own process"
)


def matrix_seconds(dtype: torch.dtype) -> Callable[[], float]:
    """Seconds of one square product, operands made once."""
    a, b = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)

    def once() -> float:
        start = time.perf_counter()
        a @ b
        return time.perf_counter() - start

    return once


def make(batch: int, *, width: int = 384, num_heads: int = 6) -> tuple[CAE, MaskedView]:
    """ViT-S/16, or one of another width, with a batch in memory."""
    torch.manual_seed(0)
    trunk = EncoderConfig(patch_size=(16, 16), width=width, depth=12, num_heads=num_heads)
    target = Pixels(grid=trunk.grid(image_size=(224, 224), channels=3))
    method = CAEConfig(regressor_depth=4, decoder_depth=4).build(
        trunk, image_size=(224, 224), channels=3, target=target
    )
    masker = BlockMasker(size=(14, 14), num_masked=98)
    masks = [masker(random.Random(i)) for i in range(batch)]
    mask = Mask(*(torch.from_numpy(np.stack(part)) for part in zip(*masks, strict=True)))
    return method, MaskedView(torch.randn(batch, 3, 224, 224), mask, torch.arange(batch))


def measure(
    precision: str, *, batch: int, rounds: int, threads: int, keep: bool = True, fused: bool = False
) -> dict[str, float]:
    """FLOPs of a step, its best time, the best matrix rate, and their ratio; changes its process for good.

    `keep` keeps freed memory, as `contextae pretrain` does; `fused` takes torch's attention in place of plain products.
    """
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    if fused:
        contextae.blocks.attend = torch.nn.functional.scaled_dot_product_attention  # type: ignore[assignment]
    method, data = make(batch)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)
    cpu = torch.device("cpu")

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, cpu):
            loss = method(data)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 3.0)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    product = matrix_seconds(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    product(), step()
    steps, products = [], []
    for _ in range(rounds):
        products.append(product())
        start = time.perf_counter()
        step()
        steps.append(time.perf_counter() - start)
    flops, rate = counter.get_total_flops(), 2 * SIDE**3 / min(products)
    return {
        "gflop_per_image": flops / batch / 1e9,
        "matrix_gflops_per_s": rate / 1e9,
        "step_gflops_per_s": flops / min(steps) / 1e9,
        "images_per_s": batch / min(steps),
        "share": flops / min(steps) / rate,
        "median_share": flops / float(np.median(steps)) / (2 * SIDE**3 / float(np.median(products))),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def alone(precision: str, **settings: Any) -> dict[str, float]:
    """`measure` in a process of its own, of which this one, which computes nothing, is the smaller."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, precision, **settings).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", action="store_true", help="also the step with torch's fused attention on CPU")
    parser.add_argument("--allocator", action="store_true", help="also the step with memory given back to the system")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.processor() or platform.machine()}")
    print(COUNTED.format(rounds=arguments.rounds))
    figures = {}
    common = {"batch": arguments.batch, "rounds": arguments.rounds, "threads": arguments.threads}
    for precision in ("float32", "bfloat16"):
        row = figures[precision] = alone(precision, **common)
        print(f"{precision:9s} " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
        if arguments.allocator and precision == "float32":
            ratio = row["images_per_s"] / alone(precision, **common, keep=False)["images_per_s"]
            print(f"{precision:9s} freed memory kept over given back: {ratio:.2f} times the images/s")
            row["kept_over_given_back"] = ratio
        if arguments.attention:
            ratio = row["images_per_s"] / alone(precision, **common, fused=True)["images_per_s"]
            print(f"{precision:9s} plain products over torch's fused attention: {ratio:.2f} times the images/s")
            row["plain_over_fused_attention"] = ratio
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
