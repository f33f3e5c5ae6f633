from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contextae.data import names
from contextae.data.facts import BadImage
from contextae.data.index import LeftOut
from contextae.data.sources import archives, handles, mapped, table
from contextae.data.sources.archives import list_archives, write_table
from contextae.data.sources.handles import Handles
from contextae.data.sources.mapped import open_mapped, write_mapped
from contextae.data.sources.shards import expanded, is_pattern, shards_of
from contextae.data.sources.window import Window
from contextae.errors import UserError
from data.archives import END, listed, member, tar_bytes, zip_bytes
from data.in_process import open_here
from data.pictures import encoded

PNG = [encoded(seed) for seed in range(6)]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path) -> list[str]:
    """Two tars and a zip, of which one lies deeper."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a.tar").write_bytes(tar_bytes([("0.png", PNG[0]), ("1.png", PNG[1]), ("x.txt", b"")]))
    (tmp_path / "b/c.tar").write_bytes(tar_bytes([("0.png", PNG[2]), ("0.cls", b"7")]))
    (tmp_path / "d.zip").write_bytes(zip_bytes([("0.png", PNG[3])]))
    return ["a.tar", "b/c.tar", "d.zip"]


def tables(tmp_path) -> list[Path]:
    return list((tmp_path / "cache").iterdir())


def no_scan(*_: object) -> None:
    raise AssertionError("the headers were read again")


def test_several_archives_are_one_set_whose_table_is_made_once(tmp_path, shards, monkeypatch) -> None:
    first = list_archives(tmp_path, shards, "the set")
    monkeypatch.setattr(archives, "made_table", no_scan)
    again = list_archives(tmp_path, shards, "the set")
    for listing in (first, again):
        assert listing.ids == ["a.tar/0.png", "a.tar/1.png", "b/c.tar/0.png", "d.zip/0.png"]
        assert [listing.source.read(sample_id) for sample_id in listing.ids] == PNG[:4]
        assert listing.left_out == [LeftOut("a.tar/x.txt", "not an image by its extension, .txt")]
        assert listing.labels.tolist() == [-1, -1, 0, -1] and listing.classes == ["7"]
        assert listing.notes[-1] == (
            f"where each image stands in the archives is kept in {tmp_path}/cache, which may be deleted when nothing "
            "runs; CONTEXTAE_CACHE names another folder"
        )
    assert len(tables(tmp_path)) == 1


def test_each_archive_is_told_of_when_it_is_begun_and_while_it_takes_long(tmp_path, shards, monkeypatch) -> None:
    monkeypatch.setattr(table, "EVERY", 1)
    told: list[int] = []
    write_table(tmp_path, shards, {1}, told.append)
    assert told == [0, 0, 0, 0, 2, 2]  # of two images, and of a text; of one image


def test_an_archive_that_changed_is_noticed_at_the_next_read_and_listed_anew(tmp_path, shards) -> None:
    old = list_archives(tmp_path, shards, "the set")
    elsewhere = pickle.loads(pickle.dumps(old.source))  # noqa: S301  made here
    assert elsewhere.read("a.tar/0.png") == PNG[0]
    (tmp_path / "a.tar").write_bytes(tar_bytes([("0.png", PNG[4]), ("1.png", PNG[5]), ("x.txt", b"")]))
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    assert elsewhere.read("d.zip/0.png") == PNG[3]
    for source in (elsewhere, pickle.loads(pickle.dumps(old.source))):  # noqa: S301  made here
        for ask in (source.read, source.probe):
            with pytest.raises(UserError, match=r"a\.tar has changed since it was opened\. Start again with it\.$"):
                ask("a.tar/0.png")
    new = list_archives(tmp_path, shards, "the set")
    assert new.source.read("a.tar/0.png") == PNG[4] and len(tables(tmp_path)) == 2


def test_a_process_that_finds_no_table_makes_it_again_unless_an_archive_has_changed(tmp_path, shards) -> None:
    source = list_archives(tmp_path, shards, "the set").source
    (path,) = tables(tmp_path)
    path.unlink()
    assert pickle.loads(pickle.dumps(source)).read("a.tar/1.png") == PNG[1]  # noqa: S301  made here
    path.unlink()
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    with pytest.raises(
        UserError, match=r"^The archives below .* have changed since they were opened\. Start again with"
    ):
        pickle.loads(pickle.dumps(source)).read("a.tar/1.png")  # noqa: S301  made here


def test_a_damaged_table_is_made_again(tmp_path, shards) -> None:
    ids = list_archives(tmp_path, shards, "the set").ids
    (path,) = tables(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(120):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        if i % 3:
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if i % 3 else data[:at])
        assert list_archives(tmp_path, shards, "the set").ids == ids
        assert b"ctxae" in path.read_bytes()[:8] or not i % 3
    path.write_bytes(b"ctxae-m9" + whole[8:])
    assert open_mapped(path, whole=False) is None


def test_a_table_that_cannot_be_written_is_said(tmp_path, shards, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        UserError,
        match=r"^The table of what the archives hold cannot be written to .*/cache: File exists\. Make room there, or "
        r"name another folder in CONTEXTAE_CACHE\.$",
    ):
        list_archives(tmp_path, shards, "the set")
    (tmp_path / "cache").unlink()
    open_here(monkeypatch)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        list_archives(tmp_path, shards, "the set")
    assert tables(tmp_path) == []
    monkeypatch.setattr(archives, "write_mapped", lambda *_: None)
    with pytest.raises(
        UserError, match=r"\.members was written and cannot be read\. Look at the disk, or name another"
    ):
        list_archives(tmp_path, shards, "the set")


def test_a_cache_that_fills_up_during_the_scan_is_no_fault_of_the_archive(tmp_path, shards, monkeypatch) -> None:
    def full(self: table.Scan) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    open_here(monkeypatch)
    monkeypatch.setattr(table, "CHUNK", 1)
    monkeypatch.setattr(table.Scan, "_flush", full)
    with pytest.raises(UserError, match=r"cannot be written to .*/cache: No space left on device\. Make room there"):
        list_archives(tmp_path, shards, "the set")


def test_long_columns_are_the_same_in_chunks_and_in_files(tmp_path, monkeypatch) -> None:
    data = tar_bytes([(f"{i % 17}.png", PNG[i % 6]) for i in range(40)])
    whole = listed(tmp_path / "x.tar", data)
    found = [whole.source.read(sample_id) for sample_id in whole.ids]
    monkeypatch.setattr(table, "CHUNK", 3)
    monkeypatch.setattr(names, "SPOOLED", 10)
    os.utime(tmp_path / "x.tar", ns=(1, 1))
    pieces = listed(tmp_path / "x.tar")
    assert list(pieces.ids) == list(whole.ids) and len(whole.ids) == 17 and pieces.left_out == whole.left_out
    assert [pieces.source.read(sample_id) for sample_id in pieces.ids] == found


def test_an_archive_that_cannot_be_opened_is_left_out(tmp_path, shards, monkeypatch) -> None:
    plain = os.open

    def denied(path: Path, *arguments: Any, **options: Any) -> int:
        if Path(path) == tmp_path / "a.tar":
            raise PermissionError(13, "Permission denied", "/a.tar")
        return plain(path, *arguments, **options)

    open_here(monkeypatch)
    monkeypatch.setattr(os, "open", denied)
    listing = list_archives(tmp_path, shards, "the set")
    assert listing.ids == ["b/c.tar/0.png", "d.zip/0.png"]
    assert listing.left_out == [LeftOut("a.tar", "cannot be read (Permission denied)")]


def test_an_archive_that_is_gone_makes_bad_images(tmp_path, shards) -> None:
    source = list_archives(tmp_path, shards, "the set").source
    (tmp_path / "b/c.tar").unlink()
    with pytest.raises(BadImage, match=r"^cannot be read \(No such file or directory\)$"):
        source.read("b/c.tar/0.png")
    with pytest.raises(UserError, match=r"c\.tar is not there any more\. Start again with what is\.$"):
        list_archives(tmp_path, shards, "the set")


def test_equal_hashes_of_different_names_are_told_apart(tmp_path, monkeypatch) -> None:
    open_here(monkeypatch)
    monkeypatch.setattr(table, "hash_of", lambda name: 5)
    monkeypatch.setattr(archives, "hash_of", lambda name: 5)
    listing = listed(tmp_path / "x.tar", tar_bytes([(f"{i}.png", PNG[i]) for i in range(6)]))
    assert len(listing.ids) == 6
    assert [listing.source.read(sample_id) for sample_id in listing.ids] == PNG
    with pytest.raises(KeyError):
        listing.source.read("x.tar/9.png")
    assert listing.source.has("x.tar/0.png") and not listing.source.has("x.tar/9.png")


def test_a_million_members_need_no_object_each(tmp_path) -> None:
    """4,000 here: what is pickled and opened does not grow with them, and the scan takes some 100 bytes for each."""
    count = 4_000
    path = tmp_path / "x.tar"
    with path.open("wb") as stream:
        for i in range(count):
            stream.write(member(f"some/folder/{i:09}.png", b"\0" * 10))
        stream.write(END)
    scan = table.Scan()
    tracemalloc.start()
    for _ in table._scanned(scan, 0, path, "x.tar"):
        pass
    assert tracemalloc.get_traced_memory()[0] < 150 * count
    tracemalloc.stop()
    listing = listed(path)
    source = pickle.loads(pickle.dumps(listing.source))  # noqa: S301  made here
    tracemalloc.start()
    assert source.read(listing.ids[2345]) == bytes(10) and len(pickle.dumps(source)) < 500
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_handles_keep_few_files_open_and_close_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(handles, "OPEN", 3)
    files = [f"{i}" for i in range(10)]
    for name in files:
        (tmp_path / name).write_text(f"file {name}")
    gc.collect()  # of what other tests left open
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = Handles(str(tmp_path), files, [handles.look_of((tmp_path / name).stat()) for name in files])
    for _ in range(2):
        assert [opened.read(i, 5, 1) for i in range(10)] == [name.encode() for name in files]
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 3
    monkeypatch.setattr(handles, "MOST_AT_ONCE", 2)
    assert opened.read(9, 0, 6) == b"file 9"
    with pytest.raises(BadImage, match=r"^truncated file$"):
        opened.read(9, 0, 7)
    del opened
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_window_is_a_file_of_its_own() -> None:
    data = bytes(range(100))
    window = io.BufferedReader(Window(lambda at, size: data[20 + at : 20 + at + size], 50), 16)
    assert window.read() == data[20:70] and window.read(5) == b""
    assert window.seek(-3, io.SEEK_END) == 47 and window.read(9) == data[67:70]
    assert window.seek(5) == 5 and window.seek(2, io.SEEK_CUR) == 7 and window.read(1) == data[27:28]
    assert window.seek(60) == 60 and window.read(1) == b"" and window.seekable() and window.readable()
    with pytest.raises(OSError, match="before the beginning"):
        Window(lambda at, size: b"", 5).seek(-1)


def test_mapped_arrays_come_back_and_cannot_be_changed(tmp_path) -> None:
    arrays = {"a": np.arange(5, dtype="<u8"), "none": np.zeros(0, np.int64), "c": np.arange(9, dtype=np.uint8)[::2]}
    write_mapped(tmp_path / "new/x", arrays)
    for whole in (False, True):
        found = open_mapped(tmp_path / "new/x", whole=whole)
        assert found is not None and list(found) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
        with pytest.raises(ValueError, match="read-only"):
            found["a"][0] = 1
    assert mapped.HEAD.size == 20 and open_mapped(tmp_path / "absent", whole=True) is None


def test_patterns_stand_for_shards_in_order(tmp_path, shards) -> None:
    assert expanded("s-{008..011}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert expanded("{a,b}{0..1}.tar") == ["a0.tar", "a1.tar", "b0.tar", "b1.tar"]
    assert expanded("{x}-{0..1}.tar") == ["{x}-0.tar", "{x}-1.tar"] and expanded("a.tar") == ["a.tar"]
    assert is_pattern("{a,b}") and is_pattern("{0..3}") and not is_pattern("{a}") and not is_pattern("a..b")
    assert shards_of(f"{tmp_path}/{{a,b/c}}.tar") == (tmp_path, ["a.tar", "b/c.tar"])
    assert shards_of(f"{tmp_path}/b/{{c,c}}.tar") == (tmp_path / "b", ["c.tar"])
    with pytest.raises(
        UserError,
        match=r"e\}\.tar stands for 3 files, of which 2 are not there, first /.*/d\.tar\. Name those that are\.$",
    ):
        shards_of(f"{tmp_path}/{{a,d,e}}.tar")
    for pattern in ("x{3..1}.tar", "x{0..100000}.tar"):
        with pytest.raises(
            UserError, match=r"^The range \{.*\} must go up, and by fewer than 100,000\. Write the lower"
        ):
            expanded(pattern)
    with pytest.raises(UserError, match=r"stands for more than 100,000 files, the most that are opened\.$"):
        expanded("{0..999}{0..999}.tar")
