"""A CAE from plain keywords and masks for a batch: all that an ordinary torch loop needs."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from contextae.encoder import EncoderConfig
from contextae.masking import Mask, Masker
from contextae.methods.cae import CAE, CAEConfig
from contextae.methods.views import MaskedView
from contextae.randomness import key, stream
from contextae.targets import Pixels


def cae(
    *,
    image_size: tuple[int, int],
    patch_size: tuple[int, int] = (16, 16),
    channels: int = 3,
    width: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    regressor_depth: int = 4,
    decoder_depth: int = 4,
    alignment_weight: float = 2.0,
    drop_path: float = 0.0,
) -> CAE:
    """A freshly initialised CAE on per-patch normalised pixels; seed torch first. Sizes are (height, width) in pixels.

    The defaults are a ViT-S/16 with the released recipe's regressor, decoder and weight of the alignment. What is not
    here is put together from Encoder, Regressor, Decoder, a target and an alignment: `CAE` takes them as they are.
    """
    trunk = EncoderConfig(patch_size=patch_size, width=width, depth=depth, num_heads=num_heads, drop_path=drop_path)
    config = CAEConfig(regressor_depth=regressor_depth, decoder_depth=decoder_depth, alignment_weight=alignment_weight)
    target = Pixels(grid=trunk.grid(image_size=image_size, channels=channels))
    return config.build(trunk, image_size=image_size, channels=channels, target=target)


def mask_images(images: Float[Tensor, "b c h w"], masker: Masker, *, seed: int) -> MaskedView:
    """A mask for each image, drawn by (seed, its place in the batch), on the images' device.

    Give every step a seed of its own, or all steps hide the same patches.
    """
    masks = [masker(stream(seed, i)) for i in range(len(images))]
    mask = Mask(*(torch.from_numpy(np.stack(part)).to(images.device) for part in zip(*masks, strict=True)))
    keys = torch.tensor([key(seed, "drop path", i) for i in range(len(images))], device=images.device)
    return MaskedView(images, mask, keys)
