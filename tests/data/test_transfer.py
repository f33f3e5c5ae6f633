from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from contextae.data.transfer import Transfer
from contextae.errors import UserError
from contextae.masking import Mask
from contextae.methods.views import MaskedView

MEAN, DEVIATION = (0.2, 0.45, 0.7), (0.11, 0.23, 0.31)
CPU = torch.device("cpu")


class Pair(NamedTuple):
    views: Any
    noise: Any


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def wanted(values: np.ndarray, mean: tuple[float, ...] = MEAN, deviation: tuple[float, ...] = DEVIATION) -> np.ndarray:
    """In double precision."""
    column = (-1, 1, 1)
    return (values / 255 - np.array(mean).reshape(column)) / np.array(deviation).reshape(column)


def masked_view(b: int = 5) -> MaskedView:
    rng = np.random.default_rng(1)
    mask = Mask(rng.integers(0, 9, (b, 4)), rng.integers(0, 9, (b, 3)))
    return MaskedView(images(b, 3, 7, 11), mask, rng.integers(0, 1 << 62, b))


def test_a_batch_keeps_its_classes_and_what_is_no_image() -> None:
    batch = masked_view()
    moved = Transfer(CPU, MEAN, DEVIATION)(batch)
    assert type(moved) is MaskedView and type(moved.mask) is Mask
    assert moved.images.dtype == torch.float32 and moved.images.shape == (5, 3, 7, 11)
    for tensor, array in zip((*moved.mask, moved.key), (*batch.mask, batch.key), strict=True):
        assert tensor.dtype == torch.int64
        assert np.array_equal(tensor.numpy(), array)


def test_all_256_values_are_normalised_by_the_numbers_of_their_channel() -> None:
    values = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (2, 3, 16, 16))
    got = Transfer(CPU, MEAN, DEVIATION)(values).numpy()
    np.testing.assert_allclose(got, wanted(values), rtol=0, atol=2e-6)


def test_the_numbers_are_those_of_numpy_in_float32_bit_for_bit() -> None:
    values = images(4, 3, 5, 7)
    scale = np.array([1 / (255 * d) for d in DEVIATION], np.float32).reshape(-1, 1, 1)
    shift = np.array([-m / d for m, d in zip(MEAN, DEVIATION, strict=True)], np.float32).reshape(-1, 1, 1)
    expected = values.astype(np.float32) * scale + shift
    assert expected.dtype == np.float32
    assert np.array_equal(Transfer(CPU, MEAN, DEVIATION)(values).numpy(), expected)


@pytest.mark.parametrize("lead", [(), (2,), (2, 4)])
def test_axes_before_the_channels_do_not_matter(lead: tuple[int, ...]) -> None:
    values = images(*lead, 3, 5, 7)
    np.testing.assert_allclose(Transfer(CPU, MEAN, DEVIATION)(values).numpy(), wanted(values), rtol=0, atol=2e-6)


def test_one_and_many_channels() -> None:
    for channels in (1, 5):
        mean, deviation = tuple(np.linspace(0.1, 0.9, channels)), tuple(np.linspace(0.3, 0.2, channels))
        values = images(2, channels, 3, 4)
        got = Transfer(CPU, mean, deviation)(values).numpy()
        np.testing.assert_allclose(got, wanted(values, mean, deviation), rtol=0, atol=5e-6)


def test_nested_batches_and_float_arrays() -> None:
    noise = np.random.default_rng(0).random((5, 2), np.float32)
    moved = Transfer(CPU, MEAN, DEVIATION)(Pair((masked_view().mask), noise))
    assert type(moved) is Pair and type(moved.views) is Mask
    assert moved.noise.dtype == torch.float32 and np.array_equal(moved.noise.numpy(), noise)


def test_the_batch_itself_is_not_changed_whether_writable_or_not() -> None:
    for writable in (True, False):
        values = images(2, 3, 4, 5)
        before = values.copy()
        values.setflags(write=writable)
        Transfer(CPU, MEAN, DEVIATION)(values).zero_()
        assert np.array_equal(values, before)


def test_arrays_that_do_not_lie_in_order_are_put_in_order() -> None:
    values = images(2, 4, 5, 3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(Transfer(CPU, MEAN, DEVIATION)(values).numpy(), wanted(values), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("shape", "channels"), [((2, 1, 4, 5), 1), ((3, 3), 0)])
def test_images_of_other_channels_are_refused(shape: tuple[int, ...], channels: int) -> None:
    with pytest.raises(UserError, match=rf"Images of {channels} channel\(s\).*mean of 3. Set data.mean"):
        Transfer(CPU, MEAN, DEVIATION)(images(*shape))


@pytest.mark.parametrize(("mean", "deviation"), [((0.5,), (0.1, 0.2)), ((0.5, 0.5), (0.1, 0.0))])
def test_numbers_that_cannot_normalise_are_refused(mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="one number per channel, deviations above 0"):
        Transfer(CPU, mean, deviation)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_an_accelerator_the_numbers_are_nearly_the_same() -> None:
    batch = masked_view()
    moved, here = Transfer(torch.device("cuda"), MEAN, DEVIATION)(batch), Transfer(CPU, MEAN, DEVIATION)(batch)
    assert moved.images.is_cuda and moved.mask.visible.is_cuda
    torch.testing.assert_close(moved.images.cpu(), here.images, rtol=0, atol=2e-6)
    assert torch.equal(moved.key.cpu(), here.key)


@pytest.mark.parametrize(("dtype", "value_range"), [("uint16", (0, 4095)), ("float32", (-7.5, 2.5))])
def test_deep_pixels_are_scaled_by_their_range(dtype: str, value_range: tuple[float, float]) -> None:
    low, high = value_range
    values = np.random.default_rng(0).uniform(max(low, -9), high, (2, 3, 5, 7)).astype(dtype)
    before = values.copy()
    transfer = Transfer(CPU, MEAN, DEVIATION, value_range, dtype)
    got = transfer(values)
    np.testing.assert_array_equal(values, before)  # a batch may be moved again
    assert transfer(np.zeros((2, 3), np.uint8)).dtype == torch.uint8, "what is not of the images' type is no image"
    shape = (3, 1, 1)
    expected = ((values.astype(float) - low) / (high - low) - np.reshape(MEAN, shape)) / np.reshape(DEVIATION, shape)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=5e-6)
