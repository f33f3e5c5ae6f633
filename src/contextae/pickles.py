"""Which files are pickles: they can run any program when they are opened, so nothing here opens them."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
STARTS = (b"\x80", b"PK\x03\x04")  # pickle protocol 2 and later; the zip archive of torch.save


def is_pickle(path: Path) -> bool:
    """By its name or its first bytes. OSError where it cannot be read.

    A safetensors file starts with a length of eight bytes, whose first may be a pickle's; then comes an opening brace.
    """
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix.lower() in SUFFIXES or (start.startswith(STARTS) and start[8:] != b"{")
