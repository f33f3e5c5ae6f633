"""From a file's bytes to pixels, and from its first bytes to what it holds; whatever is wrong with it is a BadImage.

Nothing is cut to 8 bits, filled in or guessed: an image that is deeper, larger or shorter than can be read is bad.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

# The formats tried, the frequent first. Pillow's others draw (EPS, WMF), hold other things (HDF5, MPEG), are icons, or
# have no signature (TGA, DIB), so that a damaged file of another format could pass for one.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")

# What Pillow raises on damaged input; found by damaging files of every format (tests/data/test_decode.py).
DAMAGE = (
    OSError,  # truncated, unidentified, most of the C decoders
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    RuntimeError,
    ArithmeticError,  # sizes of zero, numbers that overflow
    AssertionError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where the caller made it an error
)

KINDS = {  # Pillow's mode: what it is called, and the channels it has of its own
    "1": ("gray", 1),
    "L": ("gray", 1),
    "LA": ("gray with alpha", 1),
    "La": ("gray with alpha", 1),
    "P": ("palette", 3),
    "PA": ("palette with alpha", 3),
    "RGB": ("RGB", 3),
    "RGBX": ("RGB", 3),
    "RGBA": ("RGB with alpha", 3),
    "RGBa": ("RGB with alpha", 3),
    "CMYK": ("CMYK", 3),
    "YCbCr": ("YCbCr", 3),
}
SAMPLES = {1: 1, 2: 3, 3: 1, 5: 4}  # of TIFF's gray, RGB, palette and CMYK; with others Pillow refuses extra samples
SIDEWAYS = range(5, 9)  # EXIF orientations that swap height and width
WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 256, 257, 258, 262, 274, 277, 338
STRIPS, TILES = 273, 324  # where each begins in the file
MOST_BITS = 128  # of a complex number; a damaged tag says more
BIG = 43  # the byte that tells a BigTIFF, whose head is twice as long


class BadImage(Exception):  # noqa: N818  what it is, rather than that it is an error
    """An image that cannot be used; `reason` says why, in words that are equal for images with the same trouble."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unsupported(BadImage):
    """A sound image of another depth, colour space or number of channels than is read so far."""


class ImageFacts(NamedTuple):
    """What a header says. `width` and `height` are those of the upright image; `channels` is 1 or 3, without alpha."""

    width: int
    height: int
    channels: int
    format: str
    kind: str
    frames: bool = False
    "More than one frame or page; the first is the one that is decoded."
    num_bytes: int = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's own warnings about files that `probe` and `decode` judge anyway.

    To be entered once around a pool of threads, never inside them: Python's warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def probe(data: bytes | BinaryIO) -> ImageFacts:
    """What the header says; pixels are not decoded, so a file that is cut off later still passes."""
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    num_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if not num_bytes:
        raise BadImage("empty file")
    try:
        with Image.open(stream, formats=FORMATS) as image:
            return _facts(image, stream)._replace(num_bytes=num_bytes)
    except DAMAGE as error:
        raise _bad(error, "damaged header", stream) from error


def decode(data: bytes | np.ndarray, *, channels: int) -> np.ndarray:
    """The upright image as uint8 h w c, of 1 or 3 channels: gray is repeated, colour is weighted by ITU-R 601-2.

    Alpha is composited on the image's own mean colour, weighted by alpha, so that what was cut away draws no attention.
    An array, uint8 h w c, is converted in the same way.
    """
    if channels not in (1, 3):
        raise ValueError(f"An image is decoded to 1 or 3 channels. Got {channels}.")
    if isinstance(data, np.ndarray):
        return _of_channels(Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data), channels)
    if not data:
        raise BadImage("empty file")
    stream = io.BytesIO(data)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            _facts(image, stream)
            ImageOps.exif_transpose(image, in_place=True)
            return _of_channels(image, channels)
    except DAMAGE as error:
        raise _bad(error, "damaged pixels", stream) from error


def from_pillow(image: Image.Image, *, channels: int) -> np.ndarray:
    """What `decode` makes of the file, of an image that somebody has opened: upright, alpha composited."""
    if image.mode not in KINDS:
        raise Unsupported(f"{image.mode} pixels, not supported yet")
    return _of_channels(ImageOps.exif_transpose(image), channels)


def _bad(error: BaseException, what: str, stream: BinaryIO) -> BadImage:
    """What stopped Pillow; it knows no mode for most TIFFs of many channels, and says no more than of a damaged one."""
    if isinstance(error, UnidentifiedImageError) and (reason := _unsupported_tiff(stream)):
        return Unsupported(reason)
    return BadImage(_reason(error, what))


