"""Both segmentation protocols: this encoder beside random weights under the same protocol, and beside chance."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from contextae.data.index import printable
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.features import fingerprint
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.record import RANDOM, THIS_ENCODER
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.segmentation.data import SegmentationData
from contextae.evaluation.segmentation.linear import LinearSegmentationSettings, train_linear
from contextae.evaluation.segmentation.metrics import METRICS, Tallies, interval, mean_value, paired_interval
from contextae.evaluation.segmentation.overlay import sheet, shown, write_sheet
from contextae.evaluation.segmentation.predict import tallied_constant
from contextae.evaluation.segmentation.rows import Row, claim, read_row, write_row
from contextae.evaluation.segmentation.sliding import stride_of
from contextae.evaluation.segmentation.task import Task, Trained
from contextae.evaluation.segmentation.upernet import SMALL, UPerNetSettings, published, train_upernet
from contextae.evaluation.segmentation.views import Normalisation
from contextae.grid import Grid

Protocol = Literal["segmentation-linear", "segmentation-upernet"]
FROM_SCRATCH, MAJORITY = "from scratch", "majority class"
TRAINING_SHARE = 0.9
"""Of a row's time, for its progress."""
PICTURED = 6
"""Test images on a sheet, spread over all of them."""


def run(
    encoder: Encoder,
    *,
    data: SegmentationData,
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], Encoder],
    value_range: tuple[float, float] = (0.0, 255.0),
    protocol: Protocol = "segmentation-linear",
    settings: LinearSegmentationSettings | UPerNetSettings | None = None,
    seeds: int = 3,
    seed: int = 0,
    state: Path | None = None,
    pictures: Path | None = None,
    progress: Progress | None = None,
) -> tuple[list[Result], list[Compared]]:
    """mIoU, pixel accuracy and mean class accuracy on test, and differences to the baselines, each with its interval.

    Frozen: this encoder once, random weights `seeds` times. UPerNet: this encoder and random weights, which is training
    from scratch with the same budget, `seeds` times each. The majority class of train needs no training. Everything is
    chosen on held-out images, for all alike; test is read for the figures alone. `random_encoder(s)` gives the same
    network with random weights. Without settings UPerNet takes the published ones on a GPU and SMALL ones on a CPU.

    The encoder stays as it is, on its device. `state`, a folder, keeps what is finished and what is being trained, and
    a later call of the same evaluation goes on there. `pictures` becomes a PNG sheet of this encoder's predictions.
    """
    device = next(encoder.parameters()).device
    settings = settings or _settings(protocol, device, encoder.depth)
    if isinstance(settings, UPerNetSettings) != (protocol == "segmentation-upernet"):
        raise UserError(
            f"{protocol} has settings of its own. Got {type(settings).__name__}; leave them out for its defaults."
        )
    if seeds < 1:
        raise UserError(f"A baseline of random weights needs at least one seed. Got seeds={seeds}; 3 are usual.")
    _check(encoder, data, mean, deviation)
    task = Task(
        data=data,
        window=settings.image_size or _size_of(encoder),
        normalise=Normalisation(tuple(mean), tuple(deviation), value_range),
        device=device,
    )
    Grid(image_size=task.window, patch_size=encoder.grid.patch_size, channels=encoder.grid.channels)  # or a UserError
    identity = _identity(encoder, task, protocol, settings, seed)
    if state:
        claim(state, identity)
    pictured = _spread(len(data.test)) if pictures else []
    making = Making(task=task, settings=settings, identity=identity, state=state)
    trains = isinstance(settings, UPerNetSettings)
    other = FROM_SCRATCH if trains else RANDOM
    wanted = [(THIS_ENCODER, each) for each in range(seeds if trains else 1)] + [(other, each) for each in range(seeds)]
    rows: dict[str, list[Row]] = {THIS_ENCODER: [], other: []}
    for number, (name, each) in enumerate(wanted):
        rows[name].append(
            making.row(
                f"{name} {each + 1}",
                (lambda: encoder) if name == THIS_ENCODER else partial(random_encoder, each),
                from_scratch=name == FROM_SCRATCH,
                seed=seed + each,
                pictured=pictured if (name, each) == (THIS_ENCODER, 0) else [],
                progress=part_of(progress, f"{name} {each + 1}", number / len(wanted), (number + 1) / len(wanted)),
            )
        )
    if pictures:
        _draw(pictures, data, rows[THIS_ENCODER][0], pictured, protocol, value_range)
    rows[MAJORITY] = [Row(tallied_constant(data.test.pixels, data.majority), {}, None, 0.0)]
    told_settings = {**asdict(settings), "image_size": list(task.window), "stride": list(stride_of(task.window))}
    results = [
        _result(protocol, settings.version, name, metric, found, data, seed, told_settings)
        for name, found in rows.items()
        for metric in METRICS
    ]
    compared = [
        _compared(protocol, name, metric, rows[THIS_ENCODER], found, seed)
        for name, found in rows.items()
        if name != THIS_ENCODER
        for metric in METRICS
    ]
    return results, compared


def _settings(protocol: Protocol, device: torch.device, depth: int) -> LinearSegmentationSettings | UPerNetSettings:
    if protocol == "segmentation-linear":
        return LinearSegmentationSettings()
    return SMALL if device.type == "cpu" else published(depth)


