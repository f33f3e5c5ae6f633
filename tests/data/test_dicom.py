"""DICOM files: their values as stored, and what is wrong with others."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from contextae.data.decode import decode, probe, quiet
from contextae.data.facts import BadImage, ImageFacts, Unsupported
from data.dicoms import compressed, dicom, run_length_encoded
from data.pictures import HEIGHT, WIDTH, pixels

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
WORDS = RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
SIGNED = WORDS.view(np.int16)
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
EVEN = pixels(0, HEIGHT, WIDTH + 1)
"Smooth, for lossy codecs, and of an even width, as halved colours need."


def whole(data: bytes) -> tuple[ImageFacts, np.ndarray]:
    """What the header says and what is decoded, which must agree."""
    facts = probe(data)
    image = decode(data, channels=facts.channels, dtype=facts.dtype)
    assert image.shape == (facts.height, facts.width, facts.channels)
    assert str(image.dtype) == facts.dtype and image.dtype.isnative
    assert (facts.format, facts.num_bytes) == ("DICOM", len(data))
    return facts, image


def refused(data: bytes) -> str:
    """The reason of the header, or else of the pixels; decoding never says that it is a sound image."""
    with quiet(), pytest.raises(BadImage):
        decode(data, channels=1, dtype="uint16")
    with quiet(), pytest.raises(BadImage) as caught:
        whole(data)
    assert isinstance(caught.value, Unsupported) == caught.value.reason.endswith("not supported")
    return caught.value.reason


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize(
    ("array", "kind"),
    [(BYTES, "gray"), (WORDS, "16-bit gray"), (SIGNED, "float gray"), (WORDS.astype(np.uint32) * 7, "float gray")],
    ids=["8", "16", "signed", "32"],
)
def test_values_are_those_stored(array: np.ndarray, kind: str, syntax: uid.UID) -> None:
    facts, image = whole(dicom(array, syntax=syntax))
    assert facts.kind == kind and facts.photograph == (kind == "gray") and not facts.frames
    assert facts.dtype == ("float32" if kind == "float gray" else str(array.dtype))
    np.testing.assert_array_equal(image[:, :, 0], array)


def test_they_are_neither_rescaled_nor_windowed() -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    _, image = whole(dicom(SIGNED, **tags))  # type: ignore[arg-type]
    np.testing.assert_array_equal(image[:, :, 0], SIGNED)


def test_the_smallest_of_monochrome1_is_the_brightest() -> None:
    for array, bits, turned in (
        (BYTES, 8, 255 - BYTES),
        (WORDS >> 4, 12, 4095 - (WORDS >> 4)),
        (WORDS, 16, 65535 - WORDS),
        (SIGNED, 16, -1.0 - SIGNED),
    ):
        _, image = whole(dicom(array, photometric="MONOCHROME1", bits=bits))
        np.testing.assert_array_equal(image[:, :, 0], turned)


def test_bits_that_are_not_of_the_values_are_none_of_them() -> None:
    """Overlays once were kept there; signed values have their sign at the top of what is used."""
    for photometric, expected in (("MONOCHROME2", WORDS & 4095), ("MONOCHROME1", 4095 - (WORDS & 4095))):
        _, image = whole(dicom(WORDS, bits=12, photometric=photometric))
        np.testing.assert_array_equal(image[:, :, 0], expected)
    twelve = SIGNED >> 4
    for stored in (twelve, twelve & 4095):
        np.testing.assert_array_equal(whole(dicom(stored, bits=12))[1][:, :, 0], twelve)


@pytest.mark.parametrize("planes", [False, True])
def test_colours_come_by_pixels_or_by_planes(planes: bool) -> None:
    facts, image = whole(dicom(COLOUR, photometric="RGB", planes=planes))
    assert facts.kind == "RGB" and facts.photograph
    np.testing.assert_array_equal(image, COLOUR)
    deep = COLOUR.astype(np.uint16) * 257
    facts, image = whole(dicom(deep, photometric="RGB", planes=planes))
    assert facts.kind == "16-bit RGB" and not facts.photograph
    np.testing.assert_array_equal(image, deep)


def test_luminance_and_two_colours_become_rgb() -> None:
    values = np.asarray(Image.fromarray(EVEN).convert("YCbCr"))
    for planes in (False, True):
        facts, image = whole(dicom(values, photometric="YBR_FULL", planes=planes))
        assert facts.kind == "RGB"
        assert np.abs(image.astype(int) - EVEN).max() <= 3
    halved = np.stack([values[:, ::2, 0], values[:, 1::2, 0], values[:, ::2, 1], values[:, ::2, 2]], axis=-1)
    _, image = whole(dicom(values, photometric="YBR_FULL_422", data=halved.tobytes()))
    assert np.abs(image.astype(int) - EVEN).mean() < 8
    assert refused(dicom(values, photometric="YBR_FULL_422")) == "damaged header", "it is not halved"


def test_of_several_frames_the_first_is_read_alone() -> None:
    for array, photometric, planes in (
        (np.stack([WORDS, WORDS[::-1]]), "MONOCHROME2", False),
        (np.stack([COLOUR, COLOUR[::-1], 255 - COLOUR]), "RGB", True),
    ):
        facts, image = whole(dicom(array, photometric=photometric, planes=planes, frames=True))
        assert facts.frames
        np.testing.assert_array_equal(image, array[0] if image.shape[2] == 3 else array[0, :, :, None])
    facts, image = whole(dicom(WORDS[None], frames=True))
    assert not facts.frames
    np.testing.assert_array_equal(image[:, :, 0], WORDS)


def test_what_lies_behind_the_first_frame_is_not_read() -> None:
    class Counted(io.BytesIO):
        bytes_read = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.bytes_read += len(data)
            return data

    data = dicom(np.repeat(WORDS[None], 400, axis=0), frames=True)
    stream = Counted(data)
    assert probe(stream).frames
    assert stream.bytes_read < 10_000 < len(data) / 10
    codes = imagecodecs.jpeg2k_encode(WORDS, reversible=True, codecformat="j2k", level=0)
    data = dicom(
        np.stack([WORDS, WORDS]),
        frames=True,
        syntax=uid.JPEG2000Lossless,
        data=encapsulate([codes, b"not what it is said to be"]),
    )
    np.testing.assert_array_equal(whole(data)[1][:, :, 0], WORDS)


def test_lossless_codes_give_exactly_what_was_stored() -> None:
    for array, photometric in ((WORDS, "MONOCHROME2"), (BYTES, "MONOCHROME2"), (COLOUR, "RGB")):
        _, image = whole(run_length_encoded(array, photometric=photometric))
        np.testing.assert_array_equal(image, array.reshape(image.shape))
    for array, bits, photometric in (
        (WORDS, 16, "MONOCHROME2"),
        (SIGNED, 16, "MONOCHROME2"),
        (WORDS >> 4, 12, "MONOCHROME2"),
        (COLOUR, 8, "RGB"),
    ):
        codes = imagecodecs.jpeg2k_encode(array, reversible=True, codecformat="j2k", level=0, bitspersample=bits)
        data = compressed(array, uid.JPEG2000Lossless, codes, bits=bits, photometric=photometric)
        _, image = whole(data)
        np.testing.assert_array_equal(image, array.reshape(image.shape))


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_colour_jpegs_become_rgb(photometric: str) -> None:
    codes = imagecodecs.jpeg_encode(EVEN, level=98, subsampling="444")
    facts, image = whole(compressed(EVEN, uid.JPEGBaseline8Bit, codes, photometric=photometric))
    assert facts.kind == "RGB"
    assert np.abs(image.astype(int) - EVEN).max() <= 8


def test_a_jpeg_whose_middle_is_damaged_is_refused() -> None:
    """By Pillow it would be taken for sound."""
    for array, photometric in ((np.asarray(Image.fromarray(EVEN).convert("L")), "MONOCHROME2"), (EVEN, "YBR_FULL_422")):
        codes = bytearray(imagecodecs.jpeg_encode(array, level=98))
        at = len(codes) - 60
        codes[at : at + 8] = b"\xff\x00" * 4
        assert np.asarray(Image.open(io.BytesIO(codes))).shape == array.shape
        assert (
            refused(compressed(array, uid.JPEGBaseline8Bit, bytes(codes), photometric=photometric)) == "damaged pixels"
        )


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (uid.JPEGLSLossless, "JPEG-LS Lossless Image Compression"),
        (uid.MPEG2MPML, "MPEG2 Main Profile / Main Level"),
        (uid.HTJ2K, "High-Throughput JPEG 2000 Image Compression"),
    ],
)
def test_without_a_decoder_the_header_says_so(syntax: uid.UID, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if syntax != uid.MPEG2MPML:  # as where a package that has one is not installed
        monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    reason = f"DICOM in {name}, for which no decoder of pydicom's is installed, not supported"
    data = compressed(WORDS, syntax, b"\xff\xd8\xff\xf7" + bytes(40))
    with pytest.raises(Unsupported) as caught:
        probe(data)
    assert caught.value.reason == refused(data) == reason


def test_without_pydicom_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(Unsupported, match=r'^DICOM, which needs pip install "contextae\[dicom\]"$'):
        probe(dicom(BYTES))


GOOD = {
    "plain": dicom(WORDS),
    "odd": dicom(BYTES),
    "implicit": dicom(WORDS, syntax=uid.ImplicitVRLittleEndian),
    "big endian": dicom(WORDS, syntax=uid.ExplicitVRBigEndian),
    "deflated": dicom(WORDS, syntax=uid.DeflatedExplicitVRLittleEndian),
    "frames": dicom(np.stack([COLOUR, COLOUR]), photometric="RGB", frames=True),
    "run lengths": run_length_encoded(WORDS),
    "JPEG": compressed(BYTES, uid.JPEGBaseline8Bit, imagecodecs.jpeg_encode(BYTES, level=95)),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_was_cut_gives_no_pixels(name: str) -> None:
    data = GOOD[name]
    for end in (140, 200, len(data) // 3, int(0.9 * len(data)), len(data) - 1):
        reason = refused(data[:end])
        assert name == "deflated" or end < len(data) * 0.8 or reason == "truncated file"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: dicom(WORDS, without=("PixelData",)), "a DICOM file without pixels"),
        (lambda: dicom(WORDS, data=b""), "a DICOM file without pixels"),
        (
            lambda: dicom(WORDS, without=("PixelData",), syntax=uid.DeflatedExplicitVRLittleEndian),
            "a DICOM file without pixels",
        ),
        (lambda: dicom(WORDS, without=("Rows",)), "a DICOM file without pixels"),
        (lambda: dicom(WORDS, without=("BitsStored", "HighBit")), "damaged header"),
        (lambda: dicom(WORDS, Rows=0), "damaged header"),
        (lambda: dicom(WORDS, Columns=0), "damaged header"),
        (lambda: dicom(WORDS, BitsStored=17, HighBit=16), "damaged header"),
        (lambda: dicom(WORDS, BitsAllocated=12, BitsStored=12, HighBit=11), "damaged header"),
        (lambda: dicom(WORDS, NumberOfFrames=-1), "damaged header"),
        (lambda: dicom(WORDS, NumberOfFrames=2**31 - 1), "damaged header"),
        (lambda: dicom(WORDS, Rows=HEIGHT + 1), "damaged header"),
        (lambda: dicom(WORDS, Rows=65535, Columns=65535), "damaged header"),
        (
            lambda: compressed(WORDS, uid.RLELossless, bytes(64), Rows=65535, Columns=65535),
            "more than 178,956,970 pixels, the limit against decompression bombs",
        ),
        (lambda: compressed(WORDS, uid.RLELossless, bytes(64), Rows=9000, Columns=9000), "damaged pixels"),
        (lambda: compressed(WORDS, uid.JPEG2000Lossless, b"no codes at all"), "damaged pixels"),
        (
            lambda: dicom(WORDS, bits=12, HighBit=15),
            "DICOM of single bits, or of others than the lowest, not supported",
        ),
        (
            lambda: dicom(BYTES, BitsAllocated=1, BitsStored=1, HighBit=0),
            "DICOM of single bits, or of others than the lowest, not supported",
        ),
        (lambda: dicom(BYTES, photometric="PALETTE COLOR"), "DICOM of PALETTE COLOR, not supported"),
        (lambda: dicom(BYTES, photometric="RGB"), "DICOM of RGB, not supported"),
        (
            lambda: dicom(WORDS, without=("PixelData",), FloatPixelData=bytes(4 * WORDS.size)),
            "DICOM of floating-point pixels, not supported",
        ),
        (lambda: dicom(WORDS)[128:], "not an image, or its header is damaged"),
        (lambda: dicom(WORDS)[132:], "not an image, or its header is damaged"),
        (lambda: b"a text, named .dcm\n" * 40, "not an image, or its header is damaged"),
        (lambda: b" " * 128 + b"DICM" + b"a text, named .dcm\n" * 40, "a DICOM file without pixels"),
        (
            lambda: dicom(WORDS).replace(b"UL\4\0", b"UL\3\0", 1).replace(b"\0\0\2\0\1\0OB", b"\0\2\0\1\0OB", 1),
            "not an image, or its header is damaged",
        ),
        (lambda: b" " * 128 + b"DICM", "a DICOM file without pixels"),
    ],
)
def test_what_cannot_be_used_is_said(data: Callable[[], bytes], reason: str) -> None:
    assert refused(data()) == reason


def test_values_too_few_for_the_frames_are_damage_and_more_are_not() -> None:
    two = np.stack([WORDS, WORDS[::-1]])
    with quiet():
        np.testing.assert_array_equal(whole(dicom(two, frames=True, NumberOfFrames=1))[1][:, :, 0], WORDS)
        np.testing.assert_array_equal(whole(dicom(two, frames=True, NumberOfFrames=0))[1][:, :, 0], WORDS)
    assert refused(dicom(two, frames=True, NumberOfFrames=3)) == "damaged header"


def test_what_pydicom_warns_of_is_silenced() -> None:
    """Of this count of frames it does so twice."""
    data = dicom(WORDS, NumberOfFrames=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            whole(data)
        assert not caught
        whole(data)
    assert caught


@settings(max_examples=300, deadline=None)
@given(
    sample=st.sampled_from(list(GOOD.values())),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    header=st.booleans(),
    cut=st.none() | st.floats(0, 1),
)
def test_damaged_bytes_are_a_bad_image_or_an_image(sample, changes, header, cut) -> None:
    data = bytearray(sample)
    for place, value in changes:
        data[place % (min(700, len(data)) if header else len(data))] = value
    damaged = bytes(data[: len(data) if cut is None else int(cut * len(data))])
    with quiet():
        try:
            facts = probe(damaged)
            decode(damaged, channels=facts.channels, dtype=facts.dtype)
        except BadImage as error:
            assert error.reason
