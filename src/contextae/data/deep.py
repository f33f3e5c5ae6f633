"""Images beyond 8-bit gray and RGB, at their full depth: what a header promises, and 16-bit PNG, PPM and NumPy files.

Integers of 8 and 16 bits stay what they are, all other numbers become float32. Channels are what the file says they
are; nothing is scaled, cut or dropped. TIFF and DICOM have files of their own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from contextae.data.facts import BadImage, ImageFacts, Unsupported, check_size, is_too_large, too_large

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_CHANNELS = 64
"Of an image. The longest axis of a file that is not one is taken for its height rather than for channels."
STRIP = 1 << 20
"Pixels that are composited at once, for which numbers of 64 bits are made of them."
MAGIC_BYTES = 132
"DICOM names itself at byte 128."
ORIENTATION = 274
DEPTHS = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}


class Layout(NamedTuple):
    """What a header promises: h w of the upright image, how many samples a pixel has, and what they are."""

    height: int
    width: int
    colours: int
    alpha: int
    "0 or 1: the last of the samples."
    dtype: np.dtype[Any]
    frames: bool
    read: Callable[[], np.ndarray]
    "h w c, upright, with alpha if there is one."
    premultiplied: bool = False
    format: str = "TIFF"
    read_box: Callable[[int, int, int, int], np.ndarray] | None = None
    "h w c of top, left, bottom, right, where that takes no more than its own memory."
    photographic: bool = False
    "Three colours are red, green and blue, and one is gray, by what the file says."


def is_numpy(head: bytes) -> bool:
    """By the first bytes of a file."""
    return head.startswith(NPY)


def is_dicom(head: bytes) -> bool:
    """By the first MAGIC_BYTES."""
    return head[128:132] == b"DICM"


def is_tiff(head: bytes) -> bool:
    """Classic or Big, of either byte order."""
    return head.startswith(TIFF)


def facts(layout: Layout) -> ImageFacts:
    """What an index keeps of it."""
    return facts_of(
        layout.height,
        layout.width,
        layout.colours,
        layout.dtype,
        alpha=layout.alpha,
        frames=layout.frames,
        format=layout.format,
        photographic=layout.photographic,
        in_parts=layout.read_box is not None,
    )


def facts_of(
    height: int,
    width: int,
    colours: int,
    dtype: np.dtype[Any],
    *,
    format: str,
    photographic: bool,
    alpha: int = 0,
    frames: bool = False,
    in_parts: bool = False,
) -> ImageFacts:
    """The same of what a Layout holds; `in_parts` where parts of it can be read. BadImage where it cannot be used."""
    if colours > MOST_CHANNELS:
        raise Unsupported(f"{colours} channels, more than {MOST_CHANNELS}")
    stored = stored_as(dtype)
    parts = is_too_large(height, width, colours + alpha, np.dtype(stored).itemsize)
    if parts and not in_parts:
        raise BadImage(too_large())
    named = {1: "gray", 3: "RGB"}.get(colours) if photographic else None
    photograph = named is not None and stored == "uint8"
    kind = f"{DEPTHS[stored]} {named}" if named else f"{colours} x {DEPTHS[stored]}"
    if photograph:
        kind = f"{named} with alpha" if alpha else str(named)
    return ImageFacts(width, height, colours, format, kind, frames, dtype=stored, photograph=photograph, parts=parts)


def pixels(layout: Layout, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """h w c, alpha composited on the mean colour as for photographs; of top, left, bottom and right alone, if given.

    BadImage where it is too large.
    """
    top, left, bottom, right = box or (0, 0, layout.height, layout.width)
    check_size(bottom - top, right - left, layout.colours + layout.alpha, layout.dtype.itemsize)
    if box:
        assert layout.read_box
        array = layout.read_box(*box)
    else:
        array = layout.read()
    expected = (bottom - top, right - left, layout.colours + layout.alpha)
    if array.shape != expected:
        raise BadImage("damaged pixels")
    values = canonical(array)
    if layout.alpha:
        values = _composited(values, premultiplied=layout.premultiplied)
    return np.ascontiguousarray(values)


def stored_as(dtype: np.dtype[Any]) -> str:
    """uint8 and uint16 are kept; other real numbers become float32, which keeps 24 bits of them."""
    if dtype.kind == "b" or dtype == np.uint8:
        return "uint8"
    if dtype.kind == "u" and dtype.itemsize == 2:
        return "uint16"
    if dtype.kind in "iuf":
        return "float32"
    raise Unsupported(f"{dtype.name} pixels, not supported")


def canonical(array: np.ndarray) -> np.ndarray:
    """In one of the three types, native byte order; numbers that are not finite make an image bad."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        values = array.astype(stored_as(array.dtype), copy=False)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadImage("values that are not finite")
    return values


