"""TIFF files with damaged codes, missing parts or signs, of which Pillow, that is libtiff, says nothing."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from PIL import Image

from contextae.data.decode import decode, probe
from contextae.data.facts import BadImage
from contextae.data.picture import picture
from data.pictures import pixels

HEIGHT, WIDTH = 96, 130
COLOUR = pixels(2, HEIGHT, WIDTH)


def tiff(image: np.ndarray = COLOUR, photometric: str = "rgb", **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric=photometric, **options)  # type: ignore[arg-type]
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("layout", [{"rowsperstrip": 32}, {"tile": (32, 48)}])
def test_a_checksum_that_does_not_fit_is_damage(layout: dict[str, object]) -> None:
    """libtiff does not get as far as to the checksum where damage has made the data longer."""
    whole = tiff(compression="zlib", **layout)
    np.testing.assert_array_equal(decode(whole, channels=3), COLOUR)
    silent = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        at = int(rng.integers(len(data) // 3, 2 * len(data) // 3))
        data[at : at + 8] = rng.bytes(8)
        with suppress(OSError):
            silent += by_pillow(bytes(data)).shape == COLOUR.shape
        with pytest.raises(BadImage, match=r"^damaged pixels$"):
            decode(bytes(data), channels=3)
    assert silent


@pytest.mark.parametrize("layout", [{"rowsperstrip": 32}, {"tile": (32, 48)}])
def test_damaged_codes_of_a_jpeg_inside_are_not_taken_for_pixels(layout: dict[str, object]) -> None:
    whole = tiff(compression="jpeg", **layout)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        end = page.dataoffsets[1] + page.databytecounts[1]
    data = bytearray(whole)
    data[end - 40 : end - 32] = b"\xff\x00" * 4
    assert by_pillow(bytes(data)).shape == COLOUR.shape
    with pytest.raises(BadImage, match=r"^damaged pixels$"):
        decode(bytes(data), channels=3)
    one = picture(bytes(data), channels=3, tiles=True)
    with pytest.raises(BadImage, match=r"^damaged pixels$"):
        one.part((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))
    for each in (picture(whole, channels=3), picture(whole, channels=3, tiles=True)):
        image = each.part((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH)).image
        assert np.abs(image.astype(int) - COLOUR).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "jpeg", "tiff_lzw", None])
def test_sound_codes_are_sound(mode: str, compression: str | None) -> None:
    file = io.BytesIO()
    image = Image.fromarray(COLOUR).convert(mode)
    image.save(file, "TIFF", **({"compression": compression} if compression else {}))
    expected = np.asarray(image.convert("RGB")).astype(int)
    difference = np.abs(decode(file.getvalue(), channels=3) - expected)
    assert difference.mean() < 12 if compression == "jpeg" else difference.max() <= 2


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("planes", [False, True])
def test_a_tiff_of_fewer_parts_than_its_size_asks_for_is_not_filled_with_black(tiled: bool, planes: bool) -> None:
    """Pillow fills it."""
    colour, file = pixels(3, 40, 35), io.BytesIO()
    tifffile.imwrite(
        file,
        np.moveaxis(colour, 2, 0) if planes else colour,
        photometric="rgb",
        planarconfig="separate" if planes else "contig",
        **({"tile": (16, 16)} if tiled else {"rowsperstrip": 16}),  # type: ignore[arg-type]
    )
    whole = file.getvalue()
    np.testing.assert_array_equal(decode(whole, channels=3), colour)
    height, taller = (struct.pack("<HHII", 257, 4, 1, rows) for rows in (40, 49))
    offsets = [at for at in range(len(whole)) if whole[at : at + 4] == struct.pack("<HH", 324 if tiled else 273, 4)]
    (count,) = struct.unpack_from("<I", whole, offsets[0] + 4)
    missing = bytearray(whole)
    struct.pack_into("<I", missing, struct.unpack_from("<I", whole, offsets[0] + 8)[0], 0)
    assert whole.count(height) == 1 and count == (3 if planes else 1) * (9 if tiled else 3)
    for data in (whole.replace(height, taller), bytes(missing)):
        with pytest.raises(BadImage, match=r"^a TIFF with missing parts$"):
            probe(data)
        with pytest.raises(BadImage, match=r"^a TIFF with missing parts$"):
            decode(data, channels=3)


def test_eight_bits_with_a_sign_are_not_read_without_it() -> None:
    values, file = np.arange(-8, 7, dtype=np.int8).reshape(3, 5), io.BytesIO()
    tifffile.imwrite(file, values)
    assert (probe(file.getvalue()).dtype, probe(file.getvalue()).photograph) == ("float32", False)
    np.testing.assert_array_equal(decode(file.getvalue(), channels=1, dtype="float32")[:, :, 0], values)


def test_a_tiff_with_missing_parts_is_not_filled() -> None:
    deep = np.arange(52 * 19, dtype=np.uint16).reshape(52, 19)
    for data in (
        tiff(deep, photometric="minisblack", tile=(16, 16)),
        tiff(deep, photometric="minisblack", rowsperstrip=7),
    ):
        height, taller = (struct.pack("<HHII", 257, 4, 1, rows) for rows in (52, 90))
        assert data.count(height) == 1
        with pytest.raises(BadImage, match=r"^a TIFF with missing parts$"):
            decode(data.replace(height, taller), channels=1, dtype="uint16")


COMPANION = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:'
    'uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="19" SizeY="13" '
    'SizeC="{c}" SizeZ="{z}" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
    '<TiffData First{axis}="0" IFD="0" PlaneCount="1"><UUID FileName="a.tif">urn:uuid:1</UUID></TiffData>'
    '<TiffData First{axis}="1" IFD="0" PlaneCount="1"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>'
    "</Pixels></Image></OME>"
)


def test_channels_in_another_file_are_missing_and_other_depths_are_not_needed() -> None:
    gray = np.arange(13 * 19, dtype=np.uint16).reshape(13, 19)
    channels, depths = (
        tiff(gray, photometric="minisblack", description=COMPANION.format(axis=axis, c=c, z=z), metadata=None)
        for axis, c, z in (("C", 2, 1), ("Z", 1, 2))
    )
    with pytest.raises(BadImage, match=r"^a TIFF with missing parts$"):
        decode(channels, channels=2, dtype="uint16")
    np.testing.assert_array_equal(decode(depths, channels=1, dtype="uint16")[:, :, 0], gray)
