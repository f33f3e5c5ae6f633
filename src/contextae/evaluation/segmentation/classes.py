"""The classes of index masks: their names, the values that stand for them, and the values that mean nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Integer

from contextae.data.index import printable
from contextae.errors import UserError

VOID = -1
"""Position of a pixel that belongs to no class: neither trained on nor counted."""
UNKNOWN = -2
LARGEST = 65_535
DIGITS = 20
"""Of a number that are read, as Python refuses thousands of them; so many are too large anyway."""
USUAL_VOID = 255
"""Of Pascal VOC, Cityscapes and others; void wherever no class has this value and no other void is named."""
VOID_NAMES = ("void", "ignore", "unlabelled", "unlabeled")
NUMBERED = re.compile(r"(\d+)[\t ,:;]+(.+)")
MOST_FOUND = 256
"""More values than these, without a list of classes, are numbers of things rather than of classes."""
FILE, ADE_FILE = "classes.txt", "objectInfo150.txt"
FORMAT = "One class in a line: its value in the masks, a tab and its name; behind another tab `ignore` makes it void."


class Line(NamedTuple):
    value: int
    name: str
    void: bool


@dataclass(frozen=True)
class Classes:
    """K names, the value of each in masks, ascending, and the values that are void."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    void: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def table(self) -> np.ndarray:
        """The position of every value from 0 to 65535, VOID or UNKNOWN."""
        table = np.full(LARGEST + 1, UNKNOWN, np.int16)
        table[list(self.void)] = VOID
        table[list(self.values)] = np.arange(len(self.values))
        return table

    def positions(self, mask: Integer[np.ndarray, "h w"]) -> Int16[np.ndarray, "h w"]:
        """Values of a mask as positions in `names`, or VOID."""
        return self.table[mask]

    def unknown(self, values: Iterable[int]) -> list[int]:
        """Those that are neither a class nor void."""
        return [value for value in values if not 0 <= value <= LARGEST or self.table[value] == UNKNOWN]

    def describe(self) -> str:
        """Which values there may be, for a message."""
        whole = range(self.values[0], self.values[-1] + 1)
        listed = (
            f"{self.values[0]} to {self.values[-1]}" if len(whole) == len(self) else ", ".join(map(str, self.values))
        )
        told = listed if len(listed) <= 60 else f"{len(self)} of {self.values[0]} to {self.values[-1]}"
        return f"{told}{f', and {_listed(self.void)} for void' if self.void else ''}"


def named_classes(lines: list[Line], void: int | None) -> Classes:
    """Of a list; `void`, where it is given, is void beside what the list marks as such."""
    void_values = {line.value for line in lines if line.void} | ({void} if void is not None else set())
    kept = sorted((line for line in lines if line.value not in void_values), key=lambda line: line.value)
    if not void_values and USUAL_VOID not in {line.value for line in kept}:
        void_values = {USUAL_VOID}
    return _checked(Classes(tuple(x.name for x in kept), tuple(x.value for x in kept), tuple(sorted(void_values))))


def found_classes(values: Iterable[int], void: int) -> Classes:
    """Without a list, every value that occurs is a class, named by its number."""
    kept = sorted(set(values) - {void})
    if len(kept) > MOST_FOUND:
        raise UserError(
            f"The masks hold {len(kept):,} different values, from {kept[0]} to {kept[-1]}, and there is no {FILE}. So "
            f"many are numbers of single objects rather than classes; give masks of classes, or list them in {FILE}. "
            f"{FORMAT}"
        )
    return _checked(Classes(tuple(f"class {value}" for value in kept), tuple(kept), (void,)))


def _checked(classes: Classes) -> Classes:
    if len(classes) < 2:
        raise UserError(
            f"Segmentation needs two classes or more beside void. Got {len(classes)}: "
            f"{', '.join(classes.names) or 'none'}, where {_listed(classes.void)} is void. Name the classes in {FILE}, "
            "also where one of them has the value that is taken for void."
        )
    return classes


def read_classes(root: Path, first: int) -> list[Line] | None:
    """classes.txt of a set, or the list of ADE20K; None where there is neither. Names alone count from `first`."""
    for name, parse in ((FILE, parse_classes), (ADE_FILE, _parse_ade)):
        path = root / name
        if path.is_file():
            try:
                return parse(path.read_text(encoding="utf-8-sig"), printable(str(path)), first)
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{printable(str(path))} cannot be read as text: {error}. {FORMAT}") from None
    return None


def parse_classes(text: str, title: str, first: int) -> list[Line]:
    """Lines `value<tab>name[<tab>ignore]`, or names alone; empty lines and those that begin with # are passed over."""
    rows = [row.rstrip() for row in text.splitlines() if row.strip() and not row.lstrip().startswith("#")]
    matches = [NUMBERED.fullmatch(row.strip()) for row in rows]
    numbered = sum(match is not None for match in matches)
    if numbered not in (0, len(rows)):
        odd = next(row for row, match in zip(rows, matches, strict=True) if match is None)
        raise UserError(
            f"{title} numbers some of its classes and not this line: {printable(odd)[:60]!r}. Number all, or none. "
            f"{FORMAT}"
        )
    lines = []
    for position, (row, match) in enumerate(zip(rows, matches, strict=True)):
        name, *marks = (match[2] if match else row.strip()).split("\t")
        value, name = int(match[1][:DIGITS]) if match else first + position, name.strip()
        void = "ignore" in (mark.strip().lower() for mark in marks) or name.lower() in VOID_NAMES
        lines.append(Line(value, name, void))
    _refuse_doubles(lines, title)
    return lines


def _parse_ade(text: str, title: str, first: int) -> list[Line]:
    """ADE20K's own list: a head line, then tab-separated rows, the value in the first column and names in the last."""
    rows = [row.split("\t") for row in text.splitlines()[1:] if row.strip()]
    if any(len(row) < 2 or not row[0].strip().isdigit() for row in rows):
        raise UserError(f"{title} is not ADE20K's list of classes. Write them into {FILE}. {FORMAT}")
    lines = [Line(int(row[0].strip()[:DIGITS]), row[-1].split(",")[0].strip(), False) for row in rows]
    seen: set[str] = set()
    distinct = []
    for line in lines:  # ADE20K has two classes called screen, and two called crt screen or the like
        distinct.append(line._replace(name=f"{line.name} ({line.value})") if line.name in seen else line)
        seen.add(line.name)
    _refuse_doubles(distinct, title)
    return distinct


def _refuse_doubles(lines: list[Line], title: str) -> None:
    for what in ("value", "name"):
        of = [getattr(line, what) for line in lines]
        if doubled := [each for each in of if of.count(each) > 1]:
            raise UserError(
                f"{title} has the {what} {doubled[0]!r} twice. Give each class a {what} of its own. {FORMAT}"
            )
    if wrong := [line for line in lines if line.value > LARGEST]:
        raise UserError(f"{title} has the value {wrong[0].value}; masks hold values from 0 to {LARGEST}. {FORMAT}")


def _listed(values: Iterable[int]) -> str:
    return " and ".join(map(str, values))
