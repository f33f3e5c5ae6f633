"""Detection data made for the tests: random objects and detections, and a small set of squares and discs on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from contextae.encoder import Encoder, EncoderConfig
from contextae.evaluation.detection.objects import Detections, Mask, Objects
from contextae.evaluation.detection.settings import small
from contextae.evaluation.detection.shapes import tight

HEIGHT, WIDTH = 170, 230


def random_objects(rng: np.random.Generator, num_classes: int, *, most: int = 12) -> Objects:
    """Ellipses of very different sizes, some of them crowds."""
    n = int(rng.integers(0, most))
    masks = [_ellipse(rng) for _ in range(n)]
    return Objects(
        boxes=np.array([_box(mask) for mask in masks], np.float64).reshape(-1, 4),
        classes=rng.integers(0, num_classes, n),
        crowd=rng.random(n) < 0.15,
        area=np.array([mask.area for mask in masks], np.float64),
        shapes=tuple(masks),
    )


def random_detections(rng: np.random.Generator, objects: Objects, num_classes: int) -> Detections:
    """Objects moved by some pixels, found or not, and things that are not there; scores with ties."""
    masks: list[Mask] = []
    classes: list[int] = []
    for i in np.flatnonzero(rng.random(3 * len(objects)) < 0.5) % max(1, len(objects)):
        assert objects.shapes is not None
        mask = objects.shapes[i]
        assert isinstance(mask, Mask)
        move = rng.integers(-3, 4, 2) if rng.random() < 0.8 else (0, 0)
        grid = mask.part(int(-move[0]), int(-move[1]), int(HEIGHT - move[0]), int(WIDTH - move[1]))
        masks.append(tight(grid))
        classes.append(int(objects.classes[i]) if rng.random() < 0.9 else int(rng.integers(num_classes)))
    for _ in range(int(rng.integers(0, 6))):
        masks.append(_ellipse(rng))
        classes.append(int(rng.integers(num_classes)))
    kept = [i for i, mask in enumerate(masks) if mask.pixels.size]
    return Detections(
        boxes=np.array([_box(masks[i]) for i in kept], np.float64).reshape(-1, 4),
        scores=rng.integers(1, 9, len(kept)) / 10,
        classes=np.array([classes[i] for i in kept], np.int64),
        masks=tuple(masks[i] for i in kept),
    )


def _ellipse(rng: np.random.Generator) -> Mask:
    half = np.exp(rng.uniform(np.log(3), np.log(70), 2))
    middle = rng.uniform((0, 0), (HEIGHT, WIDTH))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = ((rows - middle[0]) / half[0]) ** 2 + ((columns - middle[1]) / half[1]) ** 2 <= 1
    return tight(inside) if inside.any() else _ellipse(rng)


def _box(mask: Mask) -> tuple[int, int, int, int]:
    return mask.left, mask.top, mask.pixels.shape[1], mask.pixels.shape[0]


def coco_labels(num_images: int = 3) -> dict[str, Any]:
    """Two classes, images of 40 x 30 (width x height), two objects each; ids as COCO has them."""
    annotations = []
    for image in range(1, num_images + 1):
        for of, (left, top, side) in enumerate(((4, 6, 12), (20, 10, 15))):
            right, bottom = left + side, top + side
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 3 + of,
                    "bbox": [left, top, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 30, "width": 40} for i in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": 4, "name": "large"}, {"id": 3, "name": "small"}],
    }


def write_coco(folder: Path, labels: dict[str, Any], *, part: str = "train") -> Path:
    """Labels and gray images of their sizes, in COCO's layout; the path of the labels."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images" / part).mkdir(parents=True, exist_ok=True)
    for image in labels["images"]:
        rng = np.random.default_rng(image["id"])
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / part / image["file_name"])
    path = folder / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(labels), encoding="utf-8")
    return path


TINY = replace(
    small(),
    object_side=16.0,
    tile=64,
    overlap=24,
    channels=16,
    regions=16,
    anchors=32,
    proposals=(60, 40),
    box_width=32,
    mask_convolutions=1,
    detections=30,
    steps=70,
    batch_size=4,
    lr=4e-3,
    warmup_steps=5,
    drop_path=0.1,
)
"""Seconds of training, for `tiny_encoder` and the squares."""

FACTS: dict[str, Any] = {"mean": [0.3, 0.3, 0.3], "deviation": [0.25, 0.25, 0.25]}


def tiny_encoder(seed: int = 0, *, channels: int = 3, learned: bool = False) -> Encoder:
    """Patches of 8 x 8 of images of 32 x 48, three blocks of width 24."""
    torch.manual_seed(seed)
    config = EncoderConfig(
        patch_size=(8, 8), width=24, depth=3, num_heads=2, positions="learned" if learned else "sine-cosine"
    )
    return config.build(image_size=(32, 48), channels=channels).eval()


def write_squares(folder: Path, part: str, count: int, *, shuffled: bool = False) -> None:
    """Red and green squares of about 16 pixels on gray noise of 64 x 80, the last image without any.

    `shuffled` images have the labels of another one.
    """
    rng = np.random.default_rng(len(part))
    labels: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}]}
    labels["categories"].append({"id": 2, "name": "green"})
    images = []
    for i in range(1, count + 1):
        pixels = rng.integers(40, 90, (64, 80, 3)).astype(np.uint8)
        for cell in rng.permutation(6)[: 0 if i == count else 3].tolist():
            left, top = 26 * (cell % 3) + int(rng.integers(0, 9)), 32 * (cell // 3) + int(rng.integers(0, 15))
            of, side = int(rng.integers(2)), int(rng.integers(14, 18))
            pixels[top : top + side, left : left + side] = (230, 30, 30) if of == 0 else (30, 230, 30)
            right, bottom = left + side, top + side
            outline = [left, top, right, top, right, bottom, left, bottom]
            entry = {"image_id": i, "category_id": 1 + of, "bbox": [left, top, side, side], "iscrowd": 0}
            entry |= {"id": len(labels["annotations"]) + 1, "area": side * side, "segmentation": [outline]}
            labels["annotations"].append(entry)
        labels["images"].append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 80})
        images.append(pixels)
    path = write_coco(folder, labels, part=part)
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / "images" / part / f"{(i + shuffled) % count + 1}.png")
    assert path.exists()
