"""DICOM, through pydicom: `pip install "contextae[dicom]"`."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from contextae.data.deep import Layout
from contextae.data.facts import BadImage, Unsupported

GRAYS, COLOURS = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
PIXELS, FLOATS = (0x7FE0, 0x0010), ((0x7FE0, 0x0008), (0x7FE0, 0x0009))
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"Baseline and extended, of which Pillow, which decodes them for pydicom, takes damaged codes for pixels."
ITEM, END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
ENDLESS = 0xFFFFFFFF
"A length that stands for: up to the item that is called the end."


def dicom_layout(stream: BinaryIO) -> Layout:
    """Of a DICOM file: stored values, neither rescaled nor windowed; the first of several frames, which is read alone.

    MONOCHROME1, where the smallest value is white, is turned so that the largest one is. YBR becomes RGB.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise Unsupported('DICOM, which needs pip install "contextae[dicom]"') from None
    with _damage():
        return _layout(stream)


@contextmanager
def _damage() -> Iterator[None]:
    """The errors that are pydicom's own; others are among those of every library."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        yield
    except (BytesLengthException, InvalidDicomError) as error:
        raise BadImage("not an image, or its header is damaged") from error


def _layout(stream: BinaryIO) -> Layout:
    """Of a file that pydicom can be asked about."""
    from pydicom import dcmread

    header = dcmread(stream, stop_before_pixels=True)
    if "Rows" not in header or "TransferSyntaxUID" not in header.file_meta:
        raise BadImage("a DICOM file without pixels")
    syntax = header.file_meta.TransferSyntaxUID
    source: Any = stream
    if syntax.is_deflated:  # from the header's end on, so that nothing can be skipped
        stream.seek(0)
        source = dcmread(stream)
        begin, length = 0, len(source.get("PixelData", b""))
    else:
        begin, length = _span(stream, syntax)
    if not length:
        raise BadImage("a DICOM file without pixels")

    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    channels = int(header.get("SamplesPerPixel", 1))
    if channels != (1 if photometric in GRAYS else 3 if photometric in COLOURS else 0):
        raise Unsupported(f"DICOM of {photometric}, not supported")
    bits, stored = int(header.BitsAllocated), int(header.BitsStored)
    height, width, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames", 1) or 1)
    if bits not in (1, 8, 16, 32, 64) or not 0 < stored <= bits or min(height, width, frames) < 1:
        raise BadImage("damaged header")
    if bits == 1 or int(header.get("HighBit", stored - 1)) != stored - 1:
        raise Unsupported("DICOM of single bits, or of others than the lowest, not supported")
    if not _is_readable(syntax):
        raise Unsupported(f"DICOM in {syntax.name}, for which no decoder of pydicom's is installed, not supported")
    halved = photometric == "YBR_FULL_422"  # two colours to two pixels [PS3.3, C.7.6.3.1.2]
    values = length // (bits // 8) // (frames * height * width)
    if not syntax.is_encapsulated and not (2 <= values < 3 if halved else values >= channels):
        raise BadImage("damaged header")  # it promises other than the file holds
    signed = bool(header.get("PixelRepresentation", 0))

    def read() -> np.ndarray:
        with _damage():
            array = _first_frame(source, begin, "GRAY" if channels == 1 else "RGB", frames, strict=syntax in JPEG)
        if photometric == "MONOCHROME1":
            array = -1 - array if signed else (2**stored - 1) - array
        return array[:, :, None] if array.ndim == 2 else array

    return Layout(
        height,
        width,
        channels,
        0,
        np.dtype(f"{'i' if signed else 'u'}{bits // 8}"),
        frames > 1,
        read,
        format="DICOM",
        photographic=True,
    )


def _is_readable(syntax: Any) -> bool:
    """Whether pydicom knows these codes, and has what decodes them."""
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _first_frame(source: Any, begin: int, colours: str, frames: int, *, strict: bool) -> np.ndarray:
    """h w or h w c of a file, or of a data set; no other frame is read."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels import pixel_array

    if strict:
        from contextae.data.jpeg import strictly  # which imports `decode`, and that this

        source.seek(begin)
        strictly(next(generate_frames(source, number_of_frames=frames)), colours, 1, 1)
        source.seek(0)
    array: np.ndarray = pixel_array(source, index=0)
    return array


def _span(stream: BinaryIO, syntax: Any) -> tuple[int, int]:
    """Where the values of the pixel data begin, whose tag is next in `stream`, and their bytes, 0 without any."""
    order = "<" if syntax.is_little_endian else ">"
    tag = stream.read(4)
    if tag in [struct.pack(f"{order}HH", *other) for other in FLOATS]:
        raise Unsupported("DICOM of floating-point pixels, not supported")
    if tag != struct.pack(f"{order}HH", *PIXELS):
        return 0, 0
    if not syntax.is_implicit_VR:
        stream.seek(4, io.SEEK_CUR)  # the representation, and nothing
    (length,) = struct.unpack(f"{order}I", stream.read(4))
    begin = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    if length == ENDLESS:
        stream.seek(begin)
        length = _length_of_items(stream, end)
    if begin + length > end:
        raise BadImage("truncated file")
    return begin, int(length)


def _length_of_items(stream: BinaryIO, end: int) -> int:
    """From the first to the last of compressed pixel data, which are little-endian."""
    begin = stream.tell()
    while stream.tell() + 8 <= end:
        *tag, length = struct.unpack("<HHI", stream.read(8))
        if tuple(tag) == END:
            return stream.tell() - begin
        if tuple(tag) != ITEM or length == ENDLESS:
            raise BadImage("damaged pixels")
        stream.seek(length, io.SEEK_CUR)
    raise BadImage("truncated file")
