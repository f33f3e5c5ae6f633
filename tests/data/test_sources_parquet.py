from __future__ import annotations

import errno
import os
import pickle
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextae.data.facts import BadImage
from contextae.data.index import Index, LeftOut
from contextae.data.names import cache_folder
from contextae.data.sources import open_index, parquet, unpacked
from contextae.errors import UserError
from data.in_process import open_here
from data.pictures import encoded, write

IMAGES = [encoded(seed, "JPEG", size=(6, 9)) for seed in range(11)]


def table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.fixture
def _copied(monkeypatch, tmp_path) -> None:
    """As for sets that are too large for memory."""
    monkeypatch.setattr(parquet, "IN_MEMORY", 0)
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


def reads(index: Index) -> list[object]:
    return [index.read(i) for i in range(len(index))]


STRUCT = pa.StructArray.from_arrays([pa.array(IMAGES), pa.array([None] * 11, pa.string())], names=["bytes", "path"])
SWAPPED = pa.StructArray.from_arrays(
    [pa.array([f"{i}.jpg" for i in range(11)]), pa.array(IMAGES, pa.large_binary())], names=["path", "bytes"]
)
COLUMNS = {
    "binary": pa.array(IMAGES),
    "large binary": pa.array(IMAGES, pa.large_binary()),
    "binary view": pa.array(IMAGES, pa.binary_view()),
    "dictionary": pa.array(IMAGES).dictionary_encode(),
    "struct": STRUCT,
    "struct with the path first": SWAPPED,
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_every_type_of_column_gives_back_its_bytes(tmp_path, request, kind: str, where: str) -> None:
    if where == "disk":
        request.getfixturevalue("_copied")
    path = table(tmp_path / "a.parquet", {"image": COLUMNS[kind], "label": list(range(11))}, row_group_size=4)
    index = open_index(str(path))
    assert list(index.ids) == [f"a.parquet#{i}" for i in range(11)]
    assert reads(index) == IMAGES and reads(pickle.loads(pickle.dumps(index))) == IMAGES  # noqa: S301  made here
    assert index.facts["num_bytes"].tolist() == [len(data) for data in IMAGES]
    assert index.labels is None
    assert index.source.copied == (where == "disk")
    assert len(pickle.dumps(index)) < 3000


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_rows_without_an_image_are_left_out(tmp_path, request, where: str) -> None:
    if where == "disk":
        request.getfixturevalue("_copied")
    values = [None, IMAGES[0], b"", IMAGES[1], b"text", None, IMAGES[2]]
    for name, column in (
        ("plain", pa.array(values)),
        ("struct", pa.array([None if v is None else {"bytes": v, "path": "x"} for v in values])),
        ("no bytes", pa.array([{"bytes": v, "path": "x"} for v in values])),
    ):
        index = open_index(str(table(tmp_path / name / "a.parquet", {"image": column}, row_group_size=2)))
        assert list(index.ids) == ["a.parquet#1", "a.parquet#3", "a.parquet#6"] and reads(index) == IMAGES[:3]
        without = "row without an image"
        assert index.left_out == [
            LeftOut("a.parquet#0", without),
            LeftOut("a.parquet#2", without),
            LeftOut("a.parquet#4", "not an image, or its header is damaged"),
            LeftOut("a.parquet#5", without),
        ]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_folder_of_files_is_one_set(tmp_path, request, where: str) -> None:
    if where == "disk":
        request.getfixturevalue("_copied")
    table(tmp_path / "set/b/2.parquet", {"img": IMAGES[7:]})
    table(tmp_path / "set/a.parquet", {"img": IMAGES[:7]})
    (tmp_path / "set/README.md").write_text("about")
    (tmp_path / "set/.hidden.parquet").write_text("not one")
    index = open_index(str(tmp_path / "set"))
    assert reads(index) == IMAGES and index.ids[7] == "b/2.parquet#0"
    assert [entry.path for entry in index.left_out] == [".hidden.parquet", "README.md"]
    assert list(index.subset([8, 0]).ids) == ["b/2.parquet#1", "a.parquet#0"]
    assert reads(index.subset([8, 0])) == [IMAGES[8], IMAGES[0]]


def test_images_win_over_parquet_files_beside_them_and_that_is_said(tmp_path) -> None:
    write(tmp_path / "a.png")
    table(tmp_path / "meta.parquet", {"image": IMAGES})
    index = open_index(str(tmp_path))
    assert list(index.ids) == ["a.png"]
    assert "the 1 Parquet or Arrow files beside the images are not read; name one to read it" in index.describe()
    assert len(open_index(f"{tmp_path}::image")) == 11


def test_the_only_column_of_bytes_is_it_whatever_its_name(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"x": IMAGES, "label": list(range(11)), "caption": ["image"] * 11})
    assert reads(open_index(str(path))) == IMAGES


