"""A member of an archive as its directory describes it, which of them may be images, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from posixpath import splitext
from typing import NamedTuple

from contextae.data.index import printable
from contextae.data.sources.folder import HIDDEN
from contextae.data.sources.listing import SUFFIXES

PLAIN, STORED, DEFLATED = range(3)
"How a member lies in its archive: its bytes alone, or behind a zip's local header, as they are or deflated."
MOST_IN_GROUP = 64
"Members of one key beyond which it is no sample of WebDataset's but a name like scan.0001.png."

LINK, DEVICE, PIPE, FOLDER = "link, which is not followed", "device", "pipe", "folder"
SPARSE = "sparse member, not supported"
UNKNOWN = "member of an unknown type"


class NotAnArchiveError(Exception):
    """A file that is no archive of its kind, or is damaged where it begins; `reason` is for what is left out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Member(NamedTuple):
    """`size` bytes, which take `stored` bytes from byte `at` of the archive on; a `reason` says why it is not used."""

    name: str
    at: int = 0
    stored: int = 0
    size: int = 0
    crc: int = 0
    method: int = PLAIN
    reason: str = ""


def checked(member: Member) -> Member:
    """The member by its name without ./ and empty parts, with a reason where that name cannot be an image's."""
    if member.reason:
        return member
    if not member.name:
        return member._replace(reason="member without a name")
    if member.name.startswith("/"):
        return member._replace(reason="absolute name")
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return member._replace(reason="name that leads out of the archive")
    hidden = any(part.startswith(".") for part in parts)
    return member._replace(name="/".join(parts), reason=HIDDEN if hidden else "")


class Group(NamedTuple):
    """Consecutive members of one key: the images, what is no image, and what goes with the images."""

    images: list[Member]
    others: list[Member]
    beside: list[Member]


def groups(members: Iterable[Member]) -> Iterator[Group]:
    """Members with one folder and one name up to its first dot, one after the other, as in WebDataset's shards."""
    waiting: list[Member] = []
    key = ""
    for member in map(checked, members):
        if member.reason:
            yield Group([], [member], [])
            continue
        if waiting and (key_and_kind(member.name)[0] != key or len(waiting) >= MOST_IN_GROUP):
            yield grouped(waiting)
            waiting = []
        key = key_and_kind(member.name)[0]
        waiting.append(member)
    if waiting:
        yield grouped(waiting)


def grouped(members: list[Member]) -> Group:
    """Beside the image `key.jpg` go `key.cls`, `key.json`; and, where there is such a one, `key.mask.png` as well.

    Names with dots are no sign of a sample by themselves, and neither is a key shared by very many.
    """
    suffixes = [suffix(member.name) for member in members]
    images = [member for member, kind in zip(members, suffixes, strict=True) if not kind or kind in SUFFIXES]
    if len(images) == len(members):
        return Group(images, [], [])
    if images and len(members) < MOST_IN_GROUP:
        plain = [member for member in images if f".{key_and_kind(member.name)[1]}" in SUFFIXES]
        chosen = plain or images
        return Group(chosen, [], [member for member in members if member not in chosen])
    others = [
        member._replace(reason=f"not an image by its extension, {printable(kind)}")
        for member, kind in zip(members, suffixes, strict=True)
        if kind and kind not in SUFFIXES
    ]
    return Group(images, others, [])


def suffix(name: str) -> str:
    """As `suffix_of` a path, without making one: it would take as long as all else, and keep every name."""
    ending = splitext(name)[1].lower()
    return "" if ending == "." else ending


def key_and_kind(name: str) -> tuple[str, str]:
    """WebDataset's: `a.b/c.mask.png` is of key `a.b/c` and kind `mask.png`, in lower case."""
    folder, slash, base = name.rpartition("/")
    key, _, kind = base.partition(".")
    return f"{folder}{slash}{key}", kind.lower()
