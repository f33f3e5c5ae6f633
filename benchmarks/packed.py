"""Reading and cropping out of a packed cache, against torchvision's ImageFolder + RandomResizedCrop on the originals.

    python benchmarks/packed.py [--images 128] [--rounds 5] [--memory]

One thread, one core; run it as `taskset -c 1 python benchmarks/packed.py` to pin it. The originals are JPEG files of
500 x 375 pixels and about 100 KB, as benchmarks/decode.py makes them; they are packed here, as raw and as jpeg, short
side 256. Both sides find an image, read it, cut a random part (scale 0.2 to 1, ratio 3/4 to 4/3), resize it bicubically
and antialiased to 224 x 224, flip half of them, and end with a contiguous batch (of one) in uint8: some leave c h w to
the stacking. All images are gone through `rounds` times in turn, so that none is in the processor's cache from just
before; of each crop the best CPU time counts. Printed: images/s of each, its ratio, which should be at least 3 (jpeg)
and 10 (raw), and where the time goes.

With --memory: what two loader processes have to themselves (RssAnon, VmPTE of /proc/PID/status) after each of ten
epochs through the originals and both caches; it should not grow.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from decode import BASELINE, write_files
from torchvision.datasets import ImageFolder

from contextae.data.augment import Crop
from contextae.data.cuts import cut, stacked
from contextae.data.device import cropped
from contextae.data.index import Index
from contextae.data.loader import Loader
from contextae.data.packing import pack
from contextae.data.picture import picture
from contextae.data.resize import resize
from contextae.data.sampler import Sampler
from contextae.data.samples import stack
from contextae.data.sources.find import list_source
from contextae.data.sources.open import index_of
from contextae.data.sources.origin import origin_of
from contextae.data.sources.packed import list_packed
from contextae.methods.views import PlainViews
from contextae.randomness import stream

ORIGINALS, SIZE = (375, 500, 100), (224, 224)
"Height, width and KB of the originals; of crops height and width."
CROP = Crop(size=SIZE)
WANTED = {"jpeg": 3.0, "raw": 10.0}
EPOCHS, WORKERS = 10, 2
CPU = torch.device("cpu")


def packed(source: Path, folder: Path, kind: str) -> Index:
    """Also says how long it took, all processes together."""
    listing = list_source(str(source))
    origin, looks = origin_of(str(source), listing)
    began = time.perf_counter()
    done = pack(index_of(listing, "auto", None), folder, origin, looks, kind=kind, num_workers=1)
    seconds = time.perf_counter() - began
    size = sum(size for size, _ in done.images.manifest.files.values()) / len(done.images)
    print(f"packed as {kind}: {len(done.images) / seconds:.0f} images/s by one process, {size / 1000:.0f} KB an image")
    return index_of(list_packed(folder, str(folder)), "auto", None)


def viewed(index: Index, position: int) -> np.ndarray:
    """What a loader process does with an image, but for its mask."""
    opened = picture(index.read(position), channels=3)
    batch: np.ndarray = stack([CROP(opened, stream(0, "view", 0, index.ids[position]))])
    return batch


def best_times(sides: dict[str, Callable[[int], object]], count: int, rounds: int) -> dict[str, float]:
    """Mean seconds of CPU an image, by side."""
    best = {name: np.full(count, np.inf) for name in sides}
    gc.disable()
    for _ in range(rounds):
        for name, side in sides.items():
            for i in range(count):
                began = time.process_time()
                side(i)
                best[name][i] = min(best[name][i], time.process_time() - began)
    gc.enable()
    return {name: float(times.mean()) for name, times in best.items()}


def sides_of(dataset: ImageFolder, raw: Index, jpeg: Index) -> dict[str, Callable[[int], object]]:
    """The whole way of each, and the steps of the raw one."""
    drawn = {i: CROP.draw(picture(raw.read(i), channels=3), stream(0, "view", 0, raw.ids[i])) for i in range(len(raw))}

    def original(i: int) -> object:
        torch.manual_seed(i)
        return torch.stack([dataset[i][0]])

    return {
        "torchvision": original,
        "jpeg": lambda i: viewed(jpeg, i),
        "raw": lambda i: viewed(raw, i),
        "raw: find": lambda i: raw.read(i),
        "raw: look at the array": lambda i: picture(PIXELS, channels=3),
        "raw: draw": lambda i: CROP.draw(PIXELS, stream(0, "view", 0, raw.ids[i])),
        "raw: find, resize": lambda i: resize(raw.read(i), SIZE, drawn[i].box),
        "jpeg: find and read": lambda i: jpeg.read(i),
        "jpeg: decode": lambda i: picture(jpeg.read(i), channels=3).part((0, 0, 9, 9), SIZE),
        "device: cut": lambda i: cut(raw.read(i), CROP.draw(raw.read(i), stream(0, "view", 0, raw.ids[i])).box, SIZE),
    }


PIXELS = np.zeros((256, 341, 3), np.uint8)


def device_times(raw: Index, rounds: int) -> None:
    """Cuts of one batch by a loader process, and what the device then does, here on this core."""
    count = min(64, len(raw))
    seconds = {"cut and stacked": np.inf, "resized on this CPU": np.inf}
    for _ in range(rounds):
        began = time.process_time()
        rngs = (stream(0, "view", 0, raw.ids[i]) for i in range(count))
        cuts = stacked([cut(image := raw.read(i), CROP.draw(image, rng).box, SIZE) for i, rng in enumerate(rngs)])
        middle = time.process_time()
        cropped(cuts, SIZE, CPU)
        end = time.process_time()
        for name, took in zip(seconds, (middle - began, end - middle), strict=True):
            seconds[name] = min(seconds[name], took / count)
    for name, took in seconds.items():
        print(f"  {name}: {1 / took:,.0f} images/s")
    print(f"  {cuts.pixels.nbytes / count / 1000:.0f} KB an image travel, of crops {np.prod(SIZE) * 3 / 1000:.0f} KB")


def memory(index: Index, name: str) -> None:
    """After each epoch, of the loader processes together, in MB."""
    sampler = Sampler(length=len(index), batch_size=32, seed=0)
    steps = sampler.steps(EPOCHS)
    after: list[tuple[float, float]] = []
    with Loader(index=index, sampler=sampler, views=PlainViews(crop=CROP), seed=0, num_workers=WORKERS) as loader:
        for number, _ in enumerate(loader.batches(0, steps), start=1):
            if number % (steps // EPOCHS) == 0 and loader.pool:
                pids = [process.popen.pid for process in loader.pool.processes if process]
                after.append((total(pids, "RssAnon"), total(pids, "VmPTE")))
    anonymous = [one for one, _ in after]
    print(
        f"{name}: MB of their own after each epoch {', '.join(f'{one:.1f}' for one in anonymous)}: "
        f"{np.mean(anonymous[-4:]) - np.mean(anonymous[2:6]):+.1f} from epochs 3 to 6 to the last four, where a batch "
        f"on its way is {32 * np.prod(SIZE) * 3 / 1e6:.1f}; page tables {after[-1][1]:.1f}"
    )


def total(pids: list[int], name: str) -> float:
    """Of a field of /proc/PID/status, in MB."""
    found = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as lines:
            found += int(next(line for line in lines if line.startswith(name)).split()[1])
    return found / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, {arguments.images} images")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "originals")
        write_files(source, *ORIGINALS, arguments.images)
        raw, jpeg = (packed(source, Path(temporary, kind), kind) for kind in ("raw", "jpeg"))
        seconds = best_times(
            sides_of(ImageFolder(str(source), BASELINE), raw, jpeg), arguments.images, arguments.rounds
        )
        print(f"torchvision on the originals: {1 / seconds['torchvision']:.0f} images/s")
        for kind, wanted in WANTED.items():
            ratio = seconds["torchvision"] / seconds[kind]
            print(f"{kind}: {1 / seconds[kind]:,.0f} images/s;  ratio {ratio:.2f}, wanted {wanted:g}")
        for name, took in seconds.items():
            if ":" in name:
                print(f"  {name}: {1e6 * took:.0f} us")
        rest = seconds["raw"] - sum(seconds[f"raw: {step}"] for step in ("look at the array", "draw", "find, resize"))
        print(f"  raw: flip, stack: {1e6 * rest:.0f} us")
        device_times(raw, arguments.rounds)
        if arguments.memory:
            originals = index_of(list_source(str(source)), "auto", None)
            for name, index in (("originals", originals), ("jpeg", jpeg), ("raw", raw)):
                memory(index, name)


if __name__ == "__main__":
    main()
