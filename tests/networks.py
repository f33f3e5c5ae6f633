"""Small networks and batches for the tests: every axis of another size, never as many visible as masked patches."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from contextae.alignment import StopGradient
from contextae.decoder import Decoder
from contextae.encoder import Encoder
from contextae.grid import Grid
from contextae.masking import Mask, RandomMasker
from contextae.methods.cae import CAE
from contextae.methods.cae_v2 import CAEv2
from contextae.methods.mae import MAE, MAEDecoder
from contextae.methods.views import MaskedView
from contextae.randomness import stream
from contextae.regressor import Regressor
from contextae.targets import Features, Pixels

SPECTROGRAM = Grid(image_size=(39,), patch_size=(3,), channels=2)  # 13 patches of 6 values
IMAGE = Grid(image_size=(10, 21), patch_size=(2, 3), channels=5)  # 5 x 7 patches of 30 values
CLIP = Grid(image_size=(4, 9, 20), patch_size=(2, 3, 4), channels=1)  # 2 x 3 x 5 patches of 24 values
GRIDS = {"1-D": SPECTROGRAM, "2-D": IMAGE, "3-D": CLIP}


def image_grid(channels: int) -> Grid:
    """5 x 7 patches of 2 x 3 pixels."""
    return Grid(image_size=IMAGE.image_size, patch_size=IMAGE.patch_size, channels=channels)


def shake(module: nn.Module, *, scale: float = 0.1, seed: int = 1) -> None:
    """Noise on every weight, so that no bias is zero, no norm is the identity and no layer scale is uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight += scale * torch.randn(weight.shape, generator=generator)


def small_cae(
    grid: Grid = IMAGE,
    *,
    width: int = 22,
    decoder_width: int | None = None,
    depth: int = 2,
    drop_path: float = 0.0,
    alignment_weight: float = 2.0,
    seed: int = 0,
) -> CAE:
    """CAE of width 22 with 2 heads of 11; another `decoder_width` brings the projection in."""
    torch.manual_seed(seed)
    narrow = decoder_width or width
    target = Pixels(grid=grid)
    method = CAE(
        encoder=Encoder(grid=grid, width=width, depth=depth, num_heads=2, drop_path=drop_path),
        regressor=Regressor(grid=grid, width=narrow, depth=2, num_heads=2, drop_path=drop_path),
        decoder=Decoder(grid=grid, width=narrow, depth=2, num_heads=2, outputs=target.width, drop_path=drop_path),
        target=target,
        alignment=StopGradient(),
        alignment_weight=alignment_weight,
    )
    shake(method)
    return method


def small_mae(
    grid: Grid = IMAGE,
    *,
    width: int = 22,
    decoder_width: int | None = None,
    depth: int = 2,
    drop_path: float = 0.0,
    seed: int = 0,
) -> MAE:
    """MAE of width 22 with 2 heads of 11, and a decoder of width 18."""
    torch.manual_seed(seed)
    target, narrow = Pixels(grid=grid), decoder_width or 18
    method = MAE(
        encoder=Encoder(grid=grid, width=width, depth=depth, num_heads=2, drop_path=drop_path),
        decoder=MAEDecoder(grid=grid, encoder_width=width, width=narrow, depth=2, num_heads=2, outputs=target.width),
        target=target,
    )
    shake(method)
    return method


def small_cae_v2(
    grid: Grid = IMAGE,
    *,
    width: int = 22,
    decoder_width: int | None = None,
    depth: int = 2,
    drop_path: float = 0.0,
    seed: int = 0,
) -> CAEv2:
    """CAE v2 of width 22 with 2 heads of 11, taught the colours of patches."""
    torch.manual_seed(seed)
    facts = {"mean": [0.5] * grid.channels, "deviation": [0.25] * grid.channels}
    method = CAEv2(
        encoder=Encoder(grid=grid, width=width, depth=depth, num_heads=2, drop_path=drop_path),
        regressor=Regressor(grid=grid, width=decoder_width or width, depth=2, num_heads=2, drop_path=drop_path),
        target=Features(width=3 * grid.channels, grid=grid, teacher=ColourTeacher(), **facts),
    )
    shake(method)
    return method


def masked_batch(grid: Grid = IMAGE, *, size: int = 3, num_masked: int | None = None, seed: int = 0) -> MaskedView:
    """Random images, a mask of its own for each (37 % masked), and keys of stochastic depth."""
    masker = RandomMasker(size=grid.size, num_masked=num_masked or round(0.37 * grid.num_patches))
    masks = [masker(stream(seed, i)) for i in range(size)]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, grid.channels, *grid.image_size, generator=generator)
    keys = torch.tensor([stream(seed, "key", i).getrandbits(62) for i in range(size)])
    return MaskedView(images, Mask(*(torch.from_numpy(np.stack(part)) for part in zip(*masks, strict=True))), keys)


def reordered(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """`values` b s ... with each sample's rows in its own `order` b s."""
    index = order.reshape(*order.shape, *(1,) * (values.ndim - 2)).expand_as(values)
    return values.gather(1, index)


def shuffles(rows: int, length: int, *, seed: int = 7) -> torch.Tensor:
    """One permutation of range(length) per row, none of them the identity."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(length, generator=generator) for _ in range(rows)])
    assert (orders != torch.arange(length)).any(dim=1).all()
    return orders


def largest(difference: torch.Tensor) -> float:
    """The largest absolute element."""
    return float(difference.detach().abs().max())


class ColourTeacher:
    """A teacher that knows the mean colour of each patch and of the whole image, of its square and its absolute."""

    width, image_size = 15, (10, 21)
    name, trained_on = "colours", None

    def to(self, device: torch.device) -> ColourTeacher:
        return self

    def features(self, images: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(grid) - 1]
        values = torch.cat([images, images.square(), images.abs()], dim=1)
        return torch.cat([values.flatten(2).mean(2).unsqueeze(1), pool(values, grid).flatten(2).mT], dim=1)