@dataclass(frozen=True, kw_only=True)
class Making:
    """Trains, measures and keeps one row after the other."""

    task: Task
    settings: LinearSegmentationSettings | UPerNetSettings
    identity: str
    state: Path | None

    def row(
        self,
        name: str,
        start: Callable[[], Encoder],
        *,
        from_scratch: bool,
        seed: int,
        pictured: list[int],
        progress: Progress | None,
    ) -> Row:
        """What is on the disk already, or a training and, when it is finished, its meeting with the test part."""
        folder = self.state / name.replace(" ", "-") if self.state else None
        done = read_row(folder) if folder else None
        if done and len(done.maps) >= len(pictured):
            return done
        begun = time.monotonic()
        trained = self._trained(start(), from_scratch, seed, folder, part_of(progress, "", 0.0, TRAINING_SHARE))
        (tallies,) = self.task.tallied(
            trained.logits_of, self.task.data.test, progress=part_of(progress, "test", TRAINING_SHARE, 1.0)
        )
        maps = self.task.maps(trained.logits_of, self.task.data.test, positions=pictured)
        seconds = time.monotonic() - begun
        row = Row(tallies, trained.chosen, trained.held_out, seconds, [each for (each,) in maps])
        if folder:
            write_row(folder, row)
        return row

    def _trained(
        self, start: Encoder, from_scratch: bool, seed: int, folder: Path | None, progress: Progress | None
    ) -> Trained:
        given: dict[str, Any] = {"seed": seed, "state": folder, "identity": self.identity, "progress": progress}
        if isinstance(self.settings, LinearSegmentationSettings):
            return train_linear(start, self.task, self.settings, **given)
        return train_upernet(start, self.task, self.settings, from_scratch=from_scratch, **given)


def _result(
    protocol: str,
    version: int,
    name: str,
    metric: str,
    rows: Sequence[Row],
    data: SegmentationData,
    seed: int,
    settings: dict[str, Any],
) -> Result:
    tallies = [row.tallies for row in rows]
    details: dict[str, Any] = {"of_each_seed": [each.values()[metric] for each in tallies]}
    if metric == "mIoU":
        names = [printable(each) for each in data.classes.names]
        details |= {
            "iou": dict(zip(names, _mean_class_iou(tallies), strict=True)),
            "pixels": dict(zip(names, data.test.pixels.sum(axis=0).tolist(), strict=True)),
            "chosen": [dict(row.chosen) for row in rows],
            "held_out_mIoU": [row.held_out for row in rows],
            "settings": settings,
            "num_train": len(data.train),
            "notes": list(data.notes),
        }
    return Result(
        protocol=protocol,
        version=version,
        row=name,
        metric=metric,
        value=mean_value(tallies, metric),
        interval=interval(tallies, metric, seed),
        num_images=len(data.test),
        seeds=len(rows),
        seconds=sum(row.seconds for row in rows),
        details=details,
    )


def _compared(
    protocol: str, baseline: str, metric: str, ours: Sequence[Row], theirs: Sequence[Row], seed: int
) -> Compared:
    a, b = [row.tallies for row in ours], [row.tallies for row in theirs]
    return Compared(
        protocol=protocol,
        row=THIS_ENCODER,
        baseline=baseline,
        metric=metric,
        difference=mean_value(a, metric) - mean_value(b, metric),
        interval=paired_interval(a, b, metric, seed),
    )


def _mean_class_iou(tallies: Sequence[Tallies]) -> list[float | None]:
    """Mean over seeds; None of classes that do not occur in test."""
    values = np.mean([each.class_iou() for each in tallies], axis=0)
    return [None if math.isnan(value) else float(value) for value in values]


def _check(encoder: Encoder, data: SegmentationData, mean: Sequence[float], deviation: Sequence[float]) -> None:
    channels = encoder.grid.channels
    if len(encoder.grid.image_size) != 2 or data.train.images.channels != channels:
        raise UserError(
            f"The encoder takes images of {channels} channel(s) and {len(encoder.grid.image_size)} axes. The images "
            f"were opened with {data.train.images.channels} channel(s); open them with the encoder's own."
        )
    if not len(mean) == len(deviation) == channels or min(deviation) <= 0:
        raise UserError(
            f"mean and deviation need one number per channel, deviations above 0. Got mean={tuple(mean)} and "
            f"deviation={tuple(deviation)} for {channels} channel(s)."
        )


def _size_of(encoder: Encoder) -> tuple[int, int]:
    height, width = encoder.grid.image_size
    return height, width


def _identity(
    encoder: Encoder,
    task: Task,
    protocol: str,
    settings: LinearSegmentationSettings | UPerNetSettings,
    seed: int,
) -> str:
    """A hash of all that the figures depend on, but for the random weights that they are compared with."""
    digest = hashlib.sha256()
    told = [protocol, asdict(settings), seed, task.window, asdict(task.normalise), fingerprint(encoder)]
    digest.update(json.dumps(told, sort_keys=True).encode())
    data = task.data
    digest.update(json.dumps([data.classes.names, data.classes.values, data.classes.void]).encode())
    for part in (data.train, data.held_out, data.test):
        digest.update("\n".join(part.images.ids).encode("utf-8", "surrogateescape"))
        digest.update(part.pixels.tobytes())
    return digest.hexdigest()


def _spread(count: int) -> list[int]:
    """Positions of up to PICTURED images, spread evenly."""
    shown_of = min(count, PICTURED)
    return [round((i + 0.5) * count / shown_of - 0.5) for i in range(shown_of)]


def _draw(
    path: Path, data: SegmentationData, row: Row, positions: list[int], protocol: str, value_range: tuple[float, float]
) -> None:
    rows = [
        (shown(data.test.image(i), value_range), data.test.mask(i), predicted)
        for i, predicted in zip(positions, row.maps, strict=True)
    ]
    names = [printable(name) for name in data.classes.names]
    told = f"{protocol}, {THIS_ENCODER}: mIoU {row.tallies.values()['mIoU']:.3f} on {len(data.test):,} test images"
    write_sheet(sheet(rows, names, told=told), path)
