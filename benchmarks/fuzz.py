"""Damaged files of five formats and of 16 bits, looked at as the images of a user are: none may end the training.

    python benchmarks/fuzz.py [--count 20000] [--seed 0] [--deadly 20] [--keep FOLDER]

`count` files are made of sound ones (JPEG, PNG, WebP, TIFF, GIF in several modes and compressions, PNG and TIFF of 16
bits): cut, with bytes changed anywhere or near the beginning, with numbers set to extremes, parts doubled, removed,
moved or taken from another file; checksums of PNG are made to fit in half of them, so that the decoder meets the
damage. Each goes four ways: its header is probed, all its pixels are decoded and a tile of them is read, by processes
that may take ten seconds over one file; then all files are the images of one epoch of a Loader. `deadly` more files are
sound and end the process that decodes them, by the name they have, as a faulty decoder would.

Printed: what became of the files by format, with the reasons, each file that ended a process, seconds, and the peak
memory of this process, which stands for the training, and of the largest other one. Exit code 1 where a death is not
the fault of a file that is named, a file is judged differently from one way to the other, or a process took over 1 GB.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from contextae.data.augment import Crop
from contextae.data.decode import decode, probe
from contextae.data.each import look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import FACTS, Index, Source
from contextae.data.loader import Loader
from contextae.data.names import Names
from contextae.data.picture import picture
from contextae.data.sampler import Sampler
from contextae.data.sources.folder import Files
from contextae.randomness import stream

TIMEOUT, MOST_MEMORY = 10.0, 1_000  # seconds over one file, MB of a process
HEIGHT, WIDTH = 53, 71
DEADLY, SOUND = "ends its process", "sound/"
ENDED = "the process that read it"
STRICTER = ("damaged pixels", "truncated file", "a TIFF with missing parts")  # where other libraries read
EXTREMES = (b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\x7f", b"\x80\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\1\0\0")


class Seed(NamedTuple):
    """A sound file; `format` is what it is counted as."""

    format: str
    suffix: str
    data: bytes


def seeds() -> list[Seed]:
    """Sound files of every kind; the first of a format are as good as the last."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    image = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    deep = np.asarray(image).astype(np.uint16) * 257 + rng.integers(0, 99, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    other = image.transpose(Image.Transpose.ROTATE_180)

    def saved(kind: str, mode: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image.convert(mode).save(stream, kind, **options)
        return stream.getvalue()

    def tiff(values: np.ndarray, **options: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, values, **options)
        return stream.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [other]}
    return [
        *(Seed("JPEG", ".jpg", saved("JPEG", mode, quality=85)) for mode in ("RGB", "L", "CMYK")),
        Seed("JPEG", ".jpg", saved("JPEG", "RGB", progressive=True, exif=exif)),
        Seed("JPEG", ".jpg", saved("JPEG", "RGB", optimize=True, subsampling="4:4:4", restart_marker_blocks=4)),
        *(Seed("PNG", ".png", saved("PNG", mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        Seed("PNG", ".png", saved("PNG", "RGB", **frames)),
        Seed("PNG", ".png", saved("PNG", "P", transparency=3, exif=exif)),
        Seed("WebP", ".webp", saved("WEBP", "RGB", quality=80)),
        Seed("WebP", ".webp", saved("WEBP", "RGBA", lossless=True, exif=exif)),
        Seed("WebP", ".webp", saved("WEBP", "RGBA", **frames)),
        *(Seed("TIFF", ".tif", saved("TIFF", mode)) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")),
        *(
            Seed("TIFF", ".tif", saved("TIFF", "RGB", compression=name))
            for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        Seed("TIFF", ".tif", saved("TIFF", "1", compression="group4")),
        Seed("TIFF", ".tif", saved("TIFF", "RGB", **frames)),
        Seed("GIF", ".gif", saved("GIF", "P")),
        Seed("GIF", ".gif", saved("GIF", "P", transparency=3, **frames)),
        Seed("16-bit PNG", ".png", imagecodecs.png_encode(deep)),
        Seed("16-bit PNG", ".png", imagecodecs.png_encode(np.ascontiguousarray(deep[:, :, 0]))),
        Seed("16-bit TIFF", ".tif", tiff(deep, photometric="rgb", compression="lzw", predictor=True)),
        Seed("16-bit TIFF", ".tif", tiff(deep[:, :, 0], compression="zlib", byteorder=">", tile=(16, 32))),
        Seed("16-bit TIFF", ".tif", tiff(np.moveaxis(deep, 2, 0), photometric="minisblack", metadata={"axes": "CYX"})),
    ]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One of many kinds of damage, sometimes two of them."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(max(1, len(changed) if rng.random() < 0.5 else min(len(changed), 200)))
        length = rng.choice((1, 2, 4, 16, 64, 256))
        match rng.choice(("cut", "byte", "byte", "bit", "extreme", "extreme", "zeros", "double", "remove", "graft")):
            case "cut":
                del changed[max(1, at) :]
            case "byte":
                for _ in range(rng.choice((1, 2, 8, 40))):
                    place = rng.randrange(at, len(changed)) if at < len(changed) else 0
                    changed[place] = rng.randrange(256)
            case "bit":
                changed[at] ^= 1 << rng.randrange(8)
            case "extreme":
                number = rng.choice(EXTREMES)
                changed[at : at + len(number)] = number
            case "zeros":
                changed[at : at + length] = bytes(length)
            case "double":
                changed[at:at] = changed[at : at + length]
            case "remove":
                del changed[at : at + min(length, len(changed) - at - 1)]
            case "graft":
                other = rng.choice(others)
                start = rng.randrange(len(other))
                changed[at : at + length] = other[start : start + length]
    repaired = rng.random() < 0.5
    return with_checksums(bytes(changed)) if repaired and data[1:4] == b"PNG" else bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG with the CRC that fits each of its chunks, as far as these can be followed."""
    changed, at = bytearray(data), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4])
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(changed)


def mutants(count: int, seed: int) -> Iterator[tuple[str, Seed, bytes]]:
    """Name, origin and content of each: a function of its number and `seed`."""
    sound = seeds()
    formats = list(dict.fromkeys(each.format for each in sound))
    of = {name: [each for each in sound if each.format == name] for name in formats}
    others = [each.data for each in sound]
    for i in range(count):
        rng = stream(seed, "mutant", i)
        origin = rng.choice(of[formats[i % len(formats)]])
        data = mutated(origin.data, others, rng)
        yield f"{origin.format}/{i:05}{origin.suffix}", origin, data


def write_files(folder: Path, count: int, seed: int, deadly: int) -> list[str]:
    """Their names."""
    names = []
    for name, _, data in mutants(count, seed):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        names.append(name)
    for i in range(deadly):
        name = f"JPEG/{DEADLY} {i}.jpg"
        (folder / name).write_bytes(seeds()[0].data)
        names.insert(stream(seed, "deadly", i).randrange(len(names) + 1), name)
    return names


class Deadly(Files):
    """Files of which some end the process that reads them, and others that need not be there, which are sound."""

    def read(self, sample_id: str) -> bytes:
        if sample_id.startswith(SOUND):
            return sound_file()
        if DEADLY in sample_id:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().read(sample_id)


@cache
def sound_file() -> bytes:
    return seeds()[0].data


def header(source: Source, name: str) -> Any:
    """What is said of it before anything is decoded."""
    fact = source.probe(name)
    return fact.channels, fact.dtype, fact.photograph


def whole(source: Source, name: str) -> tuple[int, ...]:
    """The shape of its pixels, decoded to what the header says they are."""
    data = source.read(name)
    assert isinstance(data, bytes)
    fact = probe(data)
    image = decode(data, channels=fact.channels, dtype=fact.dtype)
    assert image.shape == (fact.height, fact.width, fact.channels) and image.dtype.name == fact.dtype
    return image.shape


def tile(source: Source, name: str) -> tuple[int, ...]:
    """The shape of its middle, read as a tile of at most 32 pixels."""
    data = source.read(name)
    assert isinstance(data, bytes)
    fact = probe(data)
    one = picture(data, channels=fact.channels, dtype=fact.dtype, tiles=True)
    height, width = min(32, fact.height), min(32, fact.width)
    top, left = (fact.height - height) // 2, (fact.width - width) // 2
    return one.part((left, top, left + width, top + height), (height, width)).image.shape


def one_epoch(source: Source, names: list[str]) -> dict[str, str]:
    """Reasons of the files that a Loader sets aside when all of them are asked for once, as photographs.

    As many sound ones are put among them, as a run stops where more are bad than were asked for.
    """
    names = [*names, *(f"{SOUND}{i}" for i in range(len(names)))]
    index = Index(source=source, title="", ids=Names(names), facts=np.zeros(0, FACTS), channels=3, found=len(names))
    sampler = Sampler(length=len(names), batch_size=32, seed=0)
    with Loader(
        index=index,
        sampler=sampler,
        views=Crop(size=(32, 48)),
        seed=0,
        num_workers=2,
        max_bad_share=1.0,
        timeout=TIMEOUT,
    ) as loader:
        for _ in loader.batches(0, sampler.steps(1)):
            pass
        return loader.quarantine


class Outcome(NamedTuple):
    """By name: what header, pixels and a tile gave, and why a Loader set it aside; seconds of the four."""

    headers: dict[str, Any]
    pixels: dict[str, Any]
    tiles: dict[str, Any]
    quarantine: dict[str, str]
    seconds: tuple[float, ...]


def fuzzed(folder: Path, names: list[str]) -> Outcome:
    """All files, four ways."""
    source, clock = Deadly(str(folder)), [time.perf_counter()]
    found = []
    for look in (header, whole, tile):
        parts = look_at_each(look, source, names, chunk=64, per_process=256, timeout=TIMEOUT)
        found.append(dict(zip(names, (result for part in parts for result in part), strict=True)))
        clock.append(time.perf_counter())
    quarantine = one_epoch(source, names)
    clock.append(time.perf_counter())
    return Outcome(*found, quarantine, tuple(np.diff(clock).tolist()))


def wrong(outcome: Outcome, names: list[str]) -> list[str]:
    """What must not be: a deadly file that was not found, a good one that was lost, two judgements of one file."""
    lines = []
    for name in names:
        head, pixels, aside = outcome.headers[name], outcome.pixels[name], outcome.quarantine.get(name)
        if DEADLY in name and not (died(pixels) and aside and aside.startswith(ENDED)):
            lines.append(f"{name} was not found out: {pixels}, {aside}")
        part = outcome.tiles[name]
        if isinstance(part, Refusal) and not isinstance(pixels, Refusal) and part.reason not in STRICTER:
            lines.append(f"{name} is whole, and its tile is not: {part.reason}")
        if isinstance(head, Refusal) and not isinstance(pixels, Refusal):
            lines.append(f"{name} has a bad header, {head.reason}, and pixels")
        if isinstance(head, Refusal) or isinstance(pixels, Refusal):
            if aside is None:
                lines.append(f"{name} was trained on: {pixels}")
        elif (head[2] or head[:2] == (3, "uint8")) != (aside is None) and aside not in STRICTER:
            lines.append(f"{name} was judged twice: {pixels}, {aside}")
    return lines


def died(result: Any) -> bool:
    return isinstance(result, Refusal) and result.reason.startswith(ENDED)


def report(outcome: Outcome, names: list[str]) -> None:
    """Counts by format, reasons, deaths."""
    print(f"{'':12} {'files':>7} {'decoded':>8} {'refused by header':>18} {'refused by pixels':>18} {'deaths':>7}")
    for name in [*dict.fromkeys(Path(name).parts[0] for name in names), ""]:
        of = [each for each in names if each.startswith(name)]
        heads = [isinstance(outcome.headers[each], Refusal) for each in of]
        refused = [isinstance(outcome.pixels[each], Refusal) for each in of]
        deaths = sum(died(outcome.headers[each]) or died(outcome.pixels[each]) for each in of)
        later = sum(r and not h for r, h in zip(refused, heads, strict=True)) - deaths
        row = f"{len(of):7,} {len(of) - sum(refused):8,} {sum(heads):18,} {later:18,} {deaths:7,}"
        print(f"{name or 'all':12} {row}")
    reasons = Counter(result.reason for result in outcome.pixels.values() if isinstance(result, Refusal))
    for reason, count in reasons.most_common():
        print(f"  {count:6,} {reason}")
    for name in names:
        if (died(outcome.headers[name]) or died(outcome.pixels[name])) and DEADLY not in name:
            print(f"  DEADLY: {name}: {outcome.headers[name]}, {outcome.pixels[name]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadly", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="a new folder for the files, which are removed without it")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=arguments.keep is None)
    try:
        names = write_files(folder, arguments.count, arguments.seed, arguments.deadly)
        outcome = fuzzed(folder, names)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    report(outcome, names)
    print("seconds: headers {:.0f}, pixels {:.0f}, tiles {:.0f}, one epoch of a Loader {:.0f}".format(*outcome.seconds))
    own, largest = (resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak memory: this process {own:.0f} MB, the largest other one {largest:.0f} MB")
    lines = wrong(outcome, names)
    if max(own, largest) > MOST_MEMORY:
        lines.append(f"a process took more than {MOST_MEMORY} MB")
    print(*lines, sep="\n")
    print(f"{len(lines)} things are wrong" if lines else "every file judged alike on all four ways, no death unnamed")
    return int(bool(lines))


if __name__ == "__main__":
    import fuzz  # by its own name, so that other processes find what they are sent

    sys.exit(fuzz.main())
