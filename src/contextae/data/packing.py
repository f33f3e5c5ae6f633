"""Making a packed cache, in loader processes: a shard is whole or absent, and a pack that was killed is gone on with.

Every shard is a function of its images and of the settings, so that a cache made in several attempts, or by another
number of processes, is bit for bit the same. An image that cannot be decoded, or at which its process dies, is left
out with the reason.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.data.deep import DEPTHS
from contextae.data.index import Index, LeftOut, printable, tally
from contextae.data.names import Column, Names, as_array, write_chunks
from contextae.data.packed import ROW, PackedImages, hash_of, open_packed
from contextae.data.packed_manifest import (
    COLUMNS,
    ENDS,
    HASHES,
    KINDS,
    LEFT_OUT,
    LOOKS,
    MANIFEST,
    ORDER,
    ROWS,
    TEXT,
    Manifest,
    shard_name,
)
from contextae.data.packing_shard import Writer
from contextae.data.packing_state import (
    begin,
    check_room,
    clean,
    is_photographic,
    locked,
    recorded,
    remove_begun,
    write_record,
    writing_to,
)
from contextae.data.pool import DEATHS_AT_ONE, MOST_DEATHS, Pool
from contextae.data.sources.origin import Origin, names_hash
from contextae.data.stored_index import hashed
from contextae.data.worker import Work
from contextae.disk import replace_file, sync_file, sync_folder
from contextae.errors import UserError

USUAL, FEWEST, WANTED_SHARDS, MOST_SHARDS = 1024, 64, 256, 4096
PACKAGES = ("pillow", "simplejpeg", "cykooz-resizer", "imagecodecs", "tifffile")
"Whose versions the bits may depend on."


class Packing(NamedTuple):
    """The cache, and how many images this attempt went through: none where all had been done before."""

    images: PackedImages
    made_now: int


def pack(
    index: Index,
    folder: Path,
    origin: Origin,
    looks: np.ndarray,
    *,
    kind: str = "raw",
    short_side: int = 256,
    num_workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = 60.0,
) -> Packing:
    """Packs the images of `index` into `folder`, new, empty, or begun with the same images and settings.

    `progress(done, total)` counts images, whenever a shard is whole; a process may be silent for `timeout` seconds at
    one image. UserError where the settings do not fit, the disk has no room, something else is there, or no image can
    be decoded.
    """
    check(index, kind, short_side)
    plan = plan_of(index, origin, kind, short_side)
    per = plan["per_shard"]
    num_shards = -(-len(index) // per)
    with locked(folder):
        if begin(folder, plan):
            clean(folder)
            return Packing(open_packed(folder), 0)
        done = {n: length(record) for n in range(num_shards) if (record := recorded(folder, n))}
        check_room(index, folder, kind, short_side, per, done)
        writer = Writer(
            source=index.source,
            channels=index.channels,
            dtype=index.dtype,
            folder=str(folder.absolute()),
            kind=kind,
            short_side=short_side,
            per_shard=per,
        )
        missing = [number for number in range(num_shards) if number not in done]
        before = ready = sum(done.values())
        for number, record in made(writer, index.ids, missing, num_workers, timeout):
            write_record(folder, number, record)
            ready += length(record)
            if progress:
                progress(ready, len(index))
        with writing_to(folder):
            finish(folder, index, plan, looks, num_shards)
        return Packing(open_packed(folder), ready - before)


def length(record: dict[str, Any]) -> int:
    """Images that a shard's record accounts for."""
    return len(record["rows"]) + len(record["bad"])


