"""DALL-E's d-VAE encoder (Ramesh et al. 2021, openai/DALL-E): the tokenizer of the paper, 8192 codes, one per 8 x 8.

The user brings the file. OpenAI's own is a pickled module, OpenMMLab's a pickled state dict; both become a safetensors
file through `contextae convert`, which executes neither, and only that is read here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.tokenizers.weights_file import place, read_weights_file

LAPLACE_EPS = 0.1  # logit-Laplace of the paper: pixels in 0..1 are moved into 0.1..0.9 [dall_e/utils.py, map_pixels]
INPUT, OUTPUT = "blocks.input", "blocks.output.conv"
INPUT_KERNEL = 7
BLOCK = re.compile(r"blocks\.group_(\d{1,3})\.block_(\d{1,3})\.")
GROUPS = range(1, 9)  # the published encoder has 4; each group doubles the width
PUBLISHED_NAMES = {".w": ".weight", ".b": ".bias"}


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class DalleBlock(nn.Module):
    """Residual bottleneck of four convolutions, each after a ReLU; its branch counts 1 / num_blocks ** 2."""

    def __init__(self, *, inputs: int, outputs: int, num_blocks: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.gain = 1 / num_blocks**2
        self.id_path = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        widths = [(inputs, inner, 3), (inner, inner, 3), (inner, inner, 3), (inner, outputs, 1)]
        self.res_path = nn.Sequential(
            OrderedDict(
                part
                for i, sizes in enumerate(widths, start=1)
                for part in ((f"relu_{i}", nn.ReLU()), (f"conv_{i}", conv(*sizes)))
            )
        )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        return self.id_path(x) + self.gain * self.res_path(x)


class DalleEncoder(nn.Module):
    """Images to logits over codes: 7 x 7 convolution, groups of blocks of doubling width with max-pooling between.

    Names of the weights are those of the published file, with PyTorch's `weight` and `bias` for its `w` and `b`.
    Differs from the published code: float32 everywhere, where that one computes in float16 on CUDA.
    """

    def __init__(
        self, *, width: int = 256, num_groups: int = 4, group_depth: int = 2, channels: int = 3, num_codes: int = 8192
    ) -> None:
        super().__init__()
        self.channels, self.num_codes, self.stride = channels, num_codes, 2 ** (num_groups - 1)
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=conv(channels, width, INPUT_KERNEL))
        inputs = width
        for group in range(num_groups):
            outputs = width * 2**group
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(group_depth):
                blocks[f"block_{i + 1}"] = DalleBlock(
                    inputs=inputs, outputs=outputs, num_blocks=num_groups * group_depth
                )
                inputs = outputs
            if group < num_groups - 1:
                blocks["pool"] = nn.MaxPool2d(2)
            parts[f"group_{group + 1}"] = nn.Sequential(blocks)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=conv(inputs, num_codes, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        return self.blocks(x)


class DalleTokenizer:
    """The frozen encoder as tokenizer. No module itself, so no method's weights or training mode ever reach it.

    A method whose patches have 16 pixels gives it a second view of the same crop at half the size.
    """

    def __init__(self, *, encoder: DalleEncoder, sha256: str | None = None) -> None:
        self._encoder = encoder.float().requires_grad_(False).eval()
        self.num_codes, self.stride, self.channels = encoder.num_codes, encoder.stride, encoder.channels
        self.sha256 = sha256

    def to(self, device: torch.device | str) -> DalleTokenizer:
        """Moves the network and returns itself."""
        self._encoder.to(device)
        return self

    def input_size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Pixels that give a grid of codes."""
        return grid[0] * self.stride, grid[1] * self.stride

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, "b n"]:
        """The most likely code of every `stride` x `stride` pixels, row-major, of images in 0..1; in float32."""
        channels, height, width = images.shape[1:]
        if channels != self.channels:
            raise UserError(
                f"This DALL-E encoder takes images of {self.channels} channels. Got {channels}; set data.channels to "
                f"{self.channels}, or choose another target."
            )
        if height % self.stride or width % self.stride:
            raise UserError(
                f"DALL-E's encoder makes one code of {self.stride} x {self.stride} pixels, so height and width must be "
                f"multiples of {self.stride}. Got {height} x {width}; choose another image size."
            )
        with torch.autocast(images.device.type, enabled=False):
            mapped = (1 - 2 * LAPLACE_EPS) * images.float() + LAPLACE_EPS
            return self._encoder(mapped).argmax(dim=1).flatten(1)


def read_dalle(path: Path) -> DalleTokenizer:
    """The tokenizer from a safetensors file that holds the published encoder's tensors, `w`/`b` or `weight`/`bias`.

    Its sizes are read from the tensors. Raises UserError for pickles, and for tensors of anything else.
    """
    file = read_weights_file(path)
    tensors = {_own_name(name): tensor for name, tensor in file.tensors.items()}
    encoder = DalleEncoder(**_sizes(tensors, path))
    advice = (
        "DALL-E's encoder is published as encoder.pkl (OpenAI) and dalle_encoder.pth (OpenMMLab); convert one of them."
    )
    place(encoder, tensors, origin=str(path), advice=advice)
    return DalleTokenizer(encoder=encoder, sha256=file.sha256)


def _own_name(name: str) -> str:
    for published, own in PUBLISHED_NAMES.items():
        if name.endswith(published):
            return name.removesuffix(published) + own
    return name


def _sizes(tensors: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    first, last = tensors.get(f"{INPUT}.weight"), tensors.get(f"{OUTPUT}.weight")
    found = {(int(match[1]), int(match[2])) for name in tensors if (match := BLOCK.match(name))}
    num_groups, group_depth = (max(numbers) for numbers in zip(*found, strict=True)) if found else (0, 0)
    whole = found == {(i + 1, j + 1) for i in range(num_groups) for j in range(group_depth)} and num_groups in GROUPS
    shaped = all(each is not None and each.ndim == 4 and each.numel() for each in (first, last))
    if first is None or last is None or not (whole and shaped) or first.shape[-1] != INPUT_KERNEL:
        raise UserError(
            f"{path} does not hold DALL-E's encoder: that has a {INPUT_KERNEL} x {INPUT_KERNEL} convolution {INPUT}, "
            f"groups of blocks (blocks.group_1.block_1), {GROUPS[-1]} at most and each as long as the others, and the "
            f"convolution {OUTPUT}. Got "
            f"{', '.join(sorted(tensors)[:3]) or 'no tensor at all'}. Give the encoder's file; the decoder is not used."
        )
    return {
        "width": first.shape[0],
        "channels": first.shape[1],
        "num_codes": last.shape[0],
        "num_groups": num_groups,
        "group_depth": group_depth,
    }
