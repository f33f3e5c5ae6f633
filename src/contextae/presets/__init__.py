"""Named experiments, each with its source, and the one chosen when none is named."""

from __future__ import annotations

from contextae.errors import UserError, nearest
from contextae.experiment import Experiment
from contextae.presets.small import cifar10, clothing10, demo

PRESETS = {"demo": demo, "cifar10": cifar10, "clothing10": clothing10}


def preset(name: str, source: str) -> Experiment:
    """The preset of that name for this data; an unknown name is refused with the nearest one."""
    if name not in PRESETS:
        raise UserError(
            f"There is no preset {name!r}.{nearest(name, PRESETS)} Presets: {', '.join(PRESETS)}. Without --preset one "
            "is chosen from the images and the device."
        )
    return PRESETS[name](source)
