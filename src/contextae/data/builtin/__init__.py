"""Images that come with the package, so that everything can be tried without a download.

`fashion-mnist`: the first 12,000 training and the first 2,000 test images of Fashion-MNIST (Xiao, Rasul and Vollgraf,
2017, arXiv:1708.07747), under the licence in LICENSE-fashion-mnist. Made, and checked against the original, by

    apt-get install dataset-fashion-mnist
    python tools/make_fashion_mnist.py /usr/share/datasets/fashion-mnist src/contextae/data/builtin/fashion_mnist
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from PIL import Image

from contextae.errors import UserError, nearest

PREFIX = "builtin:"
CLASSES = {
    "fashion-mnist": [  # in the order of the original's README
        "t-shirt or top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ]
}
SIDE = 28


class Arrays(NamedTuple):
    """Images are uint8 n h w c and labels int64 n, positions in `classes`."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: list[str]


def check_builtin(name: str) -> None:
    """UserError for a set that does not come with the package."""
    if name not in CLASSES:
        raise UserError(
            f"{PREFIX}{name} is not a set that comes with contextae.{nearest(name, CLASSES)} "
            f"There is: {', '.join(PREFIX + known for known in CLASSES)}."
        )


@lru_cache(maxsize=1)
def builtin_arrays(name: str) -> Arrays:
    """Decoded once in each process, 0.1 s; read-only."""
    check_builtin(name)
    folder = files(__package__) / name.replace("-", "_")
    parts: list[np.ndarray] = []
    for part in ("train", "test"):
        with (folder / f"{part}.png").open("rb") as stream, Image.open(stream, formats=("PNG",)) as image:
            parts.append(np.asarray(image).reshape(-1, SIDE, SIDE, 1))
        digits = (folder / f"{part}_labels.txt").read_text(encoding="ascii").strip()
        parts.append(np.frombuffer(digits.encode("ascii"), np.uint8).astype(np.int64) - ord("0"))
        parts[-1].flags.writeable = False
    return Arrays(parts[0], parts[1], parts[2], parts[3], CLASSES[name])
