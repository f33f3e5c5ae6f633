"""What a run is checked by while it trains: latents of fixed images and, with labels, probes on held-out train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from contextae.data.images import load_images
from contextae.data.index import Index
from contextae.data.loader import Loader
from contextae.data.sampler import Sampler
from contextae.data.sources.labelled import LabelledTrain
from contextae.data.transfer import Transfer
from contextae.evaluation.probe import probe
from contextae.evaluation.protocols import PROTOCOLS
from contextae.experiment import Experiment
from contextae.methods.method import Method
from contextae.randomness import Shuffle
from contextae.settings import DataConfig
from contextae.training.health import Health, measure, score, verdict
from contextae.training.loop import Checked

MOST_IN_BANK, MOST_HELD_OUT = 5_000, 1_000


def health_batches(experiment: Experiment, index: Index, *, most: int) -> list[Any]:
    """Views of the images that are looked at all along a run, the same each time, of at most so many in a batch.

    They are decoded in a process of their own, which may die, unless the run asks for none (training.workers=0).
    """
    seed, wanted = experiment.training.seed, min(experiment.health.images, len(index))
    parts = -(-wanted // most)
    loader = Loader(
        index=index.subset(np.sort(Shuffle(len(index), seed, "health").first(wanted))),
        # a few images come twice where they do not divide
        sampler=Sampler(length=wanted, batch_size=-(-wanted // parts), seed=seed),
        views=experiment.build_views(),
        seed=seed,
        num_workers=0 if experiment.training.workers == 0 else 1,
        max_bad_share=1.0,
    )
    with loader:
        return [loaded.batch for loaded in loader.batches(0, parts)]


class HealthCheck:
    """Measures the same images under the same masks each time and judges by all measurements so far."""

    def __init__(
        self, *, method: Method, experiment: Experiment, index: Index, transfer: Transfer, past: list[Health]
    ) -> None:
        self.method, self.transfer, self.history = method, transfer, past
        self.batches = health_batches(experiment, index, most=64)

    @staticmethod
    def past(lines: list[dict[str, Any]]) -> list[Health]:
        """Measurements of the run so far, from its log; lines of a version that measured less are passed over."""
        health = [line for line in lines if line["kind"] == "health" and all(name in line for name in Health._fields)]

        def number(value: float | None) -> float:
            return math.nan if value is None else value  # JSON has no word for what is not finite

        return [Health(*(number(line[name]) for name in Health._fields)) for line in health]

    def __call__(self, waiting: float) -> tuple[dict[str, Any], float, str]:
        """Fields for the log, the label-free score, and a line of words."""
        health = measure(self.method, (self.transfer(batch) for batch in self.batches), waiting=waiting)
        self.history.append(health)
        judged = verdict(self.history)
        fields = {**health._asdict(), "verdict": judged.word, "reason": judged.reason, "score": score(health)}
        return fields, score(health), f"{judged.word}: {judged.reason}"


class ProbeCheck:
    """Accuracies of `health.probes`, fitted on a part of train, on another part of it; test is not opened."""

    def __init__(self, *, method: Method, experiment: Experiment, labelled: LabelledTrain) -> None:
        train, data = labelled.train, experiment.data
        count = min(MOST_HELD_OUT, len(train) // 5)
        drawn = Shuffle(len(train), experiment.training.seed, "kNN check").first(count + MOST_IN_BANK)
        held_out, bank = drawn[:count], drawn[count:]
        self.method, self.experiment = method, experiment
        self.bank, self.queries = (self._read(train.subset(part), data) for part in (bank, held_out))

    @staticmethod
    def _read(index: Index, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
        loaded = load_images(index, data.image_size, value_range=data.scaled_from)
        assert index.labels is not None  # open_labelled_train gives no index without
        return loaded.images, index.labels[loaded.positions]

    @property
    def num_queries(self) -> int:
        """Held-out images."""
        return len(self.queries[1])

    def __call__(self) -> dict[str, float]:
        experiment, data = self.experiment, self.experiment.data
        assert data.mean and data.deviation  # written down before the first step
        return probe(
            self.method.encoder,
            *self.bank,
            *self.queries,
            protocols=experiment.health.probes,
            mean=data.mean,
            deviation=data.deviation,
            seed=experiment.training.seed,
        )


class Checks:
    """Both, as the loop calls them.

    Of a run that `continued` existing weights the probes are a forgetting meter: it is said when there is less of what
    they knew. `first`: the figures of step 0, measured at a start and given at a resume; without them nothing is said.
    """

    def __init__(
        self,
        health: HealthCheck,
        probes: ProbeCheck | None,
        *,
        continued: bool = False,
        first: Mapping[str, float] | None = None,
    ) -> None:
        self.health, self.probes = health, probes
        self.continued, self.first = continued, dict(first or {})

    def __call__(self, done: int, waiting: float) -> Checked:
        fields, value, words = self.health(waiting)
        if self.probes:
            found = self.probes()
            fields |= found
            if not done:
                self.first = found
            told = []
            for name, now in found.items():
                figure = f"{PROTOCOLS[name].title} {100 * now:.1f} %"
                if done and self.continued and name in self.first:
                    figure += f", {compared(now, self.first[name], self.probes.num_queries)}"
                told.append(figure)
            words += f"; on a held-out part of train: {'; '.join(told)}"
        return Checked(fields, value, words)


def compared(now: float, first: float, queries: int) -> str:
    """In words, where the difference is more than chance: two standard errors of two shares of as many images."""
    error = math.sqrt((now * (1 - now) + first * (1 - first)) / queries)
    points = f"{100 * abs(now - first):.1f} points {'less' if now < first else 'more'} than at the start"
    if abs(now - first) <= 2 * error:
        return "as at the start"
    return f"FORGETTING: {points}; lower optimizer.lr_per_256_images" if now < first else points
