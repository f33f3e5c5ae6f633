"""Makes the embedded part of Fashion-MNIST, and checks it against the original files.

    apt-get install dataset-fashion-mnist
    python tools/make_fashion_mnist.py /usr/share/datasets/fashion-mnist src/contextae/data/builtin/fashion_mnist

The first 12,000 training and the first 2,000 test images, one under another in a PNG 28 pixels wide (5.6 MB in all,
against 6.2 MB of compressed NumPy arrays), and their labels as digits in one line of text. The Debian package is that
of version 0.0~git20200523.55506a9-1; its copyright file is where the LICENSE beside the data is from.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PARTS = {"train": ("train", 12_000), "test": ("t10k", 2_000)}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of axes, their lengths, the values."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        sys.exit(f"{path} is not an IDX file of unsigned bytes.")
    lengths = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(lengths)


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for part, (name, count) in PARTS.items():
        images = read_idx(source / f"{name}-images-idx3-ubyte.gz")[:count]
        labels = read_idx(source / f"{name}-labels-idx1-ubyte.gz")[:count]
        Image.fromarray(images.reshape(-1, 28)).save(out / f"{part}.png", optimize=True)
        (out / f"{part}_labels.txt").write_text("".join(map(str, labels.tolist())) + "\n", encoding="ascii")

        again = np.asarray(Image.open(out / f"{part}.png")).reshape(-1, 28, 28)
        if not np.array_equal(again, images):
            sys.exit(f"{part}.png does not give back the images it was made of.")
        sys.stdout.write(f"{part}: {len(images):,} images, {np.bincount(labels).tolist()} of each class\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
