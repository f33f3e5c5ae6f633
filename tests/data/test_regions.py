from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contextae.data.augment import Crop
from contextae.data.decode import decode, probe
from contextae.data.facts import BadImage
from contextae.data.picture import picture
from contextae.data.regions import Tiles
from contextae.data.resize import resize
from contextae.randomness import stream

HEIGHT, WIDTH = 70, 90
GRAY = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
COLOUR = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
STACK = np.random.default_rng(2).normal(0, 9, (4, HEIGHT, WIDTH)).astype(np.float32)


def tiff(array: np.ndarray, **options: object) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, array, **options)  # type: ignore[arg-type]
    return data.getvalue()


def npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


FILES = {
    "tiles": tiff(GRAY, tile=(32, 16)),
    "tiles, big endian, compressed": tiff(GRAY, tile=(16, 32), byteorder=">", compression="zlib", predictor=True),
    "strips": tiff(GRAY, rowsperstrip=7),
    "one strip": tiff(GRAY, rowsperstrip=HEIGHT),
    "white is zero": tiff(GRAY, tile=(32, 32), photometric="miniswhite"),
    "colour tiles": tiff(COLOUR, tile=(32, 32), photometric="rgb"),
    "colour planes": tiff(COLOUR.transpose(2, 0, 1), tile=(16, 16), photometric="rgb", planarconfig="separate"),
    "pages of channels": tiff(STACK, tile=(32, 32), photometric="minisblack", metadata={"axes": "CYX"}),
    "NumPy": npy(GRAY),
    "NumPy colour": npy(COLOUR),
    "NumPy channels first": npy(STACK),
    "NumPy, big endian": npy(GRAY.astype(">u2")),
    "NumPy channels first, big endian": npy(STACK.astype(">f4")),
}


