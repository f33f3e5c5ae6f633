from __future__ import annotations

import errno
import io
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from contextae.data.facts import BadImage
from contextae.data.sources import npy, npz
from contextae.data.sources.numpy_files import list_numpy
from contextae.errors import UserError
from data.archives import damaged
from data.array_files import STACK, reads, saved
from data.in_process import open_here


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


def test_a_npy_file_has_no_names(tmp_path) -> None:
    path = saved(tmp_path / "a.npy", STACK)
    with pytest.raises(
        UserError, match=r"a\.npy has no array 'x': a \.npy file holds one, without a name\. Behind :: its"
    ):
        list_numpy(path, "a", wanted="x")
    with pytest.raises(UserError, match=r"a\.npy has no array 'x': a \.npy"):
        list_numpy(path, "a", wanted="x::nhwc")


def test_a_cut_or_damaged_file_is_refused(tmp_path) -> None:
    whole = saved(tmp_path / "a.npy", STACK).read_bytes()
    path = tmp_path / "b.npy"
    path.write_bytes(whole[:-1])
    with pytest.raises(
        UserError,
        match=r"b\.npy is cut off or damaged: by its header it has the axes 7 x 11 x 13 x 3 of uint8, and 3\.0 kB are "
        r"there\. Write it again\.$",
    ):
        list_numpy(path, "b")
    path.write_bytes(whole.replace(b"(7, 11", b"(-7,11"))
    with pytest.raises(UserError, match="is cut off or damaged"):
        list_numpy(path, "b")
    for data in (whole[:20], b"no array", b"", whole[:6] + b"\3\0" + whole[8:], whole.replace(b"|u1", b"|z1")):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=r"b\.npy cannot be read as a NumPy array: its header is damaged or of another"
        ):
            list_numpy(path, "b")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"b\.npy cannot be read: Is a directory\. Give a file this user may read\.$"):
        list_numpy(path, "b")


def test_a_large_stack_in_fortrans_order_is_refused(tmp_path, monkeypatch) -> None:
    path = saved(tmp_path / "a.npy", np.asfortranarray(STACK))
    open_here(monkeypatch)
    monkeypatch.setattr(npy, "MOST_FORTRAN", 3000)
    with pytest.raises(
        UserError, match=r"is in Fortran's order, in which .*, 3\.0 kB\. Save numpy\.ascontiguousarray\(array\)"
    ):
        list_numpy(path, "a")


def test_a_file_that_changed_is_noticed(tmp_path) -> None:
    path = saved(tmp_path / "a.npy", STACK)
    source = list_numpy(path, "a").source
    os.utime(path, ns=(1, 1))
    for source in (source, pickle.loads(pickle.dumps(source))):  # noqa: B020, S301  made here
        with pytest.raises(UserError, match=r"a\.npy has changed since it was opened\. Start again with it\.$"):
            source.read("a.npy#0")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_array_of_a_npz_is_found_by_axes_and_name(tmp_path, save) -> None:
    path = tmp_path / "a.npz"
    save(path, labels=np.arange(7), stack=STACK)
    listing = list_numpy(path, "a")
    assert listing.ids[3] == "a.npz::stack#3" and np.array_equal(reads(listing), STACK)
    assert "images are in array stack, not in labels" in listing.notes
    save(path, masks=STACK[:, :, :, 0], Images=STACK)
    assert np.array_equal(reads(list_numpy(path, "a")), STACK)
    assert np.array_equal(reads(list_numpy(path, "a", wanted="masks")), STACK[:, :, :, :1])
    assert list_numpy(path, "a", wanted="Images::nchw").source.probe("a.npz::Images#0").channels == 11
    save(path, left=STACK, right=STACK, n=np.arange(3))
    with pytest.raises(
        UserError,
        match=r"a\.npz holds 2 arrays that may be images, of 3 or 4 axes: left, right\. It holds left, right, n\. Name "
        r"one as in .*a\.npz::NAME\.$",
    ):
        list_numpy(path, "a")
    with pytest.raises(
        UserError, match=r"a\.npz has no array 'lefd'\. Did you mean 'left'\? It holds left, right, n\. Behind"
    ):
        list_numpy(path, "a", wanted="lefd")
    save(path, n=np.arange(3))
    with pytest.raises(UserError, match=r"holds no arrays that may be images, of 3 or 4 axes\. It holds n\. Name one"):
        list_numpy(path, "a")


