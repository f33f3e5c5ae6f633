"""Bad and odd inputs of every kind, each with what is to become of it: left out, quarantined, or used as it is.

What is left out is refused by its name or header before training, what is quarantined by its pixels while training, and
what is used gives exactly `pixels`, h w 3. All are asked for as photographs: 3 channels of uint8.

Each function writes to a folder and returns Kinds; corpus_sources.py has those of archives and tables, and all of them.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageSequence

from contextae.data.index import Source, picture_of
from data.pictures import HEIGHT, WIDTH, deep_png, encoded, pixels, tiff_with_extra

LEFT_OUT, QUARANTINED, USED = "left out", "quarantined", "used"
NO_IMAGE = "not an image, or its header is damaged"
BOMB = "more than 178,956,970 pixels, the limit against decompression bombs"
ANOTHER = "another number of channels than asked for"
LOST = "damaged pixels"
MEMORY = "not enough memory to decode it"
OBJECTS = "a NumPy file of Python objects, which are never loaded"
PARQUET = "not an image by its extension, .parquet"


def photograph(source: Source, name: str) -> np.ndarray:
    """All its pixels, as a training that asks for photographs decodes them."""
    picture = picture_of(source, name, 3, "uint8")
    height, width = picture.shape[:2]
    return picture.part((0, 0, width, height), (height, width)).image


class Kind(NamedTuple):
    """`name` is the path below the folder, as text; `reason` belongs to what is not used, `pixels` to what is."""

    name: str
    outcome: str
    reason: str = ""
    pixels: np.ndarray | None = None


def opened(data: bytes) -> np.ndarray:
    """What Pillow makes of a sound file of the plainest kinds, upright, as RGB."""
    with Image.open(io.BytesIO(data)) as image:
        frame = next(iter(ImageSequence.Iterator(image)))
        return np.asarray(frame.convert("RGB"))


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def bad(folder: Path, name: str, data: bytes, outcome: str, reason: str) -> Kind:
    put(folder, name, data)
    return Kind(name, outcome, reason)


def good(folder: Path, name: str, data: bytes, values: np.ndarray | None = None) -> Kind:
    put(folder, name, data)
    return Kind(name, USED, pixels=opened(data) if values is None else values)


def cut(folder: Path) -> list[Kind]:
    """Files that end too early: some in their header, some in their pixels."""
    size = (183, 141)
    jpeg, png = encoded(1, "JPEG", size=size), encoded(1, size=size)
    found = [
        bad(folder, f"cut-{share}.jpg", jpeg[: len(jpeg) * share // 100], QUARANTINED, "truncated file")
        for share in (60, 80, 99)
    ]
    progressive = encoded(1, "JPEG", size=size, progressive=True)
    found += [
        bad(folder, "cut-in-header.jpg", jpeg[:20], LEFT_OUT, NO_IMAGE),
        bad(folder, "cut-behind-its-header.jpg", jpeg[: len(jpeg) // 5], LEFT_OUT, "truncated file"),
        bad(folder, "cut-progressive.jpg", progressive[: len(progressive) * 3 // 4], QUARANTINED, "truncated file"),
        bad(folder, "cut-50.png", png[: len(png) // 2], QUARANTINED, "truncated file"),
        bad(folder, "cut-before-its-end.png", png[:-24], QUARANTINED, "truncated file"),
        good(folder, "cut-behind-its-pixels.png", png[:-12], pixels(1, *size)),
        bad(folder, "cut-in-header.png", png[:20], LEFT_OUT, "truncated file"),
        bad(folder, "empty.jpg", b"", LEFT_OUT, "empty file"),
    ]
    for kind, suffix, outcome, reason in (
        ("GIF", "gif", LEFT_OUT, "truncated file"),
        ("BMP", "bmp", QUARANTINED, "truncated file"),
        ("TIFF", "tif", QUARANTINED, "truncated file"),
        ("WEBP", "webp", LEFT_OUT, "damaged header"),
        ("JPEG2000", "jp2", QUARANTINED, "damaged pixels"),
        ("AVIF", "avif", LEFT_OUT, NO_IMAGE),
        ("PPM", "ppm", QUARANTINED, "truncated file"),
    ):
        data = encoded(1, kind, "P" if kind == "GIF" else "RGB", size)
        found.append(bad(folder, f"cut.{suffix}", data[: len(data) * 2 // 3], outcome, reason))
    return found


def damaged(folder: Path) -> list[Kind]:
    """Whole files with wrong bytes in them."""
    png = encoded(2, size=(61, 47))
    at = png.index(b"IDAT") + 40
    flipped = png[:at] + bytes([png[at] ^ 1]) + png[at + 1 :]
    header = png[:20] + bytes([png[20] ^ 1]) + png[21:]
    text = chunk(b"zTXt", b"words\0\0" + zlib.compress(bytes(100_000_000), 9))
    jpeg = encoded(2, "JPEG", size=(90, 70))
    middle = (jpeg.index(b"\xff\xda") + len(jpeg)) // 2
    return [
        bad(
            folder, "noise-in-its-middle.jpg", jpeg[:middle] + bytes(range(40)) + jpeg[middle + 40 :], QUARANTINED, LOST
        ),
        bad(folder, "flipped-bit.png", flipped, QUARANTINED, "damaged pixels"),
        bad(folder, "flipped-bit-in-header.png", header, LEFT_OUT, NO_IMAGE),
        bad(folder, "text-that-unpacks-to-100-MB.png", png[:33] + text + png[33:], LEFT_OUT, "damaged header"),
        bad(folder, "no-pixels.png", png[:33] + chunk(b"IEND", b""), QUARANTINED, "damaged pixels"),
        bad(folder, "no-size.jpg", without_size(jpeg), LEFT_OUT, NO_IMAGE),
    ]


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def without_size(jpeg: bytes) -> bytes:
    """A JPEG of height 0 and width 0."""
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + bytes(4) + jpeg[at + 9 :]


def no_images(folder: Path) -> list[Kind]:
    """Other things with the extension of an image, and images with another one."""
    return [
        *(
            bad(folder, name, data, LEFT_OUT, NO_IMAGE)
            for name, data in {
                "text.jpg": b"This is a list of the images.\n" * 40,
                "page.png": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
                "zeros.jpg": bytes(4096),
                "noise.jpg": np.random.default_rng(0).bytes(4096),
                "document.jpeg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
                "film.jpg": b"\0\0\0\x18ftypmp42" + bytes(300),
                "drawing.png": encoded(kind="EPS"),
                "icon.png": encoded(kind="ICO", size=(16, 16)),
                "archive.jpg": b"PK\3\4" + bytes(200),
                "pickle.jpg": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
            }.items()
        ),
        bad(folder, "objects.png", numpy_file(np.array([{}, None], object)), LEFT_OUT, OBJECTS),
        bad(folder, "image.dat", encoded(), LEFT_OUT, "not an image by its extension, .dat"),
        bad(folder, "drawing.svg", b"<svg/>", LEFT_OUT, "not an image by its extension, .svg"),
        bad(folder, "table.parquet", b"PAR1" + bytes(90) + b"PAR1", LEFT_OUT, PARQUET),
        bad(folder, ".hidden.png", encoded(), LEFT_OUT, "hidden file"),
        bad(folder, "._photo.jpg", b"\0\5\26\7" + bytes(60), LEFT_OUT, "hidden file"),
    ]


def numpy_file(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def bombs(folder: Path) -> list[Kind]:
    """Small files that would be very large images, and large files that are none."""
    rows = zlib.compress(bytes(40_000 * 5_001))
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    gif, jpeg, bmp = encoded(kind="GIF", mode="P"), encoded(kind="JPEG"), encoded(kind="BMP")
    frame = jpeg.index(b"\xff\xc0")
    found = [
        bad(folder, "bomb.png", PNG + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + END, LEFT_OUT, BOMB),
        bad(folder, "bomb.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], LEFT_OUT, BOMB),
        bad(folder, "bomb.jpg", jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :], LEFT_OUT, BOMB),
        bad(folder, "bomb.tif", large_tiff(), QUARANTINED, BOMB),  # by its header it could be read in tiles
        bad(folder, "bomb-that-lies-on-its-side.tif", large_tiff(6), LEFT_OUT, BOMB),
        bad(folder, "bomb.bmp", bmp[:18] + struct.pack("<ii", 65_535, 65_535) + bmp[26:], LEFT_OUT, BOMB),
        bad(folder, "64-GB-of-zeros.jpg", b"", LEFT_OUT, NO_IMAGE),
        bad(folder, "64-GB-behind-it.jpg", jpeg, QUARANTINED, MEMORY),
    ]
    for name in ("64-GB-of-zeros.jpg", "64-GB-behind-it.jpg"):
        os.truncate(folder / name, 1 << 36)  # takes no room
    return found


def large_tiff(orientation: int = 1) -> bytes:
    """A TIFF of some hundred bytes that says it is 40,000 x 40,000."""
    entries = [
        (256, 4, 40_000),  # width
        (257, 4, 40_000),  # height
        (258, 3, 8),  # bits; one number for all samples
        (259, 3, 1),  # not packed
        (262, 3, 1),  # 0 is black
        (273, 4, 8),  # where its only strip begins
        (274, 3, orientation),
        (277, 3, 1),  # samples
        (278, 4, 40_000),  # rows of a strip
        (279, 4, 16),  # bytes of the strip
    ]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + struct.pack("<H", len(entries)) + directory + bytes(4)


PNG, END = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")


def other_kinds(folder: Path) -> list[Kind]:
    """Sound images that cannot become RGB of 8 bits among photographs."""
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)

    def tiff(values: np.ndarray, **options: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, values, **options)
        return stream.getvalue()

    lab = io.BytesIO()
    Image.new("LAB", (WIDTH, HEIGHT)).save(lab, "TIFF")
    return [
        bad(folder, "deep.png", deep_png(0, 1), LEFT_OUT, f"16-bit gray, {ANOTHER}"),
        bad(folder, "deep-colour.png", deep_png(2, 3), LEFT_OUT, f"16-bit RGB, {ANOTHER}"),
        bad(folder, "deep-big-endian.tif", tiff(deep, byteorder=">"), LEFT_OUT, f"16-bit gray, {ANOTHER}"),
        bad(folder, "float.tif", tiff(deep.astype(np.float32)), LEFT_OUT, f"float gray, {ANOTHER}"),
        bad(folder, "five-channels.tif", tiff_with_extra((0,) * 4, 5, 1), LEFT_OUT, f"5 x 8-bit, {ANOTHER}"),
        bad(folder, "lab.tif", lab.getvalue(), LEFT_OUT, "LAB pixels in TIFF, not supported"),
        bad(folder, "complex.tif", tiff(deep.astype(np.complex64)), LEFT_OUT, "complex64 pixels, not supported"),
    ]


def photographs(folder: Path) -> list[Kind]:
    """Sound images of every colour, in odd wrappings."""
    values, second = pixels(3), Image.fromarray(pixels(4))
    exif = Image.Exif()
    exif[0x0112] = 6
    nonsense = Image.Exif()
    nonsense[0x0112] = 99
    gray = np.repeat(np.asarray(Image.fromarray(values).convert("L"))[:, :, None], 3, 2)
    bilevel = opened(encoded(3, mode="1"))
    opaque = io.BytesIO()
    Image.fromarray(np.dstack([values, np.full((HEIGHT, WIDTH), 255, np.uint8)])).save(opaque, "PNG")
    found = [
        good(folder, "cmyk.jpg", encoded(3, "JPEG", "CMYK")),
        good(folder, "gray.jpg", encoded(3, "JPEG", "L")),
        good(folder, "progressive.jpg", encoded(3, "JPEG", progressive=True)),
        good(folder, "with-a-tail.jpg", encoded(3, "JPEG") + b"PK\3\4 and more" * 9),
        good(folder, "rotated.png", encoded(3, exif=exif), np.rot90(values, -1)),
        good(folder, "nonsense-in-exif.png", encoded(3, exif=nonsense), values),
        good(folder, "opaque.png", opaque.getvalue(), values),
        good(folder, "gray.png", encoded(3, mode="L"), gray),
        good(folder, "black-and-white.png", encoded(3, mode="1"), bilevel),
        good(folder, "palette.png", encoded(3, mode="P")),
        good(folder, "one-pixel.png", encoded(3, size=(1, 1)), pixels(3, 1, 1)),
        good(folder, "very-wide.png", encoded(3, size=(2, 30_000)), pixels(3, 2, 30_000)),
        good(folder, "very-high.png", encoded(3, size=(30_000, 2)), pixels(3, 30_000, 2)),
        good(folder, "big-endian.tif", big_endian(values), values),
        good(folder, "profile.png", encoded(3, icc_profile=b"no profile at all" * 9), values),
        good(folder, "png-named.jpg", encoded(5), pixels(5)),
        good(folder, "jpeg-named.png", encoded(5, "JPEG")),
        good(folder, "webp-named.jpeg", encoded(5, "WEBP", lossless=True), pixels(5)),
        good(folder, "without-extension", encoded(5), pixels(5)),
        good(folder, "UPPER.PNG", encoded(5), pixels(5)),
        good(folder, "folder-named.jpg/in-it.png", encoded(5), pixels(5)),
    ]
    for kind, suffix, mode in (
        ("GIF", "gif", "P"),
        ("WEBP", "webp", "RGB"),
        ("PNG", "png", "RGB"),
        ("TIFF", "tif", "RGB"),
    ):
        options: dict[str, Any] = {"save_all": True, "append_images": [second], "lossless": True}
        found.append(good(folder, f"animated.{suffix}", encoded(3, kind, mode, **options)))
    return found


def big_endian(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, byteorder=">", photometric="rgb")
    return stream.getvalue()


def names(folder: Path) -> list[Kind]:
    """Sound images with names that are hard to print, to quote, or to take for a name."""
    listed = (
        os.fsdecode(b"not-utf8-\xff\xe9.png"),
        "a line\nand another.png",
        "quotes ' \" ` $(reboot).png",
        "x" * 251 + ".png",
        "-rf.png",
        "\u202eright to left.png",
        "\u2603 snow \U0001f600.png",
        "  spaces  .png",
        "tab\tand\x1b[31mcolour.png",
        "row#17.png",
        "a::b.png",
        "half=0.5.png",
        "%s%n{}.png",
        "back\\slash.png",
        "..png.png",
    )
    hidden = ("..png.png",)
    return [
        bad(folder, name, encoded(i), LEFT_OUT, "hidden file")
        if name in hidden
        else good(folder, name, encoded(i), pixels(i))
        for i, name in enumerate(listed, start=20)
    ]
