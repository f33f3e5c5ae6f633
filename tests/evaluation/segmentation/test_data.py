"""Sets of images and masks: what is read of them, which part is used for what, and what is refused before training."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.data import open_segmentation
from contextae.evaluation.segmentation.masks import decode_mask

from .scenes import NAMES, SIZE, opened, scene, write_part, write_scenes


def test_a_set_of_three_parts(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path))
    assert (len(data.train), len(data.fit), len(data.held_out), len(data.test)) == (12, 12, 4, 6)
    assert data.classes.names == NAMES and data.classes.void == (255,) and not data.refits
    image, mask = data.test.image(2), data.test.mask(2)
    assert image.shape == (*SIZE, 3) and mask.shape == SIZE and data.test.size(2) == SIZE
    stored = np.asarray(Image.open(tmp_path / "masks/test/test2.png"))
    assert np.array_equal(mask, np.where(stored == 255, VOID, stored.astype(int)))
    assert data.test.pixels[2].tolist() == [int((stored == each).sum()) for each in range(3)]
    assert data.majority == np.argmax(np.mean(data.train.pixels / data.train.pixels.sum(1, keepdims=True), axis=0))


def test_without_test_val_gives_the_figure_and_a_part_of_train_is_held_out(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path, parts={"train": 20, "val": 3}))
    assert data.test.images.ids[:] == ["val0.png", "val1.png", "val2.png"] and data.refits
    assert (len(data.train), len(data.fit), len(data.held_out)) == (20, 18, 2)
    assert sorted([*data.fit.images.ids, *data.held_out.images.ids]) == sorted(data.train.images.ids)
    assert any("val, 3 images, is the test part" in note for note in data.notes)
    assert any("settings are chosen on 2 of 20" in note for note in data.notes)


def test_without_any_part_a_fifth_is_drawn_for_the_figure(tmp_path: Path) -> None:
    write_scenes(tmp_path / "made", parts={"train": 20})
    root = tmp_path / "flat"
    for folder in ("images", "masks"):
        (root / folder).parent.mkdir(exist_ok=True)
        (tmp_path / "made" / folder / "train").rename(root / folder)
    data = opened(root)
    parts = [set(part.images.ids) for part in (data.fit, data.held_out, data.test)]
    assert [len(part) for part in parts] == [14, 2, 4] and len(set.union(*parts)) == 20
    assert any("there is no test part" in note for note in data.notes)


def test_the_layout_of_ade20k(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("training", 5), ("validation", 2)):
        pairs = {}
        for i in range(count):
            image, mask = scene(rng)
            pairs[f"{part}{i}"] = image, np.where(mask == 255, 0, mask + 1).astype(np.uint8)
        write_part(tmp_path, part, pairs, folders=("images", "annotations"))
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    data = opened(tmp_path)
    assert data.classes.values == (1, 2, 3) and data.classes.void == (0,) and data.classes.names == NAMES
    assert (data.train.mask(0)[0] == VOID).all() and len(data.test) == 2
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
        "1\t0.1\t1\t1\t1\twall, partition\n2\t0.1\t1\t1\t1\tsky\n3\t0\t0\t0\t0\tsky, x\n"
    )
    assert opened(tmp_path).classes.names == ("wall", "sky", "sky (3)")


@pytest.mark.slow
def test_camvid(shared_data: Path) -> None:
    data = open_segmentation(shared_data / "camvid", channels=3)
    assert len(data.classes) == 11 and data.classes.names[0] == "Sky" and data.classes.void == (11,)
    assert (len(data.train), len(data.held_out), len(data.test)) == (367, 101, 233)
    assert data.notes == () and data.classes.names[data.majority] == "Road"


def test_masks_of_coco(shared_data: Path) -> None:
    data = open_segmentation(shared_data / "coco256_small", channels=3)
    assert len(data.classes) == 133 and data.classes.names[0] == "person" and data.classes.void == (0,)
    assert (len(data.train), len(data.held_out), len(data.test)) == (70, 7, 68)
    assert any("17 of 133 classes have no pixel in train" in note and "fire hydrant" in note for note in data.notes)


# what is wrong with a set is said in one paragraph


def refused(root: Path, match: str, **given: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_segmentation(root, channels=3, **given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def replace_mask(root: Path, values: np.ndarray, name: str = "masks/train/train3.png") -> None:
    Image.fromarray(values).save(root / name)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    replace_mask(tmp_path, np.zeros((20, 27), np.uint8))
    refused(tmp_path, r"train3.png is 20 x 27 \(height x width\) and its image, train3.png, is 20 x 28")
    replace_mask(tmp_path, np.zeros((28, 20), np.uint8))
    refused(tmp_path, "It lies on its side")


def test_a_value_that_is_no_class(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    wrong = np.zeros(SIZE, np.uint8)
    wrong[0, :5] = 7
    replace_mask(tmp_path, wrong)
    refused(tmp_path, r"masks/train/train3.png has the value 7 in 5 pixels.*0 to 2, and 255 for void")
    replace_mask(tmp_path, np.full(SIZE, 40_000, np.uint16))
    refused(tmp_path, "has the value 40000.*mark it there as void")


@pytest.mark.parametrize("value", [70_000, -1])
def test_values_that_no_class_can_have(tmp_path: Path, value: int) -> None:
    write_scenes(tmp_path)
    wrong = np.zeros(SIZE, np.int32)
    wrong[2, 3] = value
    (tmp_path / "masks/train/train3.png").unlink()
    replace_mask(tmp_path, wrong, "masks/train/train3.tif")
    refused(tmp_path, f"train3.tif has the value {value} .*Values are from 0 to 65,535; write the masks")
    (tmp_path / "classes.txt").unlink()
    refused(tmp_path, f"train3.tif has the value {value}, and values of classes are from 0 to 65,535")


def test_void_can_be_named_by_the_caller_and_by_the_list(tmp_path: Path) -> None:
    write_scenes(tmp_path, classes="red\ngreen\nblue\n")
    refused(tmp_path, "has the value 255", void=1)
    write_scenes(tmp_path, classes="0\tred\n1\tgreen\n2\tblue\tignore\n255\tvoid\n")
    data = opened(tmp_path)
    assert data.classes.names == ("red", "green") and data.classes.void == (2, 255)


def test_images_and_masks_that_lack_the_other(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    (tmp_path / "masks/val/val1.png").unlink()
    refused(tmp_path, r"1 of 4 images of .*images/val have no mask in .*masks/val: val1\.")
    write_scenes(tmp_path)
    (tmp_path / "images/test/test0.png").unlink()
    refused(tmp_path, r"1 of 6 masks of .*masks/test have no image in .*images/test: test0\.")
    write_scenes(tmp_path)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images/test/test0.bmp")
    refused(tmp_path, "two images of one name, test0.bmp and test0.png")
    (tmp_path / "images/test/test0.bmp").unlink()
    Image.new("L", SIZE[::-1]).save(tmp_path / "masks/test/test0.bmp")
    refused(tmp_path, "two masks of one image, test0.bmp and test0.png")


def test_colour_masks(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    replace_mask(tmp_path, np.zeros((*SIZE, 3), np.uint8))
    refused(tmp_path, "train3.png holds RGB colours; write the number of each colour's class")


def test_damaged_masks(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    path = tmp_path / "masks/train/train3.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(tmp_path, "train3.png is damaged")
    path.write_bytes(b"no image at all")
    refused(tmp_path, "train3.png is no PNG")


def test_images_that_cannot_be_decoded_are_left_out_and_named(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    path = tmp_path / "images/train/train3.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 200])
    (tmp_path / "images/train/train5.png").write_bytes(b"")
    found = opened(tmp_path)
    assert len(found.train) == 10 and "train3.png" not in found.train.images.ids[:]
    assert any("2 file(s) of train are left out" in note for note in found.notes)


def test_without_a_list_the_classes_are_those_found(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path, classes=None))
    assert data.classes.names == ("class 0", "class 1", "class 2") and data.classes.values == (0, 1, 2)
    assert any("there is no classes.txt: the 3 values of the masks, 0 to 2" in note for note in data.notes)
    replace_mask(tmp_path, np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE))
    refused(tmp_path, "numbers of single objects rather than classes")


def test_classes_without_training_pixels_are_named(tmp_path: Path) -> None:
    write_scenes(tmp_path, classes="red\ngreen\nblue\nlilac\nmauve\n")
    assert any("2 of 5 classes have no pixel in train, nor in test: lilac, mauve" in n for n in opened(tmp_path).notes)
    replace_mask(tmp_path, np.full(SIZE, 4, np.uint8), "masks/test/test1.png")
    assert any(
        "2 of 5 classes have no pixel in train and cannot be learned; 1 of them occur in test" in note
        and "mauve" in note
        for note in opened(tmp_path).notes
    )
    for path in (tmp_path / "masks/train").iterdir():
        Image.fromarray(np.full(SIZE, 1, np.uint8)).save(path)
    refused(tmp_path, "pixels of two classes to learn from.*hold green alone")


def test_a_test_part_of_nothing_but_void(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    for path in (tmp_path / "masks/test").iterdir():
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(path)
    refused(tmp_path, "Every pixel of the test part")


def test_layouts_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path, "has no folder images")
    refused(tmp_path / "mistyped", "mistyped is no folder. It needs images/train")
    write_scenes(tmp_path, folders=("images", "elsewhere"))
    refused(tmp_path, "neither masks nor polygons")
    refused(tmp_path, "has no masks in", labels="masks")
    (tmp_path / "masks/train").mkdir(parents=True)
    Image.new("L", SIZE[::-1]).save(tmp_path / "masks/train/train0.jpg")
    refused(tmp_path, "does not keep the numbers of a mask")
    other = write_scenes(tmp_path / "other", parts={"val": 3, "test": 3})
    refused(other, "none to train on")
    (other / "images/valid").mkdir()
    refused(other, "two folders for val")


def test_a_part_without_masks_is_not_used(tmp_path: Path) -> None:
    write_scenes(tmp_path, parts={"train": 6, "val": 3})
    write_part(tmp_path, "test", {"a": scene(np.random.default_rng(0))}, folders=("images", "elsewhere"))
    data = opened(tmp_path)
    assert len(data.test) == 3 and any("test has images and no masks" in note for note in data.notes)
    (tmp_path / "masks/test").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / "masks/test/a.png")
    (tmp_path / "images/test/a.png").unlink()
    (tmp_path / "images/test").rmdir()
    refused(tmp_path, "lacks test")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("0\tred\n1\tgreen\nblue\n", "numbers some of its classes and not this line: 'blue'"),
        ("0\tred\n0\tgreen\n", "has the value 0 twice"),
        ("red\ngreen\nred\n", "has the name 'red' twice"),
        ("0\tred\n70000\tgreen\n", "has the value 70000"),
        (f"0\tred\n{'9' * 5_000}\tgreen\n", "has the value 9999"),
        ("red\nvoid\n", "two classes or more beside void. Got 1: red"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, match: str) -> None:
    refused(write_scenes(tmp_path, classes=text), match)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("palette", [False, True])
def test_masks_of_any_depth_are_read_as_numbers(tmp_path: Path, bits: int, palette: bool) -> None:
    values = np.random.default_rng(0).integers(min(2**bits, 300), size=(5, 9))
    if palette and bits > 8:
        pytest.skip("a palette has 256 entries at most")
    buffer = io.BytesIO()
    if palette:
        image = Image.fromarray(values.astype(np.uint8))
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([(37 * i) % 256 for i in range(768)])
        image.save(buffer, "PNG", bits=bits)
    elif bits == 16:
        Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG")
    else:
        buffer.write(gray_png(values, bits))
    assert np.array_equal(decode_mask(buffer.getvalue(), "mask.png"), values)


def gray_png(values: np.ndarray, bits: int) -> bytes:
    """A gray PNG of so many bits per pixel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
