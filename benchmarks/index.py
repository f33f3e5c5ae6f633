"""An index of very many images: the time to build and to open it, what look-ups cost, and what memory it takes.

    python benchmarks/index.py --count 50000000

Names and facts are made up; the folder takes about 90 bytes an image. Memory is what a process has to itself
(RssAnon of /proc/PID/status); that of a loader process is what it gains by the index beside one of a hundred images.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from contextae.data.index import FACTS, Index
from contextae.data.names import CHUNK, Column, Names, as_array
from contextae.data.sampler import Sampler
from contextae.data.sources.folder import Files
from contextae.data.stored_index import open_stored, write_index

WORKER = """
import os, pickle, sys
before = int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])
index = pickle.load(sys.stdin.buffer)
length = len(index.ids)
assert [index.ids[i * 7919 % length] for i in range(1000)]
after = int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])
print(after - before)
"""


def anonymous() -> float:
    """Of this process, in MB."""
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1000


def made(count: int) -> Index:
    """As a walk makes it: names and rows come one after the other."""
    ids = Names(f"{i % 1000:03}/{i // 1000:09}.jpg" for i in range(count))
    column, row = Column(), np.zeros(CHUNK, FACTS)
    row["width"], row["height"], row["num_bytes"] = 500, 375, 100_000
    row["format"], row["kind"], row["channels"], row["dtype"], row["photograph"] = b"JPEG", b"RGB", 3, b"uint8", True
    for start in range(0, count, CHUNK):
        column.append(row[: min(CHUNK, count - start)].tobytes())
    facts = as_array(column.whole(), FACTS)
    return Index(source=Files("/data"), title="/data", ids=ids, facts=facts, channels=3, found=count)


def worker_gain(ids: Names) -> float:
    """MB of its own that a loader process gains by an index, all that it imports included."""
    bare = Index(source=Files("/data"), title="", ids=ids, facts=np.zeros(0, FACTS), channels=3, found=0)
    answer = subprocess.run([sys.executable, "-c", WORKER], input=pickle.dumps(bare), capture_output=True, check=True)
    return int(answer.stdout) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000_000)
    parser.add_argument("--folder", type=Path, help="where there is room")
    arguments = parser.parse_args()
    count, random = arguments.count, np.random.default_rng(0)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    os.environ["CONTEXTAE_CACHE"] = str(folder / "cache")
    try:
        start, before = time.perf_counter(), anonymous()
        index = made(count)
        write_index(folder / "images", index, found=count, left_out=0)
        seconds = time.perf_counter() - start
        # memory maps count towards the peak of ru_maxrss, so that the anonymous part is read as it stands at the end
        print(f"{count:,} images: built and written in {seconds:.0f} s, {anonymous() - before:.0f} MB more of its own")
        del index
        gc.collect()
        size = sum(path.stat().st_size for path in (folder / "images").iterdir())
        before = anonymous()
        start = time.perf_counter()
        stored = open_stored(folder / "images", whole=False, restore="")
        opened = time.perf_counter() - start
        start = time.perf_counter()
        for position in random.integers(0, count, 10_000).tolist():
            assert stored.ids[position]
        looked_up = time.perf_counter() - start
        sampler = Sampler(length=count, batch_size=256, seed=0)
        start = time.perf_counter()
        for step in range(1000):
            sampler.batch(step * (count // 256_000 or 1))
        drawn = time.perf_counter() - start
        print(f"on disk {size / 1e9:.2f} GB; opened in {1000 * opened:.1f} ms")
        print(f"10,000 random names in {1000 * looked_up:.0f} ms; 1,000 batches of 256 drawn in {1000 * drawn:.0f} ms")
        worker = worker_gain(stored.ids) - worker_gain(Names(f"{i}.jpg" for i in range(100)))
        print(f"memory of its own: main process {anonymous() - before:+.0f} MB, a worker {worker:+.1f} MB")
        start = time.perf_counter()
        open_stored(folder / "images", whole=True, restore="")
        print(f"with every byte compared to its hash: {time.perf_counter() - start:.1f} s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"peak of this process, pages of files included: {peak:.2f} GB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
