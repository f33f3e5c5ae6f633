from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_index import small_index

from contextae.data import statistics
from contextae.data.index import Index
from contextae.data.sources import open_index
from contextae.data.sources.folder import Files
from contextae.data.statistics import pixel_statistics
from contextae.errors import UserError
from data.pictures import pixels, write


def flat(path, colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    Image.new("RGB", size, colour).save(path)


def test_mean_and_deviation_are_those_of_the_pixels(tmp_path) -> None:
    for i in range(5):
        write(tmp_path / f"{i}.png", seed=i)
    values = np.stack([pixels(i) for i in range(5)]) / 255
    _, mean, deviation = pixel_statistics(open_index(str(tmp_path)))
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)))
    np.testing.assert_allclose(deviation, values.std((0, 1, 2)))
    assert all(isinstance(value, float) for value in (*mean, *deviation))


def test_one_channel(tmp_path) -> None:
    write(tmp_path / "a.png", mode="L")
    _, mean, deviation = pixel_statistics(open_index(str(tmp_path)))
    gray = np.asarray(Image.fromarray(pixels(0)).convert("L")) / 255
    np.testing.assert_allclose((*mean, *deviation), (gray.mean(), gray.std()))


def test_each_image_counts_the_same_whatever_its_size(tmp_path) -> None:
    flat(tmp_path / "large.png", (255, 0, 51), (100, 100))
    flat(tmp_path / "small.png", (0, 255, 51), (2, 3))
    _, mean, deviation = pixel_statistics(open_index(str(tmp_path)))
    np.testing.assert_allclose(mean, (0.5, 0.5, 0.2))
    np.testing.assert_allclose(deviation, (0.5, 0.5, 1 / 255))


def test_a_constant_channel_has_a_floor(tmp_path) -> None:
    flat(tmp_path / "a.png", (7, 7, 7), (5, 4))
    assert pixel_statistics(open_index(str(tmp_path))).deviation == pytest.approx((1 / 255,) * 3)


def test_the_sample_is_keyed_and_limited(monkeypatch) -> None:
    index = open_index("builtin:fashion-mnist")
    first = pixel_statistics(index, limit=50)
    assert pixel_statistics(index, limit=50) == first
    assert pixel_statistics(index, limit=50, seed=1) != first
    assert pixel_statistics(index, limit=60) != first
    drawn = statistics.sample(index, 50, 0)
    assert len(set(drawn)) == 50 and drawn != sorted(drawn) and drawn == statistics.sample(index, 60, 0)[:50]
    monkeypatch.setattr(statistics, "PIXELS", 70 * 784)
    assert len(statistics.sample(index, 2000, 0)) == 70
    monkeypatch.setattr(statistics, "PIXELS", 1)
    assert len(statistics.sample(index, 2000, 0)) == 64 and len(statistics.sample(index, 9, 0)) == 9


def test_fashion_mnist_is_what_others_measured() -> None:
    """Of the whole training set 0.2860 and 0.3530 are in wide use."""
    _, mean, deviation = pixel_statistics(open_index("builtin:fashion-mnist"))
    np.testing.assert_allclose((*mean, *deviation), (0.2860, 0.3530), atol=0.01)


def test_unreadable_images_are_passed_over(tmp_path) -> None:
    flat(tmp_path / "a.png", (51, 51, 51), (5, 4))
    flat(tmp_path / "b.png", (255, 0, 0), (5, 4))
    index = open_index(str(tmp_path))
    (tmp_path / "b.png").write_bytes(b"now text")
    assert pixel_statistics(index).mean == pytest.approx((0.2, 0.2, 0.2))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"^None of 2 images drawn from .* can be decoded, the first of them, (a\.png, for this reason: empty "
        r"file|b\.png, for this reason: not an image, or its header is damaged)\. Replace them\.$",
    ):
        pixel_statistics(index)


def stacks(folder, values: np.ndarray) -> Index:
    """One TIFF for each of the images n c h w."""
    for i, stack in enumerate(values):
        tifffile.imwrite(folder / f"{i}.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    return open_index(str(folder))


@pytest.mark.parametrize(("largest", "top"), [(255, 255), (900, 1023), (3000, 4095), (4096, 16383), (65535, 65535)])
def test_16_bits_are_scaled_by_the_depth_that_holds_them(tmp_path, largest: int, top: int) -> None:
    values = np.random.default_rng(0).integers(0, largest + 1, (3, 2, 9, 7)).astype(np.uint16)
    values[1, 0, 2, 3] = largest
    values[:, 1] //= 4
    found = pixel_statistics(stacks(tmp_path, values))
    assert found.value_range == (0, top)
    scaled = values / top
    np.testing.assert_allclose(found.mean, scaled.mean((0, 2, 3)))
    np.testing.assert_allclose(found.deviation, scaled.std((0, 2, 3)))
    given = pixel_statistics(open_index(str(tmp_path)), value_range=(-100, 300))
    np.testing.assert_allclose(given.mean, ((values.astype(float) + 100) / 400).mean((0, 2, 3)))


def test_of_images_too_large_to_be_decoded_the_middle_counts_and_nothing_beside_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "TILE", 16)
    image = np.full((40, 51), 60_000, np.uint16)
    middle = np.random.default_rng(0).integers(0, 900, (16, 16)).astype(np.uint16)
    image[12:28, 17:33] = middle
    np.save(tmp_path / "a.npy", image)
    tifffile.imwrite(tmp_path / "b.tif", image, tile=(16, 16))
    for name in ("a.npy", "b.tif"):
        found = statistics.MomentsOf(1, "uint16", tiles=True)(Files(str(tmp_path)), name)
        assert (found.low, found.high) == (middle.min(), middle.max())
        assert found.mean[0] == pytest.approx(middle.mean())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_moments_by_strips_are_those_of_the_whole(dtype: str, monkeypatch) -> None:
    image = (np.random.default_rng(0).random((67, 41, 3)) * 250).astype(dtype)
    monkeypatch.setattr(statistics, "STRIP", 41 * 7 + 5)
    found = statistics.moments_of(image)
    values = image.astype(np.float64)
    assert (found.low, found.high) == (values.min(), values.max())
    np.testing.assert_allclose(found.mean, values.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(found.square, (values**2).mean((0, 1)), rtol=1e-12)


def test_moments_of_a_large_image_take_little_memory() -> None:
    """Eight bytes a pixel would have been 64 million."""
    image = np.zeros((2000, 4000, 1), np.uint8)
    tracemalloc.start()
    statistics.moments_of(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_floats_are_scaled_by_what_was_seen(tmp_path) -> None:
    values = np.random.default_rng(0).normal(-40, 7, (3, 2, 9, 7)).astype(np.float32)
    values[:, 1] = 5
    found = pixel_statistics(stacks(tmp_path, values))
    low, high = float(values.min()), float(values.max())
    assert found.value_range == (low, high)
    np.testing.assert_allclose(found.mean, ((values - low) / (high - low)).mean((0, 2, 3)), rtol=1e-6)
    assert found.deviation[1] == pytest.approx(1e-6), "a constant channel has a floor"
    one = stacks(tmp_path / "one" if (tmp_path / "one").mkdir() is None else tmp_path, values[:1, 1:])
    assert pixel_statistics(one).value_range == (5, 6)


def test_an_image_that_ends_its_process_is_passed_over() -> None:
    found = pixel_statistics(small_index(9, {3: "segfault"}))
    assert found == pixel_statistics(small_index(9, {3: "bad"})) != pixel_statistics(small_index(9))
