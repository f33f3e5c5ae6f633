"""Learning rate of each update: linear warm-up, then a cosine, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`schedule(step)` for updates counted from 0: peak at the end of the warm-up, `final` at the last update.

    Warm-up rises from peak / warmup_steps, so that the first update moves something [the published recipe starts at 0].
    A warm-up as long as the training or longer never reaches the cosine.
    """

    peak: float
    final: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        last = self.total_steps - 1
        progress = (step - self.warmup_steps) / max(1, last - self.warmup_steps)
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
