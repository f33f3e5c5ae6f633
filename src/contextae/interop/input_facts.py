"""InputFacts: what an encoder's input has to be. Every export carries it, and its receipt reads images by it alone.

torch is not imported here, so that a process may check an ONNX file with onnxruntime and nothing of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from contextae.data.augment import fit
from contextae.data.decode import decode
from contextae.errors import UserError

NAME = "contextae.json"
ORDERS = {1: "gray", 3: "RGB"}
CROP = "the largest central part with the aspect of height and width, then resized"


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """Pixels of `bit_depth` bits are brought to `value_range`; then `mean` is taken off and `deviation` divides.

    Sizes are in pixels, the array is b c h w, and `mean` and `deviation` have one number per channel, in
    `channel_order`.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    channel_order: str
    bit_depth: int = 8
    value_range: tuple[float, float] = (0.0, 1.0)
    interpolation: str = "bicubic, antialiased"
    crop: str = CROP

    def pixels(self, files: Sequence[Path]) -> UInt8[np.ndarray, "b c h w"]:
        """Decoded, cut and resized; 1 or 3 channels from image files, any number from .npy files of h w c."""
        return np.stack([fit(self._decoded(path), (self.height, self.width)) for path in files])

    def normalised(self, pixels: UInt8[np.ndarray, "b c h w"]) -> Float[np.ndarray, "b c h w"]:
        """float32, as the encoder takes it."""
        low, high = self.value_range
        values = low + pixels.astype(np.float32) / (2**self.bit_depth - 1) * (high - low)
        mean, deviation = (np.array(each, np.float32).reshape(1, -1, 1, 1) for each in (self.mean, self.deviation))
        return (values - mean) / deviation

    def _decoded(self, path: Path) -> np.ndarray:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return decode(path.read_bytes(), channels=self.channels)

    def to_json(self) -> str:
        """For the file beside the weights, and for the header of a file that has one."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> InputFacts:
        """The inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    @classmethod
    def read(cls, folder: Path) -> InputFacts:
        """Of an export."""
        return cls.from_json((folder / NAME).read_text(encoding="utf-8"))


def input_facts(
    *, image_size: tuple[int, ...], channels: int, mean: Sequence[float], deviation: Sequence[float]
) -> InputFacts:
    """Of 8-bit images, as contextae reads them."""
    if len(image_size) != 2:
        raise UserError(
            f"Only encoders of images can be exported, whose size is (height, width). This one is for {image_size}."
        )
    if not len(mean) == len(deviation) == channels:
        raise UserError(
            f"mean and deviation need one number for each of the {channels} channel(s). Got {len(mean)} and "
            f"{len(deviation)}; give those the encoder was trained with."
        )
    height, width = image_size
    return InputFacts(
        height=height,
        width=width,
        channels=channels,
        mean=tuple(mean),
        deviation=tuple(deviation),
        channel_order=ORDERS.get(channels, "as in the images it was trained on"),
    )