def _reason(error: BaseException, what: str) -> str:
    """Pillow's words, without what differs from file to file."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the limit against decompression bombs"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or its header is damaged"
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return "truncated file"
    return what


def _facts(image: ImageFile.ImageFile, stream: BinaryIO) -> ImageFacts:
    """Of an opened image; raises BadImage for what this library would have to cut to read."""
    bits = _bits(image, stream)
    if bits > 8:
        raise Unsupported(f"{bits}-bit pixels, not supported yet")
    if image.mode not in KINDS:
        raise Unsupported(f"{image.mode} pixels, not supported yet")
    if image.format == "TIFF" and (extra := _extra_channels(image.tag_v2)):  # type: ignore[attr-defined]
        raise Unsupported(extra)
    kind, channels = KINDS[image.mode]
    if "transparency" in image.info and not kind.endswith("alpha"):
        kind = f"{kind} with alpha"
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) in SIDEWAYS:  # Pillow has turned a TIFF's size already
        width, height = height, width
    several = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO's second one is a preview
    return ImageFacts(width, height, channels, "JPEG" if image.format == "MPO" else str(image.format), kind, several)


def _orientation(image: Image.Image) -> int:
    """EXIF's; asked only where it stands in the header, as Pillow would decode a whole PNG in the search for it."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif", "xmp"} & set(image.info):
        return 1
    return int(image.getexif().get(ORIENTATION, 1))


def _bits(image: ImageFile.ImageFile, stream: BinaryIO) -> int:
    """Bits per channel as stored; Pillow's mode does not tell, for it opens 16-bit colour as 8-bit RGB."""
    stored = 8
    if image.format == "TIFF":
        stored = max(image.tag_v2.get(BITS, (1,)))  # type: ignore[attr-defined]
    elif image.format in ("PNG", "PPM") and image.tile:
        arguments = image.tile[0][3]
        if isinstance(arguments, tuple) and len(arguments) > 1 and isinstance(arguments[1], int):
            return 16 if arguments[1] > 255 else 8  # of PPM: the largest value
        if "16" in str(arguments):
            return 16
    elif image.format in ("JPEG2000", "AVIF"):
        stored = _bits_of_codec(image.format, stream)
    return max(stored, {"I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8))


def _bits_of_codec(name: str, stream: BinaryIO) -> int:
    """From JPEG 2000's SIZ segment (ISO 15444-1, A.5.1), or the av1C box (AV1 in ISOBMFF, 2.3)."""
    place = stream.tell()
    stream.seek(0)
    head = stream.read(1 << 16)
    stream.seek(place)
    if name == "AVIF":
        at = head.find(b"av1C")
        if at < 0:
            return 8
        flags = head[at + 6]
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return 8
    (count,) = struct.unpack_from(">H", head, at + 40)
    return max((head[at + 42 + 3 * i] & 0x7F) + 1 for i in range(count))


def _extra_channels(tags: Mapping[int, Any]) -> str | None:
    """TIFF samples beyond those of its colour and alpha are data, which Pillow would drop or take for alpha."""
    samples = tags.get(SAMPLES_PER_PIXEL, 1)
    extra = samples - SAMPLES.get(tags.get(PHOTOMETRIC, 0), samples)
    marked = tags.get(EXTRA_SAMPLES, ())
    if extra > 0 and (extra > 1 or tuple(marked) not in ((1,), (2,))):
        return f"{samples} channels that are not all colour or alpha, not supported yet"
    return None


def _unsupported_tiff(stream: BinaryIO) -> str | None:
    """Why Pillow did not open a TIFF whose tags are sound; None where they are not, or tell no reason."""
    try:
        num_bytes = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        head = stream.read(8)
        if head[:4] not in TiffImagePlugin.PREFIXES:
            return None
        tags = TiffImagePlugin.ImageFileDirectory_v2(head + stream.read(8) if head[2] == BIG else head)
        stream.seek(tags.next)
        tags.load(stream)
        begins, bits = tags.get(STRIPS) or tags.get(TILES) or (num_bytes,), tags.get(BITS, (1,))
        whole = tags.get(WIDTH) and tags.get(HEIGHT) and max(begins) < num_bytes
        if not whole or len(bits) not in (1, tags.get(SAMPLES_PER_PIXEL, 1)) or max(bits) > MOST_BITS:
            return None
        return f"{max(bits)}-bit pixels, not supported yet" if max(bits) > 8 else _extra_channels(tags)
    except DAMAGE:
        return None


def _of_channels(image: Image.Image, channels: int) -> np.ndarray:
    """Loads the pixels, composites alpha, and converts."""
    image.load()
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        flat = _composited(image.convert("LA" if image.mode in ("L", "1", "LA", "La") else "RGBA"))
    else:
        flat = image
    wanted = "L" if channels == 1 else "RGB"
    converted = np.asarray(flat if flat.mode == wanted else flat.convert(wanted))
    return converted[:, :, None] if channels == 1 else converted


def _composited(image: Image.Image) -> Image.Image:
    """LA or RGBA on the mean of its colours, each weighted by its alpha; all transparent: on their plain mean."""
    values = np.asarray(image).astype(np.float32)
    colour, alpha = values[:, :, :-1], values[:, :, -1:] / 255
    weight = alpha if alpha.any() else np.ones_like(alpha)
    mean = (colour * weight).sum((0, 1), dtype=np.float64) / weight.sum(dtype=np.float64)
    flat = np.rint(colour * alpha + mean.astype(np.float32) * (1 - alpha)).astype(np.uint8)
    return Image.fromarray(flat[:, :, 0] if flat.shape[2] == 1 else flat)
