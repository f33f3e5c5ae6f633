"""Changes of a training batch: what is done to which images, and labels that stay true to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from contextae.evaluation.mixing import Mix, Mixing
from evaluation.stand_in import DEVIATION, MEAN

NOTHING = Mixing(flip=0.0, rand_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0)
LABELS = torch.tensor([2, 0, 1, 2, 3])


def images(size: tuple[int, int] = (8, 12), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, channels, *size), dtype=np.uint8)


def mix(mixing: Mixing, size: tuple[int, int] = (8, 12), *, photographs: bool = True, channels: int = 3) -> Mix:
    mean, deviation = (MEAN * 2)[:channels], (DEVIATION * 2)[:channels]
    return Mix(mixing, num_classes=4, image_size=size, mean=mean, deviation=deviation, photographs=photographs)


def normal(values: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(values) / 255 - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(DEVIATION).reshape(
        3, 1, 1
    )


def test_small_images_are_cropped_out_of_a_frame_each_at_its_own_place() -> None:
    given = images()
    made, wanted = mix(NOTHING)(given, LABELS)
    framed = np.pad(given, ((0, 0), (0, 0), (4, 4), (4, 4)))
    places = []
    for number, image in enumerate(made):
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if torch.allclose(image, normal(framed[number, :, top : top + 8, left : left + 12]), atol=1e-6)
        ]
        assert len(found) >= 1
        places.append(found[0])
    assert len(set(places)) > 1
    assert torch.equal(wanted, torch.nn.functional.one_hot(LABELS, 4).float())


def test_large_images_are_cropped_by_area_and_resized() -> None:
    given = images((40, 36))
    made, _ = mix(replace(NOTHING, crop_scale=(1.0, 1.0)), (40, 36))(given, LABELS)
    assert made.shape == (5, 3, 40, 36)
    flat = np.full((5, 3, 40, 36), 200, dtype=np.uint8)
    made, _ = mix(NOTHING, (40, 36))(flat, LABELS)
    assert torch.allclose(made, normal(flat), atol=1e-5)
    assert "crops of 0.08 to 1 of the area" in str(mix(NOTHING, (40, 36)))


@pytest.mark.parametrize(("changed", "mixes"), [({"mixup": 0.8}, True), ({"cutmix": 1.0}, True), ({}, False)])
def test_labels_say_the_share_of_each_image(changed: dict[str, float], mixes: bool) -> None:
    flat = np.stack([np.full((3, 8, 12), 40 * int(label) + 40, dtype=np.uint8) for label in LABELS])
    mixing = replace(NOTHING, smoothing=0.2, **changed)
    torch.manual_seed(1)
    made = mix(mixing)
    made.changes = []  # flat images as they are
    found, wanted = made(flat, LABELS)
    assert torch.allclose(wanted.sum(1), torch.ones(5))
    grays = found * torch.tensor(DEVIATION).reshape(3, 1, 1) + torch.tensor(MEAN).reshape(3, 1, 1)
    share = (wanted - 0.05) / 0.8
    expected = (share * torch.tensor([40.0, 80, 120, 160])).sum(1) / 255
    assert torch.allclose(grays.mean((1, 2, 3)), expected, atol=1e-4)
    assert bool(((share > 0.01) & (share < 0.99)).any()) is mixes


def test_other_images_than_photographs_are_cropped_flipped_and_mixed_alone() -> None:
    made = mix(Mixing(), photographs=False, channels=5)
    assert made(images(channels=5), LABELS)[0].shape == (5, 5, 8, 12)
    assert "no RandAugment and erasing" in str(made) and "RandAugment 2 x" not in str(made)
    deep = images(channels=5).astype(np.float32) * 0.9
    assert made(deep, LABELS)[0].isfinite().all()
    assert "RandAugment 2 x 27 of 30, erasing 0.25, mixup 0.8, cutmix 1" in str(mix(Mixing()))


def test_every_change_does_something_and_repeats_itself() -> None:
    given = images()
    plain = mix(NOTHING)
    plain.changes = plain.changes[1:]
    unchanged, _ = plain(given, LABELS)
    assert torch.allclose(unchanged, normal(given), atol=1e-6)
    for change in ({"flip": 1.0}, {"rand_augment": 27}, {"erasing": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}):
        made = mix(replace(NOTHING, **change))
        made.changes = made.changes[1:]
        results = []
        for _ in range(2):
            torch.manual_seed(3)
            results.append(made(given, LABELS)[0])
        assert torch.equal(*results) and not torch.allclose(results[0], unchanged), change
    flipped = mix(replace(NOTHING, flip=1.0))
    flipped.changes = flipped.changes[1:]
    assert torch.equal(flipped(given, LABELS)[0], unchanged.flip(3))
