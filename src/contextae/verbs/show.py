"""`contextae show`: everything that a preset or a run resolves to, and what it costs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contextae.data.sampler import Sampler
from contextae.errors import UserError, nearest
from contextae.experiment import Experiment
from contextae.grid import Grid
from contextae.masking import Mask
from contextae.methods.cae_v2 import CAEv2Config
from contextae.methods.dvae import DVAEConfig
from contextae.methods.masked import MaskedConfig
from contextae.methods.method import Trainable
from contextae.methods.views import MaskedView, PlainView
from contextae.presets import PRESETS
from contextae.targets import HOG, Codes, Features, Pixels, Target
from contextae.tokenizers.kmeans import PatchCodebook
from contextae.tokenizers.stored import NAME, open_tokenizer
from contextae.training.cost import Cost, measure_cost
from contextae.training.log import read_lines
from contextae.training.run_folder import RunFolder

IMAGENET = 1_281_167  # images of ImageNet-1K's training part, which the published recipes are for
CODES, FEATURES = 8192, 512  # of DALL-E's encoder and of CLIP's ViT-B/16 [fixed by their files]
IMAGES = 4  # of the batch whose cost is counted; what every batch shares is spread over them


def run_show(*, what: str, settings: list[str], world_size: int, images: int | None, recipe: bool) -> None:
    """Prints tables, or with `recipe` the experiment as YAML."""
    if what not in PRESETS and not os.path.isfile(RunFolder(Path(what)).experiment) and _holds_tokenizer(what):  # noqa: PTH113
        if settings or images or recipe or world_size > 1:
            raise UserError(f"{what} is a tokenizer and nothing else, to which no option of show applies. Give none.")
        typer.echo(tokenizer_words(what))
        return
    experiment, origin, found = _named(what)
    experiment = experiment.with_settings(settings)
    if recipe:
        typer.echo(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False), nl=False)
        return
    batch = experiment.training.batch_size
    if batch % (world_size * experiment.training.accumulate):
        raise UserError(
            f"training.batch_size must divide into --world-size x training.accumulate parts. Got {batch} images for "
            f"{world_size} processes x {experiment.training.accumulate}; choose another number of processes."
        )
    count, counted = (images, "as given") if images else found
    console = Console(highlight=False, width=None if os.isatty(1) else 120)
    console.print(Text(f"{what}: {origin}"))
    console.print(_settings(experiment))
    steps = Sampler(length=count, batch_size=batch, seed=0).steps(experiment.training.epochs)
    cost, notes = cost_of(experiment)
    facts = {
        "images": f"{count:,}, {counted}",
        "images per step": _shared(batch, world_size, experiment.training.accumulate),
        "steps": f"{steps:,}, of which {round(experiment.training.warmup_epochs * count / batch):,} warm up",
        "learning rate": f"{experiment.peak_lr:.4g} at its peak, {_last(experiment):.4g} at the end",
        "patches": _patches(experiment),
        **_costs(cost, steps * batch, batch // world_size // experiment.training.accumulate),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console.print(table)
    for note in notes:
        console.print(Text(note))


def _named(what: str) -> tuple[Experiment, str, tuple[int, str]]:
    """The experiment, what it is, and how many images it is reckoned for."""
    if what in PRESETS:
        maker = PRESETS[what]
        return maker("DATA"), " ".join((maker.__doc__ or "").split()), (IMAGENET, "those of ImageNet-1K")
    folder = RunFolder(Path(what))
    if not os.path.isfile(folder.experiment):  # noqa: PTH113 unlike Path.is_file it takes any name, also a long one
        raise UserError(
            f"There is neither a preset nor a run {what!r}.{nearest(what, PRESETS)} Presets: {', '.join(PRESETS)}; a "
            "run is a folder that holds an experiment.yaml."
        )
    experiment = Experiment.read(folder.experiment)
    count = len(folder.read_images(whole=False).ids)
    steps = [line["step"] for line in read_lines(folder.log) if "step" in line] if folder.log.is_file() else []
    return experiment, f"a run, {max(steps, default=0):,} steps done", (count, "those of the run")


def _holds_tokenizer(what: str) -> bool:
    """A folder of `fit-tokenizer`, or a file of it."""
    path = Path(what)
    return (path.name == NAME and os.path.isfile(path)) or os.path.isfile(path / NAME)  # noqa: PTH113 as above


def tokenizer_words(what: str) -> str:
    """What a tokenizer says of itself: its file holds no settings."""
    tokenizer = open_tokenizer(Path(what))
    height, width = tokenizer.input_size((1, 1))
    kind = "k-means patches" if isinstance(tokenizer, PatchCodebook) else "a discrete VAE"
    return (
        f"{what}: a tokenizer of {kind}, {tokenizer.num_codes:,} codes, each of {height} x {width} pixels in "
        f"{tokenizer.channels} channel(s)\nThe file holds no settings. Predict its codes with: contextae pretrain DATA "
        f"--out RUN --set method.target=codes:{what}"
    )


def _settings(experiment: Experiment) -> Table:
    """Every setting with its value and its description, which names the source."""
    table = Table(box=None, pad_edge=False)
    for title in ("setting", "value", "what it is"):
        table.add_column(title, overflow="fold")  # a path is never cut
    for section in type(experiment).model_fields:
        part: Any = getattr(experiment, section)
        fields = type(part).model_fields
        for name, field in sorted(fields.items(), key=lambda item: item[0] != "name"):
            value = getattr(part, name)
            shown = list(value) if isinstance(value, tuple) else value
            text = f"{shown:.6g}" if isinstance(shown, float) else "null" if shown is None else str(shown)
            table.add_row(f"{section}.{name}", Text(text), Text(field.description or ""))
    return table


def _shared(batch: int, world_size: int, accumulate: int) -> str:
    parts = [f"{batch:,}"]
    if world_size > 1 or accumulate > 1:
        parts.append(f"= {world_size} process(es) x {accumulate} part(s) x {batch // world_size // accumulate}")
    return " ".join(parts)


def _last(experiment: Experiment) -> float:
    return experiment.peak_lr * experiment.optimizer.final_lr_share


def _patches(experiment: Experiment) -> str:
    rows, columns = experiment.grid_size
    if not isinstance(experiment.method, MaskedConfig):
        return f"{rows} x {columns} codes"
    masked = experiment.method.build_masker((rows, columns)).num_masked
    return f"{rows} x {columns} = {rows * columns}: {masked} masked, {rows * columns - masked} visible"


def _costs(cost: Cost, seen: int, per_part: int) -> dict[str, str]:
    gib = 2**30
    memory = cost.state_bytes + per_part * cost.activation_bytes
    shares = f" (encoder {cost.encoder / 1e6:.2f} million)" if cost.encoder else ""
    return {
        "parameters": f"{cost.parameters / 1e6:.2f} million, {cost.trained / 1e6:.2f} million trained{shares}",
        "FLOPs of an image": f"{cost.forward_flops / 1e9:.2f} billion forward, "
        f"{cost.step_flops / 1e9:.2f} with backward",
        "FLOPs of the training": f"{cost.step_flops * seen:.3g}",
        "memory of a process": f"{memory / gib:.2f} GiB in float32: {cost.state_bytes / gib:.2f} for weights, "
        f"gradients and moments, {cost.activation_bytes / 2**20:.1f} MiB for each of {per_part:,} images",
        "checkpoint": f"{cost.checkpoint_bytes / 2**20:,.0f} MiB",
    }


def cost_of(experiment: Experiment) -> tuple[Cost, list[str]]:
    """Counted on shapes alone. Tokenizers and teachers are not opened and not counted: a note says what is assumed."""
    channels = experiment.data.channels if isinstance(experiment.data.channels, int) else 3
    codes = _num_codes(experiment.method)
    notes = [] if experiment.data.channels != "auto" else ["Reckoned for images of three channels."]
    method, (height, width) = experiment.method, experiment.data.image_size
    # noise has no shape-only generator, and a d-VAE is small
    with torch.device("cpu" if isinstance(method, DVAEConfig) else "meta"):
        images = torch.zeros(IMAGES, channels, height, width)
        key = torch.zeros(IMAGES, dtype=torch.int64)
        if isinstance(method, DVAEConfig):
            ones = (1.0,) * channels
            built: Trainable = method.build(experiment.encoder, channels=channels, mean=ones, deviation=ones)
            return measure_cost(built.eval(), PlainView(images, key), IMAGES), notes
        target, said = _target(method, experiment, channels, codes)
        built = method.build(experiment.encoder, image_size=(height, width), channels=channels, target=target)
        num_patches = built.encoder.grid.num_patches
        num_masked = method.build_masker(experiment.grid_size).num_masked
        visible, masked = (torch.zeros(IMAGES, n, dtype=torch.int64) for n in (num_patches - num_masked, num_masked))
        batch = MaskedView(images, Mask(visible, masked), key)
        # what is random in training, stochastic depth, is left out: an upper bound
        return measure_cost(built.eval(), batch, IMAGES), [*notes, *said]


def _num_codes(method: Any) -> int | None:
    """Of the tokenizer that a setting names, where its file is here."""
    kind, _, name = getattr(method, "target", "").partition(":")
    path = Path(name)
    there = kind == "codes" and (os.path.isfile(path) or os.path.isfile(path / NAME))  # noqa: PTH113 as above
    return open_tokenizer(path).num_codes if there else None


def _target(method: MaskedConfig, experiment: Experiment, channels: int, codes: int | None) -> tuple[Target, list[str]]:
    grid = experiment.encoder.grid(image_size=experiment.data.image_size, channels=channels)
    kind = method.target.partition(":")[0]
    facts: dict[str, Any] = {"grid": grid, "mean": [1.0] * channels, "deviation": [1.0] * channels}
    if kind == "codes":
        whose, codes = ("the tokenizer's", codes) if codes else ("DALL-E's", CODES)
        note = f"Reckoned for {codes:,} codes ({whose}), without the tokenizer's own cost."
        return Codes(num_codes=codes, tokenizer=_Shapes(codes, grid), **facts), [note]
    if kind == "features" or isinstance(method, CAEv2Config):
        note = f"Reckoned for {FEATURES} features a patch (CLIP's ViT-B/16), without the teacher's own cost."
        return Features(width=FEATURES, teacher=_Shapes(FEATURES, grid), **facts), [note]
    return (HOG(grid=grid) if kind == "hog" else Pixels(grid=grid, normalise=method.normalise_target)), []


class _Shapes:
    """Stands where a frozen network would, and gives what it would in shape alone."""

    def __init__(self, width: int, grid: Grid) -> None:
        self.name, self.channels, self.image_size = "shapes", grid.channels, (grid.image_size[0], grid.image_size[1])
        self.trained_on: str | None = None
        self.width = self.num_codes = width
        self.num_patches = grid.num_patches

    def to(self, device: torch.device) -> _Shapes:
        return self

    def input_size(self, grid: tuple[int, int]) -> tuple[int, int]:
        return self.image_size  # the view is the network's own

    def codes(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), self.num_patches, dtype=torch.int64, device=images.device)

    def features(self, images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return torch.zeros(len(images), 1 + self.num_patches, self.width, device=images.device)
