"""A text file that names images, one path in a line, relative to the text file's own folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from contextae.data.index import LeftOut
from contextae.data.sources.folder import Files
from contextae.data.sources.listing import Listing
from contextae.data.sources.regular import read_regular
from contextae.errors import UserError

LIST_SUFFIXES = frozenset((".txt", ".lst", ".list", ".text"))


def list_paths(path: Path, title: str) -> Listing:
    """In the order of the lines, without empty ones and those that start with #; a path named twice counts once."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise UserError(f"{title} cannot be read: {error.strerror}. Give a file this user may read.") from error
    if b"\0" in data:
        raise UserError(
            f"{title} is not text. A list of images is a text file with one path in a line, relative to its own folder."
        )
    lines = [os.fsdecode(line).strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise UserError(
            f"{title} names no images: it has {len(lines):,} lines, all empty or comments. Write one "
            "path in a line, relative to the text file's own folder."
        )
    ids: dict[str, None] = {}
    left_out: list[LeftOut] = []
    for line in named:
        sample_id = str(PurePosixPath(line))  # without . and empty parts; a/.. may be elsewhere, where a is a link
        if sample_id in ids:
            left_out.append(LeftOut(line, "path named more than once"))
        ids[sample_id] = None
    return Listing(source=Files(str(path.parent)), title=title, ids=list(ids), left_out=left_out)
