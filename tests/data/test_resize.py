from __future__ import annotations

import builtins
import random
import threading

import numpy as np
import pytest
from PIL import Image

from contextae.data import resize as module
from contextae.data.resize import fast_library, near, resize
from data.pictures import pixels

KERNELS = {False: Image.Resampling.BICUBIC, True: Image.Resampling.LANCZOS}
CASES = [  # height and width, box, target
    ((61, 83), (0, 0, 83, 61), (13, 17)),
    ((61, 83), (5, 7, 70, 40), (13, 17)),
    ((61, 83), (5.25, 7.5, 70.75, 40.125), (29, 31)),
    ((19, 11), (0, 0, 11, 19), (37, 41)),
    ((47, 23), (2, 3, 20, 45), (16, 53)),
    ((23, 47), (1, 1, 2, 2), (7, 5)),
    ((23, 47), (3, 4, 20, 11), (7, 17)),
    ((97, 5), (0, 0, 5, 97), (3, 3)),
    ((1, 1), (0, 0, 1, 1), (4, 6)),
]


def by_pillow(image: np.ndarray, size, box, lanczos: bool = False) -> np.ndarray:
    planes = [Image.fromarray(np.ascontiguousarray(image[:, :, c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize(size[::-1], KERNELS[lanczos], box)) for plane in planes])


def matrix(length: int, begin: float, end: float, out: int, lanczos: bool) -> np.ndarray:
    """Keys' and Lanczos' kernels written out, out x length, in float64."""
    step = (end - begin) / out
    wide = max(step, 1.0)
    centre = begin + (np.arange(out) + 0.5) * step
    x = np.abs(np.arange(length) + 0.5 - centre[:, None]) / wide
    if lanczos:
        weights = np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)
    else:
        weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.fixture(params=["library", "pillow"])
def either(request, monkeypatch) -> str:
    """Both ways of resizing: by the library, and by Pillow where there is none."""
    if request.param == "pillow":
        monkeypatch.setattr(module, "fast_library", lambda: None)
    elif fast_library() is None:
        pytest.skip("cykooz.resizer has no wheel for this machine")
    return request.param


@pytest.mark.parametrize("lanczos", [False, True])
@pytest.mark.parametrize(("shape", "box", "size"), CASES)
def test_a_box_is_resized_as_pillow_does_it(either, shape, box, size, lanczos) -> None:
    image = pixels(5, *shape) // 2 + 60  # no overshoot is clipped
    made = resize(image, size, box, lanczos=lanczos)
    assert made.shape == (3, *size) and made.dtype == np.uint8
    assert np.abs(made.astype(int) - by_pillow(image, size, box, lanczos)).max() <= 2


@pytest.mark.parametrize("lanczos", [False, True])
@pytest.mark.parametrize(("shape", "box", "size"), CASES)
def test_black_and_white_noise_is_clipped_between_the_axes(shape, box, size, lanczos) -> None:
    if fast_library() is None:
        pytest.skip("cykooz.resizer has no wheel for this machine")
    image = (np.random.default_rng(0).random((*shape, 2)) < 0.5).astype(np.uint8) * 255
    made = resize(image, size, box, lanczos=lanczos)
    down, across = (
        matrix(n, begin, end, out, lanczos)
        for n, begin, end, out in zip(shape, box[1::-1], box[:1:-1], size, strict=True)
    )
    cut, _ = near(image, box, size, 3 if lanczos else 2)
    for c in range(2):
        plane = image[:, :, c].astype(float)
        if cut.shape[0] > size[0] and cut.shape[0] / size[0] > cut.shape[1] / size[1]:
            exact = np.clip(down @ plane, 0, 255).round() @ across.T
        else:
            exact = down @ np.clip(plane @ across.T, 0, 255).round()
        assert np.abs(made[c] - np.clip(exact, 0, 255)).max() <= 2
    rough = np.abs(made.astype(int) - by_pillow(image, size, box, lanczos))
    assert rough.max() <= 64 and rough.mean() < 10


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("kind", "most", "bound"), [(np.uint8, 255, 2), (np.uint16, 60_000, 2), (np.float32, 1, 1e-5)])
def test_any_number_of_channels_of_any_type(either, channels, kind, most, bound) -> None:
    base = np.concatenate([pixels(seed, 41, 59) for seed in range(3)], 2)[:, :, :channels].astype(np.float64)
    image = (base / 255 * 0.5 + 0.25) * most
    image = image.round().astype(kind) if most > 1 else image.astype(kind)
    made = resize(image, (17, 13), (3, 2, 50, 40))
    assert made.dtype == kind and made.shape == (channels, 17, 13)
    wanted = by_pillow(image if kind == np.uint8 else image.astype(np.float32), (17, 13), (3, 2, 50, 40))
    if either == "pillow" and kind == np.uint16:
        bound = 0.51  # it is rounded once
    assert np.abs(made - wanted.astype(np.float64)).max() <= bound