def test_of_several_the_one_with_a_usual_name_is_it_and_that_is_said(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"mask": IMAGES[::-1], "Image": IMAGES})
    index = open_index(str(path))
    assert reads(index) == IMAGES and "images are in column Image, not in mask" in index.describe()
    assert reads(open_index(f"{path}::mask")) == IMAGES[::-1]


def test_several_possible_columns_are_refused(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"left": IMAGES, "right": IMAGES, "n": [1] * 11})
    with pytest.raises(
        UserError,
        match=rf"has 2 columns that may hold images: left, right\. Name one of them as in {path}::left\. "
        r"Its columns are left \(binary\), right \(binary\), n \(int64\)\.$",
    ):
        open_index(str(path))
    both = table(tmp_path / "b.parquet", {"image": IMAGES, "jpg": IMAGES})
    with pytest.raises(UserError, match="has 2 columns that may hold images: image, jpg"):
        open_index(str(both))


@pytest.mark.parametrize("column", ["", "::image"])
def test_columns_of_one_name_are_refused(tmp_path, column: str) -> None:
    two = pa.table([pa.array(IMAGES), pa.array(IMAGES)], names=["image", "image"])
    pq.write_table(two, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"has 2 columns of one name, image, so that none of them can be named\. Give"):
        open_index(f"{tmp_path}/a.parquet{column}")


def stream(path: Path, images: list[bytes | None]) -> Path:
    """Arrow's stream format, as Hugging Face's `datasets` writes it."""
    rows = pa.table({"image": images})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows)
    return path


def test_an_arrow_stream_is_one_in_any_case(tmp_path) -> None:
    assert reads(open_index(str(stream(tmp_path / "A.ARROW", IMAGES)))) == IMAGES


def test_an_arrow_stream_whose_rows_lie_outside_of_it_is_refused(tmp_path) -> None:
    """Without a look at where rows end, reading one takes the process with it, or gives what lies elsewhere."""
    path = stream(tmp_path / "a.arrow", IMAGES)
    data = bytearray(path.read_bytes())
    ends = np.cumsum([0, *map(len, IMAGES)]).astype("<i4")
    at = data.index(ends.tobytes())
    data[at + 8 : at + 12] = np.int32(1 << 30).tobytes()
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.arrow cannot be read as an Arrow stream: .*\. Mend it, or take it out"):
        open_index(str(path))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_file_with_other_rows_than_its_footer_counts_is_refused(tmp_path, request, monkeypatch, where: str) -> None:
    if where == "disk":
        request.getfixturevalue("_copied")
    path = table(tmp_path / "a.parquet", {"image": IMAGES})
    open_here(monkeypatch)
    monkeypatch.setattr(unpacked, "blocks", lambda *_: iter([(memoryview(IMAGES[0]), np.array([len(IMAGES[0])]))]))
    with pytest.raises(
        UserError, match=rf"cannot be read as Parquet: 1 rows are there, and {len(IMAGES)} by its footer\. Mend it, or"
    ):
        open_index(str(path))


def test_no_column_of_images_is_refused(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"image": ["a.jpg"], "label": [1]})
    with pytest.raises(
        UserError,
        match=r"has no column of encoded images: bytes, or a struct of bytes and path, are looked for\. "
        r"Its columns are image \(string\), label \(int64\)\.$",
    ):
        open_index(str(path))


def test_a_struct_is_images_only_with_bytes_in_a_field_of_that_name(tmp_path) -> None:
    column = pa.array([{"bytes": "text", "data": IMAGES[0]}])
    with pytest.raises(UserError, match="has no column of encoded images"):
        open_index(str(table(tmp_path / "a.parquet", {"image": column})))


def test_a_column_that_is_not_there_is_refused(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"image": IMAGES})
    with pytest.raises(UserError, match=r"has no column 'imag' of encoded images\. Did you mean 'image'\? Its columns"):
        open_index(f"{path}::imag")


def test_a_file_that_differs_from_the_first_is_refused(tmp_path) -> None:
    table(tmp_path / "a.parquet", {"image": IMAGES})
    table(tmp_path / "b.parquet", {"picture": IMAGES})
    with pytest.raises(
        UserError, match=r"b\.parquet has no column 'image' of encoded images\. Its columns are picture"
    ):
        open_index(str(tmp_path))


