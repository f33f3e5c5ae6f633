"""Freed memory stays with the process: counted in page faults, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys
from contextae.training.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def use():
    pieces = [library.malloc(24 * 2**20) for _ in range(8)]
    for piece in pieces:
        ctypes.memset(piece, 1, 24 * 2**20)
    for piece in pieces:
        library.free(piece)

use(), use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(which: str) -> int:
    ran = subprocess.run([sys.executable, "-c", COUNT, which], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_was_freed_is_not_asked_of_the_system_again() -> None:
    pages = 4 * 8 * 24 * 2**20 // 4096
    assert faults("kept") < pages / 100
    assert faults("given back") > pages / 2  # else there was nothing to keep


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextae.training import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()
