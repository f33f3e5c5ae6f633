"""Features of an image and of its places from any network of timm, and their move to another grid."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from contextae.errors import UserError

LABELS = (1000, 11821)
"""Classes of ImageNet-1k and of timm's ImageNet-12k: a CLIP tower with such a head was fine-tuned to them."""


class FeatureMap(NamedTuple):
    """One vector per image and one per place of the network's own grid."""

    summary: Float[Tensor, "b k"]
    places: Float[Tensor, "b k i j"]


def text_projection(network: Any) -> nn.Module | None:
    """The projection of a CLIP vision transformer into the space it shares with text: timm keeps it as `head`."""
    architecture, head = network.pretrained_cfg["architecture"], getattr(network, "head", None)
    tower = "_clip_" in architecture or "_mci_" in architecture
    return head if tower and isinstance(head, nn.Linear) and head.out_features not in LABELS else None


def last_features(network: Any, images: Float[Tensor, "b c h w"]) -> FeatureMap:
    """After the last stage; of a vision transformer after its final norm, and of a CLIP tower in the space of text.

    `summary` is the class token, or the mean over places where the network has none. Tokens that stand for no place
    (registers, distillation) are left out. As in CAE v2, CLIP's final norm and projection are applied to all tokens.
    """
    output = network.forward_features(images)
    if isinstance(output, Tensor) and output.ndim == 4:
        places = output.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else output
        return FeatureMap(places.mean((2, 3)), places)
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    extra = getattr(network, "num_prefix_tokens", 0)
    if not isinstance(output, Tensor) or grid is None or output.shape[1] != extra + grid[0] * grid[1]:
        raise UserError(
            f"Places cannot be read from the output of {network.pretrained_cfg['architecture']}: it is neither a map "
            "nor one token per patch. Choose another teacher, or an inner stage of it by adding @INDEX."
        )
    tokens = network.fc_norm(output) if isinstance(getattr(network, "fc_norm", None), nn.Module) else output
    projection = text_projection(network)
    tokens = tokens if projection is None else projection(tokens)
    places = tokens[:, extra:].transpose(1, 2).unflatten(2, tuple(grid))
    return FeatureMap(tokens[:, 0] if _has_class_token(network) else places.mean((2, 3)), places)


def inner_features(network: Any, images: Float[Tensor, "b c h w"], block: int) -> FeatureMap:
    """After stage `block`, as timm's `forward_intermediates` numbers them, without a final norm or projection.

    `summary` is the class token of a vision transformer that has one, else the mean over places.
    """
    read = network.forward_intermediates
    options: dict[str, Any] = {"indices": [block], "intermediates_only": True, "stop_early": True, "output_fmt": "NCHW"}
    if _has_class_token(network) and "return_prefix_tokens" in inspect.signature(read).parameters:
        [(places, extra)] = read(images, return_prefix_tokens=True, **options)
        return FeatureMap(extra[:, 0], places)
    [places] = read(images, **options)
    return FeatureMap(places.mean((2, 3)), places)


def check_block(network: Any, block: int) -> None:
    """Refuses a stage that the network does not have."""
    architecture = network.pretrained_cfg["architecture"]
    if not hasattr(network, "forward_intermediates"):
        raise UserError(f"timm gives no inner stages of {architecture}. Leave out @{block} for its last features.")
    if block >= (count := len(network.feature_info)):
        raise UserError(f"The stages of {architecture} are 0 to {count - 1}. Got @{block}; leave it out for the last.")


def _has_class_token(network: Any) -> bool:
    return isinstance(getattr(network, "cls_token", None), Tensor)


def resize(places: Float[Tensor, "b k i j"], grid: tuple[int, int]) -> Float[Tensor, "b k y x"]:
    """The map on another grid over the same image: means over areas where it shrinks, bilinear where it grows."""
    rows, columns = places.shape[2:]
    places = F.adaptive_avg_pool2d(places, (min(rows, grid[0]), min(columns, grid[1])))
    if places.shape[2:] == grid:
        return places
    return F.interpolate(places, size=grid, mode="bilinear", align_corners=False)
