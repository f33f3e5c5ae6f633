from __future__ import annotations

import io
import pickle
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contextae.data.facts import BadImage
from contextae.data.index import LeftOut
from contextae.data.sources import zip as zips
from contextae.data.sources.archives import list_archives
from contextae.data.sources.open import index_of
from contextae.data.sources.zip import unpacked
from contextae.errors import UserError
from data.archives import damaged, listed, survives, zip_bytes
from data.pictures import encoded

PNG = [encoded(seed) for seed in range(5)]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
DAMAGED = "damaged member of a zip archive"


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


def info(name: str, mode: int = 0, **fields: object) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def patched(data: bytes, at: int, value: bytes, entry: int = 0) -> bytes:
    """With bytes of an entry of the directory replaced, counted from that entry's beginning."""
    start = -1
    for _ in range(entry + 1):
        start = data.index(b"PK\1\2", start + 1)
    return data[: start + at] + value + data[start + at + len(value) :]


@pytest.mark.parametrize("method", METHODS)
def test_members_come_back_from_any_process_in_the_directorys_order(tmp_path, method: int) -> None:
    names = ["b.png", "a/c.PNG", "a/ä.png", "a/b/without extension"]
    listing = listed(tmp_path / "x.zip", zip_bytes(list(zip(names, PNG, strict=False)), method))
    assert listing.ids == [f"x.zip/{name}" for name in names] and listing.left_out == []
    elsewhere = pickle.loads(pickle.dumps(listing.source))  # noqa: S301  made here
    assert [elsewhere.read(sample_id) for sample_id in listing.ids] == PNG[:4]
    assert elsewhere.probe("x.zip/a/c.PNG").num_bytes == len(PNG[1]) and len(pickle.dumps(elsewhere)) < 500


@pytest.mark.parametrize("method", METHODS)
def test_a_long_member_is_probed_and_read(tmp_path, method: int) -> None:
    data = encoded(1, "BMP", size=(90, 110))
    listing = listed(tmp_path / "x.zip", zip_bytes([("a.png", PNG[0]), ("b.bmp", data)], method))
    assert (listing.source.probe("x.zip/b.bmp").width, listing.source.read("x.zip/b.bmp")) == (110, data)


def test_what_is_no_plain_image_file_is_left_out_with_its_reason(tmp_path) -> None:
    members = [
        ("../up.png", PNG[0]),
        ("/etc/x.png", PNG[0]),
        ("folder/", b""),
        (info("link.png", 0o120777), b"/etc/passwd"),
        (info("pipe.png", 0o010644), b""),
        (info("disk.png", 0o060644), b""),
        (info("socket.png", 0o140644), b""),
        ("__MACOSX/._a.png", PNG[0]),
        ("notes.txt", b"about"),
        (info("bz.png", 0o100644, compress_type=zipfile.ZIP_BZIP2), PNG[0]),
        ("good.png", PNG[1]),
    ]
    listing = listed(tmp_path / "x.zip", zip_bytes(members))
    assert listing.ids == ["x.zip/good.png"] and listing.source.read("x.zip/good.png") == PNG[1]
    assert {path.removeprefix("x.zip/"): reason for path, reason in listing.left_out} == {
        "../up.png": "name that leads out of the archive",
        "/etc/x.png": "absolute name",
        "folder/": "folder",
        "link.png": "link, which is not followed",
        "pipe.png": "pipe",
        "disk.png": "device",
        "socket.png": "member of an unknown type",
        "__MACOSX/._a.png": "hidden file",
        "notes.txt": "not an image by its extension, .txt",
        "bz.png": "packed by bzip2, not supported",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "x.zip"}


