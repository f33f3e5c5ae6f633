from __future__ import annotations

import os
import pickle
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from contextae.data.decode import decode
from contextae.data.index import LeftOut
from contextae.data.sources.archives import list_archives
from contextae.data.sources.open import index_of
from contextae.data.sources.tar import header_of, number, pax_records
from contextae.errors import UserError
from data.archives import BLOCK, END, damaged, header, listed, member, padded, record, summed, survives, tar_bytes
from data.pictures import encoded

PNG = [encoded(seed) for seed in range(5)]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


def reads(listing) -> list[bytes]:
    return [listing.source.read(sample_id) for sample_id in listing.ids]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_come_back_from_any_process_in_the_archives_order(tmp_path, format: int) -> None:
    deep = f"{'d' * 90}/{'e' * 90}/ä.png"  # longer than the 100 bytes of a header's name
    names = ["b.png", "a/c.PNG", deep, "without extension"]
    listing = listed(tmp_path / "x.tar", tar_bytes(list(zip(names, PNG, strict=False)), format))
    assert listing.ids == [f"x.tar/{name}" for name in names] and listing.left_out == []
    assert reads(listing) == PNG[:4]
    assert [listing.source.read_at(i) for i in range(4)] == PNG[:4]
    elsewhere = pickle.loads(pickle.dumps(listing.source))  # noqa: S301  made here
    assert elsewhere.read(listing.ids[2]) == PNG[2] and len(pickle.dumps(listing.source)) < 500
    assert (elsewhere.probe(listing.ids[1]).width, elsewhere.probe(listing.ids[1]).num_bytes) == (19, len(PNG[1]))
    with pytest.raises(KeyError, match="nothing"):
        elsewhere.read("x.tar/nothing.png")


def test_a_longer_member_is_probed_by_its_beginning_alone(tmp_path, monkeypatch) -> None:
    data = encoded(1, "BMP", size=(90, 110))
    listing = listed(tmp_path / "x.tar", tar_bytes([("a.png", PNG[0]), ("b.bmp", data), ("c.png", PNG[1])]))
    assert listing.source.probe("x.tar/b.bmp").height == 90
    asked: list[int] = []
    handles = listing.source._opened[1]
    monkeypatch.setattr(
        type(handles),
        "read",
        lambda self, n, at, size: asked.append(size) or os.pread(self._opened[n].number, size, at),
    )
    facts = listing.source.probe("x.tar/b.bmp")
    assert (facts.width, facts.num_bytes) == (110, len(data)) and len(data) > 20_000 and sum(asked) < 17_000


def test_an_index_of_an_archive_is_decoded_as_files_are(tmp_path) -> None:
    index = index_of(
        listed(tmp_path / "x.tar", tar_bytes([("a.png", PNG[0]), ("b.png", b"text"), ("c.png", b"")])), "auto", None
    )
    assert list(index.ids) == ["x.tar/a.png"]
    assert index.left_out == [
        LeftOut("x.tar/b.png", "not an image, or its header is damaged"),
        LeftOut("x.tar/c.png", "empty file"),
    ]
    assert np.array_equal(decode(index.read(0), channels=3), decode(PNG[0], channels=3))


