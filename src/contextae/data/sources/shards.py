"""Patterns of shards as WebDataset writes them: `shards-{000000..000003}.tar`, `{train,val}.tar`."""

from __future__ import annotations

import itertools
import math
import os
import re
from pathlib import Path

from contextae.data.index import printable
from contextae.errors import UserError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MOST = 100_000


def is_pattern(source: str) -> bool:
    """Whether it holds braces that stand for several names."""
    return any("," in inner or RANGE.fullmatch(inner) for inner in BRACES.findall(source))


def shards_of(pattern: str) -> tuple[Path, list[str]]:
    """The folder that holds all files of a pattern, and their paths relative to it; UserError where one is missing."""
    # abspath rather than resolve, which would follow the links that were named
    paths = list(dict.fromkeys(os.path.abspath(name) for name in expanded(pattern)))  # noqa: PTH100
    missing = [path for path in paths if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        raise UserError(
            f"{printable(pattern)} stands for {len(paths):,} files, of which {len(missing):,} are not there, first "
            f"{printable(missing[0])}. Name those that are."
        )
    root = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    return Path(root), [os.path.relpath(path, root) for path in paths]


def expanded(pattern: str) -> list[str]:
    """All names it stands for, in order. A range keeps the zeros that its first number begins with."""
    pieces = BRACES.split(pattern)  # every second one is what stood in braces
    options = [[piece] if i % 2 == 0 else options_of(piece) for i, piece in enumerate(pieces)]
    if math.prod(len(choice) for choice in options) > MOST:
        raise UserError(f"{printable(pattern)} stands for more than {MOST:,} files, the most that are opened.")
    return ["".join(parts) for parts in itertools.product(*options)]


def options_of(inner: str) -> list[str]:
    """Of what stands in braces: numbers from the first to the last, names between commas, or itself with its braces."""
    numbers = RANGE.fullmatch(inner)
    if numbers is None:
        return inner.split(",") if "," in inner else [f"{{{inner}}}"]
    first, last = int(numbers[1]), int(numbers[2])
    if not first <= last < first + MOST:
        raise UserError(
            f"The range {{{inner}}} must go up, and by fewer than {MOST:,}. Write the lower number first, as in "
            "{000000..000003}."
        )
    return [str(value).zfill(len(numbers[1])) for value in range(first, last + 1)]
