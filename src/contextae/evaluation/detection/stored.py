"""Detections of a part in one file, so that an evaluation that was stopped need not see its images again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from contextae.disk import reason
from contextae.errors import UserError
from contextae.evaluation.detection.objects import Detections, Mask, PackedMasks
from contextae.evaluation.sealed import read_sealed, write_sealed
from contextae.training.manifest import Damaged


def write_detections(path: Path, found: Sequence[Detections], *, identity: str) -> None:
    """Of the first images; `identity` says by which network and of which images they are."""
    tensors = {
        "counts": torch.tensor([len(each) for each in found], dtype=torch.int64),
        "boxes": torch.from_numpy(np.concatenate([np.zeros((0, 4)), *(each.boxes for each in found)])),
        "scores": torch.from_numpy(np.concatenate([np.zeros(0), *(each.scores for each in found)])),
        "classes": torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(each.classes for each in found)])),
    }
    if found and found[0].masks is not None:
        packed = [_packed(each.masks or ()) for each in found]
        tensors["places"] = torch.from_numpy(np.concatenate([each.places for each in packed]))
        tensors["bits"] = torch.from_numpy(np.concatenate([each.bits for each in packed]))
    try:
        write_sealed(path, tensors, {"identity": identity})
    except OSError as error:
        raise UserError(
            f"The detections cannot be written to {path.parent}: {reason(error)}. Make room there, or name another "
            "folder."
        ) from None


def read_detections(path: Path, *, identity: str) -> list[Detections]:
    """As many as there are; none of a file that is not there, is damaged, or is of something else."""
    if not path.exists():
        return []
    try:
        tensors, facts = read_sealed(path)
    except Damaged:
        return []  # they are only a saving of time
    if facts.get("identity") != identity:
        return []
    values = {name: tensor.numpy() for name, tensor in tensors.items()}
    found, start, byte = [], 0, 0
    for count in values["counts"].tolist():
        part = slice(start, start + count)
        masks = None
        if "places" in values:
            masks = PackedMasks(values["places"][part], values["bits"][byte:])
            byte += len(masks.bits)
        found.append(
            Detections(
                boxes=values["boxes"][part],
                scores=values["scores"][part],
                classes=values["classes"][part],
                masks=masks,
            )
        )
        start += count
    return found


def _packed(masks: Sequence[Mask]) -> PackedMasks:
    return masks if isinstance(masks, PackedMasks) else PackedMasks.of(masks)