def test_a_compressed_array_is_unpacked_once_and_again_where_that_is_gone_or_damaged(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=STACK, **{"b::c": STACK[:2]})
    listing = list_numpy(path, "a", wanted="a")
    assert any("it is compressed, and unpacked once to " in note for note in listing.notes)
    assert np.array_equal(reads(list_numpy(path, "a", wanted="b::c")), STACK[:2])
    shutil.rmtree(tmp_path / "cache")
    assert np.array_equal(reads(listing), STACK)  # by a process that finds it gone
    (copy,) = (tmp_path / "cache").iterdir()
    before = copy.stat().st_mtime_ns
    assert np.array_equal(reads(list_numpy(path, "a", wanted="a")), STACK) and copy.stat().st_mtime_ns == before
    data = bytearray(copy.read_bytes())
    data[-5] ^= 1
    copy.write_bytes(data)
    assert np.array_equal(reads(list_numpy(path, "a", wanted="a")), STACK)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"a\.npz has changed since it was opened"):
        reads(listing)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.rmtree(tmp_path / "cache")
    open_here(monkeypatch)
    monkeypatch.setattr(npz, "write_array", full)
    with pytest.raises(
        UserError,
        match=r"a\.npz cannot be unpacked to .*/cache: No space left on device; it takes about .*\. Make room",
    ):
        list_numpy(path, "a", wanted="a")
    assert list((tmp_path / "cache").iterdir()) == []


def test_damaged_npz_files_are_refused(tmp_path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"no zip")
    refused = r"a\.npz cannot be read as a \.npz file: it is no zip archive, or is damaged\. Mend it, or take it out"
    with pytest.raises(UserError, match=refused):
        list_numpy(path, "a")
    np.savez(path, a=STACK)
    whole = path.read_bytes()
    path.write_bytes(b"PK\0\0" + whole[4:])
    with pytest.raises(UserError, match=refused):
        list_numpy(path, "a", wanted="a")
    np.savez_compressed(path, a=STACK)
    data = bytearray(path.read_bytes())
    data[500] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=refused):
        list_numpy(path, "a", wanted="a")
    longer = io.BytesIO()
    np.lib.format.write_array(longer, STACK)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", longer.getvalue()[:-9])
        archive.writestr("b.npy", longer.getvalue())
    with pytest.raises(UserError, match="a is cut off or damaged"):
        list_numpy(path, "a", wanted="a")


def test_damaged_files_are_refused_or_read(tmp_path) -> None:
    assert fuzz(tmp_path, 150) > 20


def fuzz(folder: Path, count: int, seed: int = 0) -> int:
    """How many were refused; nothing but the two kinds of error comes out."""
    rng, refused = random.Random(seed), 0
    np.savez(folder / "a.npz", a=STACK, b=np.arange(7))
    np.savez_compressed(folder / "b.npz", a=STACK[:3])
    saved(folder / "c.npy", STACK[:3].astype(np.int64))
    saved(folder / "d.npy", np.asfortranarray(STACK[:3]))
    wholes = {path: path.read_bytes() for path in sorted(folder.glob("?.np?"))}
    for _ in range(count):
        path, whole = rng.choice(list(wholes.items()))
        if path.suffix == ".npz":
            data = damaged(whole, rng, tar=False)
        else:
            changed = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                changed[rng.randrange(rng.choice((130, len(whole))))] = rng.choice(b"0123456789(),<>|'ufibOSV{}:\0\xff")
            data = bytes(changed)
        target = folder / f"x{path.suffix}"
        target.write_bytes(data)
        try:
            listing = list_numpy(target, "x")
            for sample_id in listing.ids[:20]:
                try:
                    listing.source.probe(sample_id)
                    listing.source.read(sample_id)
                except BadImage:
                    continue
        except UserError:
            refused += 1
    return refused
