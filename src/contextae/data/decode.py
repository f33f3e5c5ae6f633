"""From a file's bytes to pixels, and from its first bytes to what it holds; whatever is wrong with it is a BadImage.

Nothing is cut to 8 bits, filled in or guessed: photographs of 8 bits are read here, by Pillow, and become gray or RGB;
whatever is deeper or has other channels is read as it is, in `deep`.
"""

from __future__ import annotations

import io
import struct
import tokenize
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from contextae.data import deep
from contextae.data.dicom import dicom_layout
from contextae.data.facts import BadImage, ImageFacts, Unsupported, too_large
from contextae.data.png import lacks_rows
from contextae.data.tiff import check_codes, check_parts, pages_are_channels, tiff_layout

# The formats tried, the frequent first. Pillow's others draw (EPS, WMF), hold other things (HDF5, MPEG), are icons, or
# have no signature (TGA, DIB), so that a damaged file of another format could pass for one.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")

T = TypeVar("T")

# What the libraries raise on damaged input; found by damaging files of every format (tests/data/test_decode.py).
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
    tokenize.TokenError,  # NumPy's, of the header of a .npy file
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
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
STRIP = 1 << 20
"Pixels of an image that are converted at once, for which numbers of 32 bits are made of them."
ARRAYS = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes whose values NumPy gets as they are
CUT = ("truncated", "failed to read")  # what the libraries say of a file that ends too early
SIDEWAYS = range(5, 9)  # EXIF orientations that swap height and width
BITS, PHOTOMETRIC, ORIENTATION, SAMPLES_PER_PIXEL, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 274, 277, 338, 339
SIGNED = 2
DEEPER = ("PNG", "JPEG2000", "AVIF")  # what imagecodecs reads where Pillow would cut it to 8 bits


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's and pydicom's own warnings about files that `probe` and `decode` judge anyway.

    To be entered once around a pool of threads, never inside them: Python's warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
        yield


@contextmanager
def judged(what: str) -> Iterator[None]:
    """Makes a BadImage of what the libraries raise over a damaged file, for the reason `what` unless a better is known.

    The errors of a disk are raised as they are.
    """
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise BadImage(_reason(error, what)) from error


def probe(data: bytes | BinaryIO) -> ImageFacts:
    """What the header says; pixels are not decoded, so a file that is cut off later still passes."""
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    num_bytes = stream.seek(0, io.SEEK_END)
    if not num_bytes:
        raise BadImage("empty file")
    with judged("damaged header"):
        return _opened(stream, lambda image, facts: facts, deep.facts)._replace(num_bytes=num_bytes)


def decode(data: bytes | np.ndarray, *, channels: int, dtype: str = "uint8") -> np.ndarray:
    """The upright image as h w c. A photograph (8 bits, gray or in colours) becomes uint8 of 1 or 3 channels: gray is
    repeated, colour is weighted by ITU-R 601-2. Any other image must be of these channels and this type already.

    Alpha is composited on the image's own mean colour, weighted by alpha, so that what was cut away draws no attention.
    An array h w c is converted in the same way.
    """
    if isinstance(data, np.ndarray):
        return wanted(deep.canonical(data), channels, dtype)
    if not data:
        raise BadImage("empty file")

    def photograph(image: Image.Image, facts: ImageFacts) -> np.ndarray:
        if channels not in (1, 3) or dtype != "uint8":
            raise BadImage(_another(facts.channels, facts.dtype, channels, dtype))
        image.load()
        if image.format == "PNG" and lacks_rows(image, data):
            raise BadImage("truncated file")
        if image.format == "TIFF":
            check_codes(io.BytesIO(data), image.tag_v2)  # type: ignore[attr-defined]
        ImageOps.exif_transpose(image, in_place=True)
        return _of_channels(image, channels)

    def whole(layout: deep.Layout) -> np.ndarray:
        facts = deep.facts(layout)
        if not facts.photograph and (facts.channels, facts.dtype) != (channels, dtype):
            raise BadImage(_another(facts.channels, facts.dtype, channels, dtype))  # before it is decoded
        return wanted(deep.pixels(layout), channels, dtype)

    with judged("damaged pixels"):
        return _opened(io.BytesIO(data), photograph, whole)


def from_pillow(image: Image.Image, *, channels: int, dtype: str = "uint8") -> np.ndarray:
    """What `decode` makes of the file, of an image that somebody has opened: upright, alpha composited."""
    upright = ImageOps.exif_transpose(image)
    if dtype == "uint8" and channels in (1, 3) and image.mode in KINDS:
        return _of_channels(upright, channels)
    if image.mode in KINDS or image.mode in ARRAYS:
        array = np.asarray(upright)
        return wanted(deep.canonical(array[:, :, None] if array.ndim == 2 else array), channels, dtype)
    raise Unsupported(f"{image.mode} pixels, not supported")


def _opened(
    stream: BinaryIO,
    photograph: Callable[[ImageFile.ImageFile, ImageFacts], T],
    other: Callable[[deep.Layout], T],
) -> T:
    """What one of the two makes of the image in `stream`, which they may read while they run."""
    stream.seek(0)
    head = stream.read(deep.MAGIC_BYTES)
    stream.seek(0)
    if deep.is_numpy(head):
        return other(deep.numpy_layout(stream))
    if deep.is_dicom(head):
        return other(dicom_layout(stream))
    try:
        with Image.open(stream, formats=FORMATS) as image:
            layout = _deeper(image, stream)
            return photograph(image, _facts(image)) if layout is None else other(layout)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        if not deep.is_tiff(head):
            raise
    return other(tiff_layout(stream))