def made(
    writer: Writer, ids: Names, missing: list[int], num_workers: int, timeout: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of the missing shards as they come; the processes live as long as this iterator."""
    if not missing:
        return
    per = writer.per_shard
    pool = Pool(writer, min(num_workers, len(missing)), timeout=timeout)
    pool.most_deaths = MOST_DEATHS + DEATHS_AT_ONE * per
    asked = 0
    try:
        for answered in range(len(missing)):
            while asked < min(answered + num_workers + 1, len(missing)):
                positions = range(missing[asked] * per, min((missing[asked] + 1) * per, len(ids)))
                pool.work.put(Work(missing[asked], [(i, ids[i]) for i in positions], frozenset()))
                asked += 1
            number, result = pool.answers.get()
            if isinstance(result, Exception):
                raise result
            yield number, {**result.batch, "bad": sorted([bad.position, bad.reason] for bad in result.bad)}
    finally:
        pool.close()


def check(index: Index, kind: str, short_side: int) -> None:
    """UserError where these images cannot be packed so."""
    if kind not in KINDS:
        raise UserError(f"A packed cache is one of {', '.join(KINDS)}. Got {kind!r}.")
    if short_side < 1:
        raise UserError(f"The short side of a packed image is a number of pixels, 1 or more. Got {short_side}.")
    if kind == "jpeg" and not is_photographic(index):
        kinds = ", ".join(tally(index.facts["kind"]))
        raise UserError(
            f"JPEG holds photographs of 8 bits, gray or in colours. {index.title} holds {kinds}, kept as they are; "
            "pack them as raw."
        )


def plan_of(index: Index, origin: Origin, kind: str, short_side: int) -> dict[str, Any]:
    """All that the bits of the cache depend on, in the words of its manifest."""
    photograph, kinds = is_photographic(index), list(tally(index.facts["kind"]))
    if photograph:
        image_kind = "gray" if index.channels == 1 else "RGB"
    else:
        image_kind = kinds[0] if len(kinds) == 1 else f"{index.channels} x {DEPTHS[index.dtype]}"
    return {
        "kind": kind,
        "channels": index.channels,
        "dtype": index.dtype,
        "photograph": photograph,
        "image_kind": image_kind,
        "short_side": short_side,
        "per_shard": per_shard(len(index)),
        "ids": names_hash(index.ids),
        "found": index.found,
        "made_with": versions(),
        "origin": origin.values(),
    }


def per_shard(count: int) -> int:
    """Images of a shard: a few seconds' work, and of raw photographs a quarter of a GB."""
    return max(min(USUAL, max(FEWEST, -(-count // WANTED_SHARDS))), -(-count // MOST_SHARDS))


def versions() -> dict[str, str]:
    """Of the libraries that decode, resize and encode; one that is not installed is not in it."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def finish(folder: Path, index: Index, plan: dict[str, Any], looks: np.ndarray, num_shards: int) -> None:
    """From the records of all shards to the columns, and the manifest last. OSError where there is no room."""
    rows, hashes = Column(), Column()
    files: dict[str, list[Any]] = {}
    left_out = list(index.left_out)

    def ids() -> Iterator[str]:
        for number in range(num_shards):
            record = recorded(folder, number)
            assert record is not None
            files[shard_name(number)] = [record["size"], record["sha256"]]
            lines = [(at, size, high, wide, number, crc) for _, at, size, high, wide, crc in record["rows"]]
            rows.append(np.array(lines, ROW).tobytes())
            left_out.extend(LeftOut(index.ids[position], why) for position, why in record["bad"])
            for position, *_ in record["rows"]:
                sample_id = index.ids[position]
                hashes.append(hash_of(sample_id).to_bytes(8, "little"))
                yield sample_id

    names = Names(ids())
    if not len(names):
        remove_begun(folder)
        raise UserError(none_left(index, left_out))
    names.write(folder / TEXT, folder / ENDS)
    unsorted = as_array(hashes.whole(), np.dtype("<u8"))
    order = np.argsort(unsorted, kind="stable")
    for name, values in ((ROWS, rows.whole()), (HASHES, unsorted[order]), (ORDER, order.astype("<i8")), (LOOKS, looks)):
        with (folder / name).open("wb") as stream:
            write_chunks(values, stream)
    with (folder / LEFT_OUT).open("wb") as lines:
        for entry in sorted(left_out):
            lines.write(json.dumps(entry).encode("ascii") + b"\n")
    for name in COLUMNS:
        sync_file(folder / name)
        files[name] = [(folder / name).stat().st_size, hashed(folder / name)]
    manifest = Manifest(**plan, count=len(names), num_shards=num_shards, left_out=len(left_out), files=files)
    assert manifest.count + manifest.left_out == manifest.found
    sync_folder(folder)
    replace_file(folder / MANIFEST, manifest.text().encode("ascii"))
    clean(folder)


def none_left(index: Index, left_out: list[LeftOut]) -> str:
    """The paragraph for a set of which nothing can be decoded, with the first reason."""
    first = index.ids[0]
    why = next(entry.reason for entry in left_out if entry.path == first)
    return (
        f"None of the {len(index):,} images of {index.title} can be decoded. The first, {printable(first)}, for this "
        f"reason: {why}. Give other images."
    )
