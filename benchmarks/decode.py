"""From a JPEG file to a crop of 224 x 224 in uint8, against torchvision's ImageFolder with RandomResizedCrop.

    taskset -c 1 python benchmarks/decode.py [--data FOLDER] [--crops 24] [--rounds 5]

One thread, one core. Both sides read the file, decode it, cut out a random part (scale 0.2 to 1, ratio 3/4 to 4/3),
resize it (bicubic, antialiased), flip half of them, and end with uint8 c h w. Files are made here: waves with noise of
every scale, quality 90, 4:2:0, of the sizes in SETS; FOLDER/clothing10/train is added where it is. Both
sides make each crop in turn, `rounds` times, and its least CPU time counts. Printed: images/s of both, their ratio,
and the ratio that is wanted.

The ratio of large files is bounded: all of their entropy-coded bytes are read at any scale, so that damage is found.
`bound` is the rate at which they can be decoded to an eighth in gray, without anything else.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

from contextae.data.augment import Crop
from contextae.data.picture import picture
from contextae.data.resize import resize

SETS = [(375, 500, 100, 6, 1.5), (1200, 1600, 701, 6, 2.0), (3000, 4000, 3500, 3, 4.0), (3000, 4000, 2500, 3, 4.0)]
"Height and width, KB of a file, number of files, and the ratio that is wanted."
STEPS = (2, 4, 8, 16, 32, 64)  # pixels of the noise's grids
SIZE = (224, 224)
BASELINE = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, scale=(0.2, 1), interpolation=InterpolationMode.BICUBIC, antialias=True),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
)


def scene(height: int, width: int, seed: int, amplitude: float) -> np.ndarray:
    """Waves with noise of every scale, uint8 h w 3."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    image = np.empty((height, width, 3), np.uint8)
    for c in range(3):
        plane = (128 + 60 * np.sin(3 * x + seed + c) + 40 * np.cos(4 * y + c)).astype(np.float32)
        for step in STEPS:
            grid = rng.normal(0, amplitude, (-(-height // step), -(-width // step))).astype(np.float32)
            plane += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
        image[:, :, c] = plane.clip(0, 255)
    return image


def encoded(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90, subsampling="4:2:0")
    return stream.getvalue()


def amplitude_of(height: int, width: int, kilobytes: int) -> float:
    """Noise with which a file gets its size, found by halving on a smaller piece."""
    h, w = min(height, 600), min(width, 800)
    low, high = 0.5, 60.0
    for _ in range(8):
        middle = (low * high) ** 0.5
        size = len(encoded(scene(h, w, 0, middle))) * (height * width) / (h * w)
        low, high = (middle, high) if size < 1000 * kilobytes else (low, middle)
    return middle


def write_files(folder: Path, height: int, width: int, kilobytes: int, count: int) -> None:
    amplitude = amplitude_of(height, width, kilobytes)
    (folder / "one").mkdir(parents=True)
    for seed in range(count):
        (folder / "one" / f"{seed}.jpg").write_bytes(encoded(scene(height, width, seed, amplitude)))


def ours(path: str, crop: Crop, rng: random.Random) -> np.ndarray:
    """What a loader process does with a file."""
    opened = picture(Path(path).read_bytes(), channels=3)
    box, flipped = crop.box(*opened.shape[:2], rng), rng.random() < crop.flip
    image, box = opened.part(box, crop.size)
    view = resize(image, crop.size, box)
    return np.ascontiguousarray(view[:, :, ::-1]) if flipped else view


def entropy(path: str) -> None:
    """As little as can be done to a whole file."""
    data = Path(path).read_bytes()
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    simplejpeg.decode_jpeg(data, "GRAY", min_height=-(-height // 8), min_width=-(-width // 8))


def measure(folder: Path, crops: int, rounds: int) -> dict[str, float]:
    """Mean seconds of CPU for an image, by side."""
    dataset, crop = ImageFolder(str(folder), BASELINE), Crop(size=SIZE)
    paths = [path for path, _ in dataset.samples]
    total = dict.fromkeys(("torchvision", "ours", "bound"), 0.0)
    for number in range(crops):
        index = number * max(len(paths) // crops, 1) % len(paths)
        sides: dict[str, Callable[[], object]] = {
            "torchvision": partial(drawn, dataset, index, number),
            "ours": lambda path=paths[index], seed=number: ours(path, crop, random.Random(seed)),
            "bound": partial(entropy, paths[index]),
        }
        least = dict.fromkeys(sides, float("inf"))
        for _ in range(rounds):
            for name, side in sides.items():
                began = time.process_time()
                side()
                least[name] = min(least[name], time.process_time() - began)
        for name in sides:
            total[name] += least[name] / crops
    return total


def drawn(dataset: ImageFolder, index: int, seed: int) -> object:
    """The same crop in every round."""
    torch.manual_seed(seed)
    return dataset[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CONTEXTAE_DATA", "../shared/data")))
    parser.add_argument("--crops", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
    print(f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        for height, width, kilobytes, count, wanted in SETS:
            folder = Path(temporary, f"{width}x{height} {kilobytes} KB")
            write_files(folder, height, width, kilobytes, count)
            report(folder.name, measure(folder, arguments.crops, arguments.rounds), wanted)
        clothing = arguments.data / "clothing10" / "train"
        if clothing.is_dir():
            report("clothing10", measure(clothing, 8 * arguments.crops, arguments.rounds), None)
        else:
            print(f"clothing10 left out: there is nothing at {clothing}; name the folder with --data")


def report(name: str, seconds: dict[str, float], wanted: float | None) -> None:
    ratio = seconds["torchvision"] / seconds["ours"]
    print(
        f"{name:17s} images/s: torchvision {1 / seconds['torchvision']:.0f}, ours {1 / seconds['ours']:.0f}, bound "
        f"{1 / seconds['bound']:.0f};  ratio {ratio:.2f}" + (f", wanted {wanted}" if wanted else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
