"""Weights alone, from whatever a user points at: a weights file, a checkpoint, or a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from contextae.errors import UserError, nearest
from contextae.pickles import is_pickle
from contextae.training.manifest import NAME, WEIGHTS, Damaged
from contextae.training.progress import say_on_stderr
from contextae.training.saved import MARK, Saved, read_checkpoint, read_tensors
from contextae.training.stored import at, best, newest, stored_steps

Weights = tuple[dict[str, Tensor], dict[str, str]]
CHOICES = ("last", "best")


def load_weights(path: Path, *, checkpoint: str = "last", say: Callable[[str], None] = say_on_stderr) -> Weights:
    """Tensors by name and the words of the file's header.

    Of a run folder, `checkpoint` is "last" (the newest that verifies), "best" (by the label-free score) or a step.
    Checkpoints are compared with their manifest; a weights file on its own carries no hash to compare it with.
    """
    if not os.path.exists(path):  # noqa: PTH110 unlike Path.exists it takes any name, also one that is too long
        close = nearest(path.name, [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise UserError(f"There is nothing at {path}. Give a run folder, a checkpoint or a weights file.{close}")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if path.is_dir() and (folder != path or stored_steps(folder)):
        saved = _chosen(folder, checkpoint, say)
        return saved.weights, saved.metadata
    if checkpoint != "last":
        raise UserError(
            f"`checkpoint` chooses among those of a run folder, and {path} is none. Got {checkpoint!r}; leave it out."
        )
    if path.is_dir():
        return _of_checkpoint(path)
    if (path.parent / NAME).is_file() and path.name == WEIGHTS:
        return _of_checkpoint(path.parent)
    return _of_file(path)


def _chosen(folder: Path, checkpoint: str, say: Callable[[str], None]) -> Saved:
    def note(path: Path, why: str) -> None:
        say(f"Checkpoint {path} is damaged and passed over: {why}.")

    if checkpoint.isdecimal():
        return at(folder, int(checkpoint))
    if checkpoint not in CHOICES:
        raise UserError(
            f"`checkpoint` is last, best or the number of a step. Got {checkpoint!r}.{nearest(checkpoint, CHOICES)}"
        )
    found = newest(folder, note) if checkpoint == "last" else best(folder, note)
    if found is None:
        what = "complete checkpoint" if checkpoint == "last" else "whole checkpoint with a score"
        raise UserError(f"There is no {what} in {folder} yet. Let the run save one first, or choose another run.")
    return found


def _of_checkpoint(folder: Path) -> Weights:
    try:
        saved = read_checkpoint(folder)
    except Damaged as damage:
        raise UserError(
            f"{folder} is no checkpoint that can be used: {damage}. Give a run folder, one of its checkpoints or a "
            "weights file."
        ) from None
    return saved.weights, saved.metadata


def _of_file(path: Path) -> Weights:
    try:
        pickled = is_pickle(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Change its permissions or give another.") from None
    if pickled:
        raise UserError(
            f"Weights are read from safetensors files only. {path} is a pickle or an archive of one, which can run any "
            "program when it is opened, so it was not opened. `contextae convert` reads published CAE weights out of "
            "such files and runs nothing; of others, save the tensors as safetensors where they come from."
        )
    try:
        tensors, metadata = read_tensors(path)
    except Damaged as damage:
        raise UserError(f"{path} cannot be used: {damage}. Copy it again from where it came.") from None
    if MARK not in metadata:
        raise UserError(
            f"{path} is a safetensors file that contextae did not write: its header does not say which network it "
            "belongs to. Give a run folder or a weights file of contextae."
        )
    return tensors, metadata
