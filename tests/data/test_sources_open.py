from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from contextae.data.decode import decode
from contextae.data.index import Index
from contextae.data.sources import continued_index, open_index
from contextae.data.sources.find import list_source
from contextae.data.stored_index import Stored, open_stored, write_index
from contextae.errors import UserError
from data.pictures import deep_png, encoded, tiff_with_extra, write


def channels_of(folder) -> tuple[int, str]:
    index = open_index(str(folder))
    return index.channels, next(line for line in index.describe() if line.startswith("channels"))


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; import contextae.data.sources, contextae.data.images, contextae.data.statistics;"
        "from contextae.data.sources import open_index; open_index('builtin:fashion-mnist').read(0);"
        "sys.exit(','.join({'torch', 'torchvision', 'timm', 'matplotlib', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_builtin_set_is_its_train_part_with_labels() -> None:
    index = open_index("builtin:fashion-mnist")
    assert len(index) == index.found == 12_000 and index.channels == 1
    assert index.ids[17] == "train#17" and not any(name.startswith("test") for name in index.ids)
    assert index.labels is not None and index.classes is not None
    assert index.classes[index.labels[0]] == "ankle boot"
    image = index.read(3)
    assert isinstance(image, np.ndarray) and image.shape == (28, 28, 1) and image.dtype == np.uint8
    assert decode(image, channels=3).shape == (28, 28, 3)
    assert index.describe() == [
        "12,000 images of builtin:fashion-mnist, 9.4 MB",
        "formats: 12,000 array",
        "height x width: 28 x 28, all",
        "channels: 1, gray",
    ]


def test_all_gray_stays_one_channel(tmp_path) -> None:
    write(tmp_path / "a.png", mode="L")
    write(tmp_path / "b.jpg", mode="L", kind="JPEG")
    assert channels_of(tmp_path) == (1, "channels: 1, gray")
    write(tmp_path / "c.png", mode="LA")
    write(tmp_path / "d.png", mode="1")
    assert channels_of(tmp_path) == (1, "channels: 1; 3 gray, 1 gray with alpha: all are made gray")


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "RGB"), ("P", "palette"), ("RGBA", "RGB with alpha")])
def test_any_colour_makes_all_rgb_with_the_counts_said(tmp_path, mode: str, kind: str) -> None:
    write(tmp_path / "c.png", mode=mode)
    said = "channels: 3, RGB" if kind == "RGB" else f"channels: 3; 1 {kind}: all are made RGB"
    assert channels_of(tmp_path) == (3, said)
    write(tmp_path / "a.png", mode="L")
    write(tmp_path / "b.png", mode="L")
    assert channels_of(tmp_path) == (3, f"channels: 3; 2 gray, 1 {kind}: all are made RGB")


def test_cmyk_becomes_rgb(tmp_path) -> None:
    write(tmp_path / "a.jpg", mode="CMYK", kind="JPEG")
    assert channels_of(tmp_path) == (3, "channels: 3; 1 CMYK: all are made RGB")


def test_channels_can_be_forced_and_that_is_said(tmp_path) -> None:
    write(tmp_path / "a.png", mode="RGB")
    write(tmp_path / "b.png", mode="L")
    gray = open_index(str(tmp_path), channels=1)
    assert gray.channels == 1 and "channels: 1; 1 RGB, 1 gray: all are made gray" in gray.describe()
    (tmp_path / "a.png").unlink()
    colour = open_index(str(tmp_path), channels=3)
    assert colour.channels == 3 and "channels: 3; 1 gray: all are made RGB" in colour.describe()


def mixed(folder) -> str:
    """4 RGB, 1 gray, 2 of 16 bits, 1 of five channels, and one that is damaged."""
    for i in range(4):
        write(folder / f"{i}.png")
    write(folder / "gray.png", mode="L")
    (folder / "deep-1.png").write_bytes(deep_png(2, 3))
    (folder / "deep-2.png").write_bytes(deep_png(0, 1))
    (folder / "five.tif").write_bytes(tiff_with_extra((0,) * 4, 5, 1))
    (folder / "damaged.png").write_bytes(b"words")
    return str(folder)


