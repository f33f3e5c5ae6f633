"""Bad and odd inputs of every kind in tar and zip archives and in tables, and the whole corpus. See corpus.py."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from data import corpus, corpus_places
from data.archives import BLOCK, END, header, member, tar_bytes, zip_bytes
from data.corpus import LEFT_OUT, NO_IMAGE, QUARANTINED, USED, Kind, put
from data.pictures import encoded, pixels

LINK, OUTSIDE, HIDDEN = "link, which is not followed", "name that leads out of the archive", "hidden file"
DAMAGED = "damaged member of a zip archive"


def used(name: str, seed: int) -> Kind:
    return Kind(name, USED, pixels=pixels(seed))


def odd_members(folder: Path) -> list[Kind]:
    """Tars whose members are links and devices, lead elsewhere, or are no images, with sound ones between them."""
    jpeg = encoded(2, "JPEG", size=(183, 141))
    refused = {
        "../up.png": (member("../up.png", encoded()), OUTSIDE),
        "a/../../up.png": (member("a/../../up.png", encoded()), OUTSIDE),
        "/etc/x.png": (member("/etc/x.png", encoded()), "absolute name"),
        "": (member("", encoded()), "member without a name"),
        "symbolic.png": (header("symbolic.png", kind=b"2", linkname="/etc/passwd"), LINK),
        "hard.png": (header("hard.png", kind=b"1", linkname="good.png"), LINK),
        "null.png": (header("null.png", kind=b"3"), "device"),
        "disk.png": (header("disk.png", kind=b"4"), "device"),
        "pipe.png": (header("pipe.png", kind=b"6"), "pipe"),
        "folder.png/": (header("folder.png/", kind=b"5"), "folder"),
        "sparse.png": (header("sparse.png", 0, b"S"), "sparse member, not supported"),
        "volume.png": (member("volume.png", b"", kind=b"V"), "member of an unknown type"),
        ".hidden.png": (member(".hidden.png", encoded()), HIDDEN),
        "notes.txt": (member("notes.txt", b"about"), "not an image by its extension, .txt"),
        "text.png": (member("text.png", b"words" * 99), NO_IMAGE),
        "empty.png": (member("empty.png", b""), "empty file"),
        "bomb.tif": (member("bomb.tif", corpus.large_tiff(6)), corpus.BOMB),
    }
    odd = b'caf\xe9\n"<b>.png'.decode("utf-8", "surrogateescape")
    parts = [
        *(data for data, _ in refused.values()),
        member("cut.jpg", jpeg[: len(jpeg) * 4 // 5]),
        member("./a//good.png", encoded(1)),
        END,
    ]
    put(folder, "odd.tar", b"".join(parts))
    put(folder, "names.tar", tar_bytes([(odd, encoded(2)), ("b" * 300 + ".png", encoded(3))], errors="surrogateescape"))
    return [
        *(Kind(f"odd.tar/{name}", LEFT_OUT, reason) for name, (_, reason) in refused.items()),
        Kind("odd.tar/cut.jpg", QUARANTINED, "truncated file"),
        used("odd.tar/a/good.png", 1),
        used(f"names.tar/{odd}", 2),
        used(f"names.tar/{'b' * 300}.png", 3),
    ]


def broken_tars(folder: Path) -> list[Kind]:
    """Tars that end too early, at four places, or are damaged, or none at all. What comes before that is used."""
    first, second = member("first.png", encoded(4)), member("second.png", encoded(5))
    whole = first + second + END
    flipped = bytearray(whole)
    flipped[len(first) + 150] ^= 1
    ends = {
        "cut-in-pixels.tar": (
            whole[: len(first) + BLOCK + 100],
            "second.png",
            "member in which the archive breaks off",
        ),
        "cut-in-header.tar": (whole[: len(first) + 99], f"byte {len(first)}", "place where the archive breaks off"),
        "without-its-end.tar": (
            first,
            f"byte {len(first)}",
            "end of an archive without an end mark, perhaps cut off",
        ),
        "flipped-bit.tar": (
            bytes(flipped),
            f"byte {len(first)}",
            "damaged header, behind which the rest of the archive is lost",
        ),
    }
    for name, (data, _, _) in ends.items():
        put(folder, name, data)
    return [
        *(Kind(f"{name}/{where}", LEFT_OUT, reason) for name, (_, where, reason) in ends.items()),
        *(used(f"{name}/first.png", 4) for name in ends),
        corpus.bad(folder, "empty.tar", b"", LEFT_OUT, "empty file"),
        corpus.bad(folder, "text.tar", b"a list of images\n" * 99, LEFT_OUT, NOT_TAR),
        corpus.bad(folder, "packed.tar", gzip.compress(whole, mtime=0), LEFT_OUT, GZIP),
    ]


NOT_TAR = "not a tar archive, or its first header is damaged"
GZIP = "compressed (gzip), so that no single member can be read; unpack it first"


def zips(folder: Path) -> list[Kind]:
    """Zips likewise."""

    def info(name: str, mode: int = 0o100644, **fields: Any) -> zipfile.ZipInfo:
        made = zipfile.ZipInfo(name)
        made.external_attr = mode << 16
        for field, value in fields.items():
            setattr(made, field, value)
        return made

    refused: dict[str, tuple[str | zipfile.ZipInfo, bytes, str]] = {
        "../up.png": ("../up.png", encoded(), OUTSIDE),
        "/etc/x.png": ("/etc/x.png", encoded(), "absolute name"),
        "folder.png/": ("folder.png/", b"", "folder"),
        "symbolic.png": (info("symbolic.png", 0o120777), b"/etc/passwd", LINK),
        "pipe.png": (info("pipe.png", 0o010644), b"", "pipe"),
        "disk.png": (info("disk.png", 0o060644), b"", "device"),
        "socket.png": (info("socket.png", 0o140644), b"", "member of an unknown type"),
        "__MACOSX/._a.png": ("__MACOSX/._a.png", b"\0\5\26\7", HIDDEN),
        "bz.png": (info("bz.png", compress_type=zipfile.ZIP_BZIP2), encoded(), "packed by bzip2, not supported"),
        "text.png": ("text.png", b"words" * 99, NO_IMAGE),
        "empty.png": ("empty.png", b"", "empty file"),
    }
    whole = zip_bytes([*((named, data) for named, data, _ in refused.values()), ("good.png", encoded(6))])
    put(folder, "odd.zip", whole)
    locked = zip_bytes([("locked.png", encoded()), ("open.png", encoded(7))])
    at = locked.index(b"PK\1\2")
    put(folder, "locked.zip", locked[: at + 8] + b"\1" + locked[at + 9 :])
    bomb = zip_bytes([("bomb.bmp", encoded(0, "BMP", size=(600, 500)))], zipfile.ZIP_DEFLATED)
    at = bomb.index(b"PK\1\2")
    put(folder, "bomb.zip", bomb[: at + 24] + struct.pack("<I", 5000) + bomb[at + 28 :])
    changed = zip_bytes([("changed.png", encoded(7)), ("sound.png", encoded(8))])
    at = changed.index(encoded(7)) + len(encoded(7)) - 20
    put(folder, "changed.zip", changed[:at] + bytes([changed[at] ^ 4]) + changed[at + 1 :])
    return [
        *(Kind(f"odd.zip/{name}", LEFT_OUT, reason) for name, (_, _, reason) in refused.items()),
        used("odd.zip/good.png", 6),
        Kind("locked.zip/locked.png", LEFT_OUT, "encrypted"),
        used("locked.zip/open.png", 7),
        Kind("bomb.zip/bomb.bmp", LEFT_OUT, DAMAGED),
        Kind("changed.zip/changed.png", LEFT_OUT, DAMAGED),
        used("changed.zip/sound.png", 8),
        corpus.bad(folder, "cut.zip", whole[: len(whole) - 60], LEFT_OUT, NOT_ZIP),
        corpus.bad(folder, "empty.zip", b"", LEFT_OUT, "empty file"),
        corpus.bad(folder, "text.zip", b"a list of images\n" * 99, LEFT_OUT, NOT_ZIP),
    ]


NOT_ZIP = "not a zip archive, or its directory is damaged"


def rows(folder: Path) -> list[Kind]:
    """Rows of a table that hold no image, and some that do."""
    jpeg = encoded(2, "JPEG", size=(183, 141))
    listed: list[tuple[bytes | None, str, str]] = [
        (None, LEFT_OUT, "row without an image"),
        (b"", LEFT_OUT, "row without an image"),
        (b"words", LEFT_OUT, NO_IMAGE),
        (b"\x80\x04\x95", LEFT_OUT, NO_IMAGE),
        (bytes(4096), LEFT_OUT, NO_IMAGE),
        (corpus.large_tiff(6), LEFT_OUT, corpus.BOMB),
        (jpeg[: len(jpeg) * 4 // 5], QUARANTINED, "truncated file"),
        (encoded(9), USED, ""),
        (encoded(10), USED, ""),
    ]
    folder.mkdir(exist_ok=True)
    table = pyarrow.table({"image": [data for data, _, _ in listed], "label": list(range(len(listed)))})
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    return [
        Kind(f"rows.parquet#{row}", outcome, reason, pixels(row + 2) if outcome == USED else None)
        for row, (_, outcome, reason) in enumerate(listed)
    ]


def refused_tables(folder: Path) -> dict[str, str]:
    """Tables of which nothing can be used, by path, and what is said of each."""
    column = "has no column of encoded images"
    tables = {
        "numbers": pyarrow.array([1, 2]),
        "texts": pyarrow.array(["a.png", "b.png"]),
        "lists": pyarrow.array([[1.0], [2.0]]),
    }
    folder.mkdir()
    for name, values in tables.items():
        pyarrow.parquet.write_table(pyarrow.table({"image": values}), folder / f"{name}.parquet")
    sound = folder / "sound.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [encoded()]}), sound)
    put(folder, "cut.parquet", sound.read_bytes()[:-9])
    sound.unlink()
    put(folder, "text.parquet", b"a list of images\n" * 99)
    put(folder, "empty.parquet", b"")
    return {
        **{str(folder / f"{name}.parquet"): column for name in tables},
        **{str(folder / f"{name}.parquet"): "cannot be read as Parquet" for name in ("cut", "text", "empty")},
    }


KINDS: dict[str, tuple[Callable[[Path], list[Kind]], ...]] = {
    "images": (
        corpus.cut,
        corpus.damaged,
        corpus.no_images,
        corpus.bombs,
        corpus.other_kinds,
        corpus.photographs,
        corpus.names,
        corpus_places.links,
        corpus_places.no_files,
    ),
    "archives": (odd_members, broken_tars, zips),
    "rows": (rows,),
}
"""By the folder they are written to, each of which is a source."""


def write_corpus(root: Path) -> list[Kind]:
    """All of them, to folders of a new one, by the ids that they have as sources which are used together."""
    found = []
    for source, kinds in KINDS.items():
        (root / source).mkdir(parents=True)
        found += [kind._replace(name=f"{source}/{kind.name}") for each in kinds for kind in each(root / source)]
    return found


def sources_of(root: Path) -> list[str]:
    """What is given to a command."""
    return [str(root / source) for source in KINDS]
