from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextae.data.decode import decode
from contextae.data.facts import BadImage
from contextae.data.index import Index, LeftOut, printable, readable_bytes, taken
from contextae.data.names import Names
from contextae.data.sources import open_index
from data.pictures import encoded, write

NAMES = st.lists(st.binary(max_size=9).map(os.fsdecode), max_size=9)


@pytest.fixture
def index(tmp_path) -> Index:
    for i, (name, kind) in enumerate((("b/c.png", "PNG"), ("a.jpg", "JPEG"), ("d.png", "PNG"), ("b/e.png", "PNG"))):
        write(tmp_path / name, seed=i, kind=kind, size=(8 + i, 11))
    (tmp_path / "note.md").write_text("x")
    (tmp_path / "broken.jpg").write_bytes(b"")
    return open_index(str(tmp_path))


@given(NAMES)
def test_names_are_what_they_were_made_of(names: list[str]) -> None:
    packed = Names(names)
    assert list(packed) == names and len(packed) == len(names)
    assert packed == names and packed == Names(names)
    assert list(pickle.loads(pickle.dumps(packed))) == names  # noqa: S301  made here
    assert list(packed[1:4]) == names[1:4]
    if names:
        assert packed[-1] == names[-1]


@given(NAMES, NAMES)
def test_names_are_equal_only_to_the_same_names(a: list[str], b: list[str]) -> None:
    assert (Names(a) == Names(b)) == (a == b)


def test_names_have_an_end() -> None:
    with pytest.raises(IndexError):
        Names(["a", "b"])[2]
    assert repr(Names(["a", "b"])) == "<2 names>"
    assert Names(["a"]) != "a"


def test_many_names_take_little_memory() -> None:
    names = Names(f"folder/{i:07}.jpg" for i in range(10_000))
    assert len(pickle.dumps(names)) < 10_000 * (18 + 8) + 1000


def test_ids_are_sorted_and_reads_follow_them(index: Index) -> None:
    assert list(index.ids) == ["a.jpg", "b/c.png", "b/e.png", "d.png"]
    assert index.read(1) == encoded(0, size=(8, 11)) and index.read(2) == encoded(3, size=(11, 11))
    assert index.facts["height"].tolist() == [9, 8, 11, 10] and index.facts["width"].tolist() == [11] * 4
    assert index.labels is None and index.classes is None


def test_found_is_used_and_left_out(index: Index) -> None:
    assert len(index) == 4 and index.found == 6
    assert index.left_out == [
        LeftOut("broken.jpg", "empty file"),
        LeftOut("note.md", "not an image by its extension, .md"),
    ]


def test_an_index_comes_back_from_a_pickle(index: Index) -> None:
    again = pickle.loads(pickle.dumps(index))  # noqa: S301  made here
    assert again.ids == index.ids and (again.facts == index.facts).all()
    assert again.read(3) == index.read(3) and again.describe() == index.describe()
    assert len(pickle.dumps(index)) < 2500


def test_a_subset_is_in_the_order_asked_for(index: Index) -> None:
    part = index.subset([3, 1])
    assert list(part.ids) == ["d.png", "b/c.png"] and part.facts["height"].tolist() == [10, 8]
    assert part.read(1) == index.read(1) and part.left_out == [] and part.found == 2
    assert len(index.subset([])) == 0 and index.subset([]).found == 0
    assert len(index.subset(np.array([0]))) == 1


def test_a_subset_takes_its_labels_along() -> None:
    index = open_index("builtin:fashion-mnist")
    assert index.labels is not None and index.subset([5, 0]).labels.tolist() == index.labels[[5, 0]].tolist()
    assert index.subset([5, 0]).classes == index.classes


def test_images_that_turn_out_unusable_join_what_was_left_out(index: Index) -> None:
    rest = index.without(np.array([False, True, False, True]), "too small")
    assert list(rest.ids) == [index.ids[0], index.ids[2]] and rest.found == index.found == 6
    assert [entry.path for entry in rest.left_out if entry.reason == "too small"] == sorted(index.ids[1::2])
    assert len(rest.left_out) == len(index.left_out) + 2
    assert rest.facts[1] == index.facts[2]


def test_a_file_that_vanished_is_a_bad_image(index: Index, tmp_path) -> None:
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(BadImage, match=r"^cannot be read \(No such file or directory\)$"):
        index.read(0)
    assert decode(index.read(1), channels=3).shape == (8, 11, 3)