class Counted(io.BytesIO):
    """A file that counts the bytes read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def tiles(stream: io.BytesIO) -> Tiles:
    """Of the channels and the type that its header says."""
    facts = probe(stream)
    return Tiles(stream, facts.channels, facts.dtype)


def whole(data: bytes) -> np.ndarray:
    facts = probe(data)
    return decode(data, channels=facts.channels, dtype=facts.dtype)


@pytest.mark.parametrize("name", FILES)
def test_a_tile_is_what_the_whole_image_holds_there(name: str) -> None:
    image, window = whole(FILES[name]), tiles(io.BytesIO(FILES[name]))
    assert window.shape[:2] == (HEIGHT, WIDTH)
    for left, top in ((0, 0), (WIDTH - 24, HEIGHT - 20), (31, 15), (40, 33)):
        box = (left, top, left + 24, top + 20)
        region, inner = window.part(box, (20, 24))
        x, y = int(inner[0]), int(inner[1])
        np.testing.assert_array_equal(region[y : y + 20, x : x + 24], image[top : top + 20, left : left + 24])
        np.testing.assert_array_equal(resize(region, (20, 24), inner), resize(image, (20, 24), box))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    left=st.floats(0, 60),
    top=st.floats(0, 40),
    width=st.floats(8, 30),
    height=st.floats(8, 30),
)
def test_a_resized_part_is_that_of_the_whole_image(name, left, top, width, height) -> None:
    """The margin holds all that the kernel reaches."""
    box = (left, top, left + width, top + height)
    region, inner = tiles(io.BytesIO(FILES[name])).part(box, (9, 11))
    expected = resize(whole(FILES[name]), (9, 11), box).astype(float)
    assert np.abs(resize(region, (9, 11), inner) - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ["tiles", "strips", "NumPy"])
def test_only_what_is_needed_is_read(name: str) -> None:
    large = np.random.default_rng(0).integers(0, 65536, (800, 900)).astype(np.uint16)
    data = {"tiles": tiff(large, tile=(64, 64)), "strips": tiff(large, rowsperstrip=8), "NumPy": npy(large)}[name]
    file = Counted(data)
    window = tiles(file)
    file.bytes_read = 0
    region, inner = window.part((100.0, 200.0, 164.0, 264.0), (64, 64))
    found = region[int(inner[1]) :][:64, int(inner[0]) :][:, :64, 0]
    np.testing.assert_array_equal(found, large[200:264, 100:164])
    assert file.bytes_read < len(data) / 5


def test_what_is_too_large_as_a_whole_is_read_by_parts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    for name in ("tiles", "colour tiles", "colour planes", "pages of channels", "NumPy channels first"):
        facts = probe(FILES[name])
        assert facts.parts and (facts.height, facts.width) == (HEIGHT, WIDTH)
        with pytest.raises(BadImage, match=r"the limit against decompression bombs$"):
            decode(FILES[name], channels=facts.channels, dtype=facts.dtype)
        assert tiles(io.BytesIO(FILES[name])).part((5, 6, 13, 14), (8, 8)).image.shape[2] == facts.channels
        with pytest.raises(BadImage, match=r"the limit against decompression bombs$"):
            tiles(io.BytesIO(FILES[name])).part((0, 0, WIDTH, HEIGHT), (8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    assert not probe(FILES["tiles"]).parts


def test_slides_of_jpeg_tiles_become_rgb() -> None:
    """As whole-slide scanners write them: YCbCr, which the codec turns back."""
    smooth = np.asarray(Image.fromarray(COLOUR[:8, :9]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    data = tiff(smooth, tile=(32, 32), photometric="rgb", compression="jpeg", compressionargs={"level": 95})
    assert int(tifffile.TiffFile(io.BytesIO(data)).pages[0].photometric) == 6  # type: ignore[union-attr]
    window = tiles(io.BytesIO(data))
    region, _ = window.part((0, 0, 40, 40), (40, 40))
    assert np.abs(region.astype(int) - smooth[: region.shape[0], : region.shape[1]]).mean() < 4
    assert probe(data).channels == 3


@pytest.mark.parametrize(
    "data",
    [imagecodecs.png_encode(GRAY), tiff(np.stack([GRAY] * 3), metadata={"axes": "TYX"}, photometric="minisblack")],
    ids=["PNG", "times"],
)
def test_other_files_have_no_parts(data: bytes) -> None:
    with pytest.raises(BadImage, match="the limit against decompression bombs"):
        tiles(io.BytesIO(data))


@pytest.mark.parametrize("cut", [0.3, 0.6])
def test_a_part_that_is_not_there_is_bad(cut: float) -> None:
    for name in ("NumPy", "NumPy channels first"):
        window = tiles(io.BytesIO(FILES[name][: int(cut * len(FILES[name]))]))
        with pytest.raises(BadImage, match=r"^truncated file$"):
            window.part((0, 50, 20, 70), (20, 20))


def test_whatever_is_wrong_with_a_part_makes_the_image_bad() -> None:
    """The training goes on without it."""
    strip = struct.pack("<HHI", 278, 4, 1)  # rows of each
    at = FILES["strips"].index(strip)
    longer = FILES["strips"][: at + 8] + b"\x09" + FILES["strips"][at + 9 :]
    packed = bytearray(tiff(GRAY, tile=(32, 32), compression="zlib"))
    middle = len(packed) // 2
    packed[middle : middle + 4000] = bytes(4000)
    for data in (longer, bytes(packed)):
        with pytest.raises(BadImage, match=r"^damaged pixels$"):
            tiles(io.BytesIO(data)).part((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))
    header = FILES["NumPy"].replace(b"(70, 90)", b"(70, 90]")
    with pytest.raises(BadImage, match=r"^damaged header$"):
        Tiles(io.BytesIO(header), 1, "uint16").part((0, 0, 4, 4), (4, 4))


@pytest.mark.parametrize("options", [{"ome": True}, {"imagej": True}, {"ome": True, "compression": "lzw"}])
def test_channels_of_microscopes_files_are_read_by_parts(options: dict[str, object]) -> None:
    stack = np.stack([GRAY, GRAY[::-1], GRAY // 3, GRAY[:, ::-1]])
    size = {} if "imagej" in options else {"tile": (32, 16), "photometric": "minisblack"}
    data = tiff(stack, metadata={"axes": "CYX"}, **options, **size)
    one = picture(data, channels=4, dtype="uint16", tiles=True)
    region, inner = one.part((31, 15, 55, 35), (20, 24))
    x, y = int(inner[0]), int(inner[1])
    assert isinstance(one, Tiles)
    np.testing.assert_array_equal(region[y:][:20, x:][:, :24], stack.transpose(1, 2, 0)[15:35, 31:55])


def test_a_file_of_which_no_parts_can_be_read_is_read_as_a_whole() -> None:
    """A turned one, a hyperstack, and what only Pillow reads: palettes, CMYK, few bits."""

    def saved(mode: str) -> bytes:
        file = io.BytesIO()
        Image.fromarray(COLOUR).convert(mode).save(file, "TIFF")
        return file.getvalue()

    turned = tiff(GRAY, tile=(32, 32), extratags=[(274, 3, 1, 6, True)])
    times = tiff(np.stack([GRAY] * 3), metadata={"axes": "TYX"}, photometric="minisblack")
    for data in (turned, times, *map(saved, ("1", "P", "CMYK", "YCbCr"))):
        facts, expected = probe(data), whole(data)
        one = picture(data, channels=facts.channels, dtype=facts.dtype, tiles=True)
        assert one.shape == expected.shape == (facts.height, facts.width, facts.channels)
        np.testing.assert_array_equal(one.part((5, 6, 13, 14), (8, 8)).image, expected)


def test_tiles_are_drawn_all_over_and_keep_their_pixels() -> None:
    crop = Crop(size=(20, 24), kind="tile", flip=0.0)
    boxes = [crop.box(HEIGHT, WIDTH, stream("tile", i)) for i in range(400)]
    assert all(b[2] - b[0] == 24 and b[3] - b[1] == 20 for b in boxes)
    lefts, tops = {b[0] for b in boxes}, {b[1] for b in boxes}
    assert (min(lefts), max(lefts), min(tops), max(tops)) == (0, WIDTH - 24, 0, HEIGHT - 20)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    left, top, right, bottom = (int(v) for v in crop.box(HEIGHT, WIDTH, stream("one")))
    np.testing.assert_array_equal(crop(image, stream("one")).transpose(1, 2, 0), image[top:bottom, left:right])
    assert crop.box(10, 90, stream("x")) == (39.0, 0.0, 51.0, 10), "of a smaller image the largest of that aspect"
