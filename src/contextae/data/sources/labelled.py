"""Labelled images in a train and a test part, for evaluations: class folders, Parquet files, or the built-in set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.data.builtin import PREFIX
from contextae.data.index import EXAMPLES, Index, LeftOut, printable
from contextae.data.sources.archives import Archived
from contextae.data.sources.arrow import footer, read_column
from contextae.data.sources.columns import LABEL_NAMES, class_names, label_column
from contextae.data.sources.embedded import list_embedded
from contextae.data.sources.find import list_source
from contextae.data.sources.kinds import Channels, Dtype, check_wanted
from contextae.data.sources.listing import Listing
from contextae.data.sources.open import Progress, index_of
from contextae.data.sources.opening import Alive
from contextae.data.sources.parquet import Rows, asked
from contextae.data.sources.splits import SPLITS, TEST_SHARE, drawn_test, split_of
from contextae.errors import UserError

LAYOUTS = "Give a folder of class folders, alone or below train and test, or Parquet files with a label column."


@dataclass(frozen=True, kw_only=True)
class LabelledTrain:
    """The part to learn from. Its `labels` are positions in `classes`; `notes` say how the parts came about."""

    train: Index
    classes: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Labelled(LabelledTrain):
    """Both parts, with the classes of train."""

    test: Index


class Mark(NamedTuple):
    """The class of an image, by name or number, and the part (train, val, test) it stands in, if in any."""

    label: str | int
    split: str | None


class Parted(NamedTuple):
    """The images that have a class, their marks, the names of numbered classes, and the ids of the test part.

    `part` is the one it stands in, test or val; None where it was drawn.
    """

    listing: Listing
    marks: dict[str, Mark]
    names: list[str] | None
    test: set[str]
    part: str | None
    notes: list[str]


def open_labelled(
    source: str, *, channels: Channels = "auto", dtype: Dtype = "auto", progress: Progress | None = None
) -> Labelled:
    """Train and test of a labelled set; UserError where there are no labels, one class, or one that only test has."""
    check_wanted(channels, dtype)
    parted = parted_source(source)
    index = index_of(parted.listing, channels, progress, dtype)
    in_test = np.array([name in parted.test for name in index.ids], dtype=bool)
    train, learned = labelled_train(index.subset(np.flatnonzero(~in_test)), parted)
    test = index.subset(np.flatnonzero(in_test))
    marked = [parted.marks[name].label for name in test.ids]
    if unseen := Counter(named(label, parted.names) for label in marked if label not in learned):
        shown = ", ".join(f"{name} ({count:,})" for name, count in unseen.most_common(EXAMPLES))
        raise UserError(
            f"{index.title} has {len(unseen):,} classes in test that train does not have: {shown}. Every class of test "
            "must be in train; rename or remove them."
        )
    notes = list(parted.notes)
    if absent := set(learned) - set(marked):
        notes.append(f"{len(absent):,} of {len(learned):,} classes have no test images")
    behind = {k: [e for e in index.left_out if stands_in_test(e.path, parted) == k] for k in (False, True)}
    numbers = np.array([learned[label] for label in marked], dtype=np.int64)
    assert train.classes is not None
    return Labelled(
        train=replace(train, left_out=behind[False], found=len(train) + len(behind[False])),
        test=replace(
            test, labels=numbers, classes=train.classes, left_out=behind[True], found=len(test) + len(behind[True])
        ),
        classes=train.classes,
        notes=notes,
    )


def open_labelled_train(
    source: str, *, channels: Channels = "auto", dtype: Dtype = "auto", progress: Progress | None = None
) -> LabelledTrain:
    """The train part of `open_labelled`, image for image, for what is chosen or watched while training.

    No image of the test part is opened. A Parquet file's column of labels is read whole, as rows without a label
    decide which part is the test part.
    """
    check_wanted(channels, dtype)
    parted = parted_source(source)
    listing = replace(
        parted.listing,
        ids=[name for name in parted.listing.ids if name not in parted.test],
        left_out=[e for e in parted.listing.left_out if not stands_in_test(e.path, parted)],
    )
    train, _ = labelled_train(index_of(listing, channels, progress, dtype), parted)
    assert train.classes is not None
    return LabelledTrain(train=train, classes=train.classes, notes=parted.notes)


def parted_source(source: str) -> Parted:
    """Which images there are, of which class and part, before any of them is opened."""
    names: list[str] | None = None
    if source.startswith(PREFIX):
        listing = list_embedded(source.removeprefix(PREFIX), ("train", "test"))
        marks, names = marked_arrays(listing), listing.classes
    else:
        listing = list_source(source)
        if isinstance(listing.source, Rows):
            marks, names = marked_rows(listing, listing.source)
        else:
            marks, names = marked_members(listing) if listing.labels is not None else (marked_folders(listing), None)
    refuse_unlabelled(listing, marks)
    listing = replace(listing, ids=[i for i in listing.ids if i in marks], labels=None, classes=None, notes=[])
    in_test, part, notes = test_part(listing, marks)
    test = {listing.ids[i] for i in np.flatnonzero(in_test).tolist()}
    return Parted(listing, marks, names, test, part, notes)


def labelled_train(train: Index, parted: Parted) -> tuple[Index, dict[str | int, int]]:
    """Train with its labels, and the number of each class: they are those of train, by their names or numbers."""
    marked = [parted.marks[name].label for name in train.ids]
    present = sorted(set(marked), key=lambda label: (isinstance(label, str), label))
    classes = [named(label, parted.names) for label in present]
    if len(classes) < 2:
        have = f"one class in train, {classes[0]}" if classes else "no image in train that can be used"
        raise UserError(f"{train.title} has {have}, and an evaluation needs two or more classes.")
    learned = {label: i for i, label in enumerate(present)}
    numbers = np.array([learned[label] for label in marked], dtype=np.int64)
    return replace(train, labels=numbers, classes=classes), learned


def marked_arrays(listing: Listing) -> dict[str, Mark]:
    assert listing.labels is not None
    return {i: Mark(int(label), i.split("#")[0]) for i, label in zip(listing.ids, listing.labels, strict=True)}


def marked_members(listing: Listing) -> tuple[dict[str, Mark], list[str] | None]:
    """By the .cls member beside each image of an archive; without one an image has no class."""
    assert listing.labels is not None
    marks = {}
    for name, label in zip(listing.ids, listing.labels.tolist(), strict=True):
        if label < 0:
            listing.left_out.append(LeftOut(name, "member without a class"))
        else:
            marks[name] = Mark(label, split_of(name))
    return marks, listing.classes


def inside(name: str, listing: Listing) -> str:
    """An id without the archive it is in."""
    if not isinstance(listing.source, Archived):
        return name
    archive = next(a for a in listing.source.names if name.startswith(f"{a}/"))
    return name[len(archive) + 1 :]


def marked_folders(listing: Listing) -> dict[str, Mark]:
    """The class is the topmost folder, or the one below where the topmost are train and test or val.

    A class may be called train too: its folder counts as a part only beside another part, or if there is nothing else.
    """
    tops = {own.split("/")[0].lower() for own in (inside(name, listing) for name in listing.ids) if "/" in own}
    parts = {SPLITS[top] for top in tops if top in SPLITS}
    in_parts = bool(tops) and (("train" in parts and len(parts) > 1) or tops <= set(SPLITS))
    marks = {}
    for name in listing.ids:
        *folders, _ = inside(name, listing).split("/")
        split = SPLITS.get(folders[0].lower()) if in_parts and folders else None
        if in_parts and split is None:
            listing.left_out.append(LeftOut(name, "outside the train, val and test folders"))
        elif len(folders) <= in_parts:
            listing.left_out.append(LeftOut(name, "not in a class folder"))
        else:
            marks[name] = Mark(folders[int(in_parts)], split)
    return marks


def marked_rows(listing: Listing, rows: Rows) -> tuple[dict[str, Mark], list[str] | None]:
    """By the label column of each file; a missing or negative label is none, as Hugging Face marks a hidden test."""
    marks: dict[str, Mark] = {}
    names: list[str] | None = None
    files = [part.name for part in rows.parts]
    told = asked(partial(columns_of_labels, rows.root, files), Path(rows.root), files)
    for part, (column, labels, classes) in zip(rows.parts, told, strict=True):
        names = classes or names
        for row, label in enumerate(labels):
            name = f"{part.name}#{row}"
            if label is None or (isinstance(label, int) and label < 0):
                listing.left_out.append(LeftOut(name, "row without a label"))
            elif isinstance(label, (int, str)):
                marks[name] = Mark(label, split_of(name))
            else:
                raise UserError(
                    f"Column {column} of {printable(str(Path(rows.root, part.name)))} must hold one class per row, a "
                    f"number or a name. Row {row} has {str(label)[:40]!r}."
                )
    return marks, names


def columns_of_labels(
    root: str, names: Sequence[str], bad: Collection[int], alive: Alive
) -> list[tuple[str, list[Any], list[str] | None]]:
    """Of each file the name of its column of labels, the values, and the names of numbered classes."""
    found = []
    for number, name in enumerate(names):
        if bad:
            break
        alive(number)
        path = Path(root, name)
        schema = footer(path).schema
        column = label_column(schema)
        if column is None:
            raise UserError(
                f"{printable(str(path))} has no column of labels: none of {', '.join(LABEL_NAMES)}. Its columns are "
                f"{', '.join(schema.names)}."
            )
        found.append((column, read_column(path, column), class_names(schema, column)))
    return found


def refuse_unlabelled(listing: Listing, marks: dict[str, Mark]) -> None:
    if not marks:
        raise UserError(f"{listing.title} has no labels: no image is in a class folder. {LAYOUTS}")
    if len({mark.label for mark in marks.values()}) == 1:
        only = next(iter(marks.values())).label
        raise UserError(f"{listing.title} has one class, {only}, and an evaluation needs two or more. {LAYOUTS}")


def named(label: str | int, names: list[str] | None) -> str:
    return names[label] if names and isinstance(label, int) and label < len(names) else str(label)


def stands_in_test(path: str, parted: Parted) -> bool:
    """Whether what was left out is of the test part."""
    return path in parted.test or (parted.part is not None and split_of(path) == parted.part)


def test_part(listing: Listing, marks: dict[str, Mark]) -> tuple[np.ndarray, str | None, list[str]]:
    """True for the images of the test part: test, else val, else a drawn fifth of each class. Which, and a note on it.

    Settled by names alone, so that whoever opens train only finds the same train.
    """
    splits = [marks[name].split for name in listing.ids]
    counts = Counter(splits)
    parts = [part for part in ("train", "val", "test") if counts[part]]
    of = np.array(splits, dtype=object)
    if len(parts) < 2:
        _, labels = np.unique([str(marks[name].label) for name in listing.ids], return_inverse=True)
        in_test = drawn_test(listing.ids, labels)
        note = (
            f"{listing.title} has no test part: {int(in_test.sum()):,} of {len(labels):,} images, {TEST_SHARE:.0%} of "
            "each class, drawn by their ids, are kept for it"
        )
        return in_test, None, [note]
    if "train" not in parts:
        raise UserError(f"{listing.title} has the parts {' and '.join(parts)}, and none for training. {LAYOUTS}")
    if "test" not in parts:
        return of == "val", "val", [f"val, {counts['val']:,} images, is the test part; there is no other"]
    if "val" in parts:
        return of == "test", "test", [f"val, {counts['val']:,} images, is joined to train, {counts['train']:,}"]
    return of == "test", "test", []
