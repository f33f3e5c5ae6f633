"""The page of an audit: whole in one file, nothing in it runs, and it holds no more than it says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audit.made_set import encoded, gray16, image
from contextae.audit.manifest import read_record
from contextae.audit.record import AuditRecord, Bin
from contextae.report.audit_html import _charts, audit_page
from contextae.verbs.audit import PAGE, run_audit

HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "</title><script>alert(1)</script>.png".replace("/", "\u2215"),
    '" onload="alert(1).png',
    "' onmouseover='alert(1).png",
    "{{ 7 * 987654321 }}.png",
    "{% for x in ().__class__.__mro__ %}.png",
    "javascript:alert(1).png",
    "a\nb\x1b[31m.png",
    "\u202egnp.exe.png",
    "&lt;b&gt;.png",
    b"\xff<b>.png".decode("utf-8", "surrogateescape"),
]


class Elements(HTMLParser):
    """Every element with its attributes, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def check_harmless(page: str) -> Elements:
    """No element or attribute that runs or fetches anything."""
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form", "base", "a", "video", "audio"), tag
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "srcset", "action", "data", "xlink:href"), name
            assert name != "src" or (value or "").startswith("data:image/"), value
            assert "javascript:" not in (value or "") or name == "alt"
    assert "@import" not in page and "url(" not in page
    policies = [each for tag, each in elements.found if tag == "meta" and each.get("http-equiv")]
    assert policies[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return elements


def write_set(folder: Path, names: list[str]) -> None:
    """Each name twice, so that all are duplicates; a broken one of each name; an odd one."""
    for i, name in enumerate(names):
        for part in ("one", "two"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / name).write_bytes(encoded(image(i)))
        (folder / "three").mkdir(exist_ok=True)
        (folder / "three" / name).write_bytes(b"broken")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "<b onclick=alert(1)>set"
    write_set(folder, HOSTILE)
    return folder


def page_of(folder: Path, out: Path, **options: bool) -> str:
    against = str(folder / "two") if options.pop("against", True) else None
    assert run_audit(data=[str(folder)], out=out, against=against, **options) == 0
    return (out / PAGE).read_text(encoding="utf-8")


def test_names_run_nothing(hostile: Path, tmp_path: Path) -> None:
    page = page_of(hostile, tmp_path / "out")
    elements = check_harmless(page)
    assert "<img src=x onerror=alert(1)>.png" in elements.text, "shown as the text it is"
    assert "{{ 7 * 987654321 }}.png" in elements.text and str(7 * 987654321) not in page
    assert "\\x1b[31m" in elements.text and "\x1b" not in page and "\\xff<b>.png" in elements.text
    pictures = [each for tag, each in elements.found if tag == "img"]
    assert len(pictures) > 20 and all((each["src"] or "").startswith("data:image/png;base64,") for each in pictures)


def test_neither_pictures_nor_paths_where_they_are_not_wanted(hostile: Path, tmp_path: Path) -> None:
    page = page_of(hostile, tmp_path / "out", pictures=False, paths=False)
    elements = check_harmless(page)
    assert "data:image" not in page and not [tag for tag, _ in elements.found if tag == "img"]
    assert "This page holds no pictures and no names of files" in elements.text
    everything = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    for part in ("onerror", "onload", "mouseover", "987654321", "31m", "gnp", "onclick", str(hostile), "one/", "three"):
        assert part not in everything, part


def test_paths_without_pictures_and_pictures_without_paths(hostile: Path, tmp_path: Path) -> None:
    named = check_harmless(page_of(hostile, tmp_path / "named", pictures=False))
    assert "This page holds no pictures and names of files" in named.text and "Such as " in named.text
    shown = page_of(hostile, tmp_path / "shown", paths=False)
    assert (
        "data:image" in shown and "onerror" not in shown and re.search(r"image \d+, kept", check_harmless(shown).text)
    )


def test_it_says_what_an_audit_found(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_set(folder, ["a.png", "b.png"])
    (folder / "c.png").write_bytes(gray16(1))
    text = " ".join(check_harmless(page_of(folder, tmp_path / "out")).text.split())
    for words in (
        "7 found 4 can be used 3 left out",
        "2 equal to an earlier one, pixel for pixel (50 %)",
        "Used, unless pretrain --exclude exact-duplicates leaves them out.",
        "not an image, or its header is damaged",
        "16-bit gray, another kind than most",
        "2 of 2 found there can be used. 2 of them are equal to an image of this set, and 0 more nearly so.",
        "Height x width: 40 x 48 the smallest",
        "Formats: 4 PNG.",
        "contextae pretrain",
        "overlap.jsonl : one line for each image that the other set holds too: names of images",
    ):
        assert words in text, words


def test_a_clean_set_has_nothing_to_mind(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(image(1)))
    text = " ".join(check_harmless(page_of(folder, tmp_path / "out", against=False)).text.split())
    assert "Nothing: no duplicates" in text and "Left out" not in text and "overlap.jsonl" not in text


def test_nothing_usable_is_a_page_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    text = " ".join(check_harmless(page_of(folder, tmp_path / "out", against=False)).text.split())
    assert "1 found 0 can be used 1 left out" in text and "To begin with" not in text


def test_what_is_unfinished_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_set(folder, ["a.png"])
    page_of(folder, tmp_path / "out")
    record = read_record(tmp_path / "out" / "manifest.json")
    assert record.against
    partial = record.model_copy(
        update={
            "complete": False,
            "seen": 3,
            "found": 40,
            "near_complete": False,
            "against": record.against.model_copy(update={"complete": False}),
        }
    )
    text = " ".join(Elements(audit_page(partial, None, {})).text.split())
    assert (
        "Stopped after 3 of 40 images" in text
        and "pretrain --exclude" not in text
        and "the search was ended before it had compared all" in text
    )
    assert "as far as it was looked at before the audit was stopped" in text


def test_bars_have_the_heights_of_their_counts(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_set(folder, ["a.png"])
    page_of(folder, tmp_path / "out")
    record: AuditRecord = read_record(tmp_path / "out" / "manifest.json")
    assert record.sizes
    bins = [Bin(low=2.0**i, high=2.0 ** (i + 1), count=count) for i, count in enumerate([10, 0, 5, 1] + [1] * 16)]
    sizes = record.sizes.model_copy(update={"longest_sides": bins})
    chart, ratios = _charts(record.model_copy(update={"sizes": sizes}))
    assert [bar["height"] for bar in chart["bars"][:4]] == [40, 0, 20, 4] and chart["width"] == 200
    assert sum(bool(bar["label"]) for bar in chart["bars"]) <= 8 and chart["bars"][2]["words"] == "4 to 8: 5 images"
    assert ratios["width"] == 100 and ratios["empty"] == 9
