"""What the network sees of an image and its mask: the same place of both, in every crop and window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from contextae.errors import UserError
from contextae.evaluation.segmentation.batches import CropBatches, Decoded
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.data import Annotated
from contextae.evaluation.segmentation.views import (
    CropSettings,
    Normalisation,
    Place,
    covering,
    cut_out,
    resized_image,
)
from contextae.randomness import stream

from .scenes import DEVIATION, MEAN, opened, write_scenes

NORMALISE = Normalisation(MEAN, DEVIATION)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels are row and column, and a mask that is their sum over some pixels."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([rows, columns, rows * 0], axis=2).astype(np.float32)
    return image, (rows // 3 * 16 + columns // 3).astype(np.int16)


def test_a_window_covers_one_axis() -> None:
    assert covering((360, 480), (96, 128)) == (96, 128)
    assert covering((683, 1024), (512, 512)) == (512, 768)
    assert covering((1024, 683), (512, 512)) == (768, 512)
    assert covering((5, 700), (16, 16), 0.5) == (8, 1120)


@pytest.mark.parametrize("seed", range(12))
def test_crops_show_the_same_place_of_image_and_mask(seed: int) -> None:
    image, mask = coordinates(24, 36)
    plain = Normalisation((0.0,) * 3, (1.0,) * 3, (0.0, 1.0))
    crop = CropSettings(scale=(1.0, 3.0))
    seen = crop(image, mask, (12, 16), plain, stream("crop", seed))
    rows, columns = seen.pixels[0].numpy().round(), seen.pixels[1].numpy().round()
    near = np.abs((rows // 3 * 16 + columns // 3) - seen.labels)
    assert np.mean((near == 0) | (near == 1) | (near == 16) | (near == 17)) == 1
    assert np.mean(near == 0) > 0.6
    flipped = columns[0, 0] > columns[0, -1]
    assert (np.diff(columns, axis=1) * (-1 if flipped else 1) >= 0).all()


def test_crops_differ_are_flipped_half_of_the_time_and_are_functions_of_their_key() -> None:
    image, mask = coordinates(24, 36)
    plain = Normalisation((0.0,) * 3, (1.0,) * 3, (0.0, 1.0))
    seen = [CropSettings()(image, mask, (12, 16), plain, stream(i)) for i in range(200)]
    again = CropSettings()(image, mask, (12, 16), plain, stream(3))
    assert torch.equal(again.pixels, seen[3].pixels) and np.array_equal(again.labels, seen[3].labels)
    assert len({each.pixels.numpy().tobytes() for each in seen}) > 120
    flipped = np.mean([float(each.pixels[1, 0, 0] > each.pixels[1, 0, 4]) for each in seen])
    assert 0.35 < flipped < 0.65


def test_what_lies_beyond_the_image_is_the_mean_colour_and_void() -> None:
    image, mask = np.full((10, 10, 3), 200, np.uint8), np.ones((10, 10), np.int16)
    seen = cut_out(image, mask, Place(5, 5, 0, 0), (8, 12), NORMALISE)
    assert (seen.pixels[:, 5:] == 0).all() and (seen.pixels[:, :, 5:] == 0).all()
    assert (seen.labels[:5, :5] == 1).all() and (seen.labels == VOID).sum() == 8 * 12 - 25
    expected = (200 / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    assert torch.allclose(seen.pixels[:, :5, :5], expected.reshape(3, 1, 1).expand(3, 5, 5), atol=1e-5)


def test_a_crop_of_almost_one_class_is_drawn_again() -> None:
    image, mask = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.int16)
    mask[:, 30:] = 1
    shares = {}
    for most in (0.75, 1.1):
        crop = CropSettings(scale=(2.5, 2.5), most_of_one_class=most)
        drawn = [crop(image, mask, (16, 16), NORMALISE, stream(i)).labels for i in range(100)]
        shares[most] = np.mean([0 < (labels == 1).mean() < 1 for labels in drawn])
    assert shares[0.75] > shares[1.1] + 0.2


def test_normalisation_is_the_encoders() -> None:
    deep = Normalisation((0.5,), (0.25,), (100.0, 1100.0))
    assert deep(np.full((1, 2, 2), 850, np.uint16)).unique().tolist() == [1.0]


def test_windows_of_a_resized_image_are_parts_of_it() -> None:
    image, mask = coordinates(24, 60)
    plain = Normalisation((0.0,) * 3, (1.0,) * 3, (0.0, 1.0))
    whole = resized_image(image, (12, 30))
    seen = cut_out(image, mask, Place(12, 30, 0, 10), (12, 16), plain)
    assert np.abs(seen.pixels.numpy() - whole[:, :, 10:26]).max() < 0.05
    assert np.array_equal(resized_image(image, (24, 60)), image.transpose(2, 0, 1))


def test_scales_are_checked() -> None:
    with pytest.raises(UserError, match="two factors above 0"):
        CropSettings(scale=(0.0, 1.0))


def test_batches_are_functions_of_seed_and_step(tmp_path: Path) -> None:
    data = opened(write_scenes(tmp_path, parts={"train": 5, "val": 2, "test": 2}))

    def batches(seed: int, held: int, part: Annotated = data.train) -> CropBatches:
        return CropBatches(
            Decoded(part, most_bytes=held),
            window=(16, 24),
            batch_size=3,
            crop=CropSettings(),
            normalise=NORMALISE,
            seed=seed,
            device=torch.device("cpu"),
        )

    with batches(0, 1 << 20) as first, batches(0, 0) as second, batches(1, 0) as other:
        found = [first(step) for step in range(4)]
        assert all(torch.equal(a, b) for a, b in zip(found[2], second(2), strict=True))
        assert not torch.equal(found[2][0], other(2)[0]) and not torch.equal(found[2][0], found[3][0])
        assert found[0][0].shape == (3, 3, 16, 24) and found[0][1].dtype == torch.int64
        assert len(first.decoded.held) == 5 and not second.decoded.held
    with batches(0, 1 << 20, data.train.subset([0])) as alone:
        crops = [*alone(0)[0], *alone(1)[0]]
        assert len({crop.numpy().tobytes() for crop in crops}) == 6, "another crop of an image each time it comes"
