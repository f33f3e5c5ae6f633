"""`builtin:NAME`: images that come with the package, as arrays; ids are `train#17` and `test#3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from contextae.data.builtin import PREFIX, builtin_arrays
from contextae.data.facts import ImageFacts
from contextae.data.sources.listing import Listing


@dataclass(frozen=True)
class Embedded:
    """The arrays are decoded once in each process."""

    name: str

    arrays: ClassVar[bool] = True

    def read(self, sample_id: str) -> np.ndarray:
        part, number = sample_id.split("#")
        arrays = builtin_arrays(self.name)
        return (arrays.train_images if part == "train" else arrays.test_images)[int(number)]

    def has(self, sample_id: str) -> bool:
        part, _, number = sample_id.partition("#")
        arrays = builtin_arrays(self.name)
        count = {"train": len(arrays.train_images), "test": len(arrays.test_images)}.get(part, 0)
        return number.isdecimal() and int(number) < count

    def probe(self, sample_id: str) -> ImageFacts:
        height, width, channels = self.read(sample_id).shape
        return ImageFacts(width, height, channels, "array", "gray", num_bytes=height * width * channels)


def list_embedded(name: str, parts: tuple[str, ...] = ("train",)) -> Listing:
    """Train alone unless asked: the test part is for `evaluate`."""
    arrays = builtin_arrays(name)
    labels = {"train": arrays.train_labels, "test": arrays.test_labels}
    return Listing(
        source=Embedded(name),
        title=f"{PREFIX}{name}",
        ids=[f"{part}#{i}" for part in parts for i in range(len(labels[part]))],
        labels=np.concatenate([labels[part] for part in parts]),
        classes=list(arrays.classes),
    )