def test_members_that_the_directory_shows_to_be_unreadable_are_left_out(tmp_path) -> None:
    data = zip_bytes([("a.png", PNG[0]), ("b.png", PNG[1])])
    for name, at, value, reason in (
        ("encrypted", 8, b"\1", "encrypted"),
        ("strong", 8, b"\x41", "encrypted"),
        ("method", 10, b"\x62\0", "packed by an unknown method, not supported"),
        ("place", 42, struct.pack("<I", len(data)), "lies outside the archive"),
        ("length", 20, struct.pack("<II", 1 << 30, 1 << 30), "lies outside the archive"),
        ("sizes", 24, struct.pack("<I", 7), DAMAGED),
        (
            "bomb",
            24,
            struct.pack("<I", 1_000_000_001),
            "more than 1,000,000,000 bytes unpacked, the limit against decompression bombs",
        ),
    ):
        listing = listed(tmp_path / f"{name}.zip", patched(data, at, value))
        assert listing.ids == [f"{name}.zip/b.png"], name
        assert listing.left_out == [LeftOut(f"{name}.zip/a.png", reason)], name


def test_members_cut_off_at_the_front_are_left_out(tmp_path) -> None:
    listing = listed(tmp_path / "x.zip", zip_bytes([("a.png", PNG[0]), ("b.png", PNG[1])])[10:])
    assert listing.left_out == [LeftOut("x.zip/a.png", "lies outside the archive")]
    assert listing.source.read("x.zip/b.png") == PNG[1]


def test_a_bomb_that_lies_about_its_size_is_never_unpacked_beyond_it(tmp_path) -> None:
    data = zip_bytes([("a.png", bytes(20_000_000))], zipfile.ZIP_DEFLATED)
    listing = listed(tmp_path / "x.zip", patched(data, 24, struct.pack("<I", 5000)))
    listing.source.position("x.zip/a.png")
    tracemalloc.start()
    with pytest.raises(BadImage, match=f"^{DAMAGED}$"):
        listing.source.read("x.zip/a.png")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_unpacking_checks_length_and_checksum() -> None:
    data = b"abc" * 100
    packed = zlib.compress(data, wbits=-15)
    size, crc = len(data), zlib.crc32(data)
    assert (
        unpacked(packed, size=size, crc=crc, deflated=True)
        == unpacked(data, size=size, crc=crc, deflated=False)
        == data
    )
    assert unpacked(zlib.compress(b"", wbits=-15), size=0, crc=0, deflated=True) == b""
    unended = zlib.compressobj(wbits=-15)
    for given, stated, checksum, deflated in (
        (unended.compress(data) + unended.flush(zlib.Z_SYNC_FLUSH), size, crc, True),
        (packed, size - 1, zlib.crc32(data[:-1]), True),
        (packed, size + 1, crc, True),
        (packed, size, crc + 1, True),
        (packed[:-2], size, crc, True),
        (b"\xff" + packed, size, crc, True),
        (data, size, crc + 1, False),
        (data, size + 1, crc, False),
    ):
        with pytest.raises(BadImage, match=f"^{DAMAGED}$"):
            unpacked(given, size=stated, crc=checksum, deflated=deflated)


@pytest.mark.parametrize("method", METHODS)
def test_damaged_bytes_and_headers_make_a_bad_image(tmp_path, method: int) -> None:
    data = bytearray(zip_bytes([("a.png", PNG[0]), ("b.png", PNG[1])], method))
    data[60] ^= 255  # among the bytes of the first
    data[data.index(b"PK\3\4", 10)] = 0  # the header of the second
    index = listed(tmp_path / "x.zip", bytes(data))
    for name in ("a.png", "b.png"):
        with pytest.raises(BadImage, match=f"^{DAMAGED}$"):
            index.source.read(f"x.zip/{name}")
    with pytest.raises(UserError, match="Left out: 2 of 2 found; 2 damaged member of"):
        index_of(index, "auto", None)


def test_names_are_utf8_where_they_are_that(tmp_path) -> None:
    plain = zip_bytes([("caf_.png", PNG[0]), ("xx.png", PNG[1])])
    data = plain.replace(b"caf_", b"caf\x82").replace(b"xx.png", b"\xc3\xa4.png")
    assert listed(tmp_path / "x.zip", data).ids == ["x.zip/café.png", "x.zip/ä.png"]  # the first of code page 437
    cut = plain.replace(b"caf_.png", b"caf\0.png")
    assert listed(tmp_path / "y.zip", cut).ids == ["y.zip/caf", "y.zip/xx.png"]


