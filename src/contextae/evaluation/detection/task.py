"""A detector trained on the images of train, and what it finds in others; both resumable."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from contextae.encoder import Encoder
from contextae.evaluation.detection.images import Ahead, Decoded, Views, loss_of
from contextae.evaluation.detection.layouts import DetectionSplits
from contextae.evaluation.detection.network import MULTIPLE, TRUNK, Detector, build_detector, square_patch
from contextae.evaluation.detection.objects import DetectionData, Detections
from contextae.evaluation.detection.predict import detect
from contextae.evaluation.detection.settings import DetectionSettings
from contextae.evaluation.detection.stored import read_detections, write_detections
from contextae.evaluation.detection.views import Normalisation
from contextae.evaluation.progress import Progress
from contextae.evaluation.sealed import seal
from contextae.evaluation.supervised import StoppedError, fit
from contextae.training.loop import caught_signals

SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Measured:
    """What one training found in the test images, and how long training and finding took in this call."""

    detections: list[Detections]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that rows have in common."""

    data: DetectionSplits
    settings: DetectionSettings
    normalise: Normalisation
    factor: float
    masks: bool
    decoded: Decoded
    device: torch.device

    def measured(
        self, encoder: Encoder, *, from_scratch: bool, seed: int, state: Path | None, progress: Progress | None
    ) -> Measured:
        """Trains, or goes on training, and looks at the test images."""
        begun = time.monotonic()
        detector = self.trained(encoder, from_scratch=from_scratch, seed=seed, state=state, progress=progress)
        detections = self.detections(detector, self.data.test, state=state, progress=progress)
        return Measured(detections, time.monotonic() - begun)

    def trained(
        self,
        encoder: Encoder,
        *,
        from_scratch: bool = False,
        seed: int = 0,
        state: Path | None = None,
        progress: Progress | None = None,
    ) -> Detector:
        """In evaluation mode, on the device."""
        train, settings = self.data.train, self.settings
        detector = build_detector(
            encoder, num_classes=len(train.classes), masks=self.masks, settings=settings, seed=seed
        ).to(self.device)
        views = Views(
            data=train,
            decoded=self.decoded,
            normalise=self.normalise,
            settings=settings,
            factor=self.factor,
            multiple=MULTIPLE * square_patch(encoder),
            masks=self.masks,
            seed=seed,
        )
        recipe = settings.recipe(len(train.images), from_scratch=from_scratch)
        with Ahead(views, recipe.steps) as ahead:
            fit(
                detector,
                lambda step: loss_of(ahead(step), detector),
                recipe,
                encoder=TRUNK,
                seed=seed,
                state=state,
                progress=progress,
                identity=self.identity(train),
            )
        return detector

    def detections(
        self, detector: Detector, part: DetectionData, *, state: Path | None = None, progress: Progress | None = None
    ) -> list[Detections]:
        """Of every image, in the order of the part; kept in `state` every minute, and on Ctrl-C or SIGTERM."""
        path = state / "detections.safetensors" if state else None
        weights = {name: value.detach().cpu() for name, value in detector.state_dict().items()}
        identity = f"{self.identity(part)} {seal(weights)}"
        found = read_detections(path, identity=identity) if path else []
        saved_at = time.monotonic()
        with caught_signals() as caught:
            for number, image in enumerate(part.images[len(found) :], start=len(found) + 1):
                pixels = self.decoded(image)
                found.append(
                    detect(detector, pixels, normalise=self.normalise, factor=self.factor, settings=self.settings)
                )
                ending = caught[0] if caught else None
                due = ending or number == len(part.images) or time.monotonic() - saved_at > SAVE_SECONDS
                if path and due:
                    write_detections(path, found, identity=identity)
                    saved_at = time.monotonic()
                if progress:
                    progress("finding", number / len(part.images))
                if ending:
                    raise StoppedError(ending)
        return found

    def identity(self, part: DetectionData) -> str:
        """A hash of labels, settings and how images become inputs."""
        told = [
            asdict(self.settings),
            asdict(self.normalise),
            self.factor,
            self.masks,
            part.classes,
            self.decoded.dtype,
        ]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for image in part.images:
            digest.update(f"{image.name} {image.height} {image.width}".encode("utf-8", "surrogateescape"))
            for values in (image.objects.boxes, image.objects.classes, image.objects.crowd, image.objects.area):
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()