COUNTS = [
    "  4 RGB: 0.png, 1.png, 2.png, ...",
    "  1 16-bit RGB: deep-1.png",
    "  1 16-bit gray: deep-2.png",
    "  1 5 x 8-bit: five.tif",
    "  1 gray: gray.png",
]


def test_a_mix_of_kinds_is_refused_with_the_counts(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        open_index(mixed(tmp_path))
    title, *lines, advice = str(caught.value).splitlines()
    assert title.startswith(f"{tmp_path} mixes kinds of images that cannot become one. Gray, palette, RGB and CMYK of")
    assert lines == COUNTS
    assert advice.endswith("or choose one: --set data.channels=NUMBER, --set data.dtype=uint8 or uint16 or float32.")


def test_a_sound_image_that_is_not_read_is_a_kind_too(tmp_path) -> None:
    write(tmp_path / "a.png")
    Image.new("LAB", (3, 2)).save(tmp_path / "b.tif")
    with pytest.raises(
        UserError, match=r"(?s)mixes kinds .*  1 RGB: a.png\n  1 LAB pixels in TIFF, not supported: b.tif"
    ):
        open_index(str(tmp_path))
    index = open_index(str(tmp_path), dtype="uint8")
    assert list(index.ids) == ["a.png"] and index.left_out == [("b.tif", "LAB pixels in TIFF, not supported")]


@pytest.mark.parametrize(
    ("asked", "found", "others"),
    [
        ({"channels": 3, "dtype": "uint8"}, (3, "uint8", 5), "another number of channels than asked for"),
        ({"channels": 1, "dtype": "uint8"}, (1, "uint8", 5), "another number of channels than asked for"),
        ({"channels": 3, "dtype": "uint16"}, (3, "uint16", 1), "another number of channels than asked for"),
        ({"channels": 5}, (5, "uint8", 1), "another number of channels than asked for"),
    ],
)
def test_with_a_kind_given_the_others_are_left_out_with_reasons(tmp_path, asked, found, others) -> None:
    index = open_index(mixed(tmp_path), **asked)
    assert (index.channels, index.dtype, len(index)) == found
    assert index.found == len(index) + len(index.left_out) == 9
    reasons = [entry.reason for entry in index.left_out if entry.path != "damaged.png"]
    assert reasons and all(reason.endswith(f", {others}") for reason in reasons)
    for i in range(len(index)):
        image = decode(index.read(i), channels=index.channels, dtype=index.dtype)
        assert image.shape[2] == found[0] and image.dtype == found[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"channels": 3}, r"(?s)mixes kinds of images"),
        ({"dtype": "uint8"}, r"(?s)mixes kinds of images"),
        (
            {"channels": 2},
            r"(?s)holds no image that fits data.channels=2\. There are\n  4 RGB: .*Ask for what is there, or",
        ),
        ({"channels": 2, "dtype": "float32"}, r"holds no image that fits data.channels=2 and data.dtype=float32\."),
    ],
)
def test_what_is_asked_for_must_name_one_kind(tmp_path, asked, words) -> None:
    with pytest.raises(UserError, match=words):
        open_index(mixed(tmp_path), **asked)


