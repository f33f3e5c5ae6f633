"""The device's crops against those of loader processes: the same draws, the same pixels within a stated bound."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from contextae.data.augment import Crop
from contextae.data.cuts import Cut, Cuts, cut, stacked
from contextae.data.device import cropped, exact_products
from contextae.data.resize import fast_library, resize
from contextae.data.transfer import Transfer
from contextae.errors import UserError
from data.pictures import pixels

CPU = torch.device("cpu")
SHAPES = ((37, 61), (61, 37), (23, 29), (75, 11), (74, 118))
CROP = Crop(size=(19, 31), scale=(0.05, 1.0))


def image(seed: int, channels: int = 3, dtype: str = "uint8", edges: bool = False) -> np.ndarray:
    height, width = SHAPES[seed % len(SHAPES)]
    rng = np.random.default_rng(seed)
    if edges:  # black and white, at which a bicubic kernel overshoots
        values = np.where(rng.random((height // 3 + 1, width // 3 + 1, channels)) < 0.5, 0.0, 1.0)
        values = values.repeat(3, 0).repeat(3, 1)[:height, :width]
    else:
        values = np.concatenate([pixels(seed + c, height, width)[:, :, :1] for c in range(channels)], 2) / 255
    most = {"uint8": 255, "uint16": 65_535, "float32": 1}[dtype]
    return np.ascontiguousarray((values * most).astype(dtype))


def both(images: list[np.ndarray], crop: Crop) -> tuple[np.ndarray, torch.Tensor]:
    """By loader processes, and by the device."""
    if fast_library() is None:
        pytest.skip("the bound is that of the fast library, and cykooz.resizer has no wheel for this machine")
    ours, cuts = [], []
    for seed, one in enumerate(images):
        part = crop.draw(one, random.Random(seed))
        assert part == crop.draw(one, random.Random(seed))
        view = resize(one, crop.size, part.box)
        ours.append(view[:, :, ::-1] if part.flipped else view)
        cuts.append(cut(one, part.box, crop.size, flipped=part.flipped))
    return np.stack(ours), cropped(stacked(cuts), crop.size, CPU)


def drawn(one: np.ndarray, seed: int) -> Cut:
    """As loader processes send it."""
    made = replace(CROP, where="device")(one, random.Random(seed))
    assert isinstance(made, Cut)
    return made


def check_bound(wanted: np.ndarray, got: torch.Tensor) -> None:
    """As data/device.py states it."""
    assert got.shape == wanted.shape and str(got.dtype) == f"torch.{wanted.dtype}"
    difference = np.abs(got.numpy().astype(np.float64) - wanted.astype(np.float64))
    if wanted.dtype == np.float32:
        assert difference.max() <= 1e-6
    else:
        assert difference.max() <= 2
        assert (difference > 1).mean() < 1e-4 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("edges", [False, True], ids=["smooth", "edges"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_the_device_gives_what_loader_processes_give(channels: int, dtype: str, edges: bool) -> None:
    images = [image(seed, channels, dtype, edges) for seed in range(30)]
    wanted, got = both(images, CROP)
    assert got.shape == (30, channels, 19, 31)
    check_bound(wanted, got)
    assert 5 < sum(CROP.draw(one, random.Random(i)).flipped for i, one in enumerate(images)) < 25


def test_boxes_between_pixels_and_parts_that_grow() -> None:
    """The central box of an image that no drawn part fits, and a crop larger than the image."""
    crop = replace(CROP, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert crop.draw(image(3), random.Random(0)).box == pytest.approx((0, 34.13, 11, 40.87), abs=0.01)
    wanted, got = both([image(3), image(8), image(2)], crop)
    check_bound(wanted, got)
    check_bound(*both([image(seed) for seed in range(5)], replace(CROP, size=(64, 64))))


def test_a_cut_holds_no_more_than_the_kernel_reaches_and_is_no_copy() -> None:
    whole = image(4)
    part = CROP.draw(whole, random.Random(0))
    one = cut(whole, part.box, CROP.size)
    assert one.pixels.base is whole and one.pixels.shape[0] < whole.shape[0] and one.pixels.shape[1] < whole.shape[1]
    changed = whole.copy()
    changed[:] = 255 - changed
    top = int(part.box[1] - one.box[1])
    left = int(part.box[0] - one.box[0])
    inside = np.s_[top : top + one.pixels.shape[0], left : left + one.pixels.shape[1]]
    changed[inside] = whole[inside]
    assert np.array_equal(resize(changed, CROP.size, part.box), resize(whole, CROP.size, part.box))


def test_a_batch_does_not_depend_on_what_else_is_in_it() -> None:
    cuts = [drawn(image(seed), seed) for seed in range(7)]
    together = cropped(stacked(cuts), CROP.size, CPU)
    for i, one in enumerate(cuts):
        alone = cropped(stacked([one]), CROP.size, CPU)[0]
        assert (together[i].int() - alone.int()).abs().max() <= 1


def test_normalisation_is_that_of_the_transfer() -> None:
    """Given the same pixels bit for bit, so at most two levels over the deviation apart from loader processes."""
    images = [image(seed, 2) for seed in range(6)]
    transfer = Transfer(CPU, [0.4, 0.6], [0.2, 0.3], crop_size=CROP.size)
    cuts = stacked([drawn(one, i) for i, one in enumerate(images)])
    got = transfer(cuts)
    assert torch.equal(got, transfer(cropped(cuts, CROP.size, CPU).numpy()))
    wanted = transfer(both(images, CROP)[0])
    assert (got - wanted).abs().max() <= 2.0001 / 255 / 0.2
    with pytest.raises(UserError, match=r"^Images of 2 channel\(s\) cannot be normalised with the mean of 3\. Set"):
        Transfer(CPU, [0.5] * 3, [0.5] * 3, crop_size=CROP.size)(cuts)


def test_colour_jitter_is_left_to_loader_processes() -> None:
    with pytest.raises(UserError, match=r"^Colours are changed by workers, so colour_jitter=0\.4 does not go with"):
        replace(CROP, colour_jitter=0.4, where="device")


def test_a_cut_much_larger_than_the_crop_is_resized_before_it_travels() -> None:
    large = np.kron(image(4), np.ones((1, 2, 1), np.uint8))  # 74 x 236, of which 76 x 124 may travel as they are
    part = replace(CROP, scale=(1.0, 1.0)).draw(large, random.Random(1))
    one = cut(large, part.box, CROP.size, flipped=True)
    assert one.pixels.shape == (19, 31, 3) and one.box == (0, 0, 31, 19)
    wanted = resize(large, CROP.size, part.box)[:, :, ::-1]
    assert np.array_equal(cropped(stacked([one, drawn(image(0), 0)]), CROP.size, CPU)[0].numpy(), wanted)


def test_the_precision_of_products_is_given_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_batch_of_cuts_is_arrays_alone() -> None:
    """So that it crosses the pipe from a loader process as it lies in memory."""
    cuts = stacked([drawn(image(seed), seed) for seed in range(3)])
    assert isinstance(cuts, Cuts) and all(isinstance(part, np.ndarray) for part in cuts)
    height, width = cuts.sizes.max(0)
    assert cuts.pixels.shape == (3, height, width, 3) and cuts.pixels.flags.c_contiguous
