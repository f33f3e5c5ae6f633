from __future__ import annotations

import errno
import io
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contextae.data.decode import FORMATS, _of_channels, decode, judged, probe, quiet
from contextae.data.facts import BadImage, Unsupported
from data.pictures import HEIGHT, WIDTH, encoded, pixels, tiff_with_extra

MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"),
    "GIF": ("P",),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "AVIF": ("L", "RGB", "RGBA"),
}
EVERY = [(kind, mode) for kind, modes in MODES.items() for mode in modes]
SAMPLES = [encoded(3, kind, mode) for kind, mode in EVERY]


def reason(data: bytes, channels: int = 3) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, channels=channels)
    assert str(caught.value) == caught.value.reason
    assert isinstance(caught.value, Unsupported) == caught.value.reason.endswith("not supported")
    return caught.value.reason


def test_every_format_is_tried() -> None:
    assert set(MODES) == set(FORMATS)


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_every_format_and_mode_gives_its_pixels(kind: str, mode: str) -> None:
    data = encoded(1, kind, mode)
    facts = probe(data)
    assert (facts.height, facts.width, facts.format, facts.num_bytes) == (HEIGHT, WIDTH, kind, len(data))
    assert facts.channels == (1 if mode in ("1", "L", "LA") else 3)
    expected = np.asarray(Image.fromarray(pixels(1)).convert(mode).convert("RGB")).astype(int)
    colour, gray = decode(data, channels=3), decode(data, channels=1)
    assert colour.shape == (HEIGHT, WIDTH, 3) and gray.shape == (HEIGHT, WIDTH, 1)
    assert colour.dtype == gray.dtype == np.uint8
    lossy = kind in ("JPEG", "WEBP", "JPEG2000", "AVIF")
    difference = np.abs(colour - expected)
    assert difference.mean() < 12 if lossy else difference.max() == 0
    weighted = colour.astype(float) @ (0.299, 0.587, 0.114)
    assert np.abs(gray[:, :, 0] - weighted).max() < (4 if kind == "AVIF" or mode == "CMYK" else 1)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "gray"), ("LA", "gray with alpha"), ("P", "palette"), ("RGB", "RGB"), ("RGBA", "RGB with alpha")],
)
def test_the_kind_names_the_mode(mode: str, kind: str) -> None:
    assert probe(encoded(mode=mode)).kind == kind


def test_transparency_without_an_alpha_channel_is_alpha() -> None:
    assert probe(encoded(mode="P", transparency=0)).kind == "palette with alpha"
    assert probe(encoded(mode="L", transparency=0)).kind == "gray with alpha"
    assert probe(encoded(mode="RGB", transparency=(1, 2, 3))).kind == "RGB with alpha"


