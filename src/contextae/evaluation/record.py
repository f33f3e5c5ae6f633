"""The record of an evaluation: every representation under every protocol, and how sure each figure is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from contextae.evaluation.results import Compared, Result

FORMAT = 1
"""Version of what `to_json` gives."""

THIS_ENCODER, RANDOM = "this encoder", "random initialisation"

Chosen = dict[str, float | int | str | bool]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One representation under one protocol; with several seeds, figures are their means.

    `correct` tells for every seed and test image whether it was classified right; `chosen` and `held_out_accuracy`
    are of the held-out part of train. Accuracies are shares, 0 to 1; `interval` is the 95 % bootstrap's.
    """

    representation: str
    protocol: str
    version: int
    correct: Bool[np.ndarray, "s m"]
    accuracy: float
    interval: tuple[float, float]
    mean_per_class: float
    held_out_accuracy: float
    chosen: tuple[Chosen, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """`correct` as one string of hexadecimal digits per seed, four images a digit, the first image's bit first."""
        return {
            "representation": self.representation,
            "protocol": self.protocol,
            "version": self.version,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "accuracy_of_each_seed": [float(value) for value in self.correct.mean(axis=1)],
            "mean_per_class": self.mean_per_class,
            "held_out_accuracy": self.held_out_accuracy,
            "chosen": [dict(each) for each in self.chosen],
            "seconds": self.seconds,
            "correct": [np.packbits(row).tobytes().hex() for row in self.correct],
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found. `chance` is the accuracy of always naming the most frequent class of train.

    `details` says what each representation's vectors are, `notes` what the reader should know about the data. `beside`
    names rows of other trained networks.
    """

    classes: tuple[str, ...]
    num_train: int
    num_test: int
    image_size: tuple[int, ...]
    channels: int
    protocols: tuple[str, ...]
    seeds: int
    seed: int
    chance: float
    fingerprint: str
    details: dict[str, str]
    entries: tuple[Entry, ...]
    differences: tuple[Compared, ...]
    notes: tuple[str, ...]
    feature_seconds: dict[str, float]
    seconds: float
    beside: tuple[str, ...] = ()

    @property
    def representations(self) -> tuple[str, ...]:
        """In the order of the table's rows."""
        return tuple(dict.fromkeys(entry.representation for entry in self.entries))

    def entry(self, representation: str, protocol: str) -> Entry | None:
        """None where a protocol cannot read a representation."""
        for entry in self.entries:
            if (entry.representation, entry.protocol) == (representation, protocol):
                return entry
        return None

    def difference(self, protocol: str, baseline: str) -> Compared | None:
        """To the baseline under the same protocol; None where the protocol cannot read it."""
        for each in self.differences:
            if (each.protocol, each.baseline, each.baseline_protocol) == (protocol, baseline, ""):
                return each
        return None

    def hardest(self, protocol: str) -> Compared | None:
        """To the training-free baseline that is most accurate on test: the one an encoder has to beat to be useful.

        Under the same protocol; where that cannot read such baselines, under whichever of the others serves them best.
        None if there is no other.
        """
        others = (RANDOM, *self.beside)
        rivals = [each for each in self.differences if each.protocol == protocol and each.baseline not in others]
        return min(rivals, key=lambda each: each.difference, default=None)

    @property
    def results(self) -> list[Result]:
        """Its accuracies, in the form that all protocols share."""
        return [
            Result(
                protocol=entry.protocol,
                version=entry.version,
                row=entry.representation,
                metric="accuracy",
                value=entry.accuracy,
                interval=entry.interval,
                num_images=self.num_test,
                seeds=len(entry.correct),
                seconds=entry.seconds,
                details={
                    "mean per class": entry.mean_per_class,
                    "held-out accuracy": entry.held_out_accuracy,
                    "chosen": [dict(each) for each in entry.chosen],
                    "representation": self.details.get(entry.representation, ""),
                },
            )
            for entry in self.entries
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values; the caller adds checkpoint, commit and hardware."""
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "num_train": self.num_train,
            "num_test": self.num_test,
            "image_size": list(self.image_size),
            "channels": self.channels,
            "protocols": list(self.protocols),
            "seeds": self.seeds,
            "seed": self.seed,
            "chance": self.chance,
            "encoder_sha256": self.fingerprint,
            "details": dict(self.details),
            "beside": list(self.beside),
            "entries": [entry.to_json() for entry in self.entries],
            "differences": [{**asdict(each), "interval": list(each.interval)} for each in self.differences],
            "notes": list(self.notes),
            "feature_seconds": dict(self.feature_seconds),
            "seconds": self.seconds,
        }
