from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from contextae.data.decode import decode
from contextae.data.sources import open_index
from contextae.errors import UserError
from data.pictures import deep_png, tiff_with_extra, write


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


def test_a_mix_with_kinds_that_are_not_read_yet_is_refused_with_the_counts(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        open_index(mixed(tmp_path))
    title, *lines, advice = str(caught.value).splitlines()
    assert title.startswith(f"{tmp_path} mixes kinds of images that cannot become one. Gray, palette, RGB and CMYK of")
    assert lines == [
        "  4 RGB: 0.png, 1.png, 2.png, ...",
        "  2 16-bit pixels, not supported yet: deep-1.png, deep-2.png",
        "  1 5 channels that are not all colour or alpha, not supported yet: five.tif",
        "  1 gray: gray.png",
    ]
    assert advice.endswith("to another folder, or leave them out with --set data.channels=3.")


@pytest.mark.parametrize("channels", [1, 3])
def test_with_channels_given_they_are_left_out_with_reasons(tmp_path, channels) -> None:
    index = open_index(mixed(tmp_path), channels=channels)
    assert len(index) == 5 and index.channels == channels
    assert [entry.reason for entry in index.left_out] == [
        "not an image, or its header is damaged",
        "16-bit pixels, not supported yet",
        "16-bit pixels, not supported yet",
        "5 channels that are not all colour or alpha, not supported yet",
    ]


def test_damaged_images_are_left_out_and_are_no_kind_of_a_mix(tmp_path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "damaged.png").write_bytes(b"words")
    (tmp_path / "deep, but cut.png").write_bytes(deep_png(2, 3)[:20])
    assert len(open_index(str(tmp_path))) == 1


def test_where_no_kind_is_read_there_is_nothing_that_can_be_used(tmp_path) -> None:
    (tmp_path / "deep.png").write_bytes(deep_png(2, 3))
    (tmp_path / "five.tif").write_bytes(tiff_with_extra((0,) * 4, 5, 1))
    with pytest.raises(UserError, match=r"holds no image that can be used\. Left out: 2 of 2 found; 1 16-bit pixels"):
        open_index(str(tmp_path))


def test_deep_images_are_left_out_and_never_cut(shared_data) -> None:
    source = str(shared_data / "microscopy_formats")
    with pytest.raises(UserError, match=r"(?s)8 16-bit pixels, not supported yet: .*, \.\.\.\n  4 gray: .*2 RGB: "):
        open_index(source)
    index = open_index(source, channels=3)
    assert len(index) == 8 and index.found == 17
    assert sum(entry.reason == "16-bit pixels, not supported yet" for entry in index.left_out) == 8
    assert "channels: 3; 4 gray, 2 RGB, 2 palette: all are made RGB" in index.describe()


@pytest.mark.parametrize("channels", [0, 2, 4, "rgb"])
def test_other_channels_are_refused(channels) -> None:
    with pytest.raises(UserError, match=rf"^channels must be 1 \(gray\), 3 \(RGB\) or auto\. Got {channels}\.$"):
        open_index("builtin:fashion-mnist", channels=channels)


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
    [("a.tar.gz", "tar -xzf"), ("a.TGZ", "tar -xzf"), ("a.zip", "unzip"), ("a.tar", "tar -xf"), ("a.7z", "7z x")],
)
def test_an_archive_is_refused_with_the_command_that_unpacks_it(tmp_path, name: str, command: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"is an archive, .*Unpack it with `{command} {tmp_path}/{name}` and give"):
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
