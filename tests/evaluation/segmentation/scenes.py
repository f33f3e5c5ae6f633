"""Small sets of images with masks, on the disk: what the tests of segmentation read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from contextae.encoder import Encoder
from contextae.evaluation.segmentation.data import SegmentationData, open_segmentation
from contextae.grid import Grid

MEAN, DEVIATION = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
COLOURS = np.array([[200, 60, 40], [50, 190, 70], [60, 70, 210]])
NAMES = ("red", "green", "blue")
SIZE = (20, 28)


def small_encoder(seed: int = 0, *, image_size: tuple[int, int] = (16, 24), learned: bool = False) -> Encoder:
    """4 x 6 patches of 4 x 4, width 24, 3 blocks."""
    torch.manual_seed(seed)
    grid = Grid(image_size=image_size, patch_size=(4, 4), channels=3)
    return Encoder(grid=grid, width=24, depth=3, num_heads=2, learned_positions=learned)


def scene(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An image of noisy rectangles of three colours, and its classes; a strip is void (255)."""
    height, width = size
    mask = np.full(size, rng.integers(3), np.uint8)
    for _ in range(3):
        top, left = rng.integers(height - 6), rng.integers(width - 6)
        mask[top : top + rng.integers(6, height), left : left + rng.integers(6, width)] = rng.integers(3)
    image = COLOURS[mask] + rng.normal(0, 20, (*size, 3))
    mask[:1] = 255
    return image.clip(0, 255).astype(np.uint8), mask


def write_part(
    root: Path, part: str, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, folders: Sequence[str]
) -> None:
    """Images as PNG and masks as PNG, below two folders."""
    for folder, which in zip(folders, (0, 1), strict=True):
        place = root / folder / part
        place.mkdir(parents=True, exist_ok=True)
        for name, pair in pairs.items():
            Image.fromarray(pair[which]).save(place / f"{name}.png")


def write_scenes(
    root: Path,
    *,
    parts: Mapping[str, int] | None = None,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    shuffled: bool = False,
    folders: Sequence[str] = ("images", "masks"),
    classes: str | None = "red\ngreen\nblue\n",
) -> Path:
    """A set; `shuffled` gives every image the mask of another one, of which it says nothing."""
    rng = np.random.default_rng(seed)
    for part, count in (parts or {"train": 12, "val": 4, "test": 6}).items():
        made = [scene(rng, size) for _ in range(count)]
        if shuffled:
            images, masks = [image for image, _ in made], [scene(rng, size)[1] for _ in made]
            made = list(zip(images, masks, strict=True))
        write_part(root, part, {f"{part}{i}": pair for i, pair in enumerate(made)}, folders=folders)
    if classes is not None:
        (root / "classes.txt").write_text(classes, encoding="utf-8")
    return root


def opened(root: Path) -> SegmentationData:
    return open_segmentation(root, channels=3)
