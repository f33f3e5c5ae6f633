"""An encoder under a classifier of images, as it is fine-tuned: trained on some images, asked about others."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from contextae.disk import reason
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.features import fingerprint
from contextae.evaluation.mixing import Mix, Mixing, normalised
from contextae.evaluation.progress import Progress
from contextae.evaluation.sealed import read_sealed, write_sealed
from contextae.evaluation.supervised import DivergedError, Recipe, fit, positions_of_batch
from contextae.evaluation.trunk import Trunk
from contextae.randomness import key
from contextae.training.manifest import Damaged
from contextae.training.precision import autocast

OUTCOME = "outcome.safetensors"


class Classifier(nn.Module):
    """The mean of the patches, without class token, a norm that begins as the encoder's, and a small linear head.

    The encoder's own norm stands aside, and the head begins as truncated normal 0.02 times `head_scale` [published
    CAE, BEiT].
    """

    def __init__(self, trunk: Trunk, *, num_classes: int, head_scale: float = 0.001) -> None:
        super().__init__()
        self.trunk = trunk
        self.norm = copy.deepcopy(trunk.encoder.norm)
        trunk.encoder.norm.requires_grad_(False)
        self.head = nn.Linear(trunk.width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        self.head.weight.data.mul_(head_scale)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Float[Tensor, "b c h w"], key: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b k"]:
        return self.head(self.norm(self.trunk.unnormed(images, key)[:, 1:].mean(dim=1)))


class Outcome(NamedTuple):
    """Classes predicted for the images asked about, their mean cross-entropy, and the seconds it took.

    After a training that diverged, -1 for every image.
    """

    predicted: Int[np.ndarray, " m"]
    loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that a classifier's training depends on, but for the encoder it starts from and the images."""

    recipe: Recipe
    mixing: Mixing
    num_classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    drop_path: float
    relative_bias: bool
    head_scale: float
    seed: int

    def mix(self, images: Real[np.ndarray, "n c h w"]) -> Mix:
        """What these images go through."""
        return Mix(
            self.mixing,
            num_classes=self.num_classes,
            image_size=images.shape[2:],
            mean=self.mean,
            deviation=self.deviation,
            photographs=images.dtype == np.uint8 and images.shape[1] == 3,
        )

    def start(self, encoder: Encoder) -> Classifier:
        """The network before its first update; a function of encoder and seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key("classifier", self.seed))
            trunk = Trunk(encoder, drop_path=self.drop_path, relative_bias=self.relative_bias)
            return Classifier(trunk, num_classes=self.num_classes, head_scale=self.head_scale)


def outcome(
    training: Training,
    encoder: Encoder,
    images: Real[np.ndarray, "n c h w"],
    labels: Int[Tensor, " n"],
    asked: Real[np.ndarray, "m c h w"],
    asked_labels: Int[Tensor, " m"],
    *,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Trains a copy of the encoder on `images` and predicts `asked`, whose labels give the mean cross-entropy alone.

    With `state`, a folder, a training that was stopped goes on, and one that is done is not repeated.
    """
    identity = _identity(training, encoder, (images, labels), (asked, asked_labels)) if state else ""
    folder = state / identity[:16] if state else None
    if folder and (known := _known(folder)):
        return known
    started = time.monotonic()
    device = next(encoder.parameters()).device
    model = training.start(encoder).to(device)
    mix = training.mix(images)

    def loss_of(step: int) -> Tensor:
        chosen = positions_of_batch(
            step, num_images=len(images), batch_size=training.recipe.batch_size, seed=training.seed
        )
        batch, wanted = mix(images[chosen], labels[torch.from_numpy(chosen)])
        return F.cross_entropy(model(batch.to(device)).float(), wanted.to(device))

    try:
        fit(
            model,
            loss_of,
            training.recipe,
            encoder="trunk",
            seed=training.seed,
            state=folder,
            progress=progress,
            identity=identity,
        )
        predicted, loss = predict(model, asked, asked_labels, training)
    except DivergedError:
        loss = float("nan")
    if not np.isfinite(loss):
        predicted, loss = np.full(len(asked), -1), float("inf")
    made = Outcome(predicted, loss, time.monotonic() - started)
    if folder:
        _keep(folder, made)
    return made


@torch.no_grad()
def predict(
    model: Classifier, images: Real[np.ndarray, "m c h w"], labels: Int[Tensor, " m"], training: Training
) -> tuple[Int[np.ndarray, " m"], float]:
    """Classes of whole images, and their mean cross-entropy."""
    device = next(model.parameters()).device
    mean, deviation = (
        torch.tensor(each).reshape(1, -1, 1, 1).to(device) for each in (training.mean, training.deviation)
    )
    found, loss = [], 0.0
    for start in range(0, len(images), 128):
        batch = torch.from_numpy(images[start : start + 128]).to(device)
        with autocast(training.recipe.precision, device):
            logits = model(normalised(batch, mean, deviation)).float().cpu()
        found.append(logits.argmax(dim=1))
        loss += F.cross_entropy(logits, labels[start : start + 128], reduction="sum").item()
    return torch.cat(found).numpy(), loss / len(images)


def _identity(training: Training, encoder: Encoder, *sets: tuple[np.ndarray, Tensor]) -> str:
    """Of all that an outcome depends on; a rate is chosen by the labels of those asked about, so they count too."""
    told = {**asdict(training), "encoder": fingerprint(encoder), "grid": asdict(encoder.grid)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for images, labels in sets:
        for array in (images, labels.numpy()):
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)  # as they lie: a copy of all images would double them
    return digest.hexdigest()


def _known(folder: Path) -> Outcome | None:
    """What a finished training found; one that is damaged is made again."""
    if not (folder / OUTCOME).exists():
        return None
    try:
        tensors, facts = read_sealed(folder / OUTCOME)
    except Damaged:
        return None
    loss = facts["loss"]
    return Outcome(tensors["predicted"].numpy(), float("inf") if loss is None else loss, facts["seconds"])


def _keep(folder: Path, made: Outcome) -> None:
    """The outcome takes the place of the training's state, which is large."""
    facts = {"loss": made.loss if np.isfinite(made.loss) else None, "seconds": made.seconds}
    try:
        write_sealed(folder / OUTCOME, {"predicted": torch.from_numpy(made.predicted)}, facts)
    except OSError as error:
        raise UserError(
            f"What a training found cannot be written to {folder}: {reason(error)}. Make room there, or name another "
            "folder."
        ) from None
    for each in folder.iterdir():
        if each.name != OUTCOME:
            shutil.rmtree(each) if each.is_dir() else each.unlink()


def at_middle(values: Sequence[float]) -> float:
    """Of several settings the one to take where nothing can be held out to choose on."""
    return sorted(values)[len(values) // 2]
