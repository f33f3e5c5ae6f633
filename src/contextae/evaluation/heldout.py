"""The part of train that is held out, on which every setting of every protocol is chosen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from contextae.errors import UserError
from contextae.randomness import key


class Parts(NamedTuple):
    """Positions within train, ascending; together each image once."""

    fit: Int[Tensor, " f"]
    held_out: Int[Tensor, " o"]


def split(labels: Int[Tensor, " n"], *, seed: int, share: float = 0.1, at_most: int = 5_000) -> Parts:
    """Holds out `share` of every class, at most `at_most` images in all and at least one of a class with two or more.

    Differs from a plain random split: a class with a single image stays on the fitting side.
    """
    share = min(share, at_most / max(1, len(labels)))
    rng = np.random.default_rng(key("held out", seed))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for each in labels.unique():
        positions = torch.nonzero(labels == each).squeeze(1)
        count = max(1, round(share * len(positions))) if len(positions) > 1 else 0
        chosen[positions[torch.from_numpy(rng.permutation(len(positions))[:count])]] = True
    if not chosen.any() or len(labels.unique()) < 2:
        raise UserError(
            f"Settings are chosen on a held-out part of train, which needs two classes and two images of one of them. "
            f"Got {len(labels)} images of {len(labels.unique())} class(es); give more labelled images."
        )
    return Parts(fit=torch.nonzero(~chosen).squeeze(1), held_out=torch.nonzero(chosen).squeeze(1))
