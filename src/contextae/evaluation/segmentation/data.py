"""Images and their masks in parts to learn from, to choose on and to test on; all checked before anything is trained.

    ROOT/images/{train,val,test}/...       any names; also training, validation, train2017 and the like
    ROOT/masks/{train,val,test}/...        the same names with another ending; or annotations, labels
    ROOT/classes.txt                       `value<tab>name[<tab>ignore]` in a line, or names alone

ADE20K's own folders (images/training, annotations/training) have 0 as void and classes from 1. Without masks the
instances of annotations/instances_{train,val}.json (COCO) are painted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int16, Integer, Shaped

from contextae.data.decode import decode
from contextae.data.facts import BadImage, Refusal
from contextae.data.index import Index, printable
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.evaluation.progress import Progress
from contextae.evaluation.segmentation.classes import FILE, LARGEST, USUAL_VOID, Classes, found_classes, named_classes
from contextae.evaluation.segmentation.decodable import refusals
from contextae.evaluation.segmentation.folders import Folders, find_folders
from contextae.evaluation.segmentation.masks import Masks
from contextae.evaluation.segmentation.scan import Scanned, scan
from contextae.randomness import key

Part = Literal["train", "val", "test"]
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 500
TEST_SHARE = 0.2
SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotated:
    """Images with a class per pixel. `pixels` counts, per image, those of each class; void ones are not counted."""

    images: Index
    masks: Masks
    classes: Classes
    pixels: Integer[np.ndarray, "n k"]

    def __len__(self) -> int:
        return len(self.images)

    def size(self, position: int) -> tuple[int, int]:
        """Height and width of an image and its mask."""
        facts = self.images.facts[position]
        return int(facts["height"]), int(facts["width"])

    def image(self, position: int) -> Shaped[np.ndarray, "h w c"]:
        """Decoded; UserError where that is no longer possible."""
        try:
            return decode(self.images.read(position), channels=self.images.channels, dtype=self.images.dtype)
        except BadImage as error:
            raise UserError(
                f"{printable(self.images.ids[position])} of {self.images.title} could be read at the start and cannot "
                f"any more: {error.reason}. Put it back and start again."
            ) from error

    def mask(self, position: int) -> Int16[np.ndarray, "h w"]:
        """Positions in the list of classes, VOID where there is none."""
        return self.classes.positions(self.masks.read(self.images.ids[position]))

    def subset(self, positions: Sequence[int] | np.ndarray) -> Annotated:
        """The images at `positions`, in that order."""
        return replace(self, images=self.images.subset(positions), pixels=self.pixels[np.asarray(positions, np.int64)])


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentationData:
    """`fit` is what settings are tried on and `held_out` what they are chosen on: train and val, or two parts of train.

    What was chosen is trained on `train`; `test` gives the figure and is used for nothing else. `notes` are sentences
    for the user.
    """

    classes: Classes
    train: Annotated
    fit: Annotated
    held_out: Annotated
    test: Annotated
    notes: tuple[str, ...]

    @property
    def refits(self) -> bool:
        """Whether train is more than what settings are tried on."""
        return self.fit is not self.train

    @property
    def majority(self) -> int:
        """The class with most pixels in train, each image counting the same."""
        totals = self.train.pixels.sum(axis=1, keepdims=True).clip(min=1)
        return int((self.train.pixels / totals).sum(axis=0).argmax())


def open_segmentation(
    root: str | Path,
    *,
    channels: int,
    dtype: Literal["uint8", "uint16", "float32"] = "uint8",
    labels: Literal["auto", "masks", "polygons"] = "auto",
    void: int | None = None,
    progress: Progress | None = None,
) -> SegmentationData:
    """Every image and every mask is read once; UserError, in one paragraph, of whatever cannot be trained on.

    `void` is a value of masks that belongs to no class, beside those that classes.txt marks. Images that cannot be
    decoded are left out, with their masks, and named in the notes.
    """
    folders = find_folders(Path(root), labels=labels)
    notes = list(folders.notes)
    scanned: dict[str, tuple[Index, Masks, list[Scanned]]] = {}
    for part in folders.images:
        index = open_index(str(folders.images[part]), channels=channels, dtype=dtype)
        masks = folders.masks_of(part, index)
        index = _decodable(index, part, notes, progress)
        scanned[part] = index, masks, scan(masks, index, part, progress)
    classes = _classes(folders, scanned, void, notes)
    parts = {
        part: Annotated(images=index, masks=masks, classes=classes, pixels=_counted(masks, index, found, classes))
        for part, (index, masks, found) in scanned.items()
    }
    return divided(parts, classes, title=printable(str(root)), notes=notes)


def divided(parts: Mapping[str, Annotated], classes: Classes, *, title: str, notes: Sequence[str]) -> SegmentationData:
    """What is trained, chosen and tested on, of the parts there are; train at least."""
    told = list(notes)
    train, val, test = (parts.get(part) for part in ("train", "val", "test"))
    if train is None:
        raise UserError(f"{title} has the parts {', '.join(parts)}, and none to train on. Call its folder train.")
    if test is None and val is not None:
        test, val = val, None
        told.append(f"val, {len(test):,} images, is the test part; there is no other")
    elif test is None:
        rest, drawn = _drawn(train, TEST_SHARE, len(train), "segmentation test")
        train, test = train.subset(rest), train.subset(drawn)
        told.append(f"there is no test part: {len(test):,} of {len(rest) + len(drawn):,} images, drawn by name, are it")
    fit = train
    if val is None:
        rest, drawn = _drawn(train, HELD_OUT_SHARE, MOST_HELD_OUT, "segmentation held out")
        fit, val = train.subset(rest), train.subset(drawn)
        told.append(f"settings are chosen on {len(val):,} of {len(train):,} training images, drawn by name")
    if not test.pixels.any():
        raise UserError(
            f"Every pixel of the test part of {title} is void, so nothing can be measured. Check the masks."
        )
    told += _absent(train, test, classes, title)
    return SegmentationData(classes=classes, train=train, fit=fit, held_out=val, test=test, notes=tuple(told))


def _drawn(part: Annotated, share: float, most: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rest and of a share drawn by the ids alone, one image at least."""
    if len(part) < 2:
        raise UserError(
            f"{part.images.title} has {len(part)} image(s), and segmentation needs two or more: settings are chosen on "
            "images that were not trained on."
        )
    order = sorted(range(len(part)), key=lambda i: key(purpose, part.images.ids[i]))
    count = min(max(1, round(share * len(part))), most)
    return np.array(sorted(order[count:])), np.array(sorted(order[:count]))