def test_of_members_with_one_name_the_last_counts(tmp_path) -> None:
    data = zip_bytes([("a.png", PNG[0]), ("b.png", PNG[1])]).replace(b"b.png", b"a.png")
    listing = listed(tmp_path / "x.zip", data)
    assert listing.ids == ["x.zip/a.png"] and listing.source.read("x.zip/a.png") == PNG[1]
    assert listing.left_out == [LeftOut("x.zip/a.png", "replaced by a later member of the same name")]


def test_bytes_before_the_archive_and_zip64_are_read(tmp_path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("a.png", "w", force_zip64=True) as member:
        member.write(PNG[0])
    listing = listed(tmp_path / "x.zip", b"#!/bin/sh\n" * 9 + stream.getvalue())
    assert listing.source.read("x.zip/a.png") == PNG[0]


@pytest.mark.parametrize("method", METHODS)
def test_classes_stand_beside_the_images_as_in_webdataset(tmp_path, method: int) -> None:
    members = [("a.jpg", PNG[0]), ("a.cls", b"dog"), ("b.jpg", PNG[1]), ("b.cls", b"cat")]
    listing = listed(tmp_path / "x.zip", zip_bytes(members, method))
    assert listing.classes == ["cat", "dog"] and listing.labels.tolist() == [1, 0] and len(listing.ids) == 2


def test_a_class_that_cannot_be_read_is_none(tmp_path) -> None:
    data = zip_bytes([("a.jpg", PNG[0]), ("a.cls", b"dog"), ("b.jpg", PNG[1]), ("b.cls", b"cat")])
    listing = listed(tmp_path / "x.zip", data.replace(b"dog", b"fog"))
    assert listing.classes == ["cat"] and listing.labels.tolist() == [-1, 0]
    assert "1 of 2 images have no .cls member that can be read, and so no class" in listing.notes


def test_what_is_no_zip_is_left_out_beside_others_and_refused_alone(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not one" * 1000)
    (tmp_path / "b.zip").write_bytes(zip_bytes([("a.png", PNG[0])]))
    (tmp_path / "c.zip").write_bytes(zip_bytes([("a.png", PNG[0])])[:-30])
    (tmp_path / "d.zip").write_bytes(b"")
    listing = list_archives(tmp_path, ["a.zip", "b.zip", "c.zip", "d.zip"], "the set")
    assert listing.ids == ["b.zip/a.png"]
    reason = "not a zip archive, or its directory is damaged"
    assert listing.left_out == [LeftOut("a.zip", reason), LeftOut("c.zip", reason), LeftOut("d.zip", "empty file")]
    with pytest.raises(
        UserError, match=r"^a\.zip holds no images that can be read\. Left out: 1 of 1 found; 1 not a zip"
    ):
        listed(tmp_path / "a.zip")


def test_four_threads_read_what_one_does(tmp_path) -> None:
    members = [(f"{i}.png", encoded(i, size=(20 + i, 30))) for i in range(60)]
    listing = listed(tmp_path / "x.zip", zip_bytes(members, zipfile.ZIP_DEFLATED))
    fresh = pickle.loads(pickle.dumps(listing.source))  # noqa: S301  made here
    wanted = [random.Random(0).randrange(60) for _ in range(500)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: fresh.read(f"x.zip/{i}.png"), wanted))
    assert all(data == members[i][1] for i, data in zip(wanted, found, strict=True))


def test_damaged_archives_are_refused_or_read_as_far_as_they_go(tmp_path) -> None:
    results = Counter(fuzz(tmp_path, 200))
    assert min(results["left out"], results["whole"], results["refused"]) > 20, results


def fuzz(folder: Path, count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    members = [("a.png", PNG[0]), ("a.cls", b"1"), ("b/c.png", PNG[1]), ("ä.png", PNG[2])]
    wholes = [zip_bytes(members, method) for method in METHODS]
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.png", "w", force_zip64=True) as to,
    ):
        to.write(PNG[0])
    wholes.append(stream.getvalue())
    return [survives(folder / "x.zip", damaged(rng.choice(wholes), rng, tar=False)) for _ in range(count)]


def test_the_limits_are_what_is_documented() -> None:
    assert zips.MOST_UNPACKED == 1_000_000_000
