"""What one image tells: of every format and depth, whole or damaged."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.made_set import encoded, gray16, image
from contextae.audit.examine import CONSTANT_SPAN, examine, is_constant, is_rotated
from contextae.data.facts import BadImage
from contextae.data.sources.embedded import Embedded
from contextae.data.sources.find import list_source
from contextae.data.sources.folder import Files
from contextae.data.sources.mixed import list_mixed
from data import corpus
from data.packs import packed


def seen(folder: Path, data: bytes, name: str = "one.png") -> object:
    (folder / name).write_bytes(data)
    return examine(Files(str(folder)), name)


def test_a_sound_image(tmp_path: Path) -> None:
    found = seen(tmp_path, encoded(image(1)))
    assert found.facts.format == "PNG" and found.reason is None and not (found.rotated or found.misnamed or found.sound)
    assert found.read_seconds > 0 and found.decode_seconds > 0 and not found.pixels.constant
    values = np.asarray(image(1)).reshape(-1, 3)
    np.testing.assert_allclose(found.pixels.moments.mean, values.mean(0))


def test_depth_is_kept(tmp_path: Path) -> None:
    found = seen(tmp_path, gray16(1))
    assert (found.facts.dtype, found.facts.kind) == ("uint16", "16-bit gray") and found.pixels.moments.high > 255


def test_damaged_pixels_leave_what_the_header_says(tmp_path: Path) -> None:
    data = encoded(image(1))
    found = seen(tmp_path, data[: len(data) // 2], "cut.jpg")
    assert found.facts.width == 48 and found.pixels is None and found.reason == "truncated file"
    assert found.misnamed and not found.sound


def test_a_jpeg_whose_middle_is_damaged_is_refused_as_in_a_training(tmp_path: Path) -> None:
    data = encoded(image(1, (90, 70)), "JPEG")
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    found = seen(tmp_path, data[:middle] + bytes(range(40)) + data[middle + 40 :], "noise.jpg")
    assert found.pixels is None and found.reason == "damaged pixels"


def test_what_is_too_large_by_its_header_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    path.write_bytes(corpus.large_tiff())
    os.truncate(path, 1 << 43)  # takes no room
    found = examine(Files(str(tmp_path)), path.name)
    assert found.reason == "too large to be decoded as a whole" and found.facts.height == 40_000


def test_what_memory_does_not_hold_keeps_what_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(image(1), "JPEG"))
    os.truncate(path, 1 << 43)
    found = examine(Files(str(tmp_path)), path.name)
    assert found.reason == "not enough memory to decode it" and found.facts.kind == "RGB"


def test_what_has_no_header_is_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="empty file"):
        seen(tmp_path, b"")


def test_sound_images_of_unread_kinds_are_told_from_broken_ones(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("LAB", (8, 8)).save(stream, "TIFF")
    with pytest.raises(BadImage, match="not supported"):
        seen(tmp_path, stream.getvalue(), "lab.tif")


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_images_of_a_packed_cache_have_other_names_than_their_files(tmp_path: Path, kind: str) -> None:
    folder, cache = tmp_path / "set", tmp_path / "cache"
    folder.mkdir()
    for name in ("a.png", "b.bmp"):
        (folder / name).write_bytes(encoded(image(1)))
    packed(folder, cache, kind=kind)
    mixed = list_source(str(cache)), list_mixed([str(cache), str(folder)], list_source)
    found = {name: examine(listing.source, name).misnamed for listing in mixed for name in listing.ids}
    assert {name for name, misnamed in found.items() if misnamed} == {"set/b.bmp"} and len(found) == 6


@pytest.mark.parametrize(
    ("name", "misnamed"), [("a.jpeg", True), ("a.png", False), ("a", False), ("rows.parquet#1", False)]
)
def test_names_promise_a_format_or_none(tmp_path: Path, name: str, misnamed: bool) -> None:
    assert seen(tmp_path, encoded(image(1)), name).misnamed == misnamed


@pytest.mark.parametrize(
    ("kind", "orientation", "rotated"),
    [("JPEG", 6, True), ("JPEG", 1, False), ("PNG", 3, True), ("WEBP", 8, True), ("TIFF", 6, True)],
)
def test_orientation(kind: str, orientation: int, rotated: bool) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert is_rotated(encoded(image(1), kind, exif=exif)) == rotated


def test_orientation_of_what_pillow_does_not_read_is_none() -> None:
    assert not is_rotated(b"\x93NUMPY") and not is_rotated(b"")


def test_constant_images() -> None:
    page = np.full((200, 300, 3), (250, 240, 10), np.uint8)
    assert is_constant(page)
    page[100, 100] += CONSTANT_SPAN
    assert is_constant(page), "of the noise of JPEG"
    page[101, 101, 2] += CONSTANT_SPAN + 1
    assert not is_constant(page), "where no first look falls"
    assert is_constant(np.full((5, 5, 2), 7, np.uint16)) and not is_constant(
        np.arange(25, dtype=np.uint16).reshape(5, 5, 1)
    )
    assert is_constant(np.full((1, 1, 1), 0.5, np.float32))


def test_arrays_are_looked_at_as_they_are() -> None:
    found = examine(Embedded("fashion-mnist"), "train#0")
    assert found.facts.format == "array" and found.pixels.moments.mean.shape == (1,) and not found.misnamed


def test_what_the_processes_import_is_light() -> None:
    modules = "import contextae.audit.survey, contextae.audit.pictures, sys"
    code = f"{modules}; print('torch' in sys.modules, 'jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
