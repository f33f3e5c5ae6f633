"""The input pipeline against the training step, measured in one run, for the sets that docs/results.md trains on.

    python benchmarks/input.py [--data FOLDER] [--threads 2] [--steps 30]

FOLDER holds cifar10/parquet/train.parquet and clothing10/train; without them only the embedded set is measured. Three
rates, in turn and several times, the best of each: the input alone (as many loader processes as a run would start,
nothing else running), the step alone on a batch that is in memory, and both together as in a run. Printed: input over
step, which should be at least 2, and together over step, at least 0.9.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import torch

from contextae.data.index import Index
from contextae.data.loader import Loader
from contextae.data.sampler import Sampler
from contextae.data.sources import open_index
from contextae.data.transfer import Transfer
from contextae.experiment import Experiment
from contextae.presets import preset
from contextae.training.allocator import keep_freed_memory
from contextae.training.distributed import start
from contextae.training.optimizer import adamw
from contextae.training.precision import resolve
from contextae.training.schedule import Schedule
from contextae.training.step import Step
from contextae.verbs.plan import workers

SETS = {"demo": "builtin:fashion-mnist", "cifar10": "cifar10/parquet/train.parquet", "clothing10": "clothing10/train"}


class Bench:
    """One preset on its images."""

    def __init__(self, experiment: Experiment, index: Index, steps: int) -> None:
        self.experiment, self.index, self.steps = experiment, index, steps
        self.distributed = start("cpu")
        self.precision = resolve(experiment.training.precision, self.distributed.device).precision
        torch.manual_seed(0)
        method = experiment.build_method(index.channels)
        self.step = Step(
            method=method,
            optimizer=adamw(method, lr=1e-4, weight_decay=0.05, betas=experiment.optimizer.betas),
            schedule=Schedule(peak=1e-4, final=1e-5, warmup_steps=10, total_steps=10_000),
            clip_norm=experiment.optimizer.clip_norm,
            accumulate=1,
            precision=self.precision,
            distributed=self.distributed,
        )
        self.transfer = Transfer(self.distributed.device, [0.5] * index.channels, [0.25] * index.channels)

    def loader(self) -> Loader:
        return Loader(
            index=self.index,
            sampler=Sampler(length=len(self.index), batch_size=self.experiment.training.batch_size, seed=0),
            views=self.experiment.build_views(),
            seed=0,
            num_workers=workers(self.experiment, self.distributed),
        )

    def rate(self, *, load: bool, train: bool) -> float:
        """Images/s of the input, of the step, or of both; the first steps, while processes start, are not counted."""
        first = 3
        with self.loader() as loader:
            batches = loader.batches(0, self.steps + first)
            batch = self.transfer(next(batches).batch)
            for number in range(1, self.steps + first):
                if number == first:
                    began = time.perf_counter()
                if load:
                    batch = self.transfer(next(batches).batch)
                if train:
                    self.step(batch, number)
            return self.steps * self.experiment.training.batch_size / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CONTEXTAE_DATA", "../shared/data")))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `contextae pretrain` does
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.processor() or platform.machine()}")
    for name, where in SETS.items():
        source = where if where.startswith("builtin:") else str(arguments.data / where)
        if not where.startswith("builtin:") and not Path(source).exists():
            print(f"{name:11s} left out: there is nothing at {source}; name the folder with --data")
            continue
        bench = Bench(preset(name, source), open_index(source), arguments.steps)
        best = {"input": 0.0, "step": 0.0, "both": 0.0}
        for _ in range(arguments.rounds):
            for which, parts in (("input", (True, False)), ("step", (False, True)), ("both", (True, True))):
                best[which] = max(best[which], bench.rate(load=parts[0], train=parts[1]))
        print(
            f"{name:11s} images/s in {bench.precision}: input {best['input']:.0f}, step {best['step']:.0f}, together "
            f"{best['both']:.0f};  input over step {best['input'] / best['step']:.2f}, together over step "
            f"{best['both'] / best['step']:.2f}"
        )


if __name__ == "__main__":
    main()