def test_struct_and_bytes_may_differ_between_files(tmp_path) -> None:
    table(tmp_path / "a.parquet", {"image": STRUCT})
    table(tmp_path / "b.parquet", {"image": IMAGES})
    assert reads(open_index(str(tmp_path))) == IMAGES * 2


def test_a_damaged_file_is_refused(tmp_path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing here")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet: .*\. Mend it, or take it out of the"):
        open_index(str(tmp_path / "a.parquet"))
    path = table(tmp_path / "b.parquet", {"image": IMAGES}, use_dictionary=False, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"b\.parquet cannot be read as Parquet: "):
        open_index(str(path))


def test_a_file_without_rows_is_refused(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(UserError, match=r"a\.parquet holds no rows\. Give Parquet files with images in them\.$"):
        open_index(str(path))


def test_a_file_that_changed_is_noticed(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"image": IMAGES})
    index = pickle.loads(pickle.dumps(open_index(str(path))))  # noqa: S301  made here, as another process would get it
    table(path, {"image": IMAGES[::-1]})
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"a\.parquet has changed since it was opened\. Start again with it\.$"):
        index.read(0)


@pytest.mark.usefixtures("_copied")
def test_the_copy_is_said_and_written_once(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"image": IMAGES})
    index = open_index(str(path))
    assert any(line.endswith("and CONTEXTAE_CACHE names another") for line in index.describe())
    (copy,) = (tmp_path / "cache").iterdir()
    before = copy.stat().st_mtime_ns
    assert reads(open_index(str(path))) == IMAGES and copy.stat().st_mtime_ns == before
    table(path, {"image": IMAGES[:4]})
    assert reads(open_index(str(path))) == IMAGES[:4]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.usefixtures("_copied")
def test_a_copy_that_was_deleted_is_written_again(tmp_path) -> None:
    index = open_index(str(table(tmp_path / "a.parquet", {"image": IMAGES})))
    for copy in (tmp_path / "cache").iterdir():
        copy.unlink()
    assert reads(pickle.loads(pickle.dumps(index))) == IMAGES  # noqa: S301  made here


@pytest.mark.usefixtures("_copied")
def test_a_copy_of_another_version_is_refused(tmp_path) -> None:
    path = table(tmp_path / "a.parquet", {"image": IMAGES})
    open_index(str(path))
    (copy,) = (tmp_path / "cache").iterdir()
    copy.write_bytes(b"ctxae-u9" + bytes(100))
    with pytest.raises(UserError, match=rf"{copy} was not written by this version of contextae\. Delete it\.$"):
        open_index(str(path))


@pytest.mark.usefixtures("_copied")
def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    path = table(tmp_path / "a.parquet", {"image": IMAGES})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    open_here(monkeypatch)
    monkeypatch.setattr(unpacked, "write_rows", full)
    with pytest.raises(
        UserError,
        match=r"cannot be unpacked to .*/cache: No space left on device; it takes about .* kB\. Make room there, or "
        r"name another folder in CONTEXTAE_CACHE\.$",
    ):
        open_index(str(path))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("_copied")
def test_a_cache_that_cannot_be_made_is_said(tmp_path, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be unpacked to .*/cache: File exists\. Make room there"):
        open_index(str(table(tmp_path / "a.parquet", {"image": IMAGES})))


def test_the_cache_is_the_users(monkeypatch) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("CONTEXTAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/contextae")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/contextae"


def test_a_row_that_is_emptied_is_a_bad_image(tmp_path) -> None:
    index = open_index(str(table(tmp_path / "a.parquet", {"image": [None, *IMAGES]})))
    with pytest.raises(BadImage, match=r"^row without an image$"):
        index.source.read("a.parquet#0")


def test_real_rows_open_in_seconds_and_are_read_in_microseconds(shared_data) -> None:
    path = shared_data / "cifar10/parquet/train.parquet"
    start = time.perf_counter()
    index = open_index(str(path))
    assert time.perf_counter() - start < 10
    assert len(index) == 50_000 and index.channels == 3 and "height x width: 32 x 32, all" in index.describe()
    rng = random.Random(0)
    positions = [rng.randrange(len(index)) for _ in range(5000)]
    start = time.perf_counter()
    found = [index.read(position) for position in positions]
    assert (time.perf_counter() - start) / len(positions) < 50e-6
    column = pq.read_table(path, columns=["image"])["image"]
    assert all(found[i] == column[positions[i]].as_py() for i in range(0, 5000, 50))
