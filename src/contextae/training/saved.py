"""A checkpoint in memory and back from the disk: tensors as safetensors, the rest as JSON, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from contextae.disk import reason, write_file
from contextae.training.manifest import (
    FORMAT,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Damaged,
    FileFacts,
    Manifest,
    verify,
    write_manifest,
)

MARK = "contextae"
"""Name, in the header of a weights file, under which the format version says that the file is ours."""


class Saved(NamedTuple):
    """A verified checkpoint: all of it, on the CPU, after `step` steps."""

    step: int
    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    metadata: dict[str, str]
    score: float | None


class Content(NamedTuple):
    """What goes into a checkpoint."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]
    metadata: Mapping[str, str]
    score: float | None


def write_checkpoint(folder: Path, content: Content) -> None:
    """Fills an existing empty folder; the manifest comes last, after the files have been opened again."""
    header = {**content.metadata, "format": "pt", MARK: str(FORMAT)}
    files = {}
    for name, tensors, metadata in ((WEIGHTS, content.weights, header), (OPTIMIZER, content.optimizer, None)):
        data = save(on_host(tensors), metadata)
        files[name] = FileFacts(len(data), write_file(folder / name, data))
        del data  # at most one file's worth of memory beside the tensors
        _reopen(folder / name, tensors)
    data = json.dumps(content.state, allow_nan=False).encode()
    files[STATE] = FileFacts(len(data), write_file(folder / STATE, data))
    write_manifest(folder, Manifest(content.step, content.score, files))


def read_checkpoint(folder: Path) -> Saved:
    """Everything, after every byte has been compared with the manifest; raises `Damaged`."""
    manifest = verify(folder)
    weights, metadata = read_tensors(folder / WEIGHTS)
    optimizer, _ = read_tensors(folder / OPTIMIZER)
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{STATE} cannot be read: {error}") from None
    return Saved(manifest.step, folder, weights, optimizer, state, metadata, manifest.score)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and the header's words of a safetensors file; raises `Damaged`.

    The tensors are copies: safetensors maps the file into memory, and what happens to it later would reach them.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise Damaged(f"{path.name} is no readable safetensors file: {error}") from None
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {reason(error)}") from None


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two of which share memory, which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        host = tensor.detach().cpu().contiguous()
        storage = host.untyped_storage().data_ptr()
        apart[name] = host.clone() if storage in seen else host
        seen.add(storage)
    return apart


def _reopen(path: Path, tensors: Iterable[str]) -> None:
    """The reader's own opinion of what was just written."""
    try:
        with safe_open(path, framework="pt") as file:
            same = set(file.keys()) == set(tensors)
    except SafetensorError as error:
        raise OSError(f"{path.name} could not be opened again: {error}") from None
    if not same:
        raise OSError(f"{path.name} came back with other tensors than were written")
