from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contextae.data import packed as packed_module
from contextae.data import packed_manifest, packing
from contextae.data.augment import Crop
from contextae.data.facts import BadImage
from contextae.data.packed import PackedImages, Row, hash_of, open_packed, verify
from contextae.data.packed_manifest import MANIFEST, is_packed, read_manifest
from contextae.errors import UserError
from data.packs import packed, photographs, tree

FILES = ("names.bin", "ends.bin", "rows.bin", "hashes.bin", "order.bin", "looks.bin", "left_out.jsonl")
EARLIER = Path(__file__).with_name("packed_format_1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "FEWEST", 4)
        packed(photographs(folder / "source", 11), folder / "cache")
    return folder / "cache"


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def test_images_are_found_by_their_ids(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_packed(whole)
    assert [images.position(name) for name in images.names] == list(range(11))
    assert images.position("a/000.jpg") is None and images.position("") is None
    monkeypatch.setattr(packed_module, "hash_of", lambda name: hash_of("a/000.png"))  # all names of one hash
    same = PackedImages(whole, images.manifest)
    same.hashes = np.full(11, hash_of("a/000.png"), np.uint64)
    same.order = np.arange(11)[::-1]
    assert same.position("b/009.jpeg") == 10 and same.position("c") is None


def test_a_raw_image_is_a_view_of_the_map(whole: Path) -> None:
    got = open_packed(whole).read(3)
    assert isinstance(got, np.ndarray) and not got.flags.owndata and not got.flags.writeable
    crop = Crop(size=(9, 7))
    assert crop(got, random.Random(0)).shape == (3, 9, 7)


def test_threads_read_together(whole: Path) -> None:
    one, many = open_packed(whole), open_packed(whole)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(many.read, [i % 11 for i in range(300)]))
    assert all(np.array_equal(got, one.read(i % 11)) for i, got in enumerate(read)) and len(many._shards) == 3


def test_shards_mapped_longest_ago_are_let_go(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_packed(whole)
    sizes = [images.manifest.files[f"shards/{number:05}.bin"][0] for number in range(3)]
    monkeypatch.setattr(packed_module, "MOST_MAPPED", sizes[0] + sizes[1])
    first = images.read(0)
    copy = np.array(first)
    for position in (4, 8, 0, 10, 5):
        images.read(position)
        assert images._mapped == sum(len(data) for data in images._shards.values()) <= sizes[0] + sizes[1]
    assert list(images._shards) == [0, 1]
    assert np.array_equal(first, copy)  # a view keeps its map


def test_it_opens_in_milliseconds(whole: Path) -> None:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        open_packed(whole)
        best = min(best, time.process_time() - start)
    assert best < 0.02


def test_what_is_no_packed_cache(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    assert not is_packed(tmp_path) and not is_packed(tmp_path / "image.png")
    (tmp_path / MANIFEST).write_text("{}")
    assert not is_packed(tmp_path)  # the audit's, for instance
    with pytest.raises(UserError, match=r"/none/manifest\.json cannot be read: No such file or directory\. A packed"):
        read_manifest(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "sha256": "0", "kind": "raw"}'])
def test_a_damaged_manifest_is_refused(cache: Path, text: str) -> None:
    (cache / MANIFEST).write_text(text)
    with pytest.raises(
        UserError, match=r"cache was damaged or edited: manifest\.json is not what was written\. Remove"
    ):
        open_packed(cache)


def test_an_edited_manifest_is_refused(cache: Path) -> None:
    text = (cache / MANIFEST).read_text()
    (cache / MANIFEST).write_text(text.replace('"short_side": 24', '"short_side": 25'))
    with pytest.raises(UserError, match=r"was damaged or edited: manifest\.json"):
        open_packed(cache)
    values = json.loads(text) | {"num_shards": 2}
    seal = packed_manifest.seal_of({name: value for name, value in values.items() if name not in ("format", "sha256")})
    (cache / MANIFEST).write_text(json.dumps(values | {"sha256": seal}))
    with pytest.raises(UserError, match=r"was damaged or edited: manifest\.json"):
        open_packed(cache)


def test_another_version_is_refused(cache: Path) -> None:
    values = json.loads((cache / MANIFEST).read_text())
    (cache / MANIFEST).write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(UserError, match=r"/cache has format version 2, and this version of contextae reads 1\. Pack"):
        open_packed(cache)


@pytest.mark.parametrize("name", [*FILES, "shards/00001.bin"])
def test_a_file_that_is_missing_cut_or_changed_is_noticed(cache: Path, name: str) -> None:
    path = cache / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] if data else b"x")
    with pytest.raises(UserError, match=rf"/cache was damaged or edited: {name} is not what was written\. Remove the"):
        open_packed(cache)
    path.unlink()
    with pytest.raises(UserError, match=rf"/cache is not whole: {name} cannot be opened \(No such file .*\)\. Copy"):
        open_packed(cache)
    if data:
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        open_packed(cache)  # sizes alone do not tell
        with pytest.raises(UserError, match=r"/cache was damaged"):
            verify(cache)


def test_verify_names_the_damaged_images(cache: Path) -> None:
    told: list[tuple[int, int]] = []
    images = verify(cache, lambda *at: told.append(at))
    total = sum(path.stat().st_size for path in cache.rglob("*.*") if path.name != MANIFEST)
    assert told[-1] == (total, total) and len(told) == 10
    for position in (2, 5, 6):
        row = images.row(position)
        with (cache / f"shards/{row.shard:05}.bin").open("r+b") as stream:
            stream.seek(row.offset + row.num_bytes // 2)
            byte = stream.read(1)[0]
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte ^ 64]))
    names = ", ".join(images.names[position] for position in (2, 5, 6))
    with pytest.raises(
        UserError,
        match=rf": 3 of its 11 images differ from their checksums, {names}, in 2 of its 3 shards\. Remove",
    ):
        verify(cache)


