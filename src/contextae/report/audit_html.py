"""The page of an audit: one HTML file that asks nothing of the network and runs nothing."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from contextae.audit.findings import EXACT, EXACT_OVERLAP, NEAR, NEAR_OVERLAP, TINY, WORDS
from contextae.audit.naming import Naming
from contextae.audit.pictures import IN_GROUP, Shown
from contextae.audit.record import AuditRecord, Bin
from contextae.data.index import readable_bytes
from contextae.report.page import rendered

TEMPLATE = "audit.html.j2"
OVERLAPS = (EXACT_OVERLAP, NEAR_OVERLAP)
FEWEST_PLACES = 10  # of a chart, so that a single bar is no wall


class Figure(NamedTuple):
    """A picture as a data URI, or none, and the words below it."""

    uri: str | None
    caption: str
    pixelated: bool


class Album(NamedTuple):
    """What is shown, the pictures by position of this set and of the other one, and how these are named."""

    shown: Shown
    here: dict[int, bytes]
    there: dict[int, bytes]
    naming: Naming
    other_naming: Naming | None

    def figure(self, position: int, words: str = "") -> Figure:
        return _figure(self.here.get(position), f"{self.naming.words(position)}{words}")

    def other_figure(self, position: int, words: str) -> Figure:
        assert self.other_naming is not None
        return _figure(self.there.get(position), f"{self.other_naming.words(position)}{words}")


def _figure(data: bytes | None, caption: str) -> Figure:
    if data is None:
        return Figure(None, caption, pixelated=False)
    is_png = data.startswith(b"\x89PNG")
    text = base64.b64encode(data).decode("ascii")
    return Figure(f"data:image/{'png' if is_png else 'jpeg'};base64,{text}", caption, pixelated=is_png)


def audit_page(record: AuditRecord, album: Album | None, files: dict[str, str]) -> str:
    """The whole file. Without an `album` there are no pictures. `files` are those beside it: what each holds.

    Everything from the user's data is escaped; a content policy forbids scripts and requests besides.
    """
    return rendered(
        TEMPLATE,
        {"bytes": readable_bytes, "per_cent": _per_cent, "number": _number},
        record=record,
        files=files,
        sections=_sections(record, album),
        sample=[album.figure(position) for position in album.shown.sample] if album else [],
        charts=_charts(record),
        used_paths=record.source is not None,
        pictures=album is not None,
    )


def _sections(record: AuditRecord, album: Album | None) -> list[dict[str, Any]]:
    """Of each finding its words, count, share, and rows of pictures."""
    return [
        {
            "name": finding.name,
            "words": WORDS[finding.name],
            "count": finding.count,
            "share": finding.count / max(1, record.used),
            "examples": finding.examples,
            "grouped": finding.name in (EXACT, NEAR, *OVERLAPS),
            "excludable": _excludable(record, finding.name),
            "rows": _rows(finding.name, album) if album else [],
        }
        for finding in record.findings
        if finding.count
    ]


def _excludable(record: AuditRecord, name: str) -> bool:
    """Whether `pretrain` takes --exclude of it from this audit, and not without being asked."""
    whole = record.complete and (name not in OVERLAPS or record.against is None or record.against.complete)
    return whole and name != TINY


def _rows(name: str, album: Album) -> list[list[Figure]]:
    shown = album.shown
    if name in shown.groups:
        rows = []
        for group in shown.groups[name]:
            row = [album.figure(group.kept, ", kept")]
            row += [album.figure(position) for position in group.others[: IN_GROUP - 1]]
            if (more := len(group.others) - IN_GROUP + 1) > 0:
                row[-1] = row[-1]._replace(caption=f"{row[-1].caption}, and {more:,} more")
            rows.append(row)
        return rows
    if name in shown.couples:
        return [
            [album.figure(here), album.other_figure(there, f", {bits} of 255 bits differ" if bits else ", equal")]
            for here, there, bits in shown.couples[name]
        ]
    return [[album.figure(position) for position in shown.examples.get(name, [])]]


def _charts(record: AuditRecord) -> list[dict[str, Any]]:
    """Histograms as bars: places and heights in a box of 100 x 40."""
    if record.sizes is None:
        return []
    return [
        _chart(
            "Longer side, pixels: a bar begins at its number and ends at 1.4 times that",
            record.sizes.longest_sides,
            lambda each: f"{each.low:,.0f}",
        ),
        _chart(
            "Width over height: a bar is of what differs by less than a tenth from its number",
            record.sizes.ratios,
            lambda each: f"{(each.low * each.high) ** 0.5:.2f}",
        ),
    ]


def _chart(title: str, bins: list[Bin], name: Any) -> dict[str, Any]:
    most = max(each.count for each in bins)
    every = -(-len(bins) // 8)  # labels that do not run into each other
    places = max(len(bins), FEWEST_PLACES)
    return {
        "title": f"{title}; the tallest stands for {most:,}",
        "width": 10 * places,
        "empty": places - len(bins),
        "bars": [
            {
                "x": 10 * place,
                "height": max(0.4, 40 * each.count / most) if each.count else 0,
                "label": name(each) if place % every == 0 else "",
                "words": f"{each.low:,.3g} to {each.high:,.3g}: {each.count:,} images",
            }
            for place, each in enumerate(bins)
        ],
    }


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %" if share >= 0.001 else "below 0.1 %"


def _number(value: float) -> str:
    return f"{value:,.6g}"
