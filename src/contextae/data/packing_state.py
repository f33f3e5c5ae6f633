"""The folder of a packed cache in the making: whose it is, what is done, whether there is room for the rest."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.index import Index, chunks, printable, readable_bytes
from contextae.data.packed_manifest import MANIFEST, SHARDS, check_sizes, read_manifest, shard_name
from contextae.data.packing_shard import unwritable
from contextae.disk import replace_file
from contextae.errors import UserError

BEGUN, PARTS = "packing.json", "parts"
"While a cache is made: what of, and a record of each shard that is whole."
JPEG_SHARE = 0.2
"Bytes of a JPEG of quality 90 over those of its pixels: 0.17 for photographs of 256 pixels, 0.1 to 0.3."
CALLED = {
    "kind": "--as",
    "short_side": "--short-side",
    "ids": "the images",
    "found": "the images",
    "origin": "the source, or sizes and times of its files",
    "made_with": "versions of the libraries that decode",
}


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """What the system refuses, as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(unwritable(folder, error)) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone, however it ends."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is packing into {printable(str(folder))}. Wait for its end, or choose another folder "
                "with --out."
            ) from error
        yield
    finally:
        os.close(handle)


def begin(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether all is done already. UserError where the folder holds anything but this cache or its beginning."""
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        there = {name: getattr(manifest, name) for name in plan} | {"made_with": plan["made_with"]}
        check_same(folder, plan, there, "holds another packed cache")
        check_sizes(folder, manifest)
        return True
    if (folder / BEGUN).exists():
        check_same(folder, plan, read_begun(folder), "holds the beginning of another pack")
    elif any(not path.name.startswith(".writing-") for path in folder.iterdir()):
        raise UserError(
            "--out is a new or empty folder, or one where a pack was begun. There is something else in "
            f"{printable(str(folder))}; choose another, or remove it."
        )
    with writing_to(folder):
        if not (folder / BEGUN).exists():
            replace_file(folder / BEGUN, json.dumps(plan).encode("ascii"))
        for name in (SHARDS, PARTS):
            (folder / name).mkdir(exist_ok=True)
        remove_unfinished(folder)
    return False


def read_begun(folder: Path) -> Any:
    try:
        return json.loads((folder / BEGUN).read_bytes())
    except ValueError as error:
        raise UserError(
            f"{printable(str(folder / BEGUN))} is damaged, so that the pack cannot be gone on with. Remove the folder "
            "and start again."
        ) from error


def check_same(folder: Path, plan: dict[str, Any], before: Any, holds: str) -> None:
    """UserError that says in what this pack differs from the one that is there."""
    differing = [name for name in plan if not isinstance(before, dict) or before.get(name) != plan[name]]
    if differing:
        named = list(dict.fromkeys(CALLED.get(name, "the kind of the images") for name in differing))
        raise UserError(
            f"{printable(str(folder))} {holds}; what differs: {'; '.join(named)}. Repeat the command that began it, "
            "choose another folder with --out, or remove this one."
        )


def recorded(folder: Path, number: int) -> dict[str, Any] | None:
    """The record of a shard that is whole."""
    try:
        record: dict[str, Any] = json.loads(record_path(folder, number).read_bytes())
        whole = (folder / shard_name(number)).stat().st_size == record["size"]
    except (OSError, ValueError):
        return None
    return record if whole else None


def write_record(folder: Path, number: int, record: dict[str, Any]) -> None:
    """After which the shard counts as done."""
    with writing_to(folder):
        replace_file(record_path(folder, number), json.dumps(record).encode("ascii"))


def record_path(folder: Path, number: int) -> Path:
    return folder / PARTS / f"{number:05}.json"


def remove_unfinished(folder: Path) -> None:
    """Files that a killed process was writing."""
    for path in (*folder.glob(".writing-*"), *folder.glob("*/.writing-*")):
        path.unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Removes what only a pack in the making needs."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    (folder / BEGUN).unlink(missing_ok=True)
    remove_unfinished(folder)


def remove_begun(folder: Path) -> None:
    """All that was written of a pack that comes to nothing, so that the folder is free for another one."""
    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    clean(folder)


def check_room(index: Index, folder: Path, kind: str, short_side: int, per: int, done: Collection[int]) -> None:
    """UserError where the disk has less room than what is left to do will take; of JPEG that is an estimate."""
    values = 0
    for number, start in enumerate(range(0, len(index), per)):
        if number not in done:
            rows = index.facts[start : start + per]
            values += int(packed_pixels(rows["height"], rows["width"], short_side).sum()) * index.channels
    raw = values * np.dtype(index.dtype).itemsize
    expected = raw if kind == "raw" else int(raw * JPEG_SHARE)
    free = shutil.disk_usage(folder).free
    if expected > free:
        jpeg = f", and so does --as jpeg, about {readable_bytes(int(raw * JPEG_SHARE))}"
        raise UserError(
            f"The packed cache takes about {readable_bytes(expected)}, and {readable_bytes(free)} are free at "
            f"{printable(str(folder))}. Make room, or choose another place with --out; a smaller --short-side takes "
            f"less{jpeg if kind == 'raw' and is_photographic(index) else ''}."
        )


def packed_pixels(height: np.ndarray, width: np.ndarray, short_side: int) -> np.ndarray:
    """Of images of these sizes, as `resized_to`, but for less than a row or column."""
    short = np.maximum(np.minimum(height, width), 1)
    return height.astype(np.float64) * width * np.minimum(1.0, short_side / short) ** 2


def is_photographic(index: Index) -> bool:
    """Whether all are pictures of 8 bits in gray or colours, so that decoding makes them gray or RGB."""
    return index.dtype == "uint8" and all(rows["photograph"].all() for rows in chunks(index.facts))
