"""COCO's matching of detections to objects: per image and class, under every overlap and range of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from contextae.evaluation.detection.objects import Detections, Mask, Objects
from contextae.evaluation.detection.shapes import mask_of

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Intersection over union from which a detection is right [COCO]."""
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Areas in pixels, both ends included [COCO]."""
HIGHEST = 1 - 1e-10
"""An overlap that always suffices [pycocotools]."""

Kind = Literal["box", "mask"]
DETECTIONS = 100
"""Of an image and a class the best so many count [COCO]."""


@dataclass(frozen=True, kw_only=True)
class ClassMatches:
    """Of one class over all images; s sizes, t overlaps, d detections, best first, those of an image before later ones'
    where scores are equal. `ignored` ones are neither right nor wrong; `wanted` are objects that are to be found."""

    image: Int[np.ndarray, " d"]
    scores: Float[np.ndarray, " d"]
    matched: Bool[np.ndarray, "s t d"]
    ignored: Bool[np.ndarray, "s t d"]
    wanted: Int[np.ndarray, "s n"]


def box_iou(
    boxes: Float[np.ndarray, "d 4"], others: Float[np.ndarray, "g 4"], crowd: Bool[np.ndarray, " g"] | None = None
) -> Float[np.ndarray, "d g"]:
    """Of boxes left, top, width, height. With a crowd it is the share of the first box that lies in it."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    sides = (high - low).clip(min=0)
    shared = sides[..., 0] * sides[..., 1]
    area, other = boxes[:, 2] * boxes[:, 3], others[:, 2] * others[:, 3]
    return _over_union(shared, area, other, crowd)


def mask_iou(
    masks: Sequence[Mask], others: Sequence[Mask], crowd: Bool[np.ndarray, " g"] | None = None
) -> Float[np.ndarray, "d g"]:
    """The same of masks, by their pixels."""
    shared = np.zeros((len(masks), len(others)))
    corners = np.array([(o.top, o.left, o.bottom, o.right) for o in others], np.int64).reshape(-1, 4)
    for i, mask in enumerate(masks):
        meets = (corners[:, 0] < mask.bottom) & (corners[:, 2] > mask.top)
        meets &= (corners[:, 1] < mask.right) & (corners[:, 3] > mask.left)
        for j in np.flatnonzero(meets).tolist():
            top, left = max(mask.top, others[j].top), max(mask.left, others[j].left)
            bottom, right = min(mask.bottom, others[j].bottom), min(mask.right, others[j].right)
            own = mask.pixels[top - mask.top : bottom - mask.top, left - mask.left : right - mask.left]
            other = others[j].pixels[
                top - others[j].top : bottom - others[j].top, left - others[j].left : right - others[j].left
            ]
            shared[i, j] = np.count_nonzero(own & other)
    area, other_area = (np.array([mask.area for mask in each], np.float64) for each in (masks, others))
    return _over_union(shared, area, other_area, crowd)


def _over_union(shared: np.ndarray, area: np.ndarray, other: np.ndarray, crowd: np.ndarray | None) -> np.ndarray:
    union = area[:, None] + other[None] - shared
    if crowd is not None:
        union = np.where(crowd[None], area[:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def match(
    truth: Sequence[tuple[Objects, int, int]],
    found: Sequence[Detections],
    *,
    num_classes: int,
    kind: Kind = "box",
    max_detections: int = DETECTIONS,
) -> list[ClassMatches]:
    """For each class. `truth` are the objects of each image with its height and width, `found` what was detected there.

    By the definition of COCO, as pycocotools has it: of a class in an image the `max_detections` best go, best first,
    to the object not yet taken that they overlap most, one to be found before one that is ignored; of equal overlaps
    the last counts. Objects of another size and crowds are ignored, with who matches them; a crowd may be matched by
    many. A detection without an object is ignored if its own area is of another size. For masks, areas of detections
    are their pixels.
    """
    parts: list[list[_Part]] = [[] for _ in range(num_classes)]
    for at, ((objects, height, width), detections) in enumerate(zip(truth, found, strict=True)):
        for of in range(num_classes):
            ours, theirs = np.flatnonzero(objects.classes == of), np.flatnonzero(detections.classes == of)
            if not len(ours) and not len(theirs):
                continue
            order = np.argsort(-detections.scores[theirs], kind="stable")[:max_detections]
            theirs = theirs[order]
            crowd = objects.crowd[ours]
            if kind == "box":
                overlap = box_iou(detections.boxes[theirs], objects.boxes[ours], crowd)
                area = detections.boxes[theirs, 2] * detections.boxes[theirs, 3]
            else:
                assert detections.masks is not None and objects.shapes is not None
                masks = [detections.masks[i] for i in theirs.tolist()]
                shapes = [mask_of(objects.shapes[i], height, width) for i in ours.tolist()]
                overlap, area = mask_iou(masks, shapes, crowd), np.array([mask.area for mask in masks], np.float64)
            parts[of].append(_matched(at, detections.scores[theirs], overlap, area, crowd, objects.area[ours]))
    return [_joined(each, len(truth)) for each in parts]


@dataclass(frozen=True)
class _Part:
    """Of one image; as in `ClassMatches`."""

    image: int
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray


def _matched(
    image: int, scores: np.ndarray, overlap: np.ndarray, area: np.ndarray, crowd: np.ndarray, object_area: np.ndarray
) -> _Part:
    shape = (len(SIZES), len(OVERLAPS), len(scores))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    wanted = np.zeros(len(SIZES), np.int64)
    # per detection the objects that any overlap lets it have, the most overlapping first and, of equal ones, the last
    rivals: list[list[int]] = []
    for row in overlap:
        reached = np.flatnonzero(row >= OVERLAPS[0])[::-1]
        rivals.append(reached[np.argsort(-row[reached], kind="stable")].tolist())
    for s, (low, high) in enumerate(SIZES.values()):
        passed = crowd | (object_area < low) | (object_area > high)
        wanted[s] = len(passed) - np.count_nonzero(passed)
        for t, needed in enumerate(OVERLAPS.tolist()):
            taken: set[int] = set()
            for d, near in enumerate(rivals):
                free = [g for g in near if overlap[d, g] >= min(needed, HIGHEST) and (g not in taken or crowd[g])]
                chosen = next((g for g in free if not passed[g]), free[0] if free else None)
                if chosen is not None:
                    taken.add(chosen)
                    matched[s, t, d], ignored[s, t, d] = True, passed[chosen]
        ignored[s] |= ~matched[s] & ((area < low) | (area > high))
    return _Part(image, scores, matched, ignored, wanted)


def _joined(parts: Sequence[_Part], num_images: int) -> ClassMatches:
    wanted = np.zeros((len(SIZES), num_images), np.int64)
    for part in parts:
        wanted[:, part.image] = part.wanted
    empty = np.zeros((len(SIZES), len(OVERLAPS), 0), bool)
    scores = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
    order = np.argsort(-scores, kind="stable")
    image = np.repeat([part.image for part in parts], [len(part.scores) for part in parts]).astype(np.int64)
    return ClassMatches(
        image=image[order],
        scores=scores[order],
        matched=np.concatenate([empty, *(part.matched for part in parts)], axis=2)[:, :, order],
        ignored=np.concatenate([empty, *(part.ignored for part in parts)], axis=2)[:, :, order],
        wanted=wanted,
    )
