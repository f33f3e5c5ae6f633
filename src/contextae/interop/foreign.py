"""Foreign files of weights to tensors by name: pickles of torch.save, safetensors, npz. Nothing in them is run.

`contextae convert` is the only caller; everywhere else weights are safetensors files.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from contextae.errors import UserError, nearest
from contextae.interop.inert import BROKEN, read_inert
from contextae.interop.official_read import listed

STATE = "state/"  # the tensors of a captured network stand below it in an npz file
MARK = "contextae"


class Foreign(NamedTuple):
    """What lies in a file, not yet unwrapped, and what reading it has to say."""

    state: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def read_foreign(path: Path) -> Foreign:
    """Tensors by name; UserError for what is not there, damaged, contextae's own, or asks for a program to be run."""
    if not path.is_file():
        names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        close, what = nearest(path.name, names), "is not there"
        if path.is_dir():
            close, what = "", "is a folder"
        raise UserError(f"The file to convert must be one of weights. {path} {what}; give the path of a file.{close}")
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    if path.suffix.lower() == ".npz":
        return _npz(path)
    return _pickle(path)


def _safetensors(path: Path) -> Foreign:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            own = MARK in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no whole safetensors file: {error}. Copy it again from where it came.") from None
    if own:
        raise UserError(
            f"{path} is already a file of contextae, so there is nothing to convert. Use it as it is, or take its "
            "encoder elsewhere with `contextae export`."
        )
    return Foreign(tensors)


def _npz(path: Path) -> Foreign:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if name.startswith(STATE)] or arrays.files
            tensors = {name.removeprefix(STATE): torch.from_numpy(arrays[name]) for name in names}
    except (ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no whole npz file of arrays: {error}. Copy it again from where it came.") from None
    return Foreign(tensors)


def _pickle(path: Path) -> Foreign:
    """torch's restricted unpickler, which reads tensors and plain values; what it refuses is read as inert records."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*BROKEN, RuntimeError):
        state = None
    if isinstance(state, Mapping):
        return Foreign(state)
    pickled = read_inert(path)
    strange = [
        name for name in pickled.imports if not name.startswith(("torch._utils.", "collections.", "torch.Float"))
    ]
    return Foreign(
        pickled.state,
        (
            f"A pickled {pickled.kind}, of which the tensors alone were read. It names {len(strange)} classes and "
            f"functions ({listed(strange)}); none was imported or called.",
        ),
    )
