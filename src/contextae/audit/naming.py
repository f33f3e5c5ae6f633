"""How an image is named in what an audit leaves behind: by its path, or without it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from contextae.data.index import printable

NAME, FINGERPRINT = "name", "fingerprint"
LONGEST = 200  # characters of a name that are shown


class Naming(NamedTuple):
    """Of the images of one set. Without `paths` people read a number, from 1, and programs a hash of the path."""

    ids: Sequence[str]
    paths: bool

    @property
    def by(self) -> str:
        """What `key` is."""
        return NAME if self.paths else FINGERPRINT

    def words(self, position: int) -> str:
        """For people."""
        return shown(self.ids[position]) if self.paths else f"image {position + 1:,}"

    def key(self, position: int) -> str:
        """For programs."""
        return self.key_of(self.ids[position])

    def key_of(self, name: str) -> str:
        """For programs, of an image or of a file that is none."""
        return name if self.paths else fingerprint(name)


def shown(name: str) -> str:
    """As a terminal and a page can take it: printable, and without its middle where it is very long."""
    text = printable(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def fingerprint(name: str) -> str:
    """24 hexadecimal digits. Whoever guesses the name can check it."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
