"""`contextae fit-tokenizer`: codes for the user's own images, by a d-VAE or, quickly, by k-means of patches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from contextae.data.images import load_images
from contextae.data.index import Index
from contextae.data.transfer import Transfer
from contextae.errors import UserError, nearest
from contextae.experiment import Experiment, named_values
from contextae.methods.dvae import DVAEConfig, DVAETraining
from contextae.randomness import Shuffle
from contextae.tokenizers.stored import save_tokenizer
from contextae.tokenizers.usage import measure_usage
from contextae.training.loop import Checked
from contextae.verbs.checks import health_batches
from contextae.verbs.fit_kmeans import SHEET_IMAGES, drawn, fit_kmeans, next_words
from contextae.verbs.output import writing
from contextae.verbs.plan import asked_for, continued, unchanged
from contextae.verbs.purpose import Purpose
from contextae.verbs.request import Request
from contextae.verbs.run import Run, run_on

KINDS = ("dvae", "kmeans")
GEOMETRY = ("data.", "crop.", "encoder.")
IMAGES_SEEN, FEWEST_EPOCHS = 100_000, 2  # ours, measured on CIFAR-10: ten minutes on one core (docs/results.md)
LARGEST_STRIDE = 8  # DALL-E's
CODES = DVAEConfig().num_codes  # where --codes is not given, and no experiment says another number


def run_fit_tokenizer(
    *,
    data: str | None,
    out: Path,
    kind: str,
    codes: int | None,
    preset: str | None,
    settings: list[str],
    config: Path | None,
    resume: bool,
    manifest: Path | None = None,
    exclude: tuple[str, ...] = (),
) -> int:
    """The exit code, as of every run."""
    if kind not in KINDS:
        raise UserError(f"There is no kind of tokenizer {kind!r}.{nearest(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    request = Request(data, preset, settings, config, manifest=manifest, exclude=exclude)
    if kind == "kmeans":
        if resume:
            raise UserError("--resume is for --kind dvae: k-means takes a minute and starts anew.")
        return fit_kmeans(request, out, codes or CODES)
    purpose = Purpose(
        asked_for=lambda request, index, device: tokenizer_experiment(request, index, device, codes),
        continued=lambda request, recorded, index, device: repeated(request, recorded, index, device, codes),
        prepare=prepare,
        check=TokenizerCheck,
        finished=finished,
        verb="fit-tokenizer",
        options=[],
    )
    return run_on(out, request, purpose, resume=resume)


def tokenizer_experiment(
    request: Request, index: Index, device: torch.device, codes: int | None
) -> tuple[Experiment, str]:
    """One for a d-VAE that gives each patch of what `pretrain` would choose for these images one code.

    Settings of data, crop and encoder are those of the training to come; those of method, optimizer and training are
    the tokenizer's own.
    """
    if request.config:
        return asked_for(_with_codes(request, codes), index, device)
    geometry, own = _shared_out(request)
    later, origin = asked_for(request._replace(settings=geometry), index, device)
    rows, columns = later.grid_size
    stride = 2
    while 2 * stride <= min(*later.encoder.patch_size, LARGEST_STRIDE):
        stride *= 2
    values = {
        "method.name": "dvae",
        "method.num_codes": codes or CODES,
        "data.image_size": [rows * stride, columns * stride],
        "encoder.patch_size": [stride, stride],
        "optimizer.lr_per_256_images": 4e-3,
        "optimizer.weight_decay": 0.0,
        "training.epochs": max(FEWEST_EPOCHS, round(IMAGES_SEEN / len(index))),
    }
    experiment = later.with_values(values).with_settings(own)
    if "training.warmup_epochs" not in named_values(own):
        experiment = experiment.with_values({"training.warmup_epochs": experiment.training.epochs / 20})
    height, width = experiment.data.image_size
    words = (
        f"a code of {stride} x {stride} pixels, at {height} x {width}, for each of {rows} x {columns} patches; "
        f"{experiment.training.epochs:,} epochs"
        + (f"; changed by --set {', '.join(own)}" if own else "")
        + f". The training to come is taken for this one: {origin}"
    )
    return experiment, words


def _shared_out(request: Request) -> tuple[list[str], list[str]]:
    """Settings of the training to come, and the tokenizer's own."""
    geometry = [line for line in request.settings if line.strip().startswith(GEOMETRY)]
    return geometry, [line for line in request.settings if line not in geometry]


def _with_codes(request: Request, codes: int | None) -> Request:
    """With --codes as a setting, where it was given."""
    return request._replace(settings=[f"method.num_codes={codes}", *request.settings]) if codes else request


def repeated(
    request: Request, recorded: Experiment, index: Callable[[], Index], device: torch.device, codes: int | None
) -> Experiment:
    """The recorded experiment, where the same command is given once more; other settings are refused, as in a run."""
    check_method(recorded)
    assert isinstance(recorded.method, DVAEConfig)
    geometry, _ = _shared_out(request)
    if request.config or not (request.preset or geometry):
        return continued(_with_codes(request, codes), recorded)
    again = request._replace(data=request.data or recorded.data.source)
    asked, _ = tokenizer_experiment(again, index(), device, codes or recorded.method.num_codes)
    return unchanged(recorded, asked)


def prepare(run: Run) -> None:
    """Refuses a run of something else."""
    check_method(run.experiment)


def check_method(experiment: Experiment) -> None:
    """Refuses another method, and what a d-VAE has no place for."""
    if not isinstance(experiment.method, DVAEConfig):
        raise UserError(
            f"These are the settings of method {experiment.method.name}, which `contextae pretrain` trains. "
            "fit-tokenizer takes those of a d-VAE, such as the experiment.yaml of a tokenizer."
        )
    found = experiment.values()
    names = ("init.source", "init.frozen_share", "optimizer.layer_decay")  # of runs that have an encoder
    wrong = [f"{name}={found[name]}" for name in names if found[name] not in (None, 0, 1)]
    if wrong:
        raise UserError(
            f"A d-VAE starts from random weights and learns all its layers alike. Got {', '.join(wrong)}, which is for "
            "`contextae pretrain`; leave it out."
        )


class TokenizerCheck:
    """Reconstruction and use of the codebook on the same images each time."""

    def __init__(self, run: Run, method: DVAETraining, transfer: Transfer) -> None:
        self.method = method
        (batch,) = health_batches(run.experiment, run.index, most=len(run.index))
        self.images = method.deviation * transfer(batch).images + method.mean

    def __call__(self, done: int, waiting: float) -> Checked:
        usage = measure_usage(self.method.dvae, self.images)
        fields = {**usage._asdict(), "temperature": float(self.method.temperature), "waiting": waiting}
        return Checked(fields, -usage.error, usage.words())


def finished(run: Run, method: DVAETraining) -> list[str]:
    """The tokenizer's own file and a sheet of what it makes of images."""
    dvae = method.dvae.cpu().eval()
    with writing(run.folder.path):
        path = save_tokenizer(dvae, run.folder.path)
    some = run.index.subset(np.sort(Shuffle(len(run.index), "sheet").first(SHEET_IMAGES)))
    data = run.experiment.data
    loaded = load_images(some, data.image_size, value_range=data.scaled_from)
    return [*drawn(dvae, torch.from_numpy(loaded.images), run.folder.path), *next_words(path.parent)]