def wanted(array: np.ndarray, channels: int, dtype: str) -> np.ndarray:
    """h w c as it is asked for; gray and RGB of 8 bits become each other."""
    found = array.shape[2], str(array.dtype)
    if found == (channels, dtype):
        return array
    if found in ((1, "uint8"), (3, "uint8")) and channels in (1, 3) and dtype == "uint8":
        return _of_channels(Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array), channels)
    raise BadImage(_another(*found, channels, dtype))


def _another(channels: int, dtype: str, wanted: int, wanted_dtype: str) -> str:
    return f"{channels} channel(s) of {dtype}, where {wanted} of {wanted_dtype} are used"


def _reason(error: BaseException, what: str) -> str:
    """In words that are equal for images with the same trouble."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return too_large()
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or its header is damaged"
    if isinstance(error, (OSError, ValueError)) and any(word in str(error).lower() for word in CUT):
        return "truncated file"
    return what


def _deeper(image: ImageFile.ImageFile, stream: BinaryIO) -> deep.Layout | None:
    """How to read an image that Pillow would cut to 8 bits or to fewer channels; None where it would not."""
    bits = _bits(image, stream)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        pages = bool(getattr(image, "is_animated", False)) and pages_are_channels(stream)
        signed = SIGNED in tags.get(SAMPLE_FORMAT, ())  # which Pillow takes for unsigned
        if bits > 8 or pages or signed or _has_extra_channels(tags):
            return tiff_layout(stream)
        check_parts(tags)
    elif bits > 8 and image.format in DEEPER:
        return deep.codec_layout(stream, image.format, _orientation(image))
    elif bits > 8 and image.format == "PPM" and bits == 16:
        return deep.netpbm_layout(stream, image)
    if bits > 8 or image.mode not in KINDS:
        raise Unsupported(f"{f'{bits}-bit' if bits > 8 else image.mode} pixels in {image.format}, not supported")
    return None


def _facts(image: ImageFile.ImageFile) -> ImageFacts:
    """Of a photograph that Pillow opened."""
    kind, channels = KINDS[image.mode]
    if kind.startswith("palette") and _is_gray(image.getpalette()):
        kind, channels = kind.replace("palette", "gray"), 1
    if "transparency" in image.info and not kind.endswith("alpha"):
        kind = f"{kind} with alpha"
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) in SIDEWAYS:  # Pillow has turned a TIFF's size already
        width, height = height, width
    several = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO's second one is a preview
    return ImageFacts(width, height, channels, "JPEG" if image.format == "MPO" else str(image.format), kind, several)


def _is_gray(palette: list[int] | None) -> bool:
    """Red, green and blue are the same in every entry."""
    colours = np.array(palette or [0, 1, 2])
    return len(colours) % 3 == 0 and bool((colours.reshape(-1, 3) == colours[::3, None]).all())


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


def _has_extra_channels(tags: Mapping[int, Any]) -> bool:
    """TIFF samples beyond those of its colour and alpha are data, which Pillow would drop or take for alpha."""
    samples = tags.get(SAMPLES_PER_PIXEL, 1)
    extra = samples - SAMPLES.get(tags.get(PHOTOMETRIC, 0), samples)
    marked = tags.get(EXTRA_SAMPLES, ())
    return extra > 0 and (extra > 1 or tuple(marked) not in ((1,), (2,)))


def _of_channels(image: Image.Image, channels: int) -> np.ndarray:
    """Loads the pixels, composites alpha, and converts; by strips, so that no copy of a large image is made."""
    image.load()
    mean = _mean_colour(image) if image.mode in WITH_ALPHA or "transparency" in image.info else None
    if image.width * image.height <= STRIP:
        return _converted(image, mean, channels)
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    for top, strip in _strips(image):
        pixels[top : top + strip.height] = _converted(strip, mean, channels)
    return pixels


def _converted(image: Image.Image, mean: np.ndarray | None, channels: int) -> np.ndarray:
    """Gray or RGB h w c, composited where there is a mean colour to do it with."""
    flat = image if mean is None else _composited(image, mean)
    wanted = "L" if channels == 1 else "RGB"
    converted = np.asarray(flat if flat.mode == wanted else flat.convert(wanted))
    return converted[:, :, None] if channels == 1 else converted


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Rows of about STRIP pixels, and the number of the first."""
    rows = max(1, STRIP // max(1, image.width))
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _colour_and_alpha(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """h w c and, from 0 to 1, h w 1."""
    values = np.asarray(image.convert("LA" if image.mode in ("L", "1", "LA", "La") else "RGBA")).astype(np.float32)
    return values[:, :, :-1], values[:, :, -1:] / 255


def _mean_colour(image: Image.Image) -> np.ndarray:
    """The mean of its colours, each weighted by its alpha; all transparent: their plain mean."""
    weighted = plain = weight = np.zeros((), np.float64)
    for _, strip in _strips(image):
        colour, alpha = _colour_and_alpha(strip)
        weighted = weighted + (colour * alpha).sum((0, 1), dtype=np.float64)
        plain = plain + colour.sum((0, 1), dtype=np.float64)
        weight = weight + alpha.sum(dtype=np.float64)
    mean: np.ndarray = weighted / weight if weight else plain / (image.width * image.height)
    return mean.astype(np.float32)


def _composited(image: Image.Image, mean: np.ndarray) -> Image.Image:
    """L or RGB: on the mean colour of what it is a part of."""
    colour, alpha = _colour_and_alpha(image)
    flat = np.rint(colour * alpha + mean * (1 - alpha)).astype(np.uint8)
    return Image.fromarray(flat[:, :, 0] if flat.shape[2] == 1 else flat)
