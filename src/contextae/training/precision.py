"""Which number format a training computes in, and the context that makes it do so."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch

from contextae.errors import UserError

SIDE, REPEATS = 1024, 5
MARGIN = 1.2
"""How many times as fast bfloat16 products must be on CPU before their rounding is worth it."""


class Resolved(NamedTuple):
    """The format, and in a few words why."""

    precision: Literal["float32", "bfloat16"]
    reason: str


def resolve(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Resolved:
    """What `precision` means on this device. On CPU `auto` measures, because the instruction set alone tells little."""
    if precision == "float32":
        return Resolved("float32", "as set")
    supported, why_not = _supports_bfloat16(device)
    if precision == "bfloat16":
        if not supported:
            raise UserError(f"training.precision bfloat16 needs a device that has it. {why_not}; use float32 or auto.")
        return Resolved("bfloat16", "as set")
    if not supported:
        return Resolved("float32", why_not)
    if device.type != "cpu":
        return Resolved("bfloat16", f"{device.type} has it")
    ratio = product_seconds(torch.float32) / product_seconds(torch.bfloat16)
    measured = f"products in bfloat16 run at {ratio:.1f} times the rate of float32 here, measured"
    return Resolved("bfloat16" if ratio >= MARGIN else "float32", measured)


def _supports_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False), "this GPU has no bfloat16"
    if device.type == "cpu":
        return _cpu_has_bfloat16(), "this CPU has no bfloat16 products"
    return False, f"bfloat16 is not used on {device.type}"


def _cpu_has_bfloat16() -> bool:
    """By its instruction set: of x86 or of ARM."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch of before 2026
        return bool(torch.cpu._is_avx512_bf16_supported())
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))


def product_seconds(dtype: torch.dtype) -> float:
    """The shortest of some products of two square matrices."""
    a, b = (torch.ones(SIDE, SIDE, dtype=dtype) for _ in range(2))
    shortest = float("inf")
    for _ in range(REPEATS + 1):  # the first one warms up
        start = time.perf_counter()
        a @ b
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Products in bfloat16 with float32 weights, norms and losses; or nothing at all."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