def test_columns_that_disagree_are_refused(whole: Path) -> None:
    manifest = open_packed(whole).manifest
    with pytest.raises(UserError, match=r"was damaged or edited: rows\.bin"):
        PackedImages(whole, dataclasses.replace(manifest, count=12))


@pytest.mark.parametrize(
    "change", [{"offset": 1 << 40}, {"num_bytes": 1 << 40}, {"height": 1}, {"width": 1 << 30}, {"shard": 77}]
)
def test_a_row_that_leads_nowhere_is_a_bad_image(whole: Path, change: dict[str, int]) -> None:
    images = open_packed(whole)
    images.rows = np.array(images.rows)
    for name, value in change.items():
        images.rows[name][2] = value
    with pytest.raises(BadImage, match=r"^damaged in the packed cache$"):
        images.read(2)
    assert isinstance(images.read(1), np.ndarray) and isinstance(images.row(2), Row)


def test_a_shard_that_goes_away_or_is_cut_later_is_a_bad_image(cache: Path) -> None:
    images = open_packed(cache)
    os.truncate(cache / "shards/00001.bin", 100)
    with pytest.raises(BadImage, match=r"^damaged in the packed cache$"):
        images.read(5)
    (cache / "shards/00001.bin").unlink()
    with pytest.raises(BadImage, match=r"^cannot be read \(No such file or directory\)$"):
        images.read(5)


def test_a_damaged_list_of_what_was_left_out_is_refused(cache: Path) -> None:
    (cache / "left_out.jsonl").write_text("{\n")
    manifest = read_manifest(cache)
    with pytest.raises(UserError, match=r"was damaged or edited: left_out\.jsonl"):
        list(PackedImages(cache, manifest).left_out())


def test_facts_of_all_at_once_are_those_of_each(whole: Path) -> None:
    images = open_packed(whole)
    rows = images.all_facts()
    for position in range(11):
        fact = images.facts(position)
        for name in ("width", "height", "num_bytes", "channels", "photograph", "frames"):
            assert rows[name][position] == getattr(fact, name)
        for name in ("format", "kind", "dtype"):
            assert rows[name][position].decode() == getattr(fact, name)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_cache_that_version_1_wrote_still_loads(kind: str) -> None:
    """Written by the first version of this format; to be kept as it is."""
    images = verify(EARLIER / kind)
    assert list(images.names) == ["a/000.png", "a/002.png", "b/001.jpeg"] and images.manifest.kind == kind
    assert images.row(2)[2:4] == (13, 8)
    assert [entry.path for entry in images.left_out()] == ["text.jpg", "zz-cut.png"]
    assert tree(EARLIER / kind).keys() == tree(EARLIER / "raw").keys()
