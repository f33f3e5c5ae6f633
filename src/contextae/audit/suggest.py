"""What to begin with: the recipe chosen for such images, as a command that can be run, and what to mind."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from contextae.audit.findings import CONSTANT, EXACT, EXACT_OVERLAP, NEAR, NEAR_OVERLAP
from contextae.audit.record import AuditRecord, Recipe, Suggestion

BUSY_SHARE = 0.01
"Of the images, from which a finding is worth a word."


def suggest(record: AuditRecord, recipe: Recipe, *, data: Sequence[str], manifest: str) -> Suggestion:
    """A ready command line for `data` with the manifest at that path, and sentences on what was found.

    There is no command where `pretrain` would refuse it: after a stop, or where no setting names the kind that is used.
    """
    overlap = [] if record.against and not record.against.complete else [EXACT_OVERLAP, NEAR_OVERLAP]
    excluded = [name for name in (EXACT, *overlap) if record.finding(name)]
    words = ["contextae", "pretrain", *data, "--manifest", manifest]
    if record.mixed:
        kind = record.kinds[0]
        words += ["--set", f"data.channels={kind.channels}", "--set", f"data.dtype={kind.dtype}"]
    for name in excluded:
        words += ["--exclude", name]
    return Suggestion(
        **recipe.model_dump(),
        command=shlex.join([*words, "--out", "RUN"]) if record.complete and not record.alike else "",
        notes=[*_on_kinds(record), *_on_findings(record, excluded)],
    )


def _on_kinds(record: AuditRecord) -> list[str]:
    if not record.mixed:
        return []
    first = record.kinds[0]
    what = f"{first.channels} channel(s) of {first.dtype}"
    if record.alike:
        return [
            f"The set mixes {first.count:,} images with {record.alike[0].count:,} others that are {what} too and "
            "cannot be made one with them. No setting tells these apart: move one kind to another folder first."
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
