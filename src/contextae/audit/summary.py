"""From findings by position to the AuditRecord: counts, examples, sizes and speed; and to the lists beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from contextae.audit.findings import EXACT_OVERLAP, LEFT_OUT, NEAR_OVERLAP, UNREADABLE, WORDS, Found
from contextae.audit.naming import Naming, shown
from contextae.audit.record import Against, AuditRecord, Bin, Counted, Finding, Reason, Size, Sizes, Speed
from contextae.audit.survey import Survey
from contextae.data.index import EXAMPLES, LeftOut, printable, tally

TRAITS = {
    "with alpha": "with alpha, composited on their mean colour",
    "CMYK": "CMYK",
    "palette": "with a palette",
    "16-bit": "of 16 bits",
    "float": "of floating-point numbers",
}
"""What parts of ImageFacts.kind mean."""
Line = dict[str, Any]


class About(NamedTuple):
    """Where the images are, whether names of files may be written, who looked."""

    source: str
    paths: bool
    version: str


def summarise(found: Found, about: About) -> AuditRecord:
    """Everything but the suggestion and the lists. Without `about.paths` no name of a file is in it."""
    paths = about.paths
    seen, rows = found.survey, found.survey.rows[found.used]
    naming = Naming(seen.ids, paths)
    left_out = _left_out(found, paths)
    used, unsupported = len(found.used), bool((seen.rows["sound"] & ~seen.rows["decoded"]).any())
    record = AuditRecord(
        versions={"contextae": about.version},
        source=printable(about.source) if paths else None,
        title=seen.listing.title if paths else "the set",
        complete=seen.complete,
        found=seen.found,
        seen=len(seen.rows),
        used=used,
        left_out=left_out,
        kinds=found.kinds,
        unsupported=unsupported,
        formats=dict(tally(rows["format"]).most_common()),
        traits=_traits(rows),
        findings=[
            Finding(
                name=name,
                words=words,
                count=len(found.marked[name]),
                examples=[naming.words(i) for i in found.marked[name][:EXAMPLES].tolist()],
            )
            for name, words in WORDS.items()
            if name in found.marked
        ],
        near_complete=found.near_complete,
        sizes=sizes_of(rows) if used else None,
        speed=_speed(seen),
        against=_against(found, paths),
        notes=list(seen.listing.notes) if paths else [],
    )
    unseen = len(seen.ids) - len(seen.rows)
    assert record.found == record.used + sum(each.count for each in left_out) + unseen, record
    return record


def _left_out(found: Found, paths: bool) -> list[Reason]:
    """By reason, the most frequent first: never looked at, unreadable, or of another kind than most."""
    examples: dict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for name, reason in (*found.survey.left_out(), *_other_kinds(found)):
        counts[reason] += 1
        if paths and counts[reason] <= EXAMPLES:
            examples[reason].append(shown(name))
    return [Reason(reason=why, count=count, examples=examples[why]) for why, count in counts.most_common()]


def _other_kinds(found: Found) -> Iterator[LeftOut]:
    """Images that decode and cannot become one kind with those that are used."""
    seen = found.survey
    for i in np.setdiff1d(np.flatnonzero(seen.rows["decoded"]), found.used).tolist():
        yield LeftOut(seen.ids[i], f"{seen.rows['kind'][i].decode()}, another kind than most")


def _traits(rows: np.ndarray) -> list[Counted]:
    kinds = tally(rows["kind"])
    counts = {words: sum(n for kind, n in kinds.items() if part in kind) for part, words in TRAITS.items()}
    counts["turned or mirrored by EXIF, and used upright"] = int(rows["rotated"].sum())
    counts["of several frames or pages, of which the first is used"] = int(rows["frames"].sum())
    return [Counted(words=words, count=count) for words, count in counts.items() if count]


def sizes_of(rows: np.ndarray) -> Sizes:
    """Of at least one image."""
    height, width = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    order = np.argsort(height * width, kind="stable")

    def size(at: int) -> Size:
        return int(height[order[at]]), int(width[order[at]])

    return Sizes(
        smallest=size(0),
        median=(int(np.median(height)), int(np.median(width))),
        largest=size(-1),
        num_bytes=int(rows["num_bytes"].sum()),
        longest_sides=histogram(np.maximum(height, width), 2, 0.0),
        ratios=histogram(width / height, 4, 0.5),
    )


def histogram(values: np.ndarray, steps: int, shift: float) -> list[Bin]:
    """Of positive values, in bins of which `steps` make a factor of two; `shift` 0.5 puts 1 amid one."""
    places = np.floor(steps * np.log2(values) + shift + 1e-9).astype(np.int64)
    counts = Counter(places.tolist())
    return [
        Bin(low=2 ** ((at - shift) / steps), high=2 ** ((at + 1 - shift) / steps), count=counts[at])
        for at in range(min(counts), max(counts) + 1)
    ]


def _speed(seen: Survey) -> Speed | None:
    rows = seen.rows[seen.rows["decoded"]]
    if not len(rows):
        return None
    read, decode = (float(rows[name].mean(dtype=np.float64)) for name in ("read_seconds", "decode_seconds"))
    return Speed(
        images_per_second=1 / max(read + decode, 1e-9),
        read_milliseconds=1000 * read,
        decode_milliseconds=1000 * decode,
        seconds=seen.seconds,
    )


def _against(found: Found, paths: bool) -> Against | None:
    other = found.other
    if other is None:
        return None
    return Against(
        title=other.listing.title if paths else "the other set",
        found=other.found,
        used=int(other.rows["decoded"].sum()),
        complete=other.complete,
        exact=len(found.overlap[EXACT_OVERLAP]),
        near=len(found.overlap[NEAR_OVERLAP]),
        other_exact=found.others_met[EXACT_OVERLAP],
        other_near=found.others_met[NEAR_OVERLAP],
    )


def trouble_lines(found: Found, naming: Naming) -> Iterator[Line]:
    """Of each file that is not used, with the reason, and of each mark that is not of a duplicate."""
    for position, reason in sorted(found.survey.reasons.items()):
        yield {"finding": UNREADABLE, "by": naming.by, "image": naming.key(position), "reason": reason}
    for name, reason in (*found.survey.listing.left_out, *_other_kinds(found)):
        yield {"finding": LEFT_OUT, "by": naming.by, "image": naming.key_of(name), "reason": reason}
    for name, positions in found.marked.items():
        if name not in found.groups and name not in found.overlap:
            for position in positions.tolist():
                yield {"finding": name, "by": naming.by, "image": naming.key(position)}


def duplicate_lines(found: Found, naming: Naming) -> Iterator[Line]:
    """Of each group: the image to keep, the others, and in how many bits of 255 these differ from it."""
    for name, groups in found.groups.items():
        for group in groups:
            others = [naming.key(position) for position in group.others]
            bits = list(group.distances) or [0] * len(others)
            yield {"finding": name, "by": naming.by, "image": naming.key(group.kept), "others": others, "bits": bits}


def overlap_lines(found: Found, naming: Naming) -> Iterator[Line]:
    """Of each image that the other set holds too."""
    assert found.other is not None
    theirs = Naming(found.other.ids, naming.paths)
    for name, overlap in found.overlap.items():
        for each in overlap:
            line = {"finding": name, "by": naming.by, "image": naming.key(each.position)}
            yield {**line, "other": theirs.key(each.other), "bits": each.bits}
