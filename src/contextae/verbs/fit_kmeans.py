"""The quick variant of `fit-tokenizer`: a codebook of whole patches by k-means, and what both variants leave behind."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

from contextae.data.images import load_images
from contextae.data.statistics import pixel_statistics
from contextae.errors import UserError
from contextae.experiment import named_values
from contextae.grid import Grid, patchify
from contextae.randomness import Shuffle, key
from contextae.report.figures import tokenizer_sheet
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.kmeans import PatchCodebook, k_means
from contextae.tokenizers.stored import save_tokenizer
from contextae.tokenizers.usage import measure_usage
from contextae.training.run_folder import BEGINNINGS
from contextae.verbs.output import empty_folder, writing
from contextae.verbs.plan import asked_for, large_enough
from contextae.verbs.request import Request, opened
from contextae.verbs.terminal import Steps

SHEET, SHEET_IMAGES = "reconstructions.png", 8
READ = ("data.", "crop.", "encoder.", "training.seed")
MOST_IMAGES, MOST_PATCHES, ITERATIONS = 20_000, 200_000, 20


def fit_kmeans(request: Request, out: Path, codes: int) -> int:
    """Patches of at most `MOST_IMAGES` images; a tenth of these is kept apart to measure on. The exit code."""
    _check_settings(request.settings)
    left = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not left or left - set(BEGINNINGS):  # where the refused start of a d-VAE was, there is nothing to lose
        empty_folder(out)
    found = opened(request)
    experiment, origin = asked_for(request, found.images, torch.device("cpu"))
    experiment = found.measured(experiment)
    index, said = large_enough(found.images, experiment.encoder.patch_size)
    for line in [*found.words, *said, f"Settings: {origin}."]:
        typer.echo(line)
    seed, size = experiment.training.seed, experiment.data.image_size
    grid = Grid(image_size=size, patch_size=experiment.encoder.patch_size, channels=index.channels)
    chosen = index.subset(np.sort(Shuffle(len(index), seed, "k-means").first(MOST_IMAGES)))
    value_range = experiment.data.value_range
    if index.dtype != "uint8" and value_range is None:
        value_range = pixel_statistics(index, seed=seed).value_range
    with Steps() as steps:
        loaded = load_images(
            chosen,
            size,
            progress=lambda done, total: steps("reading images", done / total),
            value_range=value_range,
        )
        for position, reason in loaded.left_out:
            typer.echo(f"Left out: {chosen.ids[position]}: {reason}", err=True)
        images = torch.from_numpy(loaded.images)[torch.randperm(len(loaded.images), generator=_generator(seed, 0))]
        apart = len(images) // 10
        typer.echo(f"k-means looks at {len(images):,} of {len(index):,} images, {apart:,} of them kept apart")
        tokenizer = PatchCodebook(channels=index.channels, patch_size=experiment.encoder.patch_size, num_codes=codes)
        tokenizer.patches.copy_(_centroids(patchify(images[apart:], grid).flatten(0, 1), codes, seed, steps))
    kept = images[:apart] if apart else images
    usage = measure_usage(tokenizer, kept.float() / 255)
    typer.echo(f"{usage.words()}, on {len(kept):,} images {'kept apart' if apart else 'it was fitted to'}")
    out.mkdir(parents=True, exist_ok=True)
    with writing(out):
        save_tokenizer(tokenizer, out)
    for line in [*drawn(tokenizer, kept, out), *next_words(out)]:
        typer.echo(line)
    return 0


def _check_settings(settings: list[str]) -> None:
    idle = [name for name in named_values(settings) if not name.startswith(READ)]
    if idle:
        raise UserError(
            "k-means is no training: of settings it takes those of data, crop and encoder of the training to come, "
            f"and training.seed; the length of the codebook is --codes. Got {', '.join(idle)}; leave it out, or take "
            "--kind dvae."
        )


def _centroids(patches: Tensor, codes: int, seed: int, steps: Steps) -> Tensor:
    some = torch.randperm(len(patches), generator=_generator(seed, 1))[:MOST_PATCHES]
    if len(some) < codes:
        raise UserError(
            f"A codebook needs at least as many patches as codes. Got {len(some):,} patches for {codes:,} codes (at "
            f"most {MOST_PATCHES:,} patches are looked at); ask for fewer with --codes."
        )
    points = patches[some].float() / 255
    return k_means(
        points,
        codes,
        iterations=ITERATIONS,
        generator=_generator(seed, 2),
        after_each=lambda done: steps(f"k-means, {codes:,} codes of {len(points):,} patches", done / ITERATIONS),
    )


def _generator(seed: int, use: int) -> torch.Generator:
    return torch.Generator().manual_seed(key(seed, "k-means", use))


def next_words(folder: Path) -> list[str]:
    """How to train on it."""
    there = shlex.quote(str(folder))
    return [f"Done: {folder}", f"Next: contextae pretrain DATA --out RUN --set method.target=codes:{there}"]


def drawn(tokenizer: DVAE | PatchCodebook, pixels: Tensor, folder: Path) -> list[str]:
    """A sheet of images and of what their codes decode to; `pixels` b c h w, 0 to 255."""
    images = pixels[:SHEET_IMAGES].float() / 255
    grid = tuple(length // one for length, one in zip(images.shape[2:], tokenizer.input_size((1, 1)), strict=True))
    decoded = tokenizer.decode(tokenizer.codes(images), (grid[0], grid[1]))
    with writing(folder / SHEET):
        tokenizer_sheet(images.numpy(), decoded.numpy(), folder / SHEET)
    return [f"Reconstructions: {folder / SHEET}"]
