from __future__ import annotations

import hashlib
import re
from importlib.resources import files

import numpy as np
import pytest

from contextae.data.builtin import builtin_arrays
from contextae.errors import UserError


def test_the_arrays_are_fashion_mnist() -> None:
    """The hashes are of the original IDX files' first 12,000 and 2,000 entries, headers aside."""
    arrays = builtin_arrays("fashion-mnist")
    assert arrays.train_images.shape == (12_000, 28, 28, 1) and arrays.test_images.shape == (2_000, 28, 28, 1)
    assert arrays.train_images.dtype == np.uint8 and arrays.train_labels.dtype == np.int64
    assert np.bincount(arrays.train_labels).tolist() == [1122, 1220, 1201, 1212, 1181, 1204, 1244, 1192, 1195, 1229]
    assert np.bincount(arrays.test_labels).tolist() == [200, 203, 214, 190, 219, 195, 197, 200, 194, 188]

    def digest(values: np.ndarray) -> str:
        return hashlib.sha256(values.astype(np.uint8).tobytes()).hexdigest()[:16]

    assert [digest(part) for part in arrays[:4]] == DIGESTS


DIGESTS = ["04d01e31a4efd6ed", "d296805e35a4cabb", "09bbac78738f0229", "a86243d2b2400909"]


def test_the_classes_are_in_the_order_of_the_labels() -> None:
    arrays = builtin_arrays("fashion-mnist")
    assert len(arrays.classes) == 10 and arrays.classes[9] == "ankle boot" and arrays.train_labels[0] == 9
    mean = [arrays.train_images[arrays.train_labels == label].mean(0)[:, :, 0] for label in range(10)]
    gap = [image[18:26, 13:15].mean() / image[18:26, 9].mean() for image in mean]
    assert arrays.classes[int(np.argmin(gap[:5]))] == "trouser", "trousers alone are dark between the legs"
    assert arrays.classes[int(np.argmin([image[:8].mean() for image in mean]))] in ("sandal", "sneaker")


def test_the_arrays_are_shared_and_cannot_be_changed() -> None:
    arrays = builtin_arrays("fashion-mnist")
    assert builtin_arrays("fashion-mnist") is arrays
    assert not any(part.flags.writeable for part in arrays[:4])


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UserError,
        match=r"^builtin:fashon-mnist is not a set that comes with contextae\. Did you mean 'fashion-mnist'\? "
        r"There is: builtin:fashion-mnist\.$",
    ):
        builtin_arrays("fashon-mnist")


def test_the_licence_is_beside_the_data_and_the_data_is_small() -> None:
    folder = files("contextae.data.builtin")
    text = (folder / "LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert re.search(r"Copyright: 2017, Zalando SE", text) and "Permission is hereby granted, free of charge" in text
    sizes = [entry.stat().st_size for entry in (folder / "fashion_mnist").iterdir()]
    assert len(sizes) == 4 and sum(sizes) < 7_000_000
