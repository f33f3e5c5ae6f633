"""The manifest of a packed cache: what the cache holds and was made of, its files with their sizes and hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextae.data.index import printable
from contextae.errors import UserError

FORMAT = 1
MANIFEST, SHARDS = "manifest.json", "shards"
TEXT, ENDS, ROWS, HASHES, ORDER, LOOKS, LEFT_OUT = (
    "names.bin",
    "ends.bin",
    "rows.bin",
    "hashes.bin",
    "order.bin",
    "looks.bin",
    "left_out.jsonl",
)
COLUMNS = (TEXT, ENDS, ROWS, HASHES, ORDER, LOOKS, LEFT_OUT)
KINDS = ("raw", "jpeg")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a cache holds and was made of. `origin` (data/sources/origin.py) is null where it was untied.

    `found` counts what the source held, `left_out` what of it is not here; `files` are sizes and sha256 by name.
    """

    kind: str
    count: int
    channels: int
    dtype: str
    photograph: bool
    image_kind: str
    short_side: int
    per_shard: int
    num_shards: int
    ids: str
    found: int
    left_out: int
    made_with: dict[str, str]
    origin: dict[str, Any] | None
    files: dict[str, list[Any]]

    def text(self) -> str:
        """As the file holds it: with a hash of its own, so that an edited one is noticed."""
        values = asdict(self)
        return json.dumps({"format": FORMAT, "sha256": seal_of(values), **values}, indent=1) + "\n"

    def content(self) -> str:
        """A hash that is the same as long as the images are."""
        return seal_of(self.files)


def seal_of(values: dict[str, Any]) -> str:
    """A hash of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).hexdigest()


def is_packed(folder: Path) -> bool:
    """Whether a folder is a packed cache, by its manifest: some other file of that name has no shards beside it."""
    return (folder / MANIFEST).is_file() and (folder / SHARDS).is_dir()


def shard_name(number: int) -> str:
    """Relative to the folder of the cache."""
    return f"{SHARDS}/{number:05}.bin"


def file_names(num_shards: int) -> set[str]:
    """Of all files but the manifest."""
    return {*COLUMNS, *map(shard_name, range(num_shards))}


def read_manifest(folder: Path) -> Manifest:
    """UserError where it is absent, of another version, damaged or edited."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_bytes())
        version, seal = values.pop("format"), values.pop("sha256")
    except OSError as error:
        raise UserError(
            f"{printable(str(path))} cannot be read: {error.strerror}. A packed cache is a folder with that file; give "
            "one, or finish it with the command that began it."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(damaged(folder, MANIFEST)) from error
    if version != FORMAT:
        raise UserError(
            f"{printable(str(folder))} has format version {version!r}, and this version of contextae reads {FORMAT}. "
            "Pack its images again, or use the version that packed them."
        )
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise UserError(damaged(folder, MANIFEST)) from error
    if seal != seal_of(values):
        raise UserError(damaged(folder, MANIFEST))
    return manifest


def damaged(folder: Path, name: str) -> str:
    """The paragraph for a file that is not what was written."""
    return (
        f"The packed cache {printable(str(folder))} was damaged or edited: {name} is not what was written. Remove the "
        "folder and pack its images again."
    )


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Of all files, in a few microseconds each: UserError where one is missing or of another size."""
    if set(manifest.files) != file_names(manifest.num_shards):
        raise UserError(damaged(folder, MANIFEST))
    for name, (size, _) in manifest.files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise UserError(
                f"The packed cache {printable(str(folder))} is not whole: {name} cannot be opened ({error.strerror}). "
                "Copy the folder again with all its files, or remove it and pack its images again."
            ) from error
        if found != size:
            raise UserError(damaged(folder, name))


def replaced(folder: Path) -> str:
    """The paragraph for a cache that is not the one that was opened."""
    return f"The packed cache {printable(str(folder))} was replaced since it was opened. Start again with it."