def _composited(values: np.ndarray, *, premultiplied: bool) -> np.ndarray:
    """Colours over their own mean, each weighted by its alpha; h w c without alpha, of the same type."""
    height, width, samples = values.shape
    rows = max(1, STRIP // width)
    weighted = plain = weight = np.zeros((), np.float64)
    for top in range(0, height, rows):
        colour, alpha = _colour_and_alpha(values[top : top + rows])
        weighted = weighted + (colour if premultiplied else colour * alpha).sum((0, 1))
        plain = plain + colour.sum((0, 1))
        weight = weight + alpha.sum()
    mean = weighted / weight if weight else plain / (height * width)
    flat = np.empty((height, width, samples - 1), values.dtype)
    for top in range(0, height, rows):
        colour, alpha = _colour_and_alpha(values[top : top + rows])
        over = (colour if premultiplied else colour * alpha) + mean * (1 - alpha)
        if values.dtype.kind == "u":
            over = np.rint(over).clip(0, np.iinfo(values.dtype).max)
        flat[top : top + rows] = over
    return flat


def _colour_and_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h w c and, from 0 to 1, h w 1, as numbers of 64 bits."""
    most = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    return values[:, :, :-1].astype(np.float64), values[:, :, -1:].astype(np.float64) / most


def array_layout(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read: Callable[[], np.ndarray],
    rows: Callable[[int, int], np.ndarray] | None = None,
) -> Layout:
    """Of an array h w, h w c or c h w. Channels are the last axis, unless the first is the shorter one and few.

    `rows` reads rows of the second axis but one in an array of the same axes, from the first to before the last.
    """
    if len(shape) not in (2, 3):
        raise BadImage(f"an array of {len(shape)} axes, not height x width (x channels)")
    first = len(shape) == 3 and shape[0] <= MOST_CHANNELS and shape[0] < shape[2]
    height, width, channels = (*shape, 1) if len(shape) == 2 else (*shape[1:], shape[0]) if first else shape
    if min(height, width, channels) < 1:
        raise BadImage(f"an array of {' x '.join(map(str, shape))}")

    def upright() -> np.ndarray:
        array = read()
        return array[:, :, None] if array.ndim == 2 else np.moveaxis(array, 0, -1) if first else array

    def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        assert rows
        array = rows(top, bottom)
        array = array[:, :, None] if array.ndim == 2 else np.moveaxis(array, 0, -1) if first else array
        return array[:, left:right]

    return Layout(
        height,
        width,
        channels,
        0,
        dtype,
        False,
        upright,
        format="NumPy",
        read_box=box if rows else None,
        photographic=channels in (1, 3),
    )


def numpy_layout(stream: BinaryIO) -> Layout:
    """Of a .npy file. Objects are refused: they would have to be unpickled."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise Unsupported(f"version {version[0]}.{version[1]} of NumPy's format")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise BadImage("a NumPy file of Python objects, which are never loaded")
    start = stream.tell()

    def read() -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        stream.seek(start)
        data = stream.read(size)
        if len(data) < size:
            raise BadImage("truncated file")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

    def rows(begin: int, end: int) -> np.ndarray:
        first = len(shape) == 3 and shape[0] <= MOST_CHANNELS and shape[0] < shape[2]
        planes, each = (shape[0], shape[1:]) if first else (1, shape)
        row = math.prod(each[1:]) * dtype.itemsize
        parts = []
        for plane in range(planes):
            stream.seek(start + (plane * each[0] + begin) * row)
            data = stream.read((end - begin) * row)
            if len(data) < (end - begin) * row:
                raise BadImage("truncated file")
            parts.append(np.frombuffer(data, dtype).reshape(end - begin, *each[1:]))
        return np.stack(parts) if first else parts[0]

    return array_layout(shape, dtype, read, None if fortran else rows)


def oriented(array: np.ndarray, turn: int) -> np.ndarray:
    """Upright, by EXIF's orientation 1 to 8 (TIFF 6.0, tag 274)."""
    if turn in range(5, 9):
        array = array.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    return array


def codec_layout(stream: BinaryIO, name: str, turn: int = 1) -> Layout:
    """Of a PNG, JPEG 2000 or AVIF of more than 8 bits, whose pixels imagecodecs decodes."""
    import imagecodecs

    stream.seek(0)
    data = stream.read()
    if name == "PNG":
        height, width = (int.from_bytes(data[at : at + 4]) for at in (20, 16))
        samples = {0: 1, 2: 3, 4: 2, 6: 4}[data[25]]
        clear = b"tRNS" in data[: data.find(b"IDAT")]
        if clear:
            raise Unsupported("16-bit pixels with one transparent colour, not supported")
        bits = data[24]
    else:
        with Image.open(io.BytesIO(data)) as image:
            (width, height), samples = image.size, len(image.getbands())
        bits = 16
    alpha = int(samples in (2, 4))
    check_size(height, width, samples, bits // 8)
    decoders = {"PNG": imagecodecs.png_decode, "JPEG2000": imagecodecs.jpeg2k_decode, "AVIF": imagecodecs.avif_decode}

    def read() -> np.ndarray:
        array = decoders[name](data)
        return oriented(array[:, :, None] if array.ndim == 2 else array, turn)

    if turn in range(5, 9):
        height, width = width, height
    return Layout(
        height, width, samples - alpha, alpha, np.dtype(np.uint16), False, read, format=name, photographic=True
    )


def netpbm_layout(stream: BinaryIO, image: ImageFile.ImageFile) -> Layout:
    """Of a binary PGM or PPM of more than 8 bits: numbers as they are, big-endian, and not scaled to their largest."""
    (width, height), channels = image.size, 3 if image.mode == "RGB" else 1
    name, start = image.tile[0][0], int(image.tile[0][2])
    if name not in ("ppm", "raw"):
        raise Unsupported("16-bit PPM in text, not supported")

    def read() -> np.ndarray:
        stream.seek(start)
        data = stream.read(2 * width * height * channels)
        if len(data) < 2 * width * height * channels:
            raise BadImage("truncated file")
        return np.frombuffer(data, ">u2").reshape(height, width, channels)

    return Layout(height, width, channels, 0, np.dtype(np.uint16), False, read, format="PPM", photographic=True)
