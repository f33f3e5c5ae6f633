"""What a zip archive holds, from its directory, and the bytes of a member; nothing is ever extracted."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from contextae.data.facts import BadImage
from contextae.data.sources.members import (
    DEFLATED,
    DEVICE,
    FOLDER,
    LINK,
    PIPE,
    STORED,
    UNKNOWN,
    Member,
    NotAnArchiveError,
)

LOCAL = struct.Struct("<26xHH")  # of a local header, the lengths of the name and of the extra field
SIGNATURE = b"PK\x03\x04"
MOST_UNPACKED = 1_000_000_000
"Bytes of one member, the limit against decompression bombs; deflate makes up to 1,032 of one."
METHODS = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}
NAMES = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA", 9: "deflate64", 93: "zstd"}
TYPES = {stat.S_IFLNK: LINK, stat.S_IFDIR: FOLDER, stat.S_IFIFO: PIPE, stat.S_IFCHR: DEVICE, stat.S_IFBLK: DEVICE}
ENCRYPTED = 0x41  # the bits of both kinds of encryption
UTF8 = 0x800

# What zipfile raises over damaged directories; found by damaging archives (tests/data/test_sources_zip.py).
DAMAGE = (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, OverflowError, MemoryError, struct.error)
NOT_ZIP = "not a zip archive, or its directory is damaged"
DAMAGED = "damaged member of a zip archive"


def members_of_zip(stream: BinaryIO, num_bytes: int) -> Iterator[Member]:
    """In the directory's order. NotAnArchiveError where it cannot be read."""
    if not num_bytes:
        raise NotAnArchiveError("empty file")
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except DAMAGE as error:
        raise NotAnArchiveError(NOT_ZIP) from error
    infos.reverse()
    while infos:  # given back one by one, as each takes some 700 bytes
        info = infos.pop()
        member = Member(
            name_of(info),
            at=max(info.header_offset, 0),
            stored=info.compress_size,
            size=info.file_size,
            crc=info.CRC,
            method=METHODS.get(info.compress_type, STORED),
        )
        yield member._replace(reason=refusal(info, num_bytes))


def refusal(info: zipfile.ZipInfo, num_bytes: int) -> str:
    """Why a member is not used, or nothing."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.filename.endswith("/"):
        return FOLDER
    if kind not in (0, stat.S_IFREG):
        return TYPES.get(kind, UNKNOWN)
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if info.compress_type not in METHODS:
        return f"packed by {NAMES.get(info.compress_type, 'an unknown method')}, not supported"
    if not 0 <= info.header_offset <= num_bytes - LOCAL.size - info.compress_size:
        return "lies outside the archive"
    if info.file_size > MOST_UNPACKED:
        return f"more than {MOST_UNPACKED:,} bytes unpacked, the limit against decompression bombs"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return DAMAGED
    return ""


def name_of(info: zipfile.ZipInfo) -> str:
    """As UTF-8 where it is that, whatever its flag says, as Linux' programs do not set it; else DOS' code page 437."""
    name = info.orig_filename.partition("\0")[0]
    if not info.flag_bits & UTF8:
        try:
            return name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return name
    return name


def data_place(read: Callable[[int, int], bytes], at: int) -> int:
    """Where the data of the member begins whose local header stands at `at`."""
    head = read(at, LOCAL.size)
    if len(head) < LOCAL.size or not head.startswith(SIGNATURE):
        raise BadImage(DAMAGED)
    name, extra = LOCAL.unpack(head)
    return int(at + LOCAL.size + name + extra)


def unpacked(data: bytes, *, size: int, crc: int, deflated: bool) -> bytes:
    """Never more than `size` bytes; BadImage where it would be more or less, or where its checksum differs."""
    if deflated:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise BadImage(DAMAGED) from error
        if not inflate.eof:
            raise BadImage(DAMAGED)
    if len(data) != size or zlib.crc32(data) != crc:
        raise BadImage(DAMAGED)
    return data
