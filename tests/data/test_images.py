from __future__ import annotations

import numpy as np
import pytest
import tifffile
from small_index import small_index

from contextae.data import images
from contextae.data.augment import fit
from contextae.data.decode import decode
from contextae.data.images import load_images
from contextae.data.sources import open_index
from data.pictures import encoded, pixels, write


@pytest.fixture
def folder(tmp_path):
    for i in range(70):
        write(tmp_path / f"{i:02}.png", seed=i, size=(11 + i % 3, 17))
    return tmp_path


def test_images_are_in_the_order_of_the_index_and_fitted(folder) -> None:
    index = open_index(str(folder)).subset(range(69, -1, -1))
    loaded = load_images(index, (5, 7))
    assert loaded.images.shape == (70, 3, 5, 7) and loaded.images.dtype == np.uint8
    assert loaded.positions.tolist() == list(range(70)) and loaded.left_out == []
    for i in (0, 33, 69):
        seed = 69 - i
        np.testing.assert_array_equal(loaded.images[i], fit(pixels(seed, 11 + seed % 3, 17), (5, 7)))


def test_unreadable_images_are_left_out_and_never_replaced(folder) -> None:
    index = open_index(str(folder))
    (folder / "40.png").write_bytes(encoded(40)[:-60])
    (folder / "03.png").unlink()
    loaded = load_images(index, (5, 7))
    assert [(bad.position, bad.reason) for bad in loaded.left_out] == [
        (3, "cannot be read (No such file or directory)"),
        (40, "truncated file"),
    ]
    assert loaded.positions.tolist() == [i for i in range(70) if i not in (3, 40)]
    assert loaded.images.shape == (68, 3, 5, 7)
    for row, position in enumerate(loaded.positions):
        np.testing.assert_array_equal(loaded.images[row], fit(decode(index.read(int(position)), channels=3), (5, 7)))


def test_channels_are_the_indexs_unless_given(folder) -> None:
    index = open_index(str(folder)).subset([0, 1])
    assert load_images(index, (4, 5), channels=1).images.shape == (2, 1, 4, 5)
    gray = open_index("builtin:fashion-mnist").subset([4, 2])
    loaded = load_images(gray, (28, 28))
    np.testing.assert_array_equal(loaded.images[0, 0], gray.read(0)[:, :, 0])
    assert load_images(gray, (28, 28), channels=3).images.shape == (2, 3, 28, 28)


def test_progress_and_an_empty_index(folder) -> None:
    calls: list[tuple[int, int]] = []
    index = open_index(str(folder))
    load_images(index, (2, 2), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(32, 70), (64, 70), (70, 70)]
    assert load_images(index.subset([]), (2, 3)).images.shape == (0, 3, 2, 3)


def test_deep_images_come_scaled_to_255(tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (2, 2, 8, 6)).astype(np.uint16)
    for i, stack in enumerate(values):
        tifffile.imwrite(tmp_path / f"{i}.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    index = open_index(str(tmp_path))
    loaded = load_images(index, (8, 6), value_range=(-5, 4095)).images
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, (values + 5.0) * 255 / 4100, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^Images of uint16 need their value_range\.$"):
        load_images(index, (8, 6))


def test_an_image_that_ends_its_process_is_left_out_with_that_reason() -> None:
    loaded = load_images(small_index(9, {3: "segfault", 5: "missing"}), (5, 7))
    assert loaded.left_out == [
        (3, "the process that read it ended with signal 11"),
        (5, "cannot be read (No such file or directory)"),
    ]
    assert loaded.positions.tolist() == [0, 1, 2, 4, 6, 7, 8]
    np.testing.assert_array_equal(loaded.images, load_images(small_index(9), (5, 7)).images[loaded.positions])


def test_large_sets_are_decoded_by_several_processes_to_the_same_images(monkeypatch) -> None:
    expected = load_images(small_index(40), (5, 7)).images
    monkeypatch.setattr(images, "CHUNK", 3)
    monkeypatch.setattr(images, "PER_PROCESS", 10)
    np.testing.assert_array_equal(load_images(small_index(40), (5, 7)).images, expected)
