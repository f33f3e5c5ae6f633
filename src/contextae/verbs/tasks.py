"""What `evaluate` reads of the labels each protocol needs, and the figures that it then finds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.data.images import load_images
from contextae.data.index import Index, left_out_lines, printable
from contextae.data.sources import open_labelled
from contextae.encoder import Encoder
from contextae.errors import UserError, nearest
from contextae.evaluation import fewshot, finetune
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.detection import run as detection
from contextae.evaluation.detection import settings as detecting
from contextae.evaluation.detection.layouts import open_detection
from contextae.evaluation.evaluate import Evaluation, evaluate
from contextae.evaluation.features import fingerprint
from contextae.evaluation.progress import Progress
from contextae.evaluation.protocols import PROTOCOLS
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.segmentation import linear, upernet
from contextae.evaluation.segmentation import run as segmentation
from contextae.evaluation.segmentation.data import open_segmentation
from contextae.evaluation.table import captions, notes_of
from contextae.pretrained import Origin
from contextae.training.precision import resolve
from contextae.verbs.beside import encoder_beside
from contextae.verbs.changed import changed

FEWSHOT, FINETUNE, DETECTION = "fewshot", "finetune", "detection"
FROZEN = "frozen"  # one folder of state for all protocols that read out frozen features
LINEAR, UPERNET = "segmentation-linear", "segmentation-upernet"
TRAINED = (FINETUNE, UPERNET, DETECTION)
MASKS = ("labels", "instances")
KINDS = {
    "images with classes": (*PROTOCOLS, FEWSHOT, FINETUNE),
    "images with masks": (LINEAR, UPERNET),
    "images with boxes": (DETECTION,),
}
"""What each protocol reads; one evaluation is of one kind of labels."""


class Found(NamedTuple):
    """Figures with their comparisons; `about` says of which data, `notes` what the reader has to know."""

    results: list[Result]
    compared: list[Compared]
    about: dict[str, Any]
    notes: list[str]
    evaluation: Evaluation | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation of an encoder. `state` is where what is unfinished is kept; `settings` are NAME=VALUE.

    `say` gets what a reader has to know before the figures, `warn` each image that cannot be read.
    """

    encoder: Encoder
    origin: Origin
    data: str
    protocols: tuple[str, ...]
    seeds: int | None
    settings: tuple[str, ...]
    state: Path | None
    pictures: Path | None
    masks: str
    beside: tuple[str, ...]
    progress: Progress | None
    say: Callable[[str], None]
    warn: Callable[[str], None]

    @property
    def frozen(self) -> list[str]:
        """The protocols that read out frozen features."""
        return [name for name in self.protocols if name in PROTOCOLS]

    def found(self) -> Found:
        """UserError, before anything is trained, where data, protocols and settings do not go together."""
        kind = kind_of(self.protocols)
        if self.masks not in MASKS:
            raise UserError(f"--masks is {' or '.join(MASKS)}. Got {self.masks!r}.{nearest(self.masks, MASKS)}")
        if self.beside and not set(self.protocols) <= set(PROTOCOLS):
            raise UserError(
                f"--beside is for frozen encoders: {', '.join(PROTOCOLS)}. Got {', '.join(self.protocols)}; evaluate "
                "the others without it."
            )
        settable = [name for name in self.protocols if name not in PROTOCOLS]
        if self.settings and len(settable) != 1:
            raise UserError(
                "--set changes the settings of one protocol, and those of knn, linear, attentive and ridge are fixed. "
                f"Got {', '.join(self.settings)} for {', '.join(self.protocols)}; evaluate one protocol, or leave "
                "--set out."
            )
        for name in settable:  # a typing error is said before a million images are read
            self._settings(name, 0)
        if kind == "images with masks":
            return self._segmented()
        if kind == "images with boxes":
            return self._detected()
        return self._classified()

    @property
    def _common(self) -> dict[str, Any]:
        """What every entry point takes of an encoder."""
        transform = self.origin.transform
        return {
            "mean": transform.mean,
            "deviation": transform.deviation,
            "random_encoder": self.origin.random_encoder,
            "progress": self.progress,
        }

    def _settings(self, protocol: str, num_images: int) -> Any:
        """Those for this device, and for fine-tuning for so many images, with `settings` applied.

        What trains is trained in the format that this device is fast in, as `pretrain` is.
        """
        device = next(self.encoder.parameters()).device
        own: dict[str, Callable[[], Any]] = {
            FEWSHOT: fewshot.FewShotSettings,
            FINETUNE: lambda: finetune.settings_for(num_images, device, self.encoder.depth),
            LINEAR: linear.LinearSegmentationSettings,
            UPERNET: lambda: upernet.SMALL if device.type == "cpu" else upernet.published(self.encoder.depth),
            DETECTION: lambda: detecting.small() if device.type == "cpu" else detecting.published(self.encoder.depth),
        }
        settings = own[protocol]()
        if protocol in TRAINED:
            settings = dataclasses.replace(settings, precision=self._fast)
        return changed(settings, self.settings)

    @cached_property
    def _fast(self) -> str:
        return resolve("auto", next(self.encoder.parameters()).device).precision

    def _seeds(self, otherwise: int) -> int:
        return otherwise if self.seeds is None else self.seeds

    def _state(self, protocol: str) -> Path | None:
        """A folder of this very evaluation, so that another one does not find its own."""
        if self.state is None:
            return None
        told = [protocol, self.data, fingerprint(self.encoder), self.seeds, sorted(self.settings), self.masks]
        if protocol == FROZEN:
            told += [self.frozen, list(self.beside)]
        return self.state / f"{protocol}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}"

    def forget(self) -> None:
        """Takes away what was kept for a stop; of other evaluations that were stopped it stays."""
        for protocol in (*self.protocols, FROZEN):
            if state := self._state(protocol):
                shutil.rmtree(state, ignore_errors=True)
        if self.state and self.state.is_dir() and not any(self.state.iterdir()):
            self.state.rmdir()

    def _classified(self) -> Found:
        origin, data = self.origin, self.origin.experiment.data
        labelled = open_labelled(self.data, channels=origin.channels, dtype=data.dtype)
        self.say(
            f"{self.data}: {len(labelled.train):,} images to train on, {len(labelled.test):,} to test on, "
            f"{len(labelled.classes)} classes"
        )
        for note in labelled.notes:
            self.say(note)
        for part, index in (("train", labelled.train), ("test", labelled.test)):
            for line in left_out_lines(index.left_out, index.found):
                self.say(f"{part}: {line}")
        given = {
            "train": self._read(labelled.train, "train"),
            "test": self._read(labelled.test, "test"),
            "classes": labelled.classes,
            **self._common,
        }
        about = {"num_train": len(given["train"][0]), "num_test": len(given["test"][0]), "classes": labelled.classes}
        found = Found([], [], about, list(labelled.notes))
        if self.frozen:
            evaluation = evaluate(
                self.encoder,
                protocols=self.frozen,
                seeds=self._seeds(3),
                beside={source: encoder_beside(source, self.encoder, self.origin, self.say) for source in self.beside},
                cache=FeatureCache(),
                state=self._state(FROZEN),
                **given,
            )
            found = Found(
                evaluation.results,
                list(evaluation.differences),
                about,
                [*found.notes, *captions(evaluation)],
                evaluation,
            )
        if FEWSHOT in self.protocols:
            settings = self._settings(FEWSHOT, 0)
            more = fewshot.run(self.encoder, settings=settings, seeds=self._seeds(3), cache=FeatureCache(), **given)
            _extend(found, more)
        if FINETUNE in self.protocols:
            settings = self._settings(FINETUNE, len(given["train"][0]))
            steps = settings.steps_of(len(given["train"][0]))
            self.say(told(FINETUNE, settings, steps))
            _extend(
                found,
                finetune.run(
                    self.encoder,
                    settings=settings,
                    seeds=self._seeds(1),
                    state=self._state(FINETUNE),
                    **given,
                ),
            )
        return found

    def _segmented(self) -> Found:
        origin, stored = self.origin, self.origin.experiment.data
        data = open_segmentation(
            self.data,
            channels=origin.channels,
            dtype=stored.stored_as,  # type: ignore[arg-type]
            progress=self.progress,
        )
        for note in data.notes:
            self.say(note)
        sizes = {"num_train": len(data.train.images), "num_test": len(data.test.images)}
        found = Found([], [], {**sizes, "classes": list(data.classes.names)}, list(data.notes))
        for protocol in self.protocols:
            settings = self._settings(protocol, len(data.train.images))
            self.say(told(protocol, settings, settings.steps))
            _extend(
                found,
                segmentation.run(
                    self.encoder,
                    data=data,
                    value_range=stored.scaled_from,
                    protocol=protocol,  # type: ignore[arg-type]
                    settings=settings,
                    seeds=self._seeds(3 if protocol == LINEAR else 1),
                    state=self._state(protocol),
                    pictures=_named(self.pictures, protocol, self.protocols),
                    **self._common,
                ),
            )
        return found

    def _detected(self) -> Found:
        stored = self.origin.experiment.data
        data = open_detection(Path(self.data), masks=self.masks)  # type: ignore[arg-type]
        for note in data.notes:
            self.say(note)
        sizes = {"num_train": len(data.train.images), "num_test": len(data.test.images)}
        found = Found([], [], {**sizes, "classes": list(data.train.classes)}, list(data.notes))
        settings = self._settings(DETECTION, len(data.train.images))
        self.say(told(DETECTION, settings, settings.steps_of(len(data.train.images))))
        _extend(
            found,
            detection.run(
                self.encoder,
                data=data,
                value_range=stored.scaled_from,
                dtype=stored.stored_as,
                settings=settings,
                seeds=self._seeds(1),
                state=self._state(DETECTION),
                pictures=self.pictures,
                **self._common,
            ),
        )
        return found

    def _read(self, index: Index, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels; what cannot be read is named."""
        data, progress = self.origin.experiment.data, self.progress
        loaded = load_images(
            index,
            data.image_size,
            value_range=data.scaled_from,
            progress=(lambda done, total: progress(f"reading {part}", done / total)) if progress else None,
        )
        for position, reason in loaded.left_out:
            self.warn(f"Left out of {part}: {printable(index.ids[position])}: {reason}")
        assert index.labels is not None  # open_labelled gives no index without
        return loaded.images, index.labels[loaded.positions]


def told(protocol: str, settings: Any, steps: int) -> str:
    """How long a training is, and how to change that, in one line; `settings` are the ones it will have."""
    named = "epochs=N or most_steps" if protocol == FINETUNE else "steps"
    length = f"{steps:,} steps of at most {settings.batch_size} a training, in {settings.precision}"
    return f"{protocol}: {length}; --set {named}=N for others"


def kind_of(protocols: Sequence[str]) -> str:
    """What labels they read; UserError for an unknown one, for none, and for several kinds at a time."""
    known = [name for names in KINDS.values() for name in names]
    for name in protocols:
        if name not in known:
            raise UserError(
                f"{name!r} is not a protocol of evaluation.{nearest(name, known)} There are: {', '.join(known)}."
            )
    kinds = [kind for kind, names in KINDS.items() if set(names) & set(protocols)]
    if len(kinds) != 1:
        given = ", ".join(protocols) or "none"
        raise UserError(
            "An evaluation needs protocols that read one kind of labels: "
            + "; ".join(f"{', '.join(names)} read {kind}" for kind, names in KINDS.items())
            + f". Got {given}; evaluate once for each kind."
        )
    return kinds[0]


def _named(path: Path | None, protocol: str, protocols: Sequence[str]) -> Path | None:
    """A picture of each protocol, where there are several."""
    return path.with_name(f"{path.stem}-{protocol}{path.suffix}") if path and len(protocols) > 1 else path


def _extend(found: Found, more: tuple[list[Result], list[Compared]]) -> None:
    found.results.extend(more[0])
    for result in more[0][:1]:
        found.notes.extend(note for note in notes_of(result) if note not in found.notes)
    found.compared.extend(more[1])
