"""Detection: this encoder and the same network from scratch, each trained under new heads with one budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.detection.images import Decoded, check_images
from contextae.evaluation.detection.layouts import DetectionSplits
from contextae.evaluation.detection.matching import Kind, match
from contextae.evaluation.detection.metrics import AveragePrecision, average_precision, interval, over_seeds, resampled
from contextae.evaluation.detection.network import square_patch
from contextae.evaluation.detection.objects import Detections
from contextae.evaluation.detection.overlay import overlay_sheet
from contextae.evaluation.detection.settings import PROTOCOL, DetectionSettings, published, small
from contextae.evaluation.detection.task import Task
from contextae.evaluation.detection.views import Normalisation, factor_of
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.record import THIS_ENCODER
from contextae.evaluation.results import Compared, Result

FROM_SCRATCH = "from scratch"
PICTURED = 6
"""Test images on a sheet, spread over all of them."""
INTERVALS = ("AP", "AP50")


def run(
    encoder: Encoder,
    *,
    data: DetectionSplits,
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], Encoder],
    value_range: tuple[float, float] = (0.0, 255.0),
    dtype: str = "uint8",
    settings: DetectionSettings | None = None,
    seeds: int = 1,
    seed: int = 0,
    state: Path | None = None,
    pictures: Path | None = None,
    progress: Progress | None = None,
) -> tuple[list[Result], list[Compared]]:
    """Box AP and AP50 on test and, where the labels have masks, those of masks, with their intervals and differences.

    This encoder and the same network with random weights (`random_encoder(s)`) are trained `seeds` times each, by the
    same settings and steps. Nothing is chosen on test. Without settings they are the published ones on a GPU and
    `small` ones on a CPU. All labels and images are checked before the first training.

    The encoder stays as it is, on its device. `state`, a folder, keeps what is being trained and what was found, and a
    later call of the same evaluation goes on there. `pictures` becomes a PNG sheet of what this encoder found.
    """
    device = next(encoder.parameters()).device
    settings = settings or (small() if device.type == "cpu" else published(encoder.depth))
    _check(encoder, mean, deviation, seeds)
    for part in (data.train, data.test):
        check_images(part, channels=encoder.grid.channels, dtype=dtype, progress=progress)
    masks = settings.masks and data.train.with_masks and data.test.with_masks
    task = Task(
        data=data,
        settings=settings,
        normalise=Normalisation(mean=tuple(mean), deviation=tuple(deviation), value_range=value_range),
        factor=factor_of(data.train, settings),
        masks=masks,
        decoded=Decoded(channels=encoder.grid.channels, dtype=dtype),
        device=device,
    )
    kinds: tuple[Kind, ...] = ("box", "mask") if masks else ("box",)
    figures: dict[tuple[str, Kind], list[Figures]] = {}
    seconds: dict[str, float] = {}
    names = (THIS_ENCODER, FROM_SCRATCH)
    for number, (name, each) in enumerate((name, each) for name in names for each in range(seeds)):
        start = (lambda: encoder) if name == THIS_ENCODER else partial(random_encoder, seed + each)
        measured = task.measured(
            start(),
            from_scratch=name == FROM_SCRATCH,
            seed=seed + each,
            state=state / f"{name} {each + 1}".replace(" ", "-") if state else None,
            progress=part_of(progress, f"{name} {each + 1} ({number + 1} of {len(names) * seeds})"),
        )
        seconds[name] = seconds.get(name, 0.0) + measured.seconds
        for kind in kinds:  # at once, for of thousands of images the masks of several trainings fill the memory
            figures.setdefault((name, kind), []).append(Figures.of(task, measured.detections, kind, seed))
        if pictures and (name, each) == (THIS_ENCODER, 0):
            _draw(pictures, task, measured.detections)
    results = [
        _result(name, kind, metric, figures[name, kind], seconds[name], task, seed)
        for name in names
        for kind in kinds
        for metric in INTERVALS
    ]
    compared = [
        _compared(kind, metric, figures[THIS_ENCODER, kind], figures[FROM_SCRATCH, kind], seed)
        for kind in kinds
        for metric in INTERVALS
    ]
    return results, compared


@dataclass(frozen=True)
class Figures:
    """Of one training and kind: the figures, and AP and AP50 under the draws of images."""

    precision: AveragePrecision
    drawn: dict[str, np.ndarray]

    @classmethod
    def of(cls, task: Task, detections: Sequence[Detections], kind: Kind, seed: int) -> Figures:
        test = task.data.test
        truth = [(image.objects, image.height, image.width) for image in test.images]
        matches = match(
            truth,
            detections,
            num_classes=len(test.classes),
            kind=kind,
            max_detections=task.settings.detections,
        )
        return cls(average_precision(matches), resampled(matches, seed=seed))

    def value(self, metric: str) -> float:
        """Test has an object, which is checked, so there is a figure."""
        found = {"AP": self.precision.ap, "AP50": self.precision.ap50}[metric]
        assert found is not None
        return found


def _mean(figures: Sequence[Figures], metric: str) -> float:
    return float(np.mean([each.value(metric) for each in figures]))


def _result(
    name: str, kind: Kind, metric: str, figures: list[Figures], seconds: float, task: Task, seed: int
) -> Result:
    settings = task.settings
    details: dict[str, Any] = {"of_each_seed": [each.value(metric) for each in figures]}
    if metric == "AP":
        precisions = [asdict(each.precision) for each in figures]
        classes = task.data.test.classes
        details |= {
            "AP75": _mean_of([each["ap75"] for each in precisions]),
            **{size: _mean_of([each[size] for each in precisions]) for size in ("small", "medium", "large")},
            "per_class": {of: _mean_of([each["per_class"][i] for each in precisions]) for i, of in enumerate(classes)},
            "objects": dict(zip(classes, task.data.test.counts(), strict=True)),
            "num_train": len(task.data.train.images),
            "steps": settings.steps_of(len(task.data.train.images)),
            "resized_by": task.factor,
            "settings": asdict(settings),
            "notes": list(task.data.notes),
        }
    return Result(
        protocol=PROTOCOL,
        version=settings.version,
        row=name,
        metric=f"{kind} {metric}",
        value=_mean(figures, metric),
        interval=interval(over_seeds([each.drawn[metric] for each in figures], seed=seed)),
        num_images=len(task.data.test.images),
        seeds=len(figures),
        seconds=seconds,
        details=details,
    )


def _mean_of(values: Sequence[float | None]) -> float | None:
    """None where no seed has a figure, which is where there is nothing to find."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _compared(kind: Kind, metric: str, ours: list[Figures], theirs: list[Figures], seed: int) -> Compared:
    a = over_seeds([each.drawn[metric] for each in ours], seed=seed)
    b = over_seeds([each.drawn[metric] for each in theirs], seed=seed + 1)
    return Compared(
        protocol=PROTOCOL,
        row=THIS_ENCODER,
        baseline=FROM_SCRATCH,
        metric=f"{kind} {metric}",
        difference=_mean(ours, metric) - _mean(theirs, metric),
        interval=interval(a - b),
    )


def _check(encoder: Encoder, mean: Sequence[float], deviation: Sequence[float], seeds: int) -> None:
    square_patch(encoder)
    channels = encoder.grid.channels
    if not len(mean) == len(deviation) == channels or min(deviation) <= 0:
        raise UserError(
            f"mean and deviation need one number per channel, deviations above 0. Got mean={tuple(mean)} and "
            f"deviation={tuple(deviation)} for {channels} channel(s)."
        )
    if seeds < 1:
        raise UserError(f"A detector is trained once at least. Got seeds={seeds}.")


def _draw(path: Path, task: Task, found: Sequence[Detections]) -> None:
    images = task.data.test.images
    shown = min(len(images), PICTURED)
    positions = [round((i + 0.5) * len(images) / shown - 0.5) for i in range(shown)]
    overlay_sheet(
        [images[i] for i in positions],
        [task.decoded(images[i]) for i in positions],
        [found[i] for i in positions],
        classes=task.data.test.classes,
        out=path,
        note=f"{THIS_ENCODER}, {len(images):,} test images",
    )
