from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from contextae.data.index import Part, remaining
from contextae.data.sources import continued_index, open_index
from contextae.data.sources.mixed import names_of, weighted
from contextae.data.stored_index import open_stored, write_index
from contextae.errors import UserError
from data.pictures import encoded, write


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """A folder of three, one of five with an unreadable one among them, and a Parquet file of four."""
    for i in range(3):
        write(tmp_path / "a" / "photos" / f"{i}.png", seed=i)
    for i in range(5):
        write(tmp_path / "b" / "photos" / "deep" / f"{i}.png", seed=10 + i)
    (tmp_path / "b" / "photos" / "deep" / "2.png").write_bytes(b"text")
    (tmp_path / "b" / "photos" / "note.txt").write_text("x")
    table = pyarrow.table({"image": [encoded(20 + i) for i in range(4)]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    return [f"{tmp_path}/a/photos", f"{tmp_path}/b/photos=0.5", f"{tmp_path}/rows.parquet=3"]


def test_images_of_all_sources_stand_one_after_the_other(sources: list[str]) -> None:
    index = open_index(sources)
    assert list(index.ids) == [
        *(f"photos/{i}.png" for i in range(3)),
        *(f"photos-2/deep/{i}.png" for i in (0, 1, 3, 4)),
        *(f"rows.parquet/rows.parquet#{i}" for i in range(4)),
    ]
    assert index.parts == (Part("photos", 3, 1.0), Part("photos-2", 4, 0.5), Part("rows.parquet", 4, 3.0))
    assert [part.slots for part in index.parts] == [3, 2, 12]
    assert [entry.path for entry in index.left_out] == ["photos-2/deep/2.png", "photos-2/note.txt"]
    assert index.found == 13 == len(index) + len(index.left_out)
    for i, seed in enumerate((0, 1, 2, 10, 11, 13, 14, 20, 21, 22, 23)):
        assert index.read(i) == encoded(seed)
    again = pickle.loads(pickle.dumps(index))  # noqa: S301  made here
    assert again.read(7) == encoded(20)
    assert "  photos-2: 4 images of weight 0.5, 2 in an epoch" in index.describe()
    assert [index.source.has(name) for name in ("photos/0.png", "photos/9.png", "x/0.png")] == [True, False, False]


def test_a_run_goes_on_with_all_of_them(sources: list[str], tmp_path: Path) -> None:
    index = open_index(sources)
    write_index(tmp_path / "images", index, found=index.found, left_out=len(index.left_out))
    write(tmp_path / "a" / "photos" / "0-new.png")
    stored = open_stored(tmp_path / "images", whole=True, restore="")
    again = continued_index(tuple(sources), stored, channels=3, dtype="uint8")
    assert again.ids == index.ids and again.parts == index.parts
    assert [again.read(i) for i in (0, 3, 10)] == [encoded(0), encoded(10), encoded(23)]
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(UserError, match=r"There is nothing at .*rows\.parquet"):
        continued_index(tuple(sources), stored, channels=3, dtype="uint8")


def test_parts_shrink_with_their_images_and_vanish_with_the_last(sources: list[str]) -> None:
    index = open_index(sources)
    unusable = np.zeros(11, bool)
    unusable[[0, 3, 4, 5, 6]] = True
    rest = index.without(unusable, "too small")
    assert rest.parts == (Part("photos", 2, 1.0), Part("rows.parquet", 4, 3.0))
    assert index.subset([1, 0]).parts == ()
    assert remaining((), np.arange(3)) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photos", ("photos", 1)),
        ("photos=2", ("photos", 2)),
        ("a=b/photos=0.25", ("a=b/photos", 0.25)),
        ("a=b", ("a=b", 1)),
        ("builtin:fashion-mnist=3", ("builtin:fashion-mnist", 3)),
    ],
)
def test_a_weight_stands_behind_the_path(text: str, expected: tuple[str, float]) -> None:
    assert weighted(text) == expected


def test_a_path_that_exists_is_no_weight(tmp_path: Path) -> None:
    (tmp_path / "run=2").mkdir()
    assert weighted(f"{tmp_path}/run=2") == (f"{tmp_path}/run=2", 1)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "2000"])
def test_impossible_weights_are_refused(weight: str) -> None:
    with pytest.raises(UserError, match=rf"is a number above 0 and at most 1000\. Got photos={weight}; 2 makes"):
        weighted(f"photos={weight}")


def test_a_source_is_named_once_however_it_is_written(sources: list[str], tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a" / "photos")
    monkeypatch.chdir(tmp_path)
    words = r"^A source is named once, with a weight .* Got one several times, as .*/a/photos"
    for again in ("", "=2", "/", "/../photos"):
        with pytest.raises(UserError, match=words):
            open_index([sources[0], f"{sources[0]}{again}"])
    for again in ("link", "a/photos=3", str(tmp_path / "link")):
        with pytest.raises(UserError, match=rf"{words} and {again.partition('=')[0]}\.$"):
            open_index([sources[0], again])
    with pytest.raises(UserError, match="There is nothing at"):
        open_index([sources[0], "a\0b"])


def test_a_source_within_another_is_said(sources: list[str], tmp_path: Path) -> None:
    index = open_index([sources[0], str(tmp_path / "a")])
    assert len(index) == 6 and "photos lies within a, so that images of it may come from both" in index.notes
    (tmp_path / "a" / "photos-too").mkdir()
    write(tmp_path / "a" / "photos-too" / "x.png")
    assert open_index([sources[0], str(tmp_path / "a" / "photos-too")]).notes == []


def test_names_of_sources_tell_them_apart() -> None:
    assert names_of(["/x/a", "/y/a", "/z/a-2", "/a", "/"]) == ["a", "a-2", "a-2-2", "a-3", "images"]
