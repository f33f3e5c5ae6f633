"""Packed caches as a source, and what becomes of them when their own source changes."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_index import VIEWS, same

from contextae.data.facts import BadImage
from contextae.data.loader import Loader
from contextae.data.names import as_array, mapped_bytes
from contextae.data.packed import open_packed
from contextae.data.packed_manifest import LOOKS, MANIFEST
from contextae.data.probing import probe_all
from contextae.data.sampler import Sampler
from contextae.data.sources.find import list_source
from contextae.data.sources.open import index_of
from contextae.data.sources.origin import LOOK, Origin, changed_since, names_hash, origin_of, place_of
from contextae.data.sources.packed import Packed, list_packed
from contextae.errors import UserError
from data.packs import SHORT, bad_ones, packed, photographs
from data.pictures import encoded, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = photographs(tmp_path / "source", 6)
    bad_ones(folder)
    return folder


def again_from(data: bytes) -> Packed:
    """As a loader process gets it."""
    source: Packed = pickle.loads(data)  # noqa: S301  of this very process
    return source


def test_a_cache_lists_its_images_and_accounts_for_the_rest(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "c")
    listing = list_packed(tmp_path / "c", "c")
    index = index_of(listing, "auto", None)
    assert list(index.ids)[:2] == ["a/000.png", "a/002.png"] and len(index) == 6 and index.found == 8
    assert [entry.path for entry in index.left_out] == ["text.jpg", "zz-cut.png"]
    assert (index.channels, index.dtype) == (3, "uint8")
    assert index.describe()[1] == "formats: 6 raw" and f"packed as raw, short side at most {SHORT}" in index.describe()
    facts = listing.source.facts()  # type: ignore[attr-defined]
    probed, bad = probe_all(listing.source, listing.ids, None)
    assert not bad and facts.tobytes() == probed.tobytes()


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_loader_processes_read_it_by_its_path(source: Path, tmp_path: Path, kind: str) -> None:
    packed(source, tmp_path / "c", kind=kind)
    index = index_of(list_packed(tmp_path / "c", "c"), "auto", None)
    again: Packed = again_from(pickle.dumps(index.source))
    assert len(pickle.dumps(index.source)) < 400 and again.has("a/004.png") and not again.has("text.jpg")
    assert again.probe("a/000.png") == index.source.probe("a/000.png") and again.arrays == (kind == "raw")
    batches = []
    for workers in (0, 2):
        sampler = Sampler(length=6, batch_size=4, seed=1)
        with Loader(index=index, sampler=sampler, views=VIEWS, seed=1, num_workers=workers) as loader:
            batches.append([one.batch for one in loader.batches(0, 4)])
            assert not loader.quarantine
    assert all(same(one, other) for one, other in zip(*batches, strict=True))


def test_an_image_that_is_not_there_is_bad_and_another_cache_is_refused(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "c")
    opened = list_packed(tmp_path / "c", "c").source
    with pytest.raises(BadImage, match=r"^no longer in the packed cache$"):
        opened.read("text.jpg")
    waiting = pickle.dumps(opened)
    shutil.rmtree(tmp_path / "c")
    (source / "a/000.png").unlink()
    packed(source, tmp_path / "c")
    for source_of_old in (opened, again_from(waiting)):
        with pytest.raises(UserError, match=r"/c was replaced since it was opened\. Start again with it\.$"):
            source_of_old.read("a/002.png")


def added(folder: Path) -> None:
    write(folder / "new.png")


def removed(folder: Path) -> None:
    (folder / "b/003.jpeg").unlink()


def renamed(folder: Path) -> None:
    (folder / "b/003.jpeg").rename(folder / "b/004.jpeg")


def enlarged(folder: Path) -> None:
    status = (folder / "b/003.jpeg").stat()
    (folder / "b/003.jpeg").write_bytes((folder / "b/003.jpeg").read_bytes() + b"\0")
    os.utime(folder / "b/003.jpeg", ns=(status.st_atime_ns, status.st_mtime_ns))


def touched(folder: Path) -> None:
    for name in ("a/002.png", "b/003.jpeg"):
        os.utime(folder / name, ns=(1, 1))


CHANGES: dict[Any, str] = {
    added: "it lists 9 files by now, and 8 then",
    removed: "it lists 7 files by now, and 8 then",
    renamed: "it lists files of other names by now",
    enlarged: "1 of its 8 files have another size or time by now, first b/003.jpeg",
    touched: "2 of its 8 files have another size or time by now, first a/002.png",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_has_changed_is_noticed(source: Path, tmp_path: Path, change: Any) -> None:
    packed(source, tmp_path / "c")
    change(source)
    with pytest.raises(
        UserError,
        match=rf"^The packed cache .*/c no longer holds what its source holds\. It was packed from {source}, and "
        rf"{CHANGES[change]}\. Pack that again with `contextae pack {source} --out ANOTHER_FOLDER`, or, to go on .*"
        r"`contextae pack --untie --out .*/c`\.$",
    ):
        list_packed(tmp_path / "c", "c")
    accepted = list_packed(tmp_path / "c", "c", accept_stale=True)
    assert accepted.notes[1] == f"{source}, which it was packed from, has changed since: {CHANGES[change]}"
    shutil.rmtree(source)
    assert len(list_packed(tmp_path / "c", "c").notes) == 1


def test_hidden_files_and_others_that_are_no_images_are_no_change(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "c")
    (source / ".DS_Store").write_bytes(b"")
    (source / "notes.txt").write_text("")
    assert list_packed(tmp_path / "c", "c")


def changes_of(path: Path | str, cache: Path) -> str:
    images = open_packed(cache)
    assert images.manifest.origin is not None
    return changed_since(Origin(**images.manifest.origin), as_array(mapped_bytes(cache / LOOKS), LOOK))


def test_a_list_of_files_is_looked_at_with_what_it_names(source: Path, tmp_path: Path) -> None:
    text = source / "list.txt"
    text.write_text("a/000.png\nb/001.jpeg\n")
    packed(text, tmp_path / "c")
    added(source)
    assert changes_of(text, tmp_path / "c") == ""
    (source / "b/001.jpeg").unlink()
    assert changes_of(text, tmp_path / "c").startswith("1 of its 2 files have another size or time by now, first b/001")
    text.write_text("a/000.png\n")
    assert changes_of(text, tmp_path / "c") == "it lists 1 files by now, and 2 then"
    text.write_text("")
    assert changes_of(text, tmp_path / "c") == "it lists 0 files by now, and 2 then"


@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_files_of_many_images_are_looked_at_as_files(tmp_path: Path, single: bool) -> None:
    folder = tmp_path / "s"
    (folder / "part").mkdir(parents=True)
    table = pa.table({"image": pa.array([encoded(i) for i in range(3)], pa.binary())})
    pq.write_table(table, folder / "part/train.parquet")
    named = folder / "part/train.parquet" if single else folder
    packed(named, tmp_path / "c")
    images = open_packed(tmp_path / "c")
    assert images.manifest.origin and images.manifest.origin["how"] == "files" and len(images) == 3
    assert changes_of(named, tmp_path / "c") == ""
    (folder / ".cache").mkdir()
    (folder / ".cache/x").write_text("")
    assert changes_of(named, tmp_path / "c") == ""
    pq.write_table(table.slice(1), folder / "part/train.parquet")
    first = "train.parquet" if single else "part/train.parquet"
    assert changes_of(named, tmp_path / "c") == f"1 of its 1 files have another size or time by now, first {first}"


def test_a_pattern_is_looked_at_file_by_file(tmp_path: Path) -> None:
    names = [tmp_path / f"{i}.parquet" for i in range(2)]
    for i, path in enumerate(names):
        pq.write_table(pa.table({"image": pa.array([encoded(i)], pa.binary())}), path)
    pattern = f"{tmp_path}/{{0..1}}.parquet"
    packed(pattern, tmp_path / "c")
    assert changes_of(pattern, tmp_path / "c") == ""
    os.utime(names[1], ns=(1, 1))
    expected = f"1 of its 2 files have another size or time by now, first {names[1]}"
    assert changes_of(pattern, tmp_path / "c") == expected
    names[1].unlink()
    assert changes_of(pattern, tmp_path / "c") == expected
    names[0].unlink()
    assert changes_of(pattern, tmp_path / "c") == ""  # nothing to compare with


def test_arrays_of_the_package_have_nothing_to_look_at(tmp_path: Path) -> None:
    listing = list_source("builtin:fashion-mnist")
    origin, looks = origin_of("builtin:fashion-mnist", listing)
    assert (origin.how, origin.path, origin.listed, len(looks)) == ("nothing", "builtin:fashion-mnist", 0, 0)
    assert changed_since(origin, looks) == ""


def test_where_a_source_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.parquet").write_bytes(b"")
    Path("odd::name").mkdir()
    assert place_of("a.parquet::image::x") == tmp_path / "a.parquet" and place_of("odd::name") == tmp_path / "odd::name"
    assert place_of("builtin:x") is None and place_of("nowhere") is None and place_of("nowhere::image") is None


def test_names_are_told_apart_by_their_borders() -> None:
    assert names_hash(["ab", "c"]) != names_hash(["a", "bc"]) != names_hash(["abc"]) and names_hash([]) == names_hash(
        []
    )


def test_an_untied_cache_forgets_its_source(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "c")
    before = list_packed(tmp_path / "c", "c").source
    waiting = pickle.dumps(before)
    touched(source)
    manifest = dataclasses.replace(open_packed(tmp_path / "c").manifest, origin=None)
    (tmp_path / "c" / MANIFEST).write_text(manifest.text())
    assert len(list_packed(tmp_path / "c", "c").notes) == 1
    for running in (before, again_from(waiting)):
        assert isinstance(running.read("a/000.png"), np.ndarray)