def test_describe_says_all_there_is_to_know(index: Index, tmp_path) -> None:
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg"))
    assert index.describe() == [
        f"4 images of {tmp_path}, {readable_bytes(size)}",
        "formats: 3 PNG, 1 JPEG",
        "height x width: 8 x 11 the smallest, 9 x 11 the median, 11 x 11 the largest",
        "channels: 3, RGB",
        "left out: 2 of 6 found",
        "  1 empty file: broken.jpg",
        "  1 not an image by its extension, .md: note.md",
    ]


def test_describe_gives_three_examples_of_each_reason(tmp_path) -> None:
    write(tmp_path / "a.png")
    for i in range(5):
        (tmp_path / f"n{i}.txt").write_text("x")
    (tmp_path / "z.gif").write_text("not a gif")
    assert open_index(str(tmp_path)).describe()[-3:] == [
        "left out: 6 of 7 found",
        "  5 not an image by its extension, .txt: n0.txt, n1.txt, n2.txt, ...",
        "  1 not an image, or its header is damaged: z.gif",
    ]


def test_sizes_are_by_area_and_say_when_all_are_the_same(tmp_path) -> None:
    for i, size in enumerate(((5, 40), (30, 20), (2, 99), (30, 20), (31, 20))):
        write(tmp_path / f"{i}.png", size=size)
    index = open_index(str(tmp_path))
    assert "height x width: 2 x 99 the smallest, 30 x 20 the median, 31 x 20 the largest" in index.describe()
    assert "height x width: 30 x 20, all" in index.subset([1, 3]).describe()
    assert (
        "height x width: 2 x 99 the smallest, 5 x 40 the median, 30 x 20 the largest"
        in index.subset([0, 1, 2]).describe()
    )
    assert (
        "height x width: 30 x 20 the smallest, 30 x 20 the median, 31 x 20 the largest"
        in index.subset([1, 3, 4]).describe()
    )


def test_frames_are_said(tmp_path) -> None:
    from PIL import Image

    write(tmp_path / "a.tif", kind="TIFF", save_all=True, append_images=[Image.new("RGB", (3, 3))])
    write(tmp_path / "b.png")
    assert "1 hold several frames or pages; the first of each is used" in open_index(str(tmp_path)).describe()


def test_an_empty_subset_is_described(index: Index, tmp_path) -> None:
    assert index.subset([]).describe() == [f"0 images of {tmp_path}, 0 bytes"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (9_949, "9.9 kB"), (43_300_000, "43 MB"), (2e15, "2000 TB")],
)
def test_bytes_have_their_unit(count: float, text: str) -> None:
    assert readable_bytes(int(count)) == text


def test_names_are_printable() -> None:
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert printable(os.fsdecode(b"\xff\xfe.png")) == "\\xff\\xfe.png"
    assert printable("größe 大.png") == "größe 大.png"


def test_columns_that_grow_long_go_to_a_file_and_are_the_same(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path))
    names = [f"{i}/{'x' * (i % 7)}.png" for i in range(3000)]
    few = Names(names)
    monkeypatch.setattr("contextae.data.names.SPOOLED", 100)
    monkeypatch.setattr("contextae.data.names.CHUNK", 64)
    many = Names(names)
    assert isinstance(few.text, bytes) and not isinstance(many.text, bytes)
    assert many == few and list(many) == names and many[1234] == names[1234] and many[-1] == names[-1]
    assert pickle.loads(pickle.dumps(many)) == names  # noqa: S301  made here
    assert list(tmp_path.iterdir()) == [], "a file without a name ends with its process"
    values = np.arange(5000)
    assert (taken(values, np.array([4999, 0, 17] * 50)) == [4999, 0, 17] * 50).all()


def test_long_columns_are_described_by_pieces(monkeypatch, tmp_path) -> None:
    for i in range(9):
        write(tmp_path / f"{i}.png", seed=i, mode="L" if i % 3 else "RGB", size=(5 + i, 7))
    index = open_index(str(tmp_path))
    whole = index.describe()
    monkeypatch.setattr("contextae.data.index.CHUNK", 2)
    assert index.describe() == whole
    monkeypatch.setattr("contextae.data.index.MOST_SORTED", 3)
    assert "height x width: 5 x 7 the smallest, 8 x 7 the median, 11 x 7 the largest" in index.describe()