def test_a_probe_reads_files_and_says_their_size(tmp_path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(kind="JPEG"))
    with path.open("rb") as stream:
        assert probe(stream) == probe(path.read_bytes())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_image_is_upright_once(kind: str, orientation: int) -> None:
    """The bright corner goes where EXIF 2.3's table of orientations has row 0 and column 0."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, exif=exif)
    facts, decoded = probe(stream.getvalue()), decode(stream.getvalue(), channels=3)
    assert decoded.shape[:2] == (facts.height, facts.width) == ((32, 48) if orientation < 5 else (48, 32))
    corners = [decoded[y, x, 0] > 128 for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4))]
    where = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    assert corners == [i == where for i in range(4)]


def test_a_transposed_image_is_the_transpose() -> None:
    exif = Image.Exif()
    exif[0x0112] = 5
    data = encoded(2, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, channels=3), pixels(2).transpose(1, 0, 2))


def flat_rgba(colours: list[tuple[int, int, int, int]]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array([colours], np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_alpha_is_composited_on_the_mean_colour_of_what_is_visible() -> None:
    data = flat_rgba([(100, 0, 20, 255), (200, 50, 40, 255), (9, 255, 255, 0), (250, 25, 30, 51)])
    weights = np.array([1, 1, 0, 0.2])[:, None]
    colours = np.array([(100, 0, 20), (200, 50, 40), (9, 255, 255), (250, 25, 30)])
    mean = (colours * weights).sum(0) / weights.sum()
    expected = np.rint(colours * weights + mean * (1 - weights))
    np.testing.assert_allclose(decode(data, channels=3)[0], expected, atol=1)
    np.testing.assert_array_equal(decode(data, channels=3)[0, :2], colours[:2])


def test_gray_alpha_keeps_its_opaque_values_and_transparent_is_their_mean() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[[10, 255], [30, 255], [240, 0]]], np.uint8), "LA").save(stream, "PNG")
    assert decode(stream.getvalue(), channels=1)[0, :, 0].tolist() == [10, 30, 20]
    assert decode(stream.getvalue(), channels=3)[0, 2].tolist() == [20, 20, 20]


def test_an_image_that_is_all_transparent_is_its_plain_mean() -> None:
    data = flat_rgba([(10, 20, 30, 0), (30, 40, 50, 0)])
    assert decode(data, channels=3)[0].tolist() == [[20, 30, 40], [20, 30, 40]]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("transparency", [None, 77])
def test_by_strips_the_values_are_those_of_the_whole(mode: str, transparency: int | None, monkeypatch) -> None:
    """Rounding and all: the mean colour is that of the image, and no row is missed or done twice."""
    data = encoded(7, mode="P" if transparency else mode, size=(67, 41))
    image = Image.open(io.BytesIO(data))
    noise = np.random.default_rng(0).integers(0, 256, (67, 41)).astype(np.uint8)
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(noise))
    elif transparency:
        image.info["transparency"] = bytes(np.arange(256, dtype=np.uint8))
    whole = [_of_channels(image.copy(), channels) for channels in (1, 3)]
    monkeypatch.setattr("contextae.data.decode.STRIP", 41 * 7 + 5)
    for expected, channels in zip(whole, (1, 3), strict=True):
        np.testing.assert_array_equal(_of_channels(image.copy(), channels), expected)


def test_a_large_image_with_alpha_takes_little_more_memory_than_its_pixels() -> None:
    """Twelve million of them, of which all at once had taken 44 bytes each."""
    image = Image.new("RGBA", (4000, 3000), (9, 99, 199, 128))
    tracemalloc.start()
    array = _of_channels(image, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.shape == (3000, 4000, 3) and (array == (9, 99, 199)).all()
    assert peak < 9 * 12_000_000


@pytest.mark.parametrize(("mode", "transparency"), [("P", 0), ("L", 0), ("1", 0), ("RGB", (0, 0, 0))])
def test_a_transparent_colour_is_replaced(mode: str, transparency: object) -> None:
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255], [255, 255, 255]]], np.uint8)).convert(mode)
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=transparency)
    assert decode(stream.getvalue(), channels=3)[0].tolist() == [[255] * 3] * 3


def test_arrays_are_converted() -> None:
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    np.testing.assert_array_equal(decode(gray, channels=1), gray)
    np.testing.assert_array_equal(decode(gray, channels=3), np.repeat(gray, 3, axis=2))
    colour = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    assert decode(colour, channels=1)[0, :, 0].tolist() == [76, 150]
    np.testing.assert_array_equal(decode(colour, channels=3), colour)


def test_a_photograph_is_not_made_into_what_it_is_not() -> None:
    assert reason(encoded(), 4) == "3 channel(s) of uint8, where 4 of uint8 are used"
    with pytest.raises(BadImage, match=r"^3 channel\(s\) of uint8, where 3 of uint16 are used$"):
        decode(encoded(), channels=3, dtype="uint16")
    with pytest.raises(BadImage, match=r"^2 channel\(s\) of uint16, where 3 of uint8 are used$"):
        decode(np.zeros((3, 4, 2), np.uint16), channels=3)


def test_a_palette_of_grays_is_gray() -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "P")
    image.putpalette([level for i in range(12) for level in [255 - i] * 3])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    assert (probe(stream.getvalue()).kind, probe(stream.getvalue()).channels) == ("gray", 1)
    np.testing.assert_array_equal(decode(stream.getvalue(), channels=1)[:, :, 0], 255 - np.arange(12).reshape(3, 4))


def test_other_colour_spaces_are_refused() -> None:
    stream = io.BytesIO()
    Image.new("LAB", (3, 2)).save(stream, "TIFF")
    assert reason(stream.getvalue()) == "LAB pixels in TIFF, not supported"


def test_a_tiff_whose_tags_contradict_each_other_is_damaged() -> None:
    damaged = "not an image, or its header is damaged"
    whole = tiff_with_extra((0,) * 4, 5, 1)
    begins = struct.pack("<HHII", 273, 4, 1, 8)
    for changed, words in (
        (whole[:-20], damaged),
        (whole.replace(begins, struct.pack("<HHII", 273, 4, 1, len(whole))), "truncated file"),
        (whole.replace(struct.pack("<HHII", 257, 3, 1, HEIGHT), struct.pack("<HHII", 257, 3, 1, 0)), damaged),
        (tiff_with_extra((0,) * 4, 5, 1, 136), damaged),
    ):
        with quiet(), pytest.raises(BadImage) as caught:
            decode(changed, channels=5)
        assert caught.value.reason == words and not isinstance(caught.value, Unsupported)


def test_the_errors_of_a_disk_are_not_those_of_a_file() -> None:
    with pytest.raises(BadImage, match=r"^truncated file$"), judged("damaged"):
        raise OSError("image file is truncated")
    with pytest.raises(OSError, match="Input/output"), judged("damaged"):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("photometric", "channels", "extra", "kind"),
    [
        (0, 1, (), "gray"),
        (1, 1, (), "gray"),
        (1, 2, (1,), "gray with alpha"),
        (1, 2, (2,), "gray with alpha"),
        (2, 3, (), "RGB"),
        (2, 4, (1,), "RGB with alpha"),
        (2, 4, (2,), "RGB with alpha"),
        (3, 1, (), "palette"),
        (3, 2, (2,), "palette with alpha"),
        (5, 4, (), "CMYK"),
        (6, 3, (), "YCbCr"),
    ],
)
def test_a_tiff_channel_with_an_alpha_tag_is_alpha(photometric, channels, extra, kind: str) -> None:
    data = tiff_with_extra(extra, channels, photometric)
    assert probe(data).kind == kind
    assert decode(data, channels=3).shape == (HEIGHT, WIDTH, 3)


def test_several_frames_are_noticed_and_the_first_is_decoded() -> None:
    second = Image.fromarray(pixels(9))
    for kind in ("TIFF", "PNG", "WEBP", "GIF"):
        data = encoded(4, kind, "P" if kind == "GIF" else "RGB", save_all=True, append_images=[second])
        assert probe(data).frames
        assert not probe(encoded(4, kind, "P" if kind == "GIF" else "RGB")).frames
        assert np.abs(decode(data, channels=3).astype(int) - pixels(4)).mean() < 40
    preview = encoded(4, "MPO", save_all=True, append_images=[second])
    assert (probe(preview).format, probe(preview).frames) == ("JPEG", False)


def test_what_is_no_image() -> None:
    assert reason(b"") == "empty file"
    assert reason(b"just some text\n" * 9) == "not an image, or its header is damaged"
    assert reason(encoded(kind="JPEG")[:3]) == "not an image, or its header is damaged"
    for data in (b"", b"text" * 9, encoded()[:20]):
        with pytest.raises(BadImage):
            probe(data)


def test_formats_that_draw_or_have_no_signature_are_not_tried() -> None:
    for kind in ("EPS", "TGA", "ICO"):
        assert reason(encoded(kind=kind)) == "not an image, or its header is damaged"


def test_a_truncated_jpeg_is_not_filled_with_gray() -> None:
    data = encoded(kind="JPEG", size=(64, 64))
    assert probe(data[:-200]).height == 64
    assert reason(data[:-200]) == "truncated file"


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_no_format_gives_pixels_of_a_file_that_was_cut(kind: str, mode: str) -> None:
    data = encoded(5, kind, mode, (31, 37))
    for share in (0.3, 0.6, 0.9):
        with quiet():
            reason(data[: int(share * len(data))])


def test_decompression_bombs_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    words = f"more than {HEIGHT * WIDTH // 2 * 2 - 2:,} pixels, the limit against decompression bombs"
    assert reason(encoded()) == words
    with pytest.raises(BadImage, match="decompression bombs"):
        probe(encoded())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 + 1)  # Pillow warns, and goes on
    with quiet():
        assert decode(encoded(), channels=3).shape == (HEIGHT, WIDTH, 3)


def test_memory_that_runs_out_is_said(monkeypatch) -> None:
    def fail(self) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert reason(encoded()) == "not enough memory to decode it"


def test_quiet_silences_pillow_alone() -> None:
    with quiet():
        warnings.warn_explicit("x", UserWarning, "f", 1, module="PIL.TiffImagePlugin")
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)


@settings(max_examples=300, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    near_start=st.booleans(),
    cut=st.none() | st.floats(0, 1),
    channels=st.sampled_from((1, 3)),
)
def test_damaged_bytes_are_a_bad_image_or_an_image(sample, changes, near_start, cut, channels) -> None:
    data = bytearray(sample)
    for place, value in changes:
        data[place % (min(64, len(data)) if near_start else len(data))] = value
    damaged = bytes(data[: len(data) if cut is None else int(cut * len(data))])
    with quiet():
        try:
            facts = probe(damaged)
            image = decode(damaged, channels=channels)
        except BadImage as error:
            assert error.reason
        else:
            assert image.shape == (facts.height, facts.width, channels) and image.dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_bad_image_or_an_image(data: bytes) -> None:
    with quiet():
        try:
            decode(data, channels=3)
        except BadImage as error:
            assert error.reason
