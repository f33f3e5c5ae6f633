from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from contextae.data import jpeg
from contextae.data.augment import Crop
from contextae.data.decode import ORIENTATION, decode
from contextae.data.facts import BadImage
from contextae.data.jpeg import Head, Jpeg, head_of
from contextae.data.picture import Whole, picture, region
from contextae.data.resize import resize
from data.pictures import encoded, pixels

HEIGHT, WIDTH = 267, 389  # neither a multiple of 2
DATA = Path(os.environ.get("CONTEXTAE_DATA", "../shared/data"))


def scene(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, amplitude: float = 12) -> np.ndarray:
    """Noise of every scale, as in a photograph: h w 3."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.float32)
    for step in (1, 2, 4, 8, 16, 32):
        grid = rng.normal(128, amplitude, (height // step + 1, width // step + 1, 3)).clip(0, 255).astype(np.uint8)
        image += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) - 128.0
    return image.clip(0, 255).astype(np.uint8)


def saved(image: np.ndarray, mode: str = "RGB", orientation: int | None = None, **options) -> bytes:
    stream = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    Image.fromarray(image).convert(mode).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


PHOTO = saved(scene())
FULL, HALF, EIGHTH = (260, 380), (120, 180), (20, 30)  # sizes for which all of it is decoded at 1, 1/2, 1/8
ALL = (0, 0, WIDTH, HEIGHT)


def verdict(data: bytes, size: tuple[int, int] = FULL, channels: int = 3) -> str:
    """Why it is bad, or that it is good."""
    try:
        opened = picture(data, channels=channels)
        opened.part((0, 0, opened.shape[1], opened.shape[0]), size)
    except BadImage as error:
        return error.reason
    return "good"


def damaged(data: bytes, at: int, length: int = 40, seed: int = 0) -> bytes:
    return data[:at] + random.Random(seed).randbytes(length) + data[at + length :]


KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_blocks": 7},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", KINDS)
def test_full_decoding_gives_the_pixels_of_decode(kind, mode, channels) -> None:
    data = saved(scene(), mode, **(KINDS[kind] if mode == "RGB" or kind in ("progressive", "restarts") else {}))
    opened = picture(data, channels=channels)
    assert isinstance(opened, Jpeg) and opened.shape == (HEIGHT, WIDTH, channels)
    image, box = opened.part((3, 5, 300, 200), (150, 150))
    assert image.dtype == np.uint8 and box == (3, 5, 300, 200)
    assert np.array_equal(image, decode(data, channels=channels))


@pytest.mark.parametrize(
    ("box", "size", "scale"),
    [
        (ALL, (HEIGHT, WIDTH), 1),
        (ALL, (133, 194), 2),
        (ALL, (134, 194), 1),
        (ALL, (133, 195), 1),
        (ALL, (66, 97), 4),
        (ALL, (67, 97), 2),
        (ALL, (33, 48), 8),
        (ALL, (2, 2), 8),
        ((100, 50, 164, 178), (32, 32), 2),
        ((100, 50, 163.5, 178), (32, 32), 1),
    ],
)
def test_the_scale_leaves_the_box_the_pixels_that_are_wanted(box, size, scale) -> None:
    image, among = picture(PHOTO, channels=3).part(box, size)
    assert image.shape == (-(-HEIGHT // scale), -(-WIDTH // scale), 3)
    assert among == tuple(side / scale for side in box)
    assert (among[2] - among[0] >= size[1] and among[3] - among[1] >= size[0]) or scale == 1


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_scaled_decoding_is_close_to_full_decoding(scale) -> None:
    means = []
    for seed in range(3):
        data = saved(scene(seed, 1003, 1301), subsampling="4:2:0")
        full, rng = decode(data, channels=3), random.Random(seed)
        opened = picture(data, channels=3)
        for _ in range(4):
            box = Crop(size=(1, 1), scale=(0.4, 1)).box(*opened.shape[:2], rng)
            gap = rng.uniform(scale, 1.99 * scale if scale < 8 else 16)
            size = (int((box[3] - box[1]) / gap), int((box[2] - box[0]) / gap))
            image, among = opened.part(box, size)
            assert image.shape[0] == -(-1003 // scale)
            difference = np.abs(resize(image, size, among).astype(int) - resize(full, size, box))
            assert np.percentile(difference, 99) <= 12
            means.append(difference.mean())
    assert max(means) < 3 and sum(means) / len(means) < 2


def test_scaled_decoding_of_photographs_is_as_close_as_another_kernel() -> None:
    files = sorted((DATA / "coco256_small").rglob("*.jpg"))[:10]
    if not files:
        pytest.skip(f"there are no photographs in {DATA / 'coco256_small'}")
    scaled, linear = [], []
    for path in files:
        data = path.read_bytes()
        full = decode(data, channels=3)
        opened = picture(data, channels=3)
        whole = (0.0, 0.0, float(opened.shape[1]), float(opened.shape[0]))
        for scale in (2, 4, 8):
            size = (int(opened.shape[0] / scale / 1.2), int(opened.shape[1] / scale / 1.2))
            wanted = resize(full, size, whole).astype(int)
            image, box = opened.part(whole, size)
            scaled.append(np.abs(resize(image, size, box) - wanted).mean())
            other = Image.fromarray(full).resize(size[::-1], Image.Resampling.BILINEAR)
            linear.append(np.abs(np.asarray(other).transpose(2, 0, 1) - wanted).mean())
    assert max(scaled) < 6
    assert np.mean(scaled) < 1.3 * np.mean(linear)


@pytest.mark.parametrize("gap", [1, 2.1, 8.5])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_every_orientation_is_turned_at_every_scale(orientation, gap) -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ramp = np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, (x + y) * 255 // (WIDTH + HEIGHT)], 2).astype(np.uint8)
    data = saved(ramp, orientation=orientation, subsampling="4:4:4", quality=98)
    full = decode(data, channels=3)
    opened = picture(data, channels=3)
    assert opened.shape == full.shape
    box = (8, 16, opened.shape[1], opened.shape[0])
    size = (int((box[3] - box[1]) / gap), int((box[2] - box[0]) / gap))
    image, among = opened.part(box, size)
    assert image.shape[0] == -(-opened.shape[0] // int(gap))
    difference = resize(image, size, among).astype(int) - resize(full, size, box)
    assert np.abs(difference[:, 1:-1, 1:-1]).max() <= 2 and abs(difference.mean()) < 0.3


def test_a_crop_is_drawn_as_from_the_decoded_image() -> None:
    data = saved(scene(), orientation=6)
    opened, image, crop = picture(data, channels=3), decode(data, channels=3), Crop(size=(24, 32))
    for seed in range(20):
        drawn = crop.box(*opened.shape[:2], random.Random(seed))
        assert drawn == crop.box(*image.shape[:2], random.Random(seed))


def test_one_scale_is_decoded_once(monkeypatch) -> None:
    decoded = []
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **named: decoded.append(args) or real(*args, **named))
    opened = picture(PHOTO, channels=3)
    assert not decoded
    first = opened.part(ALL, HALF)
    assert opened.part((0, 0, 380, 260), HALF).image is first.image and len(decoded) == 1
    opened.part(ALL, EIGHTH)
    assert len(decoded) == 2


@pytest.mark.parametrize("size", [FULL, HALF, EIGHTH])
@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "restarts", "L"])
def test_a_truncated_file_is_told_wherever_it_ends(kind, size, monkeypatch) -> None:
    monkeypatch.setattr(jpeg, "decode", None)  # Pillow need not be asked
    data = saved(scene(), "L" if kind == "L" else "RGB", **KINDS.get(kind, {}))
    start = data.index(b"\xff\xda") + 20
    ends = [*range(start, len(data), len(data) // 12), *(len(data) - left for left in (1, 2, 3, 50))]
    assert [verdict(data[:end], size) for end in ends] == ["truncated file"] * len(ends)
    closed = [verdict(data[:end] + b"\xff\xd9", size) for end in ends[:-4]]
    assert closed == ["damaged pixels"] * len(closed) if kind != "progressive" else "good" not in closed[:1]


def test_a_damaged_middle_is_told_at_every_scale_where_pillow_tells_nothing() -> None:
    start = PHOTO.index(b"\xff\xda") + 20
    found = 0
    for seed in range(40):
        broken = damaged(PHOTO, random.Random(seed).randrange(start, len(PHOTO) - 60), seed=seed)
        reasons = [verdict(broken, size) for size in (FULL, HALF, EIGHTH)]
        assert len(set(reasons)) == 1 and reasons[0] in ("good", "damaged pixels")
        found += reasons[0] != "good"
    assert found >= 32
    assert decode(damaged(PHOTO, len(PHOTO) // 2), channels=3).shape == (HEIGHT, WIDTH, 3)
    assert verdict(damaged(PHOTO, len(PHOTO) // 2)) == "damaged pixels"


def test_a_damaged_cmyk_file_is_told_and_a_sound_one_is_as_decode_gives_it() -> None:
    data = saved(scene(), "CMYK")
    opened = picture(data, channels=3)
    assert isinstance(opened, Whole) and np.array_equal(opened.image, decode(data, channels=3))
    assert verdict(damaged(data, len(data) // 2)) == "damaged pixels"
    assert verdict(data[: len(data) // 2]) == "truncated file"


def odd_header(change: str) -> bytes:
    data = bytearray(PHOTO)
    if change == "scan parameters":  # as written by some telephones
        scan = data.index(b"\xff\xda")
        end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])
        data[end - 3 : end] = b"\0\0\0"
    elif change == "JFIF 7":
        data[data.index(b"JFIF\0") + 5] = 7
    elif change == "filling":
        data[2:2] = b"\xff\xff"
    elif change == "bytes behind":
        data += b"a second image may follow"
    elif change == "bytes before the end":
        data[-2:-2] = bytes(9)
    return bytes(data)


@pytest.mark.parametrize("size", [FULL, EIGHTH])
@pytest.mark.parametrize("change", ["scan parameters", "JFIF 7", "filling", "bytes behind", "bytes before the end"])
def test_odd_but_harmless_files_are_not_refused(change, size) -> None:
    data = odd_header(change)
    image, box = picture(data, channels=3).part(ALL, size)
    assert resize(image, size, box).shape == (3, *size)
    if change in (
        "scan parameters",
        "JFIF 7",
        "bytes before the end",
    ):  # libjpeg warns, so that Pillow decodes, in full
        assert box == ALL and np.array_equal(image, decode(data, channels=3))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_other_formats_are_decoded_at_once(kind) -> None:
    data = encoded(1, kind)
    opened = picture(data, channels=3)
    assert isinstance(opened, Whole)
    image, box = opened.part((1, 2, 9, 8), (2, 2))
    assert np.array_equal(image, decode(data, channels=3)) and box == (1, 2, 9, 8)


def test_arrays_are_converted_as_by_decode() -> None:
    gray = pixels(1)[:, :, :1]
    opened = picture(gray, channels=3)
    assert isinstance(opened, Whole) and np.array_equal(opened.image, decode(gray, channels=3))
    assert opened.shape[:2] == gray.shape[:2] and opened.shape == opened.image.shape


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"text", PHOTO[:100]])
def test_what_is_no_jpeg_is_bad_for_the_reason_of_decode(data) -> None:
    with pytest.raises(BadImage) as wanted:
        decode(data, channels=3)
    assert verdict(data) == wanted.value.reason


def test_a_region_of_an_array_is_all_of_it_and_of_a_picture_its_part() -> None:
    image = pixels(1)
    assert region(image, (1, 2, 9, 8), (2, 2)).image is image and region(image, (1, 2, 9, 8), (2, 2)).box == (
        1,
        2,
        9,
        8,
    )
    opened = picture(PHOTO, channels=3)
    assert region(opened, ALL, EIGHTH).image is opened.part(ALL, EIGHTH).image


def test_another_type_or_number_of_channels_is_refused_as_by_decode() -> None:
    for channels, dtype in ((2, "uint8"), (3, "uint16")):
        with pytest.raises(BadImage, match=f"3 channel.s. of uint8, where {channels} of {dtype} are used"):
            picture(PHOTO, channels=channels, dtype=dtype)
    deep = np.zeros((4, 5, 2), np.uint16)
    assert picture(deep, channels=2, dtype="uint16").part((0, 0, 5, 4), (2, 2)).image.dtype == np.uint16


def test_a_header_is_read_up_to_its_first_scan() -> None:
    assert head_of(PHOTO) == Head(HEIGHT, WIDTH, 3, usual=True, tagged=False)
    assert head_of(saved(scene(), "L", orientation=3)) == Head(HEIGHT, WIDTH, 1, usual=True, tagged=True)
    assert head_of(saved(scene(), "CMYK")) == Head(HEIGHT, WIDTH, 4, usual=False, tagged=False)
    frame = PHOTO.index(b"\xff\xc0")
    length = 2 + int.from_bytes(PHOTO[frame + 2 : frame + 4])
    segment = PHOTO[frame : frame + length]
    twelve = PHOTO[: frame + 4] + b"\x0c" + PHOTO[frame + 5 :]
    arithmetic = PHOTO[: frame + 1] + b"\xc9" + PHOTO[frame + 2 :]
    assert [head_of(data).usual for data in (twelve, arithmetic)] == [False, False]
    no_height = PHOTO[: frame + 5] + b"\0\0" + PHOTO[frame + 7 :]
    behind_app1 = PHOTO[: frame + length] + b"\xff\xe1\0\4ab" + PHOTO[frame + length :]
    assert head_of(behind_app1).tagged
    assert head_of(odd_header("filling")) == head_of(PHOTO)
    for odd in (
        PHOTO[:frame] + segment + PHOTO[frame:],  # two frames
        PHOTO[:frame] + PHOTO[frame + length :],  # none
        no_height,
        PHOTO[:frame] + b"\xff\xd0\0\2" + PHOTO[frame:],  # a restart before the scan
        PHOTO[:frame] + b"\0" + PHOTO[frame:],
        PHOTO[: frame + 7],
    ):
        assert head_of(odd) is None


def test_an_orientation_that_is_none_turns_nothing() -> None:
    data = saved(scene(), orientation=9)
    assert np.array_equal(picture(data, channels=3).part(ALL, FULL).image, decode(data, channels=3))


def test_a_header_that_pillow_refuses_is_judged_by_decode(monkeypatch) -> None:
    data = saved(scene(), orientation=6)

    def refuse(*args, **named):
        raise SyntaxError("no")

    monkeypatch.setattr(jpeg.Image, "open", refuse)
    assert verdict(data) == "damaged pixels"


def test_bombs_are_refused_for_the_reason_of_decode(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(BadImage) as wanted:
        decode(PHOTO, channels=3)
    assert "the limit against decompression bombs" in wanted.value.reason
    assert verdict(PHOTO) == wanted.value.reason
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert verdict(PHOTO) == "good"


def test_memory_that_runs_out_is_told(monkeypatch) -> None:
    def full(*args, **named):
        raise MemoryError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", full)
    assert verdict(PHOTO) == "not enough memory to decode it"


def test_mutated_files_are_good_or_bad_and_nothing_else() -> None:
    rng = random.Random(0)
    small = [saved(scene(1, 61, 83), **KINDS[kind]) for kind in ("4:2:0", "progressive")]
    small.append(saved(scene(1, 61, 83), orientation=5))
    good = 0
    for _ in range(600):
        data = bytearray(rng.choice(small))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        good += verdict(bytes(data), rng.choice([(61, 83), (10, 10)])) == "good"
    assert 0 < good < 400


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, contextae.data.jpeg, contextae.data.resize as resize; resize.fast_library(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
