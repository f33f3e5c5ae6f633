"""Memory that a step frees, kept by the C library for the next step instead of being given back to the system."""

from __future__ import annotations

import ctypes

# malloc.h of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
NEVER = -1
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Half of glibc's heap size: it refuses more, and takes larger pieces from the system one by one."""
AT_A_TIME = 256 * 2**20
"""By which the heap grows, so that a training reaches its size within the first step."""


def keep_freed_memory() -> bool:
    """For this whole process; False where the C library is not glibc and nothing was changed.

    A training step on CPU frees what it allocates, many megabytes at a time. By default glibc gives it back, and the
    system clears each page again at its first use: at ViT-S/16 with 16 images 60,000 page faults a step. The peak of
    memory stays the same, it is merely not given back between steps (benchmarks/step.py --allocator prints the ratio).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, AT_A_TIME))
    return all(mallopt(name, value) == 1 for name, value in settings)
