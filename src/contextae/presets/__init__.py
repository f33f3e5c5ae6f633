"""Named experiments, each with its source, and the one chosen when none is named."""

from __future__ import annotations

from contextae.errors import UserError, nearest
from contextae.experiment import Experiment
from contextae.presets import published, small
from contextae.settings import Sources

PRESETS = {
    "demo": small.demo,
    "cifar10": small.cifar10,
    "clothing10": small.clothing10,
    "cae_tiny": published.cae_tiny,
    "cae_small": published.cae_small,
    "cae_base": published.cae_base,
    "cae_large": published.cae_large,
    "cae_base_v1_arxiv": published.cae_base_v1_arxiv,
    "cae_v2_tiny": published.cae_v2_tiny,
    "cae_v2_small": published.cae_v2_small,
    "cae_v2_base": published.cae_v2_base,
    "cae_v2_large": published.cae_v2_large,
}


def preset(name: str, source: Sources) -> Experiment:
    """The preset of that name for this data; an unknown name is refused with the nearest one."""
    if name not in PRESETS:
        raise UserError(
            f"There is no preset {name!r}.{nearest(name, PRESETS)} Presets: {', '.join(PRESETS)}. Without --preset one "
            "is chosen from the images and the device."
        )
    return PRESETS[name](source)
