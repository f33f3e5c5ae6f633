"""An encoder that is trained on with labels, or read frozen, at any input size: its tokens and its feature maps."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.encoder import Encoder, resized
from contextae.grid import Grid, patchify

MAP_SHARES = (1 / 3, 1 / 2, 2 / 3, 1.0)
"""Of the depth: after blocks 4, 6, 8 and 12 of 12, and 8, 12, 16 and 24 of 24 [published CAE, segmentation]."""


class RelativeBias(nn.Module):
    """BEiT's relative-position bias of one block (arXiv 2106.08254): a number per head and offset, zero at the start.

    (2h - 1)(2w - 1) offsets between patches of a grid h w, and one each for class token to patch, patch to class token
    and class token to itself, last in the table [BEiT's layout, which timm's Beit shares].
    """

    index: Tensor

    def __init__(self, *, size: tuple[int, ...], num_heads: int) -> None:
        super().__init__()
        rows, columns = size
        self.table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1) + 3, num_heads))
        self.register_buffer("index", offsets(rows, columns), persistent=False)

    def forward(self) -> Float[Tensor, "q s s"]:
        return self.table[self.index].permute(2, 0, 1).contiguous()


def offsets(rows: int, columns: int) -> Int[Tensor, "s s"]:
    """Row of the table for every pair of the 1 + rows x columns tokens, the class token first."""
    row, column = (axis.flatten() for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    down = row[:, None] - row[None] + rows - 1
    right = column[:, None] - column[None] + columns - 1
    of_patches = (2 * rows - 1) * (2 * columns - 1)
    index = torch.empty(1 + rows * columns, 1 + rows * columns, dtype=torch.int64)
    index[1:, 1:] = down * (2 * columns - 1) + right
    index[0, :], index[:, 0], index[0, 0] = of_patches, of_patches + 1, of_patches + 2
    return index


class Trunk(nn.Module):
    """A copy of an encoder of images, at `image_size` or its own; the encoder that it was made of stays as it is.

    Sine-cosine positions are computed for the size, learned ones interpolated. `drop_path` is that of the last block,
    0 in the first. With `relative_bias` every block has a `RelativeBias` of its own. A `frozen` trunk has no weights to
    train, is always in evaluation mode, and gives values without gradients.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        image_size: tuple[int, int] | None = None,
        drop_path: float = 0.0,
        relative_bias: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = resized(encoder, image_size or encoder.grid.image_size, drop_path=drop_path)
        self.frozen = frozen
        self.biases = nn.ModuleList(
            RelativeBias(size=self.grid.size, num_heads=encoder.num_heads)
            for _ in range(encoder.depth if relative_bias else 0)
        )
        self.requires_grad_(not frozen)
        self.train(not frozen)

    @property
    def grid(self) -> Grid:
        return self.encoder.grid

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def depth(self) -> int:
        return self.encoder.depth

    def train(self, mode: bool = True) -> Trunk:
        return super().train(mode and not self.frozen)

    def tokens(self, images: Float[Tensor, "b c h w"], key: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b t d"]:
        """After the final norm, the class token first, of normalised images; `key` counts stochastic depth."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder.norm(self._layers(images, key)[-1])

    def unnormed(self, images: Float[Tensor, "b c h w"], key: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b t d"]:
        """The same tokens before the final norm, for a head with a norm of its own."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._layers(images, key)[-1]

    def maps(
        self, images: Float[Tensor, "b c h w"], key: Int[Tensor, "b"] | None = None
    ) -> list[Float[Tensor, "b d i j"]]:
        """Four maps of patches after `MAP_SHARES` of the blocks, of normalised images; not normed [published CAE].

        Images may have any size of whole patches: at another than the trunk's own, sine-cosine positions are computed
        for it and learned ones interpolated. Relative biases are for the trunk's own alone.
        """
        rows, columns = (length // side for length, side in zip(images.shape[2:], self.grid.patch_size, strict=True))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            layers = self._layers(images, key)
            wanted = (layers[max(1, round(self.depth * share)) - 1] for share in MAP_SHARES)
            return [layer[:, 1:].mT.unflatten(2, (rows, columns)) for layer in wanted]

    def layer_of(self, name: str) -> int:
        """Which layer a weight is of, for layer-wise decay: patches, class token and positions 0, block i, counted from
        0, and its relative bias i + 1, the final norm depth + 1."""
        part, _, rest = name.partition(".")
        if part == "biases":
            return int(rest.partition(".")[0]) + 1
        kind, _, inner = rest.partition(".")
        if kind == "blocks":
            return int(inner.partition(".")[0]) + 1
        return self.depth + 1 if kind == "norm" else 0

    def _layers(self, images: Tensor, key: Tensor | None) -> list[Tensor]:
        """The 1 + n tokens after each block."""
        size = tuple(images.shape[2:])
        if size == self.grid.image_size:
            x = self.encoder.embed(patchify(images, self.grid))
        else:
            assert not self.biases, "relative biases are of one grid"
            grid = Grid(image_size=size, patch_size=self.grid.patch_size, channels=self.grid.channels)
            x = self.encoder.patch_embed(patchify(images, grid)) + self.encoder.positions_at(grid.size)
        x = torch.cat([self.encoder.class_token.expand(len(x), 1, -1), x], dim=1)
        layers = []
        for i, block in enumerate(self.encoder.blocks):
            x = block(x, key, self.biases[i]() if self.biases else None)
            layers.append(x)
        return layers
