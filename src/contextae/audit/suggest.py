"""What to begin with: the recipe chosen for such images, as a command that can be run, and what to mind."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from contextae.audit.findings import CONSTANT, EXACT, EXACT_OVERLAP, NEAR, NEAR_OVERLAP
from contextae.audit.record import AuditRecord, Size, Suggestion

BUSY_SHARE = 0.01
"Of the images, from which a finding is worth a word."


class Recipe(NamedTuple):
    """What `presets.choose` makes of the number and size of the images, and of the device; `reason` is its own."""

    image_size: Size
    patch_size: Size
    batch_size: int
    epochs: int
    width: int
    depth: int
    reason: str


def suggest(record: AuditRecord, recipe: Recipe, *, data: Sequence[str], manifest: str) -> Suggestion:
    """A ready command line for `data` with the manifest at that path, and sentences on what was found."""
    excluded = [name for name in (EXACT, EXACT_OVERLAP, NEAR_OVERLAP) if record.finding(name)]
    words = ["contextae", "pretrain", *data, "--manifest", manifest]
    if record.mixed:
        kind = record.kinds[0]
        words += ["--set", f"data.channels={kind.channels}", "--set", f"data.dtype={kind.dtype}"]
    for name in excluded:
        words += ["--exclude", name]
    return Suggestion(
        **recipe._asdict(),
        command=shlex.join([*words, "--out", "RUN"]),
        notes=[*_on_kinds(record), *_on_findings(record, excluded)],
    )


def _on_kinds(record: AuditRecord) -> list[str]:
    if not record.mixed:
        return []
    first, *others = record.kinds
    what = f"{first.channels} channel(s) of {first.dtype}"
    alike = [kind for kind in others if (kind.channels, kind.dtype) == (first.channels, first.dtype)]
    if alike:
        return [
            f"The set mixes {first.count:,} images with {alike[0].count:,} others that are {what} too and cannot be "
            "made one with them. No setting tells these apart: move one kind to another folder first."
        ]
    return [
        "The set mixes kinds of images that cannot become one. The command names the most frequent one, "
        f"{what}, of which there are {first.count:,}; the others are left out."
    ]


def _on_findings(record: AuditRecord, excluded: list[str]) -> list[str]:
    notes = []
    if EXACT in excluded:
        notes.append(f"Equal to another one: {_images(record.finding(EXACT))}, left out by the command.")
    if EXACT_OVERLAP in excluded or NEAR_OVERLAP in excluded:
        notes.append(
            "What the other set holds too is left out by the command, so that nothing it is used to measure was seen."
        )
    for name, what in ((NEAR, "Nearly the same as another one"), (CONSTANT, "Constant")):
        if (count := record.finding(name)) > BUSY_SHARE * record.used:
            notes.append(f"{what}: {_images(count)}; --exclude {name} leaves them out.")
    if record.speed:
        rate = record.speed.images_per_second
        notes.append(
            f"One processor core reads and decodes about {rate:,.0f} of these images a second, before they are cropped."
        )
    return notes


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"