def test_deep_images_of_one_kind_need_no_setting(tmp_path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(deep_png(0, 1))
    index = open_index(str(tmp_path))
    assert (index.channels, index.dtype) == (1, "uint16")
    assert "channels: 1, 3 16-bit gray, kept as uint16" in index.describe()


def test_damaged_images_are_left_out_and_are_no_kind_of_a_mix(tmp_path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "damaged.png").write_bytes(b"words")
    (tmp_path / "deep, but cut.png").write_bytes(deep_png(2, 3)[:20])
    assert len(open_index(str(tmp_path))) == 1


def test_where_no_kind_is_read_there_is_nothing_that_can_be_used(tmp_path) -> None:
    Image.new("LAB", (3, 2)).save(tmp_path / "b.tif")
    with pytest.raises(
        UserError, match=r"holds no image that can be used\. Left out: 1 of 1 found; 1 LAB pixels in TIFF"
    ):
        open_index(str(tmp_path))


def test_the_real_microscopy_files_are_each_opened_as_they_are(shared_data) -> None:
    source = str(shared_data / "microscopy_formats")
    with pytest.raises(
        UserError, match=r"(?s)6 16-bit gray: .*, \.\.\.\n  4 gray: .*2 RGB: .*2 2 x 16-bit: .*2 3 x 8-bit: "
    ):
        open_index(source)
    gray = open_index(source, channels=1, dtype="uint16")
    assert len(gray) == 6 and gray.found == 17
    assert len(open_index(source, channels=2)) == 2
    assert open_index(f"{source}/stacked", channels=3).dtype == "uint8"


@pytest.mark.parametrize("channels", [0, -1, "rgb", 1.5])
def test_impossible_channels_are_refused(channels) -> None:
    with pytest.raises(
        UserError, match=rf"^data.channels is a number of channels, 1 or more, or auto\. Got {channels}\.$"
    ):
        open_index("builtin:fashion-mnist", channels=channels)
    with pytest.raises(UserError, match=r"^data.dtype is auto or one of uint8, uint16, float32\. Got int8\.$"):
        open_index("builtin:fashion-mnist", dtype="int8")


def test_progress_goes_up_to_the_number_of_images(tmp_path) -> None:
    for i in range(300):
        write(tmp_path / f"{i}.png", size=(2, 3))
    calls: list[tuple[int, int]] = []
    open_index(str(tmp_path), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(128, 300), (256, 300), (300, 300)]


def test_a_missing_path_is_refused_with_the_nearest_name(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=rf"^There is nothing at {tmp_path}/fotos: {tmp_path} holds no fotos\. Did"):
        open_index(str(tmp_path / "fotos"))
    with pytest.raises(UserError, match=rf"nothing at .*/phots/2024/may: {tmp_path} holds no phots\. .* 'photos'\?$"):
        open_index(str(tmp_path / "phots/2024/may"))
    with pytest.raises(UserError, match=r"holds no quite other\. Check the name\.$"):
        open_index(str(tmp_path / "quite other"))


def test_a_missing_path_in_a_folder_that_cannot_be_listed(tmp_path, monkeypatch) -> None:
    def refusing(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refusing)
    with pytest.raises(UserError, match=r"holds no a\. Check the name\.$"):
        open_index(str(tmp_path / "a"))


def test_a_missing_relative_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"nothing at image: {tmp_path} holds no image\. Did you mean 'images'\?$"):
        open_index("image")


def test_an_empty_name() -> None:
    with pytest.raises(UserError, match=r"^The name of the images is empty\. Give a folder of images, a text file"):
        open_index("")


@pytest.mark.parametrize(
    ("name", "command"),
    [("a.tar.gz", "tar -xzf"), ("a.TGZ", "tar -xzf"), ("a.tar.xz", "tar -xJf"), ("a.7z", "7z x")],
)
def test_an_archive_is_refused_with_the_command_that_unpacks_it(tmp_path, name: str, command: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        UserError, match=rf"is compressed as a whole, .*Unpack it with `{command} {tmp_path}/{name}` and give"
    ):
        open_index(str(tmp_path / name))


@pytest.mark.parametrize(("name", "what"), [("a.jpg", "one image"), ("a.docx", "a file of unknown kind")])
def test_other_files_are_refused(tmp_path, name: str, what: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{name} is {what}\. Give a folder of images, a text file \(\.txt\) with one"):
        open_index(str(tmp_path / name))


def test_an_unknown_builtin_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"builtin:mnist-fashion is not a set that comes with contextae\."):
        open_index("builtin:mnist-fashion")


