"""The frozen teacher behind `Features`: any network of timm, among them the CLIP towers that CAE v2 learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.tokenizers.feature_map import (
    FeatureMap,
    check_block,
    inner_features,
    last_features,
    resize,
)
from contextae.tokenizers.supervision import trained_on
from contextae.tokenizers.timm_network import RANDOM, build, parse_teacher


class Teacher:
    """One feature for the image and one per patch, without gradient, in float32 and evaluation mode.

    No module itself, so no method's weights or training mode ever reach its network. `image_size` is what it was
    made for; where `fixed_size` it takes no other. Differs from CAE v2, whose teacher computes in float16.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        name: str,
        image_size: tuple[int, int],
        mean: Sequence[float],
        deviation: Sequence[float],
        fixed_size: bool,
        block: int | None = None,
        trained_on: str | None = None,
        sha256: str | None = None,
    ) -> None:
        if block is not None:
            check_block(network, block)
        self.name, self.image_size, self.fixed_size = name, image_size, fixed_size
        self.mean, self.deviation, self.channels = tuple(mean), tuple(deviation), len(mean)
        self.trained_on, self.sha256 = trained_on, sha256
        # channels last: two to three times as fast for a convolutional network on CPU, the same for a transformer
        self._network = network.float().requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self._block = block
        self.width = self._map(torch.zeros(1, self.channels, *image_size)).summary.shape[1]

    def to(self, device: torch.device | str) -> Teacher:
        """Moves the network and returns itself."""
        self._network.to(device)
        return self

    def features(self, images: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b s k"]:
        """The image's feature, then one per patch of `grid` (height x width), row-major, of images in 0..1.

        The first is the class token, or the mean over the network's own places where it has none. Places are resized
        to `grid` where the network's differ, so the images must show what the student's show.
        """
        self._check(images)
        summary, places = self._map(images)
        patches = resize(places, grid).flatten(2).transpose(1, 2)
        return torch.cat([summary.unsqueeze(1), patches], dim=1)

    @torch.no_grad()
    def _map(self, images: Float[Tensor, "b c h w"]) -> FeatureMap:
        with torch.autocast(images.device.type, enabled=False):
            mean, deviation = (
                torch.tensor(values, device=images.device).reshape(-1, 1, 1) for values in (self.mean, self.deviation)
            )
            normalised = ((images.float() - mean) / deviation).contiguous(memory_format=torch.channels_last)
            if self._block is None:
                return last_features(self._network, normalised)
            return inner_features(self._network, normalised, self._block)

    def _check(self, images: Tensor) -> None:
        channels, *size = images.shape[1:]
        if channels != self.channels:
            raise UserError(
                f"The teacher {self.name} takes images of {self.channels} channels. Got {channels}; set data.channels "
                f"to {self.channels}, or choose another teacher."
            )
        if self.fixed_size and tuple(size) != self.image_size:
            raise UserError(
                f"The teacher {self.name} takes images of {self.image_size[0]} x {self.image_size[1]} alone. Got "
                f"{size[0]} x {size[1]}; show it the image at its size."
            )


def open_teacher(line: str, *, image_size: tuple[int, int] | None = None) -> Teacher:
    """The teacher of a line of settings: `timm:NAME=PATH`, `timm:local-dir:DIR`, `timm:NAME`, `timm:NAME=random`.

    @INDEX at its end takes an inner stage instead of the last. `image_size` replaces the size the network was trained
    for; the positions of a vision transformer are then resampled by timm (bicubic). Raises UserError for a name that
    does not exist, for weights that are not here or do not fit, and for pickles.

    OpenAI trained CLIP with QuickGELU: its exact network is vit_base_patch16_clip_quickgelu_224.openai; the name
    without that word is timm's approximation of it.
    """
    wanted = parse_teacher(line)
    network, facts, sha256 = build(wanted)
    channels, *size = facts["input_size"]
    if len(facts["mean"]) != channels or len(facts["std"]) != channels:
        raise UserError(
            f"The teacher {wanted.name} takes {channels} channels, but its settings give {len(facts['mean'])} means "
            f"and {len(facts['std'])} deviations. Correct them in its config.json."
        )
    if image_size is not None and image_size != tuple(size) and facts["fixed_input_size"]:
        _resample_positions(network, image_size, wanted.name)
    random = wanted.source == RANDOM
    return Teacher(
        network=network,
        name=wanted.name if wanted.block is None else f"{wanted.name}@{wanted.block}",
        image_size=image_size or (size[0], size[1]),
        mean=facts["mean"],
        deviation=facts["std"],
        fixed_size=bool(facts["fixed_input_size"]),
        block=wanted.block,
        trained_on="randomly initialised" if random else trained_on(facts.get("tag") or ""),
        sha256=sha256,
    )


def _resample_positions(network: Any, image_size: tuple[int, int], name: str) -> None:
    if not all(hasattr(network, need) for need in ("set_input_size", "pos_embed", "patch_embed")):
        raise UserError(f"The teacher {name} takes no other image size than its own. Leave out the one given.")
    patch = network.patch_embed.patch_size
    if image_size[0] % patch[0] or image_size[1] % patch[1]:
        raise UserError(
            f"The image size of the teacher {name} must be a multiple of its patches of {patch[0]} x {patch[1]}. Got "
            f"{image_size[0]} x {image_size[1]}."
        )
    network.set_input_size(img_size=image_size)