def test_what_is_no_plain_image_file_is_left_out_with_its_reason(tmp_path) -> None:
    data = b"".join(
        [
            member("../up.png", PNG[0]),
            member("a/../../up.png", PNG[0]),
            member("/etc/x.png", PNG[0]),
            member("", PNG[0]),
            header("link.png", kind=b"2", linkname="/etc/passwd"),
            header("hard.png", kind=b"1", linkname="good.png"),
            header("null.png", kind=b"3"),
            header("disk.png", kind=b"4"),
            header("pipe.png", kind=b"6"),
            header("folder/", kind=b"5"),
            header("old folder.png/", kind=b"\0"),
            member(".hidden.png", PNG[0]),
            member("__MACOSX/._a.png", PNG[0]),
            member("notes.txt", b"about"),
            member("volume", b"", kind=b"V"),
            member("good.png", PNG[1]),
            END,
        ]
    )
    listing = listed(tmp_path / "x.tar", data)
    assert listing.ids == ["x.tar/good.png"] and reads(listing) == [PNG[1]]
    assert {path.removeprefix("x.tar/"): reason for path, reason in listing.left_out} == {
        "../up.png": "name that leads out of the archive",
        "a/../../up.png": "name that leads out of the archive",
        "/etc/x.png": "absolute name",
        "": "member without a name",
        "link.png": "link, which is not followed",
        "hard.png": "link, which is not followed",
        "null.png": "device",
        "disk.png": "device",
        "pipe.png": "pipe",
        "folder/": "folder",
        "old folder.png/": "folder",
        ".hidden.png": "hidden file",
        "__MACOSX/._a.png": "hidden file",
        "notes.txt": "not an image by its extension, .txt",
        "volume": "member of an unknown type",
    }
    assert len(listing.left_out) == 15 and {path.name for path in tmp_path.iterdir()} == {"cache", "x.tar"}


def test_names_are_without_dots_and_survive_whatever_bytes_they_have(tmp_path) -> None:
    odd = b'caf\xe9\n"<b>.png'.decode("utf-8", "surrogateescape")
    data = tar_bytes([("./a//b.png", PNG[0]), (odd, PNG[1])], tarfile.GNU_FORMAT, errors="surrogateescape")
    for _ in range(2):  # scanned, then from the cache
        listing = listed(tmp_path / "x.tar", data)
        assert listing.ids == ["x.tar/a/b.png", f"x.tar/{odd}"] and reads(listing) == PNG[:2]


def test_of_members_with_one_name_the_last_counts(tmp_path) -> None:
    listing = listed(
        tmp_path / "x.tar", tar_bytes([("a.png", PNG[0]), ("b.png", PNG[1]), ("./a.png", PNG[2]), ("a.png", PNG[3])])
    )
    assert listing.ids == ["x.tar/b.png", "x.tar/a.png"] and reads(listing) == [PNG[1], PNG[3]]
    assert listing.left_out == [LeftOut("x.tar/a.png", "replaced by a later member of the same name")] * 2


def test_sizes_in_binary_and_in_pax_records(tmp_path) -> None:
    binary = bytearray(header("a.png", len(PNG[0])))
    binary[124:136] = b"\x80" + len(PNG[0]).to_bytes(11)
    records = record("size", str(len(PNG[1])))
    data = [summed(binary), padded(PNG[0]), member("x", records, b"x"), header("b.png", 0), padded(PNG[1])]
    listing = listed(tmp_path / "x.tar", b"".join([*data, member("c.png", PNG[2]), END]))
    assert listing.ids == ["x.tar/a.png", "x.tar/b.png", "x.tar/c.png"] and reads(listing) == PNG[:3]


