"""The frozen teacher behind `Features`: any network of timm, among them the CLIP towers that CAE v2 learns from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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

FLOAT32_ON = ("cpu",)
"""Where a teacher computes in float32 whatever the training does: bfloat16 slows most networks there."""


class Teacher:
    """One feature for the image and one per patch, without gradient, given as float32, and in evaluation mode.

    No module itself, so no method's weights or training mode ever reach its network. `image_size` is what it was
    made for; where `fixed_size` it takes no other. On an accelerator its products are in the training's precision: it
    sees whole images, and in float32 it would take several times as long there as the student's own step. Differs from
    CAE v2, whose teacher computes in float16.
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
        summary = self._map(torch.zeros(1, self.channels, *image_size)).summary
        if not summary.isfinite().all():
            raise UserError(
                f"The teacher {name} gives features that are not finite, so its weights are damaged or one of its "
                f"deviations is zero ({', '.join(f'{value:g}' for value in self.deviation)}). Take a whole copy of it."
            )
        self.width = summary.shape[1]

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
        with _precision(images.device.type):
            mean, deviation = (
                torch.tensor(values, device=images.device).reshape(-1, 1, 1) for values in (self.mean, self.deviation)
            )
            normalised = ((images.float() - mean) / deviation).contiguous(memory_format=torch.channels_last)
            if self._block is None:
                found = last_features(self._network, normalised)
            else:
                found = inner_features(self._network, normalised, self._block)
        return FeatureMap(found.summary.float(), found.places.float())

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


def _precision(device: str) -> AbstractContextManager[object]:
    """Without autocast on some devices; elsewhere that of whoever asks, which is none outside a training's step."""
    return torch.autocast(device, enabled=False) if device in FLOAT32_ON else nullcontext()


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
    mean, deviation = (_numbers(facts, name, channels, wanted.name) for name in ("mean", "std"))
    if image_size is not None and image_size != tuple(size) and facts["fixed_input_size"]:
        _resample_positions(network, image_size, wanted.name)
    random = wanted.source == RANDOM
    return Teacher(
        network=network,
        name=wanted.name if wanted.block is None else f"{wanted.name}@{wanted.block}",
        image_size=image_size or (size[0], size[1]),
        mean=mean,
        deviation=deviation,
        fixed_size=bool(facts["fixed_input_size"]),
        block=wanted.block,
        trained_on="randomly initialised" if random else trained_on(str(facts.get("tag") or "")),
        sha256=sha256,
    )


def _numbers(facts: dict[str, Any], name: str, channels: int, teacher: str) -> list[float]:
    given = facts.get(name)
    right = isinstance(given, list | tuple) and len(given) == channels and all(type(x) in (int, float) for x in given)
    if given is None or not right:
        raise UserError(
            f"The teacher {teacher} takes {channels} channels, so the {name} in its settings must be that many "
            f"numbers. Got {given!r}. Correct it in its config.json."
        )
    return [float(value) for value in given]


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
