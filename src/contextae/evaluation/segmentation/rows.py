"""What one training was measured to be, kept on the disk so that a later call need not train again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from contextae.disk import reason, replace_file
from contextae.errors import UserError
from contextae.evaluation.sealed import read_sealed, write_sealed
from contextae.evaluation.segmentation.metrics import Tallies
from contextae.training.manifest import Damaged

ROW_FILE, WHOSE = "figures.safetensors", "evaluation.json"
PARTS = ("true", "predicted", "both")


@dataclass(frozen=True)
class Row:
    """Figures on test of one training, what was chosen for it and by which score, and class maps of some images."""

    tallies: Tallies
    chosen: Mapping[str, float | int]
    held_out: float | None
    seconds: float
    maps: Sequence[np.ndarray] = ()


def write_row(folder: Path, row: Row) -> None:
    """UserError where there is no room."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(row.tallies, name))) for name in PARTS}
    tensors |= {f"map/{i:03}": torch.from_numpy(np.ascontiguousarray(each)) for i, each in enumerate(row.maps)}
    facts = {"chosen": dict(row.chosen), "held_out": row.held_out, "seconds": row.seconds}
    try:
        write_sealed(folder / ROW_FILE, tensors, facts)
    except OSError as error:
        raise _unwritable(folder, error) from None


def read_row(folder: Path) -> Row | None:
    """None where this training has not been measured yet."""
    if not (folder / ROW_FILE).exists():
        return None
    try:
        tensors, facts = read_sealed(folder / ROW_FILE)
    except Damaged as damage:
        raise UserError(
            f"The figures in {folder} are damaged: {damage}. Remove the folder to make them anew."
        ) from None
    maps = [tensors[name].numpy() for name in sorted(tensors) if name.startswith("map/")]
    return Row(
        Tallies(*(tensors[name].numpy() for name in PARTS)), facts["chosen"], facts["held_out"], facts["seconds"], maps
    )


def claim(folder: Path, identity: str) -> None:
    """Marks a folder as that of this evaluation; UserError where it is of another."""
    path = folder / WHOSE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if json.loads(path.read_bytes()) != {"identity": identity}:
                raise UserError(
                    f"{folder} holds the state of another evaluation: weights, data, settings or seed differ. Remove "
                    "it to begin anew, or name another folder."
                )
            return
        replace_file(path, json.dumps({"identity": identity}).encode())
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The state of the evaluation cannot be kept in {folder}: {reason(error)}. Make room there, or name another "
        "folder."
    )
