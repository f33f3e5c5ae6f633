"""What is said of images: of their kinds, of duplicates, of what another set holds too, in the record and the lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.made_set import encoded, gray16, image
from audit.troubled import listing
from contextae.audit.findings import Found, find, names_hash, sizes_hash
from contextae.audit.naming import Naming, fingerprint
from contextae.audit.stopping import Stopping
from contextae.audit.summary import About, duplicate_lines, histogram, overlap_lines, summarise, trouble_lines
from contextae.audit.survey import Survey, survey
from contextae.data.sources.find import list_source

ABOUT = About("/photos", True, "1.2.3")


def looked_at(folder: Path, files: dict[str, bytes]) -> Survey:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return survey(list_source(str(folder)), stopping=Stopping(), progress=lambda *_: None)


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Image 1 thrice, 2 and 3 once, beside a broken one; the other set, which begins with a broken one, holds 1 nearly,
    2 twice exactly and once nearly, and 9."""
    one = {f"1{part}.png": encoded(image(1)) for part in "abc"}
    here = {**one, "2.png": encoded(image(2)), "3.png": encoded(image(3)), "broken.png": b""}
    there = {
        "0broken.png": b"",
        "1.jpg": encoded(image(1), "JPEG", quality=80),
        "1rough.jpg": encoded(image(1), "JPEG", quality=40),
        "2.png": encoded(image(2)),
        "2again.bmp": encoded(image(2), "BMP"),
        "2near.jpg": encoded(image(2), "JPEG", quality=80),
        "9.png": encoded(image(9)),
    }
    return find(looked_at(tmp_path / "here", here), looked_at(tmp_path / "there", there))


def test_what_is_near_to_an_image_is_near_to_its_equals(found: Found) -> None:
    naming = Naming(found.survey.ids, True)
    lines = [(line["finding"], line["image"], line["other"]) for line in overlap_lines(found, naming)]
    assert lines == [
        ("exact-overlap", "2.png", "2.png"),
        ("near-overlap", "1a.png", "1.jpg"),
        ("near-overlap", "1b.png", "1.jpg"),
        ("near-overlap", "1c.png", "1.jpg"),
    ]
    against = summarise(found, ABOUT).against
    assert against and (against.exact, against.near) == (1, 3)
    assert (against.other_exact, against.other_near) == (2, 3), "both rough and fine copies of 1, and that of 2"
    assert (against.found, against.used, against.complete) == (7, 6, True)


def test_lines_by_name_and_by_fingerprint(found: Found) -> None:
    (group,) = duplicate_lines(found, Naming(found.survey.ids, True))
    assert group == {
        "finding": "exact-duplicates",
        "by": "name",
        "image": "1a.png",
        "others": ["1b.png", "1c.png"],
        "bits": [0, 0],
    }
    (hidden,) = duplicate_lines(found, Naming(found.survey.ids, False))
    assert (hidden["by"], hidden["others"]) == ("fingerprint", [fingerprint("1b.png"), fingerprint("1c.png")])
    (trouble,) = trouble_lines(found, Naming(found.survey.ids, True))
    assert trouble == {"finding": "unreadable", "by": "name", "image": "broken.png", "reason": "empty file"}


def test_a_very_long_name_is_shown_without_its_middle_and_listed_whole(tmp_path: Path) -> None:
    name = f"{'a' * 150}/{'b' * 150}.png"
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"")
    found = find(survey(list_source(str(tmp_path)), stopping=Stopping(), progress=lambda *_: None))
    (reason,) = summarise(found, ABOUT).left_out
    assert reason.examples == [f"{'a' * 100}...{'b' * 96}.png"] == [Naming([name], True).words(0)]
    assert [line["image"] for line in trouble_lines(found, Naming(found.survey.ids, True))] == [name]


def test_notes_and_names_are_not_in_a_record_without_paths() -> None:
    held = listing(3)
    held.notes.append("images are in column photo of secret.parquet")
    found = find(survey(held, stopping=Stopping(), progress=lambda *_: None))
    assert summarise(found, ABOUT).notes == held.notes
    record = summarise(found, ABOUT._replace(paths=False))
    assert record.notes == [] and record.source is None and record.title == "the set"


def test_images_that_are_plain_are_not_nearly_the_same(tmp_path: Path) -> None:
    flat = {f"{i}.png": encoded(Image.new("RGB", (48, 40), (i, 90, 90))) for i in range(0, 200, 20)}
    found = find(looked_at(tmp_path / "set", flat))
    assert not len(found.marked["near-duplicates"]) and len(found.marked["constant"]) == 10


def test_the_most_frequent_kind_is_used_and_gray_alone_stays_gray(tmp_path: Path) -> None:
    deep = {f"deep{i}.png": gray16(i) for i in range(3)}
    gray = {f"gray{i}.png": encoded(image(i).convert("L")) for i in range(2)}
    found = find(looked_at(tmp_path / "set", {**deep, **gray}))
    assert [(kind.channels, kind.dtype, kind.count) for kind in found.kinds] == [(1, "uint16", 3), (1, "uint8", 2)]
    record = summarise(found, ABOUT)
    assert record.mixed and record.used == 3 and record.left_out[0].reason == "gray, another kind than most"


def test_speed_is_of_reading_and_decoding(found: Found) -> None:
    rows = np.array(found.survey.rows)
    rows["read_seconds"], rows["decode_seconds"] = 0.003, 0.001
    found.survey.rows = rows
    speed = summarise(found, ABOUT).speed
    assert speed and speed.images_per_second == pytest.approx(250, rel=1e-5)
    assert (speed.read_milliseconds, speed.decode_milliseconds) == pytest.approx((3, 1), rel=1e-5)


def test_a_kind_that_is_not_read_is_said(tmp_path: Path) -> None:
    lab = encoded(Image.new("LAB", (8, 8)), "TIFF")
    record = summarise(find(looked_at(tmp_path / "set", {"a.png": encoded(image(1)), "lab.tif": lab})), ABOUT)
    assert record.unsupported and record.mixed and len(record.kinds) == 1


def test_sizes_against_a_recipe(tmp_path: Path) -> None:
    files = {
        f"{h}x{w}.png": encoded(image(1, (h, w))) for h, w in ((3, 50), (50, 5), (4, 50), (39, 50), (40, 47), (40, 48))
    }
    found = find(looked_at(tmp_path / "set", files))
    found.mark_sizes((4, 6), (40, 48))
    names = {name: [found.survey.ids[i] for i in found.marked[name]] for name in ("too-small", "small")}
    assert names == {"too-small": ["3x50.png", "50x5.png"], "small": ["39x50.png", "40x47.png", "4x50.png"]}


def test_hashes_tell_borders_and_order() -> None:
    assert len({names_hash(names) for names in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], [])}) == 5
    assert sizes_hash(np.array([1, 2])) != sizes_hash(np.array([2, 1]))
    assert names_hash([b"\xff".decode("utf-8", "surrogateescape")]) != names_hash(["\xff"])


def test_histograms_have_every_value_in_its_bin() -> None:
    bins = histogram(np.array([1.0, 2.0, 2.0, 3.9, 4.0]), 1, 0.0)
    assert [(each.low, each.high, each.count) for each in bins] == [(1, 2, 1), (2, 4, 3), (4, 8, 1)]
    (square,) = histogram(np.array([1.0, 1.05, 0.95]), 4, 0.5)
    assert square.low < 0.95 and square.high > 1.05 and square.count == 3
