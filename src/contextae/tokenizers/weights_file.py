"""A weights file of somebody else's network: tensors of a safetensors file, its sha256, and its place in a module.

Pickles are not opened here, whatever is in them: `contextae convert` is their only reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from contextae.errors import UserError, nearest
from contextae.pickles import is_pickle


class WeightsFile(NamedTuple):
    """Tensors by name, on the CPU, and the hash of the file they come from."""

    path: Path
    tensors: dict[str, Tensor]
    sha256: str


def _pickled(path: Path) -> UserError:
    return UserError(
        f"Frozen networks are read from safetensors files only. {path} is a pickle or an archive of one, which can run "
        "any program when it is opened, so it was not opened. Make a safe file of it first: contextae convert "
        f"{path} --to tensors --out {path.with_suffix('.safetensors').name}"
    )


def read_weights_file(path: Path, *, pickled: Callable[[Path], UserError] = _pickled) -> WeightsFile:
    """All of a safetensors file. Raises UserError for a pickle, a folder, a damaged file, and where there is none.

    `pickled` words the first of these.
    """
    sha256 = _hash(path, pickled)
    try:
        with safe_open(path, framework="pt") as file:
            # copies: safetensors maps the file into memory, and what happens to it later would reach them
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is no readable safetensors file: {error}. Copy it again from where it came.") from None
    return WeightsFile(path, tensors, sha256)


def _hash(path: Path, pickled: Callable[[Path], UserError]) -> str:
    try:
        if is_pickle(path):
            raise pickled(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        close = nearest(path.name, [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise UserError(f"There is no weights file at {path}. Give the path of a safetensors file.{close}") from None
    except OSError as error:  # a folder, or no permission
        raise UserError(f"{path} cannot be read: {error.strerror}. Give the path of a safetensors file.") from None


def place(module: nn.Module, tensors: Mapping[str, Tensor], *, origin: str, advice: str) -> None:
    """Loads every tensor; missing, unknown or differently shaped ones are refused by name and nothing is loaded."""
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} is {_shape(tensors[name])} instead of {_shape(wanted[name])}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if missing or unknown or shapes:
        problems = [
            f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if names
        ]
        raise UserError(f"The weights in {origin} are not those of this network ({'; '.join(problems)}). {advice}")
    module.load_state_dict(dict(tensors))


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