def test_sixteen_bits_are_clipped_and_floats_are_not(either) -> None:
    edge = np.zeros((8, 8, 1), np.uint16)
    edge[:, 4:] = 65535
    made = resize(edge, (16, 16), (0, 0, 8, 8))
    assert made[:, :, :7].max() < 3000 and made[:, :, 9:].min() > 62000
    floats = resize(edge.astype(np.float32), (16, 16), (0, 0, 8, 8))
    assert floats.max() > 65535 + 1000 and floats.min() < -1000


def test_a_box_of_the_target_size_is_only_cut_out(either) -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    assert (resize(image, (11, 13), (4, 5, 17, 16)) == image[5:16, 4:17].transpose(2, 0, 1)).all()


def test_channels_do_not_mix(either) -> None:
    image = np.zeros((20, 30, 7), np.uint8)
    image[:, :, 3] = 200
    assert resize(image, (8, 9), (1, 1, 28, 19)).max((1, 2)).tolist() == [0, 0, 0, 200, 0, 0, 0]


def test_views_of_an_image_are_resized_like_copies(either) -> None:
    turned = pixels(2, 30, 44).swapaxes(0, 1)[::-1, ::-1]
    box = (3.5, 2.0, 25.0, 40.25)
    assert (resize(turned, (12, 10), box) == resize(np.ascontiguousarray(turned), (12, 10), box)).all()
    gray = np.broadcast_to(pixels(2, 30, 44)[:, :, :1], (30, 44, 3))
    assert (resize(gray, (9, 8), (0, 0, 44, 30)) == resize(gray.copy(), (9, 8), (0, 0, 44, 30))).all()


def test_only_the_pixels_near_the_box_are_touched() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    cut, box = near(image, (50, 20, 130, 60), (20, 20), 2)
    assert cut.shape == (48, 96, 3) and box == (8, 4, 88, 44)
    cut, box = near(image, (0, 0, 200, 100), (300, 300), 3)
    assert cut.shape == image.shape and box == (0, 0, 200, 100)


def test_boxes_that_end_where_the_image_ends_survive_rounding(either) -> None:
    rng = random.Random(0)
    for _ in range(300):
        height, width = rng.randrange(1, 60), rng.randrange(1, 60)
        left, top = rng.random() * (width - 0.5), rng.random() * (height - 0.5)
        image = np.full((height, width, 1), 77, np.uint8)
        assert (resize(image, (rng.randrange(1, 20), rng.randrange(1, 20)), (left, top, width, height)) == 77).all()


def test_a_box_may_end_a_rounding_error_beyond_the_image(either) -> None:
    image = pixels(3, 30, 40)
    beyond = (0.25, 0.5, float(np.nextafter(40, 41)), float(np.nextafter(30, 31)))
    assert (resize(image, (9, 11), beyond) == resize(image, (9, 11), (0.25, 0.5, 40, 30))).all()


def test_threads_do_not_disturb_each_other(either) -> None:
    images = [pixels(seed, 90, 120) for seed in range(4)]
    alone = [resize(image, (33, 35), (0, 0, 120, 90)) for image in images]
    same = []

    def again(number: int) -> None:
        same.append(all((resize(images[number], (33, 35), (0, 0, 120, 90)) == alone[number]).all() for _ in range(30)))

    threads = [threading.Thread(target=again, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 4


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"resized as one of uint8, uint16, float32\. Got int32"):
        resize(np.zeros((4, 4, 1), np.int32), (2, 2), (0, 0, 4, 4))


def test_without_the_library_pillow_resizes(monkeypatch) -> None:
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "cykooz_resizer":
            raise ImportError(name)
        return real(name, *rest, **named)

    fast_library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    assert fast_library() is None
    monkeypatch.undo()
    fast_library.cache_clear()
