from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contextae.data.decode import decode, from_pillow, probe, quiet
from contextae.data.facts import BadImage, ImageFacts, Unsupported
from data.pictures import HEIGHT, WIDTH, deep_png, encoded, tiff_with_extra

DATA = os.environ.get("CONTEXTAE_DATA", "")


def values(dtype: str, channels: int, seed: int = 0) -> np.ndarray:
    """h w c over the whole range of the type."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, channels)
    if dtype.startswith("f"):
        return rng.normal(0, 1e3, shape).astype(dtype)
    kind = np.iinfo(dtype)
    return rng.integers(kind.min, kind.max, shape, dtype=dtype, endpoint=True)


def tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def npy(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def saved(array: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def whole(data: bytes) -> tuple[ImageFacts, np.ndarray]:
    """What the header says and what is decoded, which must agree."""
    facts = probe(data)
    image = decode(data, channels=facts.channels, dtype=facts.dtype)
    assert image.shape == (facts.height, facts.width, facts.channels)
    assert str(image.dtype) == facts.dtype and image.dtype.isnative
    return facts, image


@pytest.mark.skipif(not DATA, reason="CONTEXTAE_DATA names no folder of real images")
def test_every_real_microscopy_file_keeps_its_type_shape_and_maximum() -> None:
    folder = Path(DATA, "microscopy_formats")
    with (folder / "files.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 16
    for row in rows:
        facts, image = whole((folder / row["file"]).read_bytes())
        shape = [int(part) for part in row["shape"].split("x")]
        expected = (*shape, 1) if len(shape) == 2 else tuple(shape) if shape[2] == 3 else (*shape[1:], shape[0])
        assert (str(image.dtype), image.shape, int(image.max())) == (row["dtype"], expected, int(row["max"])), row
        assert not facts.frames


GRAY, COLOUR = values("uint16", 1), values("uint16", 3)
ALPHA = np.dstack([COLOUR, np.full((HEIGHT, WIDTH), 65535, np.uint16)])
SIXTEEN: dict[str, tuple[bytes, np.ndarray]] = {
    "PNG gray": (imagecodecs.png_encode(GRAY), GRAY),
    "PNG RGB": (imagecodecs.png_encode(COLOUR), COLOUR),
    "PNG RGB with alpha": (imagecodecs.png_encode(ALPHA), COLOUR),
    "PNG gray with alpha": (imagecodecs.png_encode(np.ascontiguousarray(ALPHA[:, :, 2:])), COLOUR[:, :, 2:]),
    "JPEG2000 gray": (imagecodecs.jpeg2k_encode(GRAY[:, :, 0], reversible=True, level=0), GRAY),
    "JPEG2000 RGB": (imagecodecs.jpeg2k_encode(COLOUR, reversible=True, level=0), COLOUR),
    "TIFF gray": (tiff(GRAY[:, :, 0]), GRAY),
    "TIFF gray, big endian": (tiff(GRAY[:, :, 0], byteorder=">"), GRAY),
    "TIFF RGB": (tiff(COLOUR, photometric="rgb"), COLOUR),
    "TIFF RGB, in planes": (tiff(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), COLOUR),
    "TIFF RGB, LZW": (tiff(COLOUR, photometric="rgb", compression="lzw"), COLOUR),
    "TIFF RGB, Zstandard": (tiff(COLOUR, photometric="rgb", compression="zstd", predictor=True), COLOUR),
    "TIFF RGB with alpha": (tiff(ALPHA, photometric="rgb", extrasamples=["unassalpha"]), COLOUR),
    "TIFF white is zero": (tiff(65535 - GRAY[:, :, 0], photometric="miniswhite"), GRAY),
    "BigTIFF gray, tiles": (tiff(GRAY[:, :, 0], bigtiff=True, tile=(16, 16)), GRAY),
    "PPM gray": (b"P5 19 13 65535\n" + GRAY.astype(">u2").tobytes(), GRAY),
    "PPM RGB": (b"P6\n# said by\n19 13\n60000\n" + COLOUR.astype(">u2").tobytes(), COLOUR),
    "NumPy gray": (npy(GRAY[:, :, 0]), GRAY),
    "NumPy RGB": (npy(COLOUR), COLOUR),
    "NumPy RGB, channels first": (npy(COLOUR.transpose(2, 0, 1)), COLOUR),
    "NumPy RGB, big endian": (npy(COLOUR.astype(">u2")), COLOUR),
    "NumPy RGB, by columns": (npy(np.asfortranarray(COLOUR)), COLOUR),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_16_bits_are_kept_value_for_value(name: str) -> None:
    data, expected = SIXTEEN[name]
    facts, image = whole(data)
    np.testing.assert_array_equal(image, expected)
    assert facts.kind == f"16-bit {'RGB' if 'RGB' in name else 'gray'}" and not facts.photograph
    assert facts.format == name.split()[0].replace("BigTIFF", "TIFF") and facts.num_bytes == len(data)


@pytest.mark.parametrize(("bits", "suffix"), [(10, "AVIF"), (12, "AVIF"), (12, "JPEG2000")])
def test_10_and_12_bits_keep_their_numbers(bits: int, suffix: str) -> None:
    image = (values("uint16", 3) >> (16 - bits)).astype(np.uint16)
    smooth = np.full_like(image, 1) * np.arange(HEIGHT, dtype=np.uint16)[:, None, None] * ((1 << bits) // HEIGHT)
    encode = {"AVIF": imagecodecs.avif_encode, "JPEG2000": imagecodecs.jpeg2k_encode}[suffix]
    facts, decoded = whole(encode(smooth, level=95 if suffix == "AVIF" else 0, bitspersample=bits))
    assert (facts.dtype, facts.kind, facts.format) == ("uint16", "16-bit RGB", suffix)
    assert np.abs(decoded.astype(int) - smooth).max() <= (1 << bits) // 64 and decoded.max() < 1 << bits


@pytest.mark.parametrize("dtype", ["int16", "uint32", "int32", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_become_float32(dtype: str, channels: int) -> None:
    given = values(dtype, channels) if dtype != "float16" else values("float32", channels).astype("float16")
    for data in (
        npy(given if channels > 1 else given[:, :, 0]),
        tiff(np.moveaxis(given, -1, 0), metadata={"axes": "CYX"}),
    ):
        facts, image = whole(data)
        np.testing.assert_array_equal(image, given.astype(np.float32))
        assert facts.kind == (f"{channels} x float" if channels > 1 else "float gray")


def test_pages_that_are_called_channels_are_channels_and_others_are_not() -> None:
    stack = values("uint16", 3).transpose(2, 0, 1)
    facts, image = whole(tiff(stack, metadata={"axes": "CYX"}, photometric="minisblack"))
    np.testing.assert_array_equal(image, stack.transpose(1, 2, 0))
    assert (facts.kind, facts.frames) == ("3 x 16-bit", False)
    for axes in ("ZYX", "TYX"):
        facts, image = whole(tiff(stack, metadata={"axes": axes}, photometric="minisblack"))
        np.testing.assert_array_equal(image[:, :, 0], stack[0])
        assert (facts.kind, facts.frames) == ("16-bit gray", True)
    facts, image = whole(tiff(stack.astype(np.uint8), metadata={"axes": "CYX"}, photometric="minisblack"))
    assert (facts.kind, facts.photograph) == ("3 x 8-bit", False)
    np.testing.assert_array_equal(image, stack.transpose(1, 2, 0).astype(np.uint8))


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}])
def test_of_times_and_depths_the_first_counts_and_its_channels_stay(options: dict[str, bool]) -> None:
    hyper = np.random.default_rng(0).integers(0, 65536, (2, 3, 4, HEIGHT, WIDTH)).astype(np.uint16)
    facts, image = whole(tiff(hyper, metadata={"axes": "TZCYX"}, photometric="minisblack", **options))
    np.testing.assert_array_equal(image, hyper[0, 0].transpose(1, 2, 0))
    assert (facts.channels, facts.frames) == (4, True)


@pytest.mark.parametrize(
    ("photometric", "channels", "extra", "depth"),
    [(1, 2, (0,), 8), (2, 4, (0,), 8), (2, 4, (), 8), (2, 5, (2, 0), 8), (2, 5, (0, 0), 8), (1, 5, (0,) * 4, 16)],
)
def test_a_tiff_channel_without_an_alpha_tag_is_data_and_not_dropped(photometric, channels, extra, depth) -> None:
    facts, image = whole(tiff_with_extra(extra, channels, photometric, depth))
    assert (facts.channels, facts.kind) == (channels, f"{channels} x {depth}-bit")
    assert len(np.unique(image)) == channels


@pytest.mark.parametrize(("photometric", "channels", "extra"), [(3, 2, (0,)), (5, 5, (0,)), (5, 6, (0, 0))])
def test_palettes_and_cmyk_with_further_channels_are_not_supported(photometric, channels, extra) -> None:
    with pytest.raises(Unsupported, match=r"^uint8 of photometric (palette|separated), not supported$"):
        probe(tiff_with_extra(extra, channels, photometric))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_deep_image_is_upright(turn: int) -> None:
    """As Pillow turns the same image of 8 bits."""
    small = values("uint8", 1)[:, :, 0]
    data = tiff(small.astype(np.uint16), extratags=[(274, 3, 1, turn, True)])
    _, image = whole(data)
    eight = tiff(small, extratags=[(274, 3, 1, turn, True)])
    np.testing.assert_array_equal(image, decode(eight, channels=1))
    exif = Image.Exif()
    exif[274] = turn
    stream = io.BytesIO()
    Image.fromarray(small.astype(np.uint16)).save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(whole(stream.getvalue())[1], image)


@pytest.mark.parametrize(("kind", "premultiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_alpha_is_composited_on_the_mean_colour_of_what_is_visible(kind: str, premultiplied: bool) -> None:
    colours = np.array([[1000.0, 2000], [60_000, 40_000], [3000, 500]])
    alphas = np.array([1.0, 0.25, 0.0])
    stored = np.rint(colours * alphas[:, None] if premultiplied else colours)
    data = np.dstack([stored[None, :, :1], stored[None, :, 1:], np.full((1, 3, 1), 7), alphas[None, :, None] * 65535])
    if premultiplied:
        data[:, :, 2] *= alphas
    facts, image = whole(tiff(np.rint(data).astype(np.uint16), photometric="rgb", extrasamples=[kind]))
    assert facts.kind == "16-bit RGB"
    mean = (colours * alphas[:, None]).sum(0) / alphas.sum()
    expected = colours * alphas[:, None] + mean * (1 - alphas[:, None])
    np.testing.assert_allclose(image[0, :, :2], expected, atol=1.5)
    np.testing.assert_array_equal(image[0, 0, :2], colours[0])


def test_by_strips_the_values_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).random((67, 41, 4))
    for array in ((noise * 65535).astype(np.uint16), noise.astype(np.float32)):
        for kind in ("unassalpha", "assocalpha"):
            data = tiff(array, photometric="rgb", extrasamples=[kind])
            with monkeypatch.context() as patch:
                _, expected = whole(data)
                patch.setattr("contextae.data.deep.STRIP", 41 * 7 + 5)
                np.testing.assert_array_equal(whole(data)[1], expected)


def test_a_file_that_was_opened_by_its_number_is_read(tmp_path: Path) -> None:
    """It has that number for its name."""
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(GRAY[:, :, 0]))
    with os.fdopen(os.open(path, os.O_RDONLY), "rb") as stream:
        assert probe(stream) == probe(path.read_bytes())


def test_small_numpy_files_are_photographs_where_they_have_one_or_three_channels_of_8_bits() -> None:
    assert probe(npy(values("uint8", 3))).kind == "RGB"
    assert probe(npy(values("uint8", 3))).photograph
    np.testing.assert_array_equal(decode(npy(values("uint8", 1)), channels=3)[:, :, 1], values("uint8", 1)[:, :, 0])
    assert decode(npy(np.eye(4, dtype=bool)), channels=1)[:, :, 0].tolist() == (255 * np.eye(4, dtype=int)).tolist()
    assert not probe(npy(values("uint8", 2))).photograph


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            lambda: npy(np.array([[object()]]), allow_pickle=True),
            "a NumPy file of Python objects, which are never loaded",
        ),
        (lambda: npy(np.zeros(5)), "an array of 1 axes, not height x width (x channels)"),
        (lambda: npy(np.zeros((3, 0))), "an array of 3 x 0"),
        (lambda: npy(GRAY[:, :, 0]).replace(b"(13, 19)", b"(13, -9)"), "an array of 13 x -9"),
        (lambda: npy(np.zeros((3, 4), np.uint16))[:-1], "truncated file"),
        (lambda: npy(np.full((3, 4), np.nan, np.float32)), "values that are not finite"),
        (lambda: npy(np.full((3, 4), 1e300)), "values that are not finite"),
        (lambda: npy(np.zeros((70, 80, 90), np.uint8)), "90 channels, more than 64"),
        (lambda: npy(np.zeros((3, 4), complex)), "complex128 pixels, not supported"),
        (lambda: tiff(GRAY[:, :, 0], compression="zlib")[:-40], None),
        (lambda: deep_png(2, 3)[:-30], None),
        (lambda: b"P5 19 13 65535\n" + bytes(40), "truncated file"),
        (lambda: b"P2 2 1 65535\n1 2", "16-bit PPM in text, not supported"),
        (lambda: saved(np.zeros((3, 2), np.float32), "TIFF")[:20], "damaged header"),
        (lambda: tiff(np.zeros((3, 2), np.complex64)), "complex64 pixels, not supported"),
    ],
)
def test_what_cannot_be_used_is_said(data: Callable[[], bytes], reason: str | None) -> None:
    with quiet(), pytest.raises(BadImage) as caught:
        whole(data())
    assert caught.value.reason == (reason or caught.value.reason)
    assert isinstance(caught.value, Unsupported) is bool(
        reason and ("not supported" in reason or "more than" in reason)
    )


@pytest.mark.parametrize("name", SIXTEEN)
def test_no_format_gives_pixels_of_a_file_that_was_cut(name: str) -> None:
    data = SIXTEEN[name][0]
    for share in (0.3, 0.6, 0.9):
        with quiet(), pytest.raises(BadImage):
            decode(data[: int(share * len(data))], channels=3 if "RGB" in name else 1, dtype="uint16")


def test_what_would_take_too_much_memory_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2)
    for data in (imagecodecs.png_encode(values("uint16", 3)), npy(np.asfortranarray(values("uint16", 3)))):
        with pytest.raises(BadImage, match=r"the limit against decompression bombs$"):
            probe(data)
    for data in (npy(values("uint16", 3)), tiff(values("uint16", 3), photometric="rgb")):
        assert probe(data).parts, "of which parts can be read"
        with pytest.raises(BadImage, match=r"the limit against decompression bombs$"):
            decode(data, channels=3, dtype="uint16")
    header = npy(np.zeros((1, 1), np.float32)).replace(b"(1, 1), }  ", b"(1e5, 9), ")
    with pytest.raises(BadImage):
        probe(header)


@pytest.mark.parametrize(
    ("dtype", "channels", "fits"),
    [("uint8", 6, True), ("uint8", 7, False), ("uint16", 3, True), ("uint16", 4, False), ("float32", 2, False)],
)
def test_the_limit_is_one_of_bytes(dtype: str, channels: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as an RGB image of twice MAX_IMAGE_PIXELS has, at which Pillow refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    data = npy(np.asfortranarray(values(dtype, channels)))
    if fits:
        assert whole(data)[0].channels == channels
    else:
        with pytest.raises(BadImage, match=r"the limit against decompression bombs$"):
            probe(data)


def test_an_opened_image_is_read_like_its_file() -> None:
    for name in ("PNG gray", "TIFF gray"):
        image = Image.open(io.BytesIO(SIXTEEN[name][0]))
        np.testing.assert_array_equal(from_pillow(image, channels=1, dtype="uint16"), GRAY)
    with pytest.raises(BadImage, match=r"^1 channel\(s\) of uint16, where 3 of uint8 are used$"):
        from_pillow(Image.open(io.BytesIO(SIXTEEN["PNG gray"][0])), channels=3)
    with pytest.raises(Unsupported, match=r"^LAB pixels, not supported$"):
        from_pillow(Image.new("LAB", (3, 2)), channels=3)


SAMPLES = [data for data, _ in SIXTEEN.values()] + [encoded(mode="P")]


@settings(max_examples=400, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    near_start=st.booleans(),
    cut=st.none() | st.floats(0, 1),
)
def test_damaged_bytes_are_a_bad_image_or_an_image(sample, changes, near_start, cut) -> None:
    data = bytearray(sample)
    for place, value in changes:
        data[place % (min(200, len(data)) if near_start else len(data))] = value
    damaged = bytes(data[: len(data) if cut is None else int(cut * len(data))])
    with quiet():
        try:
            whole(damaged)
        except BadImage as error:
            assert error.reason
