"""Targets by the words of a setting: pixels, hog, codes:TOKENIZER, features:TEACHER."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from contextae.errors import UserError
from contextae.grid import Grid
from contextae.methods.masked import MaskedConfig
from contextae.targets import HOG, Codes, Features, Pixels, Target
from contextae.tokenizers.cache import CachedTeacher
from contextae.tokenizers.frozen import Teacher, Tokenizer
from contextae.tokenizers.stored import open_tokenizer, sha256_of
from contextae.tokenizers.teacher import open_teacher
from contextae.tokenizers.timm_network import DIRECTORY, PREFIX, RANDOM


def open_target(
    config: MaskedConfig, grid: Grid, *, mean: Sequence[float] | None, deviation: Sequence[float] | None
) -> Target:
    """The target of these settings, with the frozen network behind it, which must be the one the run started with."""
    kind, _, name = config.target.partition(":")
    if kind == "pixels":
        return Pixels(grid=grid, normalise=config.normalise_target)
    if kind == "hog":
        return HOG(grid=grid)
    if mean is None or deviation is None:
        raise UserError(
            f"A target of {kind} needs data.mean and data.deviation, because tokenizers and teachers look at values in "
            "0..1. Set both, or take an experiment.yaml that a run has written."
        )
    network, sha256 = _opened(kind, name, grid.channels, config.target_size)
    if config.target_sha256 and sha256 != config.target_sha256:
        raise UserError(
            f"The {'tokenizer' if kind == 'codes' else 'teacher'} {name} is not the one that this run started with: "
            f"its sha256 is {sha256} and was {config.target_sha256}. Put the old file back, or start a new run."
        )
    shown: dict[str, Any] = {"grid": grid, "mean": mean, "deviation": deviation}
    if isinstance(network, Tokenizer):
        return Codes(num_codes=network.num_codes, tokenizer=network, **shown)
    if config.target_cache_gib:
        network = CachedTeacher(teacher=network, most_bytes=int(config.target_cache_gib * 2**30))
    return Features(width=network.width, teacher=network, **shown)


class Asked(NamedTuple):
    """What only tokenizer or teacher can say: settings by name, and lines for the user."""

    values: dict[str, Any]
    notes: list[str]


def asked_of_target(config: MaskedConfig, grid: Grid) -> Asked:
    """The size that tokenizer or teacher want to see, and which file they are."""
    kind, _, name = config.target.partition(":")
    _check_idle(config, kind)
    if kind not in ("codes", "features"):
        return Asked({}, [])
    network, sha256 = _opened(kind, name, grid.channels, config.target_size)
    if isinstance(network, Tokenizer):
        size, what = (
            network.input_size((grid.size[0], grid.size[1])),
            f"one of {network.num_codes} codes a patch, by {name}",
        )
        if config.target_size not in (None, size):
            raise UserError(
                f"The tokenizer {name} gives each of {grid.size[0]} x {grid.size[1]} patches one code where it sees "
                f"{size[0]} x {size[1]} pixels. Got method.target_size={list(config.target_size)}; leave it out."
            )
    else:
        taught = f" ({network.trained_on})" if network.trained_on else ""
        size, what = network.image_size, f"{network.width} features a patch, by {network.name}{taught}"
    size = config.target_size or size
    words = f"target: {what}, which sees each crop at {size[0]} x {size[1]}"
    return Asked({"method.target_size": list(size), "method.target_sha256": sha256}, [words])


def _check_idle(config: MaskedConfig, kind: str) -> None:
    """Refuses settings that this kind of target does not read."""
    of_kinds = (
        ("method.target_size", config.target_size is not None, ("codes", "features")),
        ("method.target_cache_gib", config.target_cache_gib > 0, ("features",)),
        ("method.normalise_target", not config.normalise_target, ("pixels",)),
    )
    for name, given, kinds in of_kinds:
        if given and kind not in kinds:
            raise UserError(
                f"{name} is for a target of {' or '.join(kinds)}. Got method.target={config.target}, which does not "
                "read it; leave it out."
            )


def absolute_target(target: str) -> str:
    """The same target from any working folder: the path of a file in it made absolute."""
    kind, _, name = target.partition(":")
    if kind == "codes":
        return f"{kind}:{Path(name).expanduser().absolute()}"
    folder = f"{PREFIX}{DIRECTORY}"
    if kind == "features" and name.startswith(folder):
        return f"{kind}:{folder}{Path(name.removeprefix(folder)).expanduser().absolute()}"
    before, _, path = name.partition("=")
    if kind == "features" and path and not re.fullmatch(rf"{RANDOM}(@\d+)?", path):
        return f"{kind}:{before}={Path(path).expanduser().absolute()}"
    return target


def _opened(
    kind: str, name: str, channels: int, size: tuple[int, int] | None
) -> tuple[Tokenizer | Teacher, str | None]:
    if kind == "codes":
        with torch.random.fork_rng(devices=()):  # modules draw weights before they are filled; the method's come later
            tokenizer = open_tokenizer(Path(name))
        if tokenizer.channels != channels:
            raise UserError(
                f"The tokenizer {name} is of images with {tokenizer.channels} channel(s), and these have {channels}. "
                "Fit one to these images with `contextae fit-tokenizer`."
            )
        return tokenizer, sha256_of(Path(name))
    with torch.random.fork_rng(devices=()):
        teacher = open_teacher(name, image_size=size)
    if teacher.channels != channels:
        raise UserError(
            f"The teacher {teacher.name} takes images of {teacher.channels} channels, and these have {channels}. Set "
            f"data.channels to {teacher.channels}, or choose another teacher."
        )
    return teacher, teacher.sha256
