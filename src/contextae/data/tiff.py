"""TIFF through tifffile: what its first image is, as a whole or in parts."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from contextae.data.deep import ORIENTATION, Layout, oriented
from contextae.data.facts import BadImage, Unsupported, check_size

WIDTH, HEIGHT, BITS, STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, PLANAR = 256, 257, 258, 273, 277, 278, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS = 322, 323, 324
COMPRESSION, STRIP_COUNTS, TILE_COUNTS, JPEG_TABLES = 259, 279, 325, 347
OLD_JPEG = 513  # its parts are elsewhere
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6  # of the photometric interpretation
ASSOCIATED, UNASSOCIATED = 1, 2  # of extra samples: colours multiplied by alpha, or not
JPEG, DEFLATE = 7, (8, 32946)  # of the compression
SEPARATE = 2  # of the planar configuration: each sample has segments of its own
NAME = "image"  # for the file's own, which its number may stand for, and beside which others must not be looked for
MOST_BITS = 128  # of a complex number; a damaged tag says more
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is raised, or judged here


def tiff_layout(stream: BinaryIO) -> Layout:
    """Of the first image of a TIFF: channels are its samples, and pages where its metadata (OME, ImageJ, shaped) call
    them channels; of other pages, such as times and depths, the first counts."""
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(stream, name=NAME) as file:
        if not file.series:
            raise BadImage("a TIFF without an image")
        series, page = file.series[0], file.series[0].keyframe
        axes, shape = series.axes, series.shape
        sizes = dict(zip(axes, shape, strict=True))
        # one bit is the default, and no image of one bit is read here
        whole = BITS in page.tags and int(page.bitspersample) <= MOST_BITS
        if not (whole and sizes.get("Y") and sizes.get("X")):
            raise BadImage("not an image, or its header is damaged")
        if page.dtype is None:
            raise Unsupported(f"a TIFF of {int(page.bitspersample)} bits, not supported")
        photometric = int(page.photometric)
        if photometric == YCBCR and int(page.compression) == JPEG and page.samplesperpixel == 3:
            photometric = RGB  # which the codec makes of it
        if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
            name = getattr(page.photometric, "name", str(photometric)).lower()
            raise Unsupported(f"{page.dtype} of photometric {name}, not supported")
        samples, pages = sizes.get("S", 1), sizes.get("C", 1)
        marks = tuple(int(mark) for mark in page.extrasamples)
        own = 3 if photometric == RGB else 1
        alpha = int(pages == 1 and samples == own + 1 and marks in ((ASSOCIATED,), (UNASSOCIATED,)))
        colours = samples * pages - alpha
        turn = int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1
        height, width = (sizes["X"], sizes["Y"]) if turn in range(5, 9) else (sizes["Y"], sizes["X"])
        others = [axis for axis in axes if axis not in "YXSC" and sizes[axis] > 1]
        several = bool(others) or len(file.series) > 1
        bits = int(page.bitspersample)
        # fewer bits are scaled to 8 by Pillow, which reads them as a whole
        by_parts = turn == 1 and not others and bits >= 8 and _are_alike(series, pages)
        # where pages are channels the whole series is read, else one page
        planes = math.prod(shape) // (height * width) if pages > 1 else samples
        if not by_parts:
            check_size(height, width, planes, page.dtype.itemsize)

    def read() -> np.ndarray:
        stream.seek(0)
        with tifffile.TiffFile(stream, name=NAME) as file:
            array = _first(file.series[0])
        if photometric == WHITE_IS_ZERO:
            array = (2**bits - 1) - array if array.dtype.kind == "u" else -array
        return oriented(array, turn)

    def read_box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        stream.seek(0)
        with tifffile.TiffFile(stream, name=NAME) as file:
            parts = [tiff_region(each, file.filehandle, top, left, bottom, right) for each in file.series[0].pages]
        array = np.concatenate(parts, axis=2)
        if photometric == WHITE_IS_ZERO:
            array = (2**bits - 1) - array if array.dtype.kind == "u" else -array
        return array

    return Layout(
        height,
        width,
        colours,
        alpha,
        page.dtype,
        several,
        read,
        read_box=read_box if by_parts else None,
        premultiplied=marks == (ASSOCIATED,),
        photographic=pages == 1 and colours == own,
    )


def _are_alike(series: Any, count: int) -> bool:
    """Whether parts can be read of each of its pages: they are all in this file, and channels are not in planes."""
    whole = len(series.pages) == count and all(page is not None for page in series.pages)
    return whole and (count == 1 or int(series.keyframe.planarconfig) == 1)


def check_parts(tags: Mapping[int, Any]) -> None:
    """Refuses an image that has fewer strips or tiles than its size asks for; Pillow leaves the others black."""
    height, width = tags[HEIGHT], tags[WIDTH]
    tiled = TILE_OFFSETS in tags
    rows, columns = (tags[TILE_HEIGHT], tags[TILE_WIDTH]) if tiled else (tags.get(ROWS_PER_STRIP, height), width)
    planes = tags.get(SAMPLES_PER_PIXEL, 1) if tags.get(PLANAR, 1) == SEPARATE else 1
    parts = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    wanted = -(-height // rows) * -(-width // columns) * planes
    if OLD_JPEG not in tags and (len(parts) < wanted or 0 in parts):
        raise BadImage("a TIFF with missing parts")


def check_codes(stream: BinaryIO, tags: Mapping[int, Any]) -> None:
    """Refuses 8-bit images whose codes are damaged where Pillow, that is libtiff, does not look: it compares no
    checksums, and takes what it can get of a JPEG."""
    compression = tags.get(COMPRESSION, 1)
    if compression not in (JPEG, *DEFLATE) or OLD_JPEG in tags:
        return
    offsets, counts = (STRIP_OFFSETS, STRIP_COUNTS) if STRIP_OFFSETS in tags else (TILE_OFFSETS, TILE_COUNTS)
    for offset, count in zip(tags[offsets], tags.get(counts, ()), strict=False):
        stream.seek(offset)
        data = stream.read(count)
        if compression == JPEG:
            check_jpeg(data, tags.get(JPEG_TABLES), tags.get(SAMPLES_PER_PIXEL, 1))
            continue
        inflated = zlib.decompressobj()
        while data:
            inflated.decompress(data, 1 << 20)
            data = inflated.unconsumed_tail


def check_jpeg(data: bytes, tables: bytes | None, samples: int) -> None:
    """Refuses a strip or tile with damaged codes, which the tables of the page belong to."""
    from contextae.data.jpeg import strictly  # which imports `decode`, and that this

    if samples in (1, 3):
        strictly((tables[:-2] + data[2:]) if tables else data, "GRAY" if samples == 1 else "RGB", 1, 1)


def pages_are_channels(stream: BinaryIO) -> bool:
    """Whether the metadata of a TIFF of several pages say that these are the channels of one image."""
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(stream, name=NAME) as file:
        return bool(file.series) and "C" in file.series[0].axes


def _first(series: Any) -> np.ndarray:
    """h w c of a series: its C and S axes together are channels, of every other axis the first entry counts."""
    alone = not set(series.axes) <= set("YXSC") and len(series.pages) > 1 and "C" not in series.axes
    for page in series.pages[:1] if alone else series.pages:
        # None is one that is in another file
        if page is None or 0 in page.databytecounts or len(page.dataoffsets) < math.prod(page.chunked):
            raise BadImage("a TIFF with missing parts")
    if alone:
        array, axes = series.pages[0].asarray(), series.pages[0].axes
    else:
        array, axes = series.asarray(), series.axes
    for axis in [axis for axis in axes if axis not in "YXSC"]:
        array = np.take(array, 0, axis=axes.index(axis))
        axes = axes.replace(axis, "")
    array = array.transpose([axes.index(axis) for axis in "YXCS" if axis in axes])
    return array.reshape(*array.shape[:2], -1)


def tiff_region(page: Any, stream: Any, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """h w c of one page, from the segments that the region touches."""
    form = page.keyframe  # of pages that are alike the first alone has all tags
    rows, columns = form.chunks[0], form.chunks[1]
    across, down = math.ceil(form.imagewidth / columns), math.ceil(form.imagelength / rows)
    planes = form.samplesperpixel if int(form.planarconfig) == SEPARATE and form.samplesperpixel > 1 else 1
    region = np.zeros((bottom - top, right - left, form.samplesperpixel), form.dtype.newbyteorder("="))
    for plane in range(planes):
        for row in range(top // rows, math.ceil(bottom / rows)):
            for column in range(left // columns, math.ceil(right / columns)):
                number = (plane * down + row) * across + column
                y, x = row * rows, column * columns
                part = segment(page, stream, number)[: form.imagelength - y, : form.imagewidth - x]
                into = region[max(0, y - top) :, max(0, x - left) :]
                taken = part[max(0, top - y) : bottom - y, max(0, left - x) : right - x]
                target = into[: taken.shape[0], : taken.shape[1]]
                target[..., plane : plane + taken.shape[2]] = taken
    return region


def segment(page: Any, stream: Any, number: int) -> np.ndarray:
    """One tile or strip, h w c."""
    count = page.databytecounts[number] if number < len(page.databytecounts) else 0
    if not count:
        raise BadImage("a TIFF with missing parts")
    stream.seek(page.dataoffsets[number])
    data = stream.read(count)
    if len(data) < count:
        raise BadImage("truncated file")
    form = page.keyframe
    if int(form.compression) == JPEG:
        check_jpeg(data, page.jpegtables, form.samplesperpixel if int(form.planarconfig) != SEPARATE else 1)
    decoded, _, _ = form.decode(data, number, jpegtables=page.jpegtables, jpegheader=form.jpegheader)
    if decoded is None or decoded.ndim != 4:
        raise BadImage("damaged pixels")
    return decoded[0]
