"""Labelled images in a train and a test part, for evaluations: class folders, Parquet files, or the built-in set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contextae.data.builtin import PREFIX
from contextae.data.index import EXAMPLES, Index, LeftOut, printable
from contextae.data.sources.arrow import open_parquet, read_column
from contextae.data.sources.columns import LABEL_NAMES, class_names, label_column
from contextae.data.sources.embedded import list_embedded
from contextae.data.sources.listing import Listing
from contextae.data.sources.open import Channels, Progress, check_channels, index_of, list_source
from contextae.data.sources.parquet import Rows
from contextae.data.sources.splits import SPLITS, TEST_SHARE, drawn_test, split_of
from contextae.errors import UserError

LAYOUTS = "Give a folder of class folders, alone or below train and test, or Parquet files with a label column."


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Both parts have `labels`, positions in `classes`. `notes` say how the parts came about."""

    train: Index
    test: Index
    classes: list[str]
    notes: list[str] = field(default_factory=list)


class Mark(NamedTuple):
    """The class of an image, by name or number, and the part (train, val, test) it stands in, if in any."""

    label: str | int
    split: str | None


def open_labelled(source: str, *, channels: Channels = "auto", progress: Progress | None = None) -> Labelled:
    """Train and test of a labelled set; UserError where there are no labels, one class, or one that only test has."""
    check_channels(channels)
    names: list[str] | None = None
    if source.startswith(PREFIX):
        listing = list_embedded(source.removeprefix(PREFIX), ("train", "test"))
        marks, names = marked_arrays(listing), listing.classes
    else:
        listing = list_source(source)
        if isinstance(listing.source, Rows):
            marks, names = marked_rows(listing, listing.source)
        else:
            marks = marked_folders(listing)
    refuse_unlabelled(listing, marks)
    listing = replace(listing, ids=[i for i in listing.ids if i in marks], labels=None, classes=None, notes=[])
    return divided(index_of(listing, channels, progress), marks, names)


def marked_arrays(listing: Listing) -> dict[str, Mark]:
    assert listing.labels is not None
    return {i: Mark(int(label), i.split("#")[0]) for i, label in zip(listing.ids, listing.labels, strict=True)}


def marked_folders(listing: Listing) -> dict[str, Mark]:
    """The class is the topmost folder, or the one below where the topmost are train and test or val.

    A class may be called train too: its folder counts as a part only beside another part, or if there is nothing else.
    """
    tops = {name.split("/")[0].lower() for name in listing.ids if "/" in name}
    parts = {SPLITS[top] for top in tops if top in SPLITS}
    in_parts = bool(tops) and (("train" in parts and len(parts) > 1) or tops <= set(SPLITS))
    marks = {}
    for name in listing.ids:
        *folders, _ = name.split("/")
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
    for part in rows.parts:
        path = Path(rows.root, part.name)
        with open_parquet(path) as file:
            schema = file.schema_arrow
        column = label_column(schema)
        if column is None:
            raise UserError(
                f"{printable(str(path))} has no column of labels: none of {', '.join(LABEL_NAMES)}. Its columns are "
                f"{', '.join(schema.names)}."
            )
        names = class_names(schema, column) or names
        for row, label in enumerate(read_column(path, column)):
            name = f"{part.name}#{row}"
            if label is None or (isinstance(label, int) and label < 0):
                listing.left_out.append(LeftOut(name, "row without a label"))
            elif isinstance(label, (int, str)):
                marks[name] = Mark(label, split_of(name))
            else:
                raise UserError(
                    f"Column {column} of {printable(str(path))} must hold one class per row, a number or a name. Row "
                    f"{row} has {str(label)[:40]!r}."
                )
    return marks, names


def refuse_unlabelled(listing: Listing, marks: dict[str, Mark]) -> None:
    if not marks:
        raise UserError(f"{listing.title} has no labels: no image is in a class folder. {LAYOUTS}")
    if len({mark.label for mark in marks.values()}) == 1:
        only = next(iter(marks.values())).label
        raise UserError(f"{listing.title} has one class, {only}, and an evaluation needs two or more. {LAYOUTS}")


def divided(index: Index, marks: dict[str, Mark], names: list[str] | None) -> Labelled:
    """Classes are those of train, in the order of their names or numbers."""
    found = [marks[name] for name in index.ids]
    labels = np.array([mark.label for mark in found], dtype=object)
    in_test, notes = test_part(index, [mark.split for mark in found], labels)
    present = sorted(set(labels[~in_test].tolist()), key=lambda label: (isinstance(label, str), label))
    place = {label: i for i, label in enumerate(present)}
    classes = [named(label, names) for label in present]
    unseen = Counter(named(label, names) for label in labels[in_test].tolist() if label not in place)
    if unseen:
        shown = ", ".join(f"{name} ({count:,})" for name, count in unseen.most_common(EXAMPLES))
        raise UserError(
            f"{index.title} has {len(unseen):,} classes in test that train does not have: {shown}. Every class of test "
            "must be in train; rename or remove them."
        )
    if len(classes) < 2:
        raise UserError(f"{index.title} has one class in train, {classes[0]}, and an evaluation needs two or more.")
    if absent := set(present) - set(labels[in_test].tolist()):
        notes.append(f"{len(absent):,} of {len(classes):,} classes have no test images")
    numbers = np.array([place[label] for label in labels.tolist()], dtype=np.int64)
    whole = replace(index, labels=numbers, classes=classes)
    parts = [whole.subset(np.flatnonzero(~in_test)), whole.subset(np.flatnonzero(in_test))]
    behind = [[e for e in index.left_out if of_test(e.path, parts[1].ids[0]) == k] for k in (False, True)]
    train, test = (replace(part, left_out=out) for part, out in zip(parts, behind, strict=True))
    return Labelled(train=train, test=test, classes=classes, notes=notes)


def named(label: str | int, names: list[str] | None) -> str:
    return names[label] if names and isinstance(label, int) and label < len(names) else str(label)


def of_test(path: str, first: str) -> bool:
    """Whether what was left out stands in the part that the first test image is from."""
    return split_of(path) is not None and split_of(path) == split_of(first)


def test_part(index: Index, splits: list[str | None], labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """True for the images of the test part, and how it was chosen: test, else val, else a drawn fifth of each class."""
    counts = Counter(splits)
    parts = [part for part in ("train", "val", "test") if counts[part]]
    of = np.array(splits, dtype=object)
    if len(parts) < 2:
        in_test = drawn_test(index.ids, labels)
        return in_test, [
            f"{index.title} has no test part: {int(in_test.sum()):,} of {len(index):,} images, {TEST_SHARE:.0%} of "
            "each class, drawn by their ids, are kept for it"
        ]
    if "train" not in parts:
        raise UserError(f"{index.title} has the parts {' and '.join(parts)}, and none for training. {LAYOUTS}")
    if "test" not in parts:
        return of == "val", [f"val, {counts['val']:,} images, is the test part; there is no other"]
    if "val" in parts:
        return of == "test", [f"val, {counts['val']:,} images, is joined to train, {counts['train']:,}"]
    return of == "test", []