def _decodable(index: Index, part: str, notes: list[str], progress: Progress | None) -> Index:
    """Without the images that cannot be decoded, which join what was left out."""
    found: list[Refusal | None] = []
    for some in refusals(index):
        found += some
        if progress:
            progress(f"checking images of {part}", len(found) / len(index))
    reasons = {i: refusal.reason for i, refusal in enumerate(found) if refusal}
    left_out = [(entry.path, entry.reason) for entry in index.left_out]
    left_out += [(index.ids[i], reason) for i, reason in reasons.items()]
    if left_out:
        path, reason = left_out[0]
        notes.append(f"{len(left_out):,} file(s) of {part} are left out, first {printable(path)}: {reason}")
    if len(reasons) == len(index):
        raise UserError(
            f"None of the {len(index):,} images of {index.title} can be decoded: {reasons[0]}. Replace them."
        )
    return index.subset([i for i in range(len(index)) if i not in reasons]) if reasons else index


def _classes(
    folders: Folders, scanned: Mapping[str, tuple[Index, Masks, list[Scanned]]], void: int | None, notes: list[str]
) -> Classes:
    """By the list of the set, or else by the values that occur."""
    default = folders.void if void is None else void
    lines = folders.lines
    if lines is not None:
        named = {line.value for line in lines}
        return named_classes(lines, None if void is None and default in named else default)
    values: set[int] = set()
    for index, masks, found in scanned.values():
        for name, each in zip(index.ids, found, strict=True):
            values.update(each.values.tolist())
            if wrong := [value for value in each.values.tolist() if not 0 <= value <= LARGEST]:
                raise UserError(
                    f"{masks.name(name)} has the value {wrong[0]}, and values of classes are from 0 to {LARGEST:,}. "
                    "Write the masks with such numbers."
                )
    classes = found_classes(values, USUAL_VOID if default is None else default)
    notes.append(
        f"there is no {FILE}: the {len(classes)} values of the masks, {classes.describe()}, are taken for the classes"
    )
    return classes


def _counted(masks: Masks, index: Index, found: Sequence[Scanned], classes: Classes) -> np.ndarray:
    """Pixels per image and class; UserError at the first value that is none."""
    pixels = np.zeros((len(index), len(classes)), np.int64)
    for row, name, each in zip(pixels, index.ids, found, strict=True):
        if wrong := classes.unknown(each.values.tolist()):
            count = int(each.counts[each.values == wrong[0]][0])
            listed = (
                f"Add the class to {FILE}, mark it there as void (a line `{wrong[0]}<tab>void`), or write"
                if 0 <= wrong[0] <= LARGEST
                else f"Values are from 0 to {LARGEST:,}; write"
            )
            raise UserError(
                f"{masks.name(name)} has the value {wrong[0]} in {count:,} pixels, and no class has it: the values "
                f"of classes are {classes.describe()}. {listed} the masks with the values of the list."
            )
        positions = classes.table[each.values]
        row[positions[positions >= 0]] = each.counts[positions >= 0]
    return pixels


def _absent(train: Annotated, test: Annotated, classes: Classes, title: str) -> list[str]:
    """A sentence on classes that cannot be learned; UserError where that leaves fewer than two."""
    present, tested = train.pixels.any(axis=0), test.pixels.any(axis=0)
    if present.sum() < 2:
        names = ", ".join(np.array(classes.names)[present]) or "none"
        raise UserError(
            f"Segmentation needs pixels of two classes to learn from. The training masks of {title} hold {names} "
            f"alone; the values of classes are {classes.describe()}. Check masks and {FILE}."
        )
    unseen, lost = np.flatnonzero(~present), np.flatnonzero(~present & tested)
    if not len(unseen):
        return []
    shown = ", ".join(printable(classes.names[i]) for i in (lost if len(lost) else unseen)[:SHOWN])
    more = ", ..." if max(len(lost), 0 if len(lost) else len(unseen)) > SHOWN else ""
    if not len(lost):
        return [f"{len(unseen)} of {len(classes)} classes have no pixel in train, nor in test: {shown}{more}"]
    return [
        f"{len(unseen)} of {len(classes)} classes have no pixel in train and cannot be learned; {len(lost)} of them "
        f"occur in test, where each counts as an IoU of 0: {shown}{more}. Add images of them to train, or make them "
        "void"
    ]
