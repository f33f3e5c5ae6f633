"""The numbers of an audit are the truth: on 1,000 files of which every trouble is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.made_set import HEIGHT, WIDTH, MadeSet
from contextae.audit.findings import find
from contextae.audit.manifest import DUPLICATES, MANIFEST, TROUBLES, Manifest, read_record
from contextae.audit.record import AuditRecord
from contextae.audit.stopping import Stopping
from contextae.audit.survey import survey
from contextae.data.sources import open_index
from contextae.data.sources.find import list_source
from contextae.data.statistics import pixel_statistics
from contextae.verbs.audit import run_audit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("made") / "set")


@pytest.fixture(scope="module")
def audited(made: MadeSet) -> Path:
    out = made.folder.parent / "audit"
    assert run_audit(data=[str(made.folder)], out=out) == 0
    return out


@pytest.fixture(scope="module")
def record(audited: Path) -> AuditRecord:
    return read_record(audited / MANIFEST)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_file_is_accounted_for(made: MadeSet, record: AuditRecord) -> None:
    assert made.made == record.found == 1000
    assert {each.reason: each.count for each in record.left_out} == dict(made.out)
    assert record.used == 1000 - sum(made.out.values()) and record.complete and not record.unsupported


@pytest.mark.parametrize(
    "name",
    ["constant", "extreme-ratio", "too-small", "small", "wrong-extension", "exact-duplicates", "near-duplicates"],
)
def test_every_finding_has_its_true_number(made: MadeSet, record: AuditRecord, name: str) -> None:
    expected = made.truth[name]
    assert expected > 0 and record.finding(name) == expected


def test_traits_have_their_true_numbers(made: MadeSet, record: AuditRecord) -> None:
    counts = {each.words.split(",")[0]: each.count for each in record.traits}
    assert counts == {
        "with alpha": made.truth["with alpha"],
        "CMYK": made.truth["CMYK"],
        "with a palette": made.truth["palette"],
        "turned or mirrored by EXIF": made.truth["turned"],
        "of several frames or pages": made.truth["frames"],
    }


def test_the_images_are_the_true_ones(made: MadeSet, audited: Path) -> None:
    found: dict[str, set[str]] = {}
    for line in lines(audited / TROUBLES):
        found.setdefault(line["finding"], set()).add(line["image"])
    for line in lines(audited / DUPLICATES):
        found.setdefault(line["finding"], set()).update(line["others"])
    unused: dict[bool, set[str]] = {True: set(), False: set()}
    for truth, names in made.names.items():
        if truth.startswith("out: "):
            unused["extension" not in truth and "16-bit" not in truth].update(names)
    assert found.pop("unreadable") == unused[True] and found.pop("left-out") == unused[False]
    assert found == {name: set(made.names[name]) for name in found} and len(found) == 7


def test_statistics_are_those_of_all_images_that_are_used(made: MadeSet, record: AuditRecord) -> None:
    index = open_index(str(made.folder), channels=3, dtype="uint8")
    expected = pixel_statistics(index, limit=len(index))
    (kind, deep) = record.kinds
    assert (kind.photograph, kind.channels, kind.dtype, kind.count) == (True, 3, "uint8", record.used)
    assert kind.value_range == expected.value_range
    np.testing.assert_allclose(kind.mean, expected.mean, atol=2e-6)
    np.testing.assert_allclose(kind.deviation, expected.deviation, atol=2e-6)
    assert (deep.photograph, deep.channels, deep.dtype, deep.count) == (False, 1, "uint16", 10)


def test_sizes_and_formats(record: AuditRecord) -> None:
    sizes = record.sizes
    assert sizes and (sizes.smallest, sizes.median) == ((3, 9), (HEIGHT, WIDTH)) and sizes.largest == (HEIGHT, 201)
    assert sum(each.count for each in sizes.longest_sides) == sum(each.count for each in sizes.ratios) == record.used
    (square,) = (each.count for each in sizes.ratios if each.low < 4.0 <= each.high)
    assert square == 0
    assert sum(record.formats.values()) == record.used and {"PNG", "JPEG", "BMP", "TIFF"} == set(record.formats)


def test_what_it_suggests_can_be_run(record: AuditRecord, made: MadeSet, audited: Path) -> None:
    suggestion = record.suggestion
    assert suggestion and suggestion.image_size == (HEIGHT, WIDTH)
    assert suggestion.command == (
        f"contextae pretrain {made.folder} --manifest {audited / MANIFEST} --set data.channels=3 "
        "--set data.dtype=uint8 --exclude exact-duplicates --out RUN"
    )
    index = open_index(str(made.folder), channels=3, dtype="uint8")
    applied = Manifest(audited).apply(index, ["exact-duplicates"])
    assert len(applied.images) == record.used - made.truth["exact-duplicates"]


def test_find_says_the_same_in_any_order_of_work(made: MadeSet) -> None:
    seen = [survey(list_source(str(made.folder)), stopping=Stopping(), progress=lambda *_: None) for _ in range(2)]
    one, other = (each.rows[[n for n in each.rows.dtype.names if "seconds" not in n]] for each in seen)
    assert np.array_equal(one, other)
    assert find(seen[0]).kinds == find(seen[1]).kinds