def test_parts_that_are_used_together_are_said(tmp_path) -> None:
    for part in ("train", "val"):
        write(tmp_path / part / "a.png")
    said = "all of train, val are used; name one of them to keep the others unseen"
    assert said in open_index(str(tmp_path)).describe()
    assert open_index(str(tmp_path / "train")).notes == []
    (tmp_path / "val/a.png").unlink()
    assert open_index(str(tmp_path)).notes == []


def test_real_photographs_open_in_seconds(shared_data) -> None:
    start = time.perf_counter()
    index = open_index(str(shared_data / "clothing10"))
    assert time.perf_counter() - start < 5
    assert len(index) == 3781 and index.channels == 3 and not index.left_out
    assert index.ids[0] == "test/dress/" + index.ids[0].split("/")[-1]
    for i in (0, 1700, 3780):
        image = decode(index.read(i), channels=3)
        assert image.shape == (index.facts["height"][i], index.facts["width"][i], 3)


def stored_of(index: Index, folder: Path) -> Stored:
    write_index(folder / "images", index, found=index.found, left_out=len(index.left_out))
    return open_stored(folder / "images", whole=True, restore="")


@pytest.mark.parametrize("kind", ["folder", "list", "parquet", "builtin"])
def test_a_run_goes_on_with_the_images_it_began_with(tmp_path, kind: str) -> None:
    """Of a folder and a list without a walk: added files do not join."""
    photos = tmp_path / "photos"
    for i in range(5):
        write(photos / f"{i}.png", seed=i)
    (tmp_path / "list.txt").write_text("photos/3.png\nphotos/1.png\n")
    pyarrow.parquet.write_table(pyarrow.table({"image": [encoded(i) for i in range(3)]}), tmp_path / "a.parquet")
    source = {
        "folder": str(photos),
        "list": str(tmp_path / "list.txt"),
        "parquet": str(tmp_path / "a.parquet"),
        "builtin": "builtin:fashion-mnist",
    }[kind]
    index = open_index(source)
    stored = stored_of(index, tmp_path)
    write(photos / "0-new.png", seed=9)
    again = continued_index(source, stored, channels=index.channels, dtype=index.dtype)
    assert again.ids == index.ids and (again.facts == index.facts).all()
    first, last = again.read(0), again.read(len(again) - 1)
    assert np.array_equal(first, index.read(0)) and np.array_equal(last, index.read(len(index) - 1))
    assert again.describe()[1:3] == index.describe()[1:3]


def test_a_run_does_not_go_on_without_its_images(tmp_path) -> None:
    photos = tmp_path / "photos"
    for i in range(5):
        write(photos / f"{i}.png", seed=i)
    stored = stored_of(open_index(str(photos)), tmp_path)
    (photos / "3.png").unlink()
    words = r"photos no longer holds 1 of the 5 images that were looked for, first 3\.png\. Put them back"
    with pytest.raises(UserError, match=words):
        continued_index(str(photos), stored, channels=3, dtype="uint8")
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"^There is nothing at .*photos"):
        continued_index(str(photos), stored, channels=3, dtype="uint8")


def test_sources_know_what_they_hold(tmp_path) -> None:
    write(tmp_path / "a" / "1.png")
    pyarrow.parquet.write_table(pyarrow.table({"image": [encoded()] * 3}), tmp_path / "a.parquet")
    folder, rows = list_source(str(tmp_path / "a")).source, list_source(str(tmp_path / "a.parquet")).source
    embedded = list_source("builtin:fashion-mnist").source
    assert folder.has("1.png") and not folder.has("2.png") and not folder.has("a\0b") and not folder.has("x" * 300)
    assert rows.has("a.parquet#2") and not rows.has("a.parquet#3") and not rows.has("b.parquet#0")
    assert not rows.has("a.parquet") and not rows.has("a.parquet#x")
    assert embedded.has("train#11999") and not embedded.has("train#12000") and not embedded.has("val#0")
