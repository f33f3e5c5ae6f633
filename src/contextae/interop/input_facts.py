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
from jaxtyping import Float, Real

from contextae.data.augment import fit
from contextae.data.decode import decode
from contextae.errors import UserError

NAME = "contextae.json"
ORDERS = {1: "gray", 3: "RGB"}
CROP = "the largest central part with the aspect of height and width, then resized"


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """Values are read as `dtype`; `stored_range` of them becomes `value_range`, and mean and deviation normalise that.

    Sizes are in pixels, the array is b c h w, and `mean` and `deviation` have one number per channel, in
    `channel_order`.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    channel_order: str
    dtype: str = "uint8"
    bit_depth: int = 8
    stored_range: tuple[float, float] = (0.0, 255.0)
    value_range: tuple[float, float] = (0.0, 1.0)
    interpolation: str = "bicubic, antialiased"
    crop: str = CROP

    def pixels(self, files: Sequence[Path]) -> Real[np.ndarray, "b c h w"]:
        """Decoded, cut and resized, of `dtype`."""
        return np.stack([fit(self._decoded(path), (self.height, self.width)) for path in files])

    def normalised(self, pixels: Real[np.ndarray, "b c h w"]) -> Float[np.ndarray, "b c h w"]:
        """float32, as the encoder takes it."""
        (least, most), (low, high) = self.stored_range, self.value_range
        values = low + (pixels.astype(np.float32) - least) / (most - least) * (high - low)
        mean, deviation = (np.array(each, np.float32).reshape(1, -1, 1, 1) for each in (self.mean, self.deviation))
        return (values - mean) / deviation

    @property
    def is_photograph(self) -> bool:
        """Whether other libraries' own preprocessing can read such files: 8 bits, gray or RGB."""
        return self.dtype == "uint8" and self.channels in ORDERS

    def _decoded(self, path: Path) -> np.ndarray:
        return decode(path.read_bytes(), channels=self.channels, dtype=self.dtype)

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
    *,
    image_size: tuple[int, ...],
    channels: int,
    mean: Sequence[float],
    deviation: Sequence[float],
    dtype: str = "uint8",
    stored_range: tuple[float, float] = (0.0, 255.0),
) -> InputFacts:
    """Of images as contextae reads them."""
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
        dtype=dtype,
        bit_depth=8 * np.dtype(dtype).itemsize,
        stored_range=stored_range,
    )
