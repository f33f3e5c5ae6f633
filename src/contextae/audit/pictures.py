"""Small pictures for the page: which images are shown, and each of them made in a process that may die."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from contextae.audit.duplicates import Group
from contextae.audit.examine import pixels_of
from contextae.audit.findings import Found, Overlap
from contextae.audit.likeness import levels
from contextae.audit.stopping import Stopping
from contextae.audit.survey import Survey
from contextae.data.each import look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import Source
from contextae.randomness import Shuffle

SIDE = 144
"Pixels of the longer side of a picture."
TINY_SIDE = 48  # up to which an image is kept as it is, as PNG, and enlarged by the page
SAMPLE, EXAMPLES, GROUPS, IN_GROUP, COUPLES = 24, 6, 8, 4, 8
CHUNK, PER_PROCESS = 8, 64
CHANNELS_SHOWN = {1: [0, 0, 0], 2: [1, 0, 1]}
"One is gray; of two the first is green and the second magenta; of more the first three are colours."


class Shown(NamedTuple):
    """Positions of the pictures on the page; `couples` are of this set and of the other one."""

    sample: list[int]
    examples: dict[str, list[int]]
    groups: dict[str, list[Group]]
    couples: dict[str, list[Overlap]]

    def here(self) -> set[int]:
        """All of this set."""
        some = {*self.sample, *(position for positions in self.examples.values() for position in positions)}
        some |= {each.position for couples in self.couples.values() for each in couples}
        for groups in self.groups.values():
            some |= {position for group in groups for position in (group.kept, *group.others[: IN_GROUP - 1])}
        return some

    def there(self) -> set[int]:
        """All of the other set."""
        return {each.other for couples in self.couples.values() for each in couples}


def choose_shown(found: Found) -> Shown:
    """A sample of the images that are used, drawn by a fixed seed, and the first of each finding.

    Of duplicates the largest groups, and of what another set holds too the least alike come first: these are the ones
    to be judged by eye.
    """
    used = found.used
    drawn = np.sort(Shuffle(len(used), "audit's sample").first(SAMPLE)) if len(used) else np.zeros(0, np.int64)
    alone = {name: marked for name, marked in found.marked.items() if name not in found.groups | found.overlap}
    return Shown(
        sample=used[drawn].tolist(),
        examples={name: marked[:EXAMPLES].tolist() for name, marked in alone.items() if len(marked)},
        groups={
            name: sorted(groups, key=lambda group: (-len(group.others), group.kept))[:GROUPS]
            for name, groups in found.groups.items()
            if groups
        },
        couples={
            name: sorted(overlap, key=lambda each: (-each.bits, each.position))[:COUPLES]
            for name, overlap in found.overlap.items()
            if overlap
        },
    )


def draw(seen: Survey, positions: Iterable[int], stopping: Stopping) -> dict[int, bytes]:
    """Encoded pictures by position; of an image that cannot be read any more there is none."""
    wanted = sorted(positions)
    ids = [seen.ids[position] for position in wanted]
    parts = look_at_each(picture, seen.listing.source, ids, chunk=CHUNK, per_process=PER_PROCESS)
    drawn = [each for part in stopping.until(parts) for each in part]
    return {position: each for position, each in zip(wanted, drawn, strict=False) if not isinstance(each, Refusal)}


def picture(source: Source, name: str) -> bytes:
    """A JPEG, or of a very small image a PNG."""
    image = pixels_of(source.read(name), source.probe(name))
    if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        image = np.stack([levels(image[:, :, c]) for c in range(image.shape[2])], axis=2).astype(np.uint8)
    shown = Image.fromarray(np.ascontiguousarray(image[:, :, CHANNELS_SHOWN.get(image.shape[2], [0, 1, 2])]))
    stream = io.BytesIO()
    if max(shown.size) <= TINY_SIDE:
        shown.save(stream, "PNG")
    else:
        shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        shown.save(stream, "JPEG", quality=80)
    return stream.getvalue()
