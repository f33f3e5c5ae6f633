"""Several sources as one, each with a weight: how often its images come in an epoch, beside those of the others."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contextae.data.facts import ImageFacts
from contextae.data.index import LeftOut, Part, Source, printable
from contextae.data.names import Names
from contextae.data.sources.listing import Listing
from contextae.errors import UserError

MOST_WEIGHT = 1000.0


class Weighted(NamedTuple):
    """A source as the user names it, PATH or PATH=WEIGHT, taken apart."""

    source: str
    weight: float


class Mixed:
    """Images of several sources, whose ids begin with the name of theirs: `photos/a/b.jpg` is `a/b.jpg` of `photos`."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self.sources = sources

    @property
    def arrays(self) -> bool:
        """Whether nothing of any of them is decoded."""
        return all(getattr(source, "arrays", False) for source in self.sources.values())

    def read(self, sample_id: str) -> bytes | np.ndarray:
        source, own = self._own(sample_id)
        return source.read(own)

    def probe(self, sample_id: str) -> ImageFacts:
        source, own = self._own(sample_id)
        return source.probe(own)

    def has(self, sample_id: str) -> bool:
        name, _, own = sample_id.partition("/")
        return name in self.sources and self.sources[name].has(own)

    def _own(self, sample_id: str) -> tuple[Source, str]:
        name, _, own = sample_id.partition("/")
        return self.sources[name], own


def weighted(text: str) -> Weighted:
    """PATH=WEIGHT, unless there is a file of that whole name; without a weight it is 1."""
    path, equals, number = text.rpartition("=")
    if not equals or os.path.exists(Path(text)):  # noqa: PTH110 unlike Path.exists it takes any name
        return Weighted(text, 1.0)
    try:
        weight = float(number)
    except ValueError:
        return Weighted(text, 1.0)
    if not (math.isfinite(weight) and 0 < weight <= MOST_WEIGHT):
        raise UserError(
            f"The weight of a source is a number above 0 and at most {MOST_WEIGHT:g}. Got {printable(text)}; 2 makes "
            "its images come twice in an epoch, 0.5 in every second one."
        )
    return Weighted(path, weight)


def names_of(sources: Sequence[str]) -> list[str]:
    """Each source's last part, with -2, -3 behind it where another has the same; a / would end it too early."""
    names: list[str] = []
    for source in sources:
        plain = Path(source).name.replace("/", "-") or "images"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def place_of(source: str) -> str:
    """The file or folder that is meant, however it is written and whatever links lead to it; else the name itself."""
    return os.path.realpath(source) if os.path.exists(source) else source  # noqa: PTH110  it takes any name


def nested(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """A note on each source that lies in the folder of another, whose images may so come from both."""
    return [
        f"{inner} lies within {outer}, so that images of it may come from both"
        for inner, place in zip(names, places, strict=True)
        for outer, folder in zip(names, places, strict=True)
        if place.startswith(f"{folder}/")
    ]


def list_mixed(texts: Sequence[str], list_one: Callable[[str], Listing]) -> Listing:
    """What there is in all of them, in their order. Labels are not taken along."""
    parts = [weighted(text) for text in texts]
    places = [place_of(part.source) for part in parts]
    again = [part.source for part, place in zip(parts, places, strict=True) if places.count(place) > 1]
    if again:
        raise UserError(
            "A source is named once, with a weight if it is to count more. Got one several times, as "
            f"{printable(' and '.join(dict.fromkeys(again)))}."
        )
    names = names_of([part.source for part in parts])
    listings = [list_one(part.source) for part in parts]

    def ids() -> Iterator[str]:
        for name, listing in zip(names, listings, strict=True):
            yield from (f"{name}/{own}" for own in listing.ids)

    return Listing(
        source=Mixed({name: listing.source for name, listing in zip(names, listings, strict=True)}),
        title=", ".join(listing.title for listing in listings),
        ids=Names(ids()),
        left_out=[
            LeftOut(f"{name}/{entry.path}", entry.reason)
            for name, listing in zip(names, listings, strict=True)
            for entry in listing.left_out
        ],
        notes=[
            *(f"{name}: {note}" for name, listing in zip(names, listings, strict=True) for note in listing.notes),
            *nested(names, places),
        ],
        parts=[
            Part(name, len(listing.ids), part.weight)
            for name, listing, part in zip(names, listings, parts, strict=True)
        ],
    )
