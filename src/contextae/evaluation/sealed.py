"""Tensors and facts in one safetensors file that is whole or absent, and carries a hash of all that it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from contextae.disk import replace_file
from contextae.training.manifest import Damaged
from contextae.training.saved import on_host, read_tensors

FACTS, SEAL = "facts", "sha256"


def write_sealed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replaces the file in one go; `facts` are plain values and go into its header. OSError where it cannot."""
    host, told = on_host(tensors), json.dumps(facts, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save(host, {FACTS: told, SEAL: seal(host, told)}))


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU, and the facts; raises `Damaged` where it is not what was written."""
    tensors, header = read_tensors(path)
    if header.get(SEAL) != seal(tensors, header.get(FACTS, "")):
        raise Damaged(f"{path.name} does not have the hash that its header names")
    return tensors, json.loads(header[FACTS])


def seal(tensors: Mapping[str, Tensor], told: str = "") -> str:
    """SHA-256 over names, types, shapes and bytes of tensors on the CPU, and over words."""
    digest = hashlib.sha256(told.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():  # of empty ones made by NumPy torch makes no bytes
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