def test_numbers_of_a_header() -> None:
    assert [number(field) for field in (b"0000017\0", b"    17 \0", b"\0" * 8, b"17      ")] == [15, 15, 0, 15]
    assert number(b"\x80" + (2**40).to_bytes(11)) == 2**40
    assert [
        number(field) for field in (b"0000018\0", b"-000017\0", b"1_7\0\0\0\0\0", b"\xff" * 12, b"1 7 \0\0\0\0")
    ] == [None] * 5


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    block = bytearray(header("caf\xe9.png"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in block)
    found = header_of(bytes(block))
    assert found is not None and found.name == "café.png"
    block[0] ^= 1
    assert header_of(bytes(block)) is None


def test_the_prefix_of_a_long_name_is_posix_alone() -> None:
    block = bytearray(header("b.png"))
    block[345:348] = b"dir"
    assert header_of(rebuilt(block)).name == "b.png"  # GNU keeps times there
    block[257:265] = b"ustar\x0000"
    assert header_of(rebuilt(block)).name == "dir/b.png"
    block[345:500] = b"d" * 155
    assert len(header_of(rebuilt(block)).name) == 155 + 6
    block[508:512] = b"tar\0"  # star keeps times behind 131 bytes of it
    assert len(header_of(rebuilt(block)).name) == 131 + 6


def rebuilt(block: bytearray) -> bytes:
    return summed(bytearray(block))


def test_pax_records() -> None:
    assert pax_records(b"12 path=a b\n10 x=\xc3\xa4\xffz\n") == {"path": "a b", "x": "ä\udcffz"}
    assert pax_records(record("path", "a\nb") + bytes(9)) == {"path": "a\nb"}
    for broken in (
        b"99 path=a\n",
        b"path=a\n",
        b"0 path=a\n",
        b"5 path=a\n",
        b"10 path=abc",
        b"11 path=abcd\n",
        b"10 path=ab",
    ):
        assert pax_records(broken) is None


def test_sparse_members_are_left_out_and_what_follows_is_read(tmp_path) -> None:
    old = bytearray(header("old.png", BLOCK, b"S"))
    old[482] = 1  # the map goes on in blocks of its own
    more, last = bytearray(BLOCK), bytes(BLOCK)
    more[504] = 1
    records = record("GNU.sparse.major", "1") + record("GNU.sparse.name", "new.png")
    data = [
        rebuilt(old),
        bytes(more),
        last,
        b"x" * BLOCK,
        member("x", records, b"x"),
        member("GNUSparse/x", b"0" * BLOCK),
    ]
    listing = listed(tmp_path / "x.tar", b"".join([*data, member("good.png", PNG[0]), END]))
    assert listing.ids == ["x.tar/good.png"] and reads(listing) == PNG[:1]
    reason = "sparse member, not supported"
    assert listing.left_out == [LeftOut("x.tar/old.png", reason), LeftOut("x.tar/new.png", reason)]
    cut = listed(tmp_path / "y.tar", member("a.png", PNG[0]) + rebuilt(old) + bytes(more))
    assert cut.left_out == [LeftOut("y.tar/old.png", "member in which the archive breaks off")]


def test_global_records_and_long_links_say_nothing_of_the_members(tmp_path) -> None:
    records = record("path", "x.png")
    data = [member("g", records, b"g"), member("././@LongLink", b"far/away\0", b"K"), member("a.png", PNG[0]), END]
    listing = listed(tmp_path / "x.tar", b"".join(data))
    assert listing.ids == ["x.tar/a.png"] and listing.left_out == []


def breaks(path: Path, data: bytes) -> tuple[list[str], list[LeftOut]]:
    listing = listed(path, data)
    return [sample_id.partition("/")[2] for sample_id in listing.ids], listing.left_out


def test_a_truncated_archive_gives_what_precedes_the_break_and_names_it(tmp_path) -> None:
    data = b"".join(member(f"{i}.png", PNG[i]) for i in range(3)) + END
    third = len(member("0.png", PNG[0]) + member("1.png", PNG[1]))
    whole = len(data) - len(END)
    for cut, ids, path, reason in (
        (third + BLOCK + 9, 2, "2.png", "member in which the archive breaks off"),
        (third + BLOCK, 2, "2.png", "member in which the archive breaks off"),
        (third + 100, 2, f"byte {third}", "place where the archive breaks off"),
        (third, 2, f"byte {third}", "end of an archive without an end mark, perhaps cut off"),
        (whole - 1, 3, f"byte {whole - 1}", "end of an archive without an end mark, perhaps cut off"),
    ):
        listing = listed(tmp_path / f"{cut}.tar", data[:cut])
        assert reads(listing) == PNG[:ids]
        assert listing.left_out == [LeftOut(f"{cut}.tar/{path}", reason)]
    assert listed(tmp_path / "one.tar", data[: whole + BLOCK]).left_out == []


def test_a_damaged_header_ends_the_archive_and_is_named(tmp_path) -> None:
    first = member("0.png", PNG[0])
    bad = bytearray(member("1.png", PNG[1]))
    bad[5] ^= 1
    data = first + bytes(bad) + member("2.png", PNG[2]) + END
    reason = "damaged header, behind which the rest of the archive is lost"
    assert breaks(tmp_path / "a.tar", data) == (["0.png"], [LeftOut(f"a.tar/byte {len(first)}", reason)])
    for i, records in enumerate((b"99 path=a\n", record("size", "-1"))):
        data = first + member("x", records, b"x") + member("1.png", PNG[1]) + END
        assert breaks(tmp_path / f"b{i}.tar", data)[1] == [LeftOut(f"b{i}.tar/byte {len(first)}", reason)]
    huge = first + header("x", 1 << 40, b"L") + END
    assert breaks(tmp_path / "c.tar", huge)[1] == [LeftOut(f"c.tar/byte {len(first)}", reason)]
    cut = first + header("x", 2000, b"L") + bytes(BLOCK)
    assert breaks(tmp_path / "d.tar", cut)[1] == [
        LeftOut(f"d.tar/byte {len(first)}", "place where the archive breaks off")
    ]


def test_archives_one_behind_the_other_are_read_as_one_and_other_bytes_are_named(tmp_path) -> None:
    one = tar_bytes([("a.png", PNG[0])])
    two = tar_bytes([("b.png", PNG[1])])
    ids, left_out = breaks(tmp_path / "x.tar", one + bytes(3_000_000 // BLOCK * BLOCK) + two + b"\0" * 100)
    assert ids == ["a.png", "b.png"] and left_out == []
    _, left_out = breaks(tmp_path / "y.tar", one + b"something else")
    reason = "bytes behind the end of the archive that are no members"
    assert left_out == [LeftOut(f"y.tar/byte {len(one)}", reason)]


def test_what_is_no_tar_is_left_out_beside_others_and_refused_alone(tmp_path) -> None:
    (tmp_path / "a.tar").write_bytes(b"not one" * 1000)
    (tmp_path / "b.tar").write_bytes(tar_bytes([("a.png", PNG[0])]))
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    (tmp_path / "d.tar").write_bytes(b"")
    listing = list_archives(tmp_path, ["a.tar", "b.tar", "c.tar", "d.tar"], "the set", left_out=[LeftOut("x", "y")])
    assert listing.ids == ["b.tar/a.png"]
    assert listing.left_out == [
        LeftOut("x", "y"),
        LeftOut("a.tar", "not a tar archive, or its first header is damaged"),
        LeftOut("c.tar", "compressed (gzip), so that no single member can be read; unpack it first"),
        LeftOut("d.tar", "empty file"),
    ]
    with pytest.raises(
        UserError,
        match=r"^a\.tar holds no images that can be read\. Left out: 1 of 1 found; 1 not a tar archive, or its first "
        r"header is damaged: a\.tar\. Give tar or zip archives with image files in them\.$",
    ):
        listed(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"holds no images that can be read\. It has no members\. Give tar or zip"):
        listed(tmp_path / "e.tar", END)


def test_damaged_archives_are_refused_or_read_as_far_as_they_go(tmp_path) -> None:
    results = Counter(fuzz(tmp_path, 200))
    assert results["left out"] > 50 and results["whole"] > 20, results


def fuzz(folder: Path, count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    deep = f"{'d' * 90}/{'e' * 90}.png"
    members = [("a.png", PNG[0]), ("a.cls", b"1"), (deep, PNG[1]), ("b.png", PNG[2]), ("c/d.png", PNG[3])]
    wholes = [tar_bytes(members, format) for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)]
    sparse = bytearray(header("old.png", BLOCK, b"S"))
    sparse[482] = 1
    wholes.append(member("x.png", PNG[0]) + rebuilt(sparse) + bytes(2 * BLOCK) + member("y.png", PNG[1]) + END)
    return [survives(folder / "x.tar", damaged(rng.choice(wholes), rng, tar=True)) for _ in range(count)]
