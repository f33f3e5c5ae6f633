"""Which checkpoints a folder holds, and the newest, the best or a certain one of them, verified before use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from contextae.errors import UserError
from contextae.training.manifest import Damaged, read_manifest
from contextae.training.saved import Saved, read_checkpoint

NAME = re.compile(r"step-(\d{8,})")
Note = Callable[[Path, str], None]
"""Told of each damaged checkpoint that is passed over, and what is wrong with it."""


def folder_name(step: int) -> str:
    """Eight digits or more, so that names sort as their steps do in every listing of less than 100 million steps."""
    return f"step-{step:08d}"


def stored_steps(folder: Path) -> dict[int, Path]:
    """Checkpoint folders by step, oldest first; whether they are whole is not looked at."""
    if not folder.is_dir():
        return {}
    matches = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match and path.is_dir()))


def newest(folder: Path, note: Note) -> Saved | None:
    """The newest that verifies; None where there is no checkpoint at all. Damaged ones are never passed in silence."""
    problems: list[str] = []

    def noted(path: Path, why: str) -> None:
        problems.append(f"{path.name}: {why}")
        note(path, why)

    found = _first_whole(list(stored_steps(folder).values())[::-1], noted)
    if problems and found is None:
        raise UserError(
            f"None of the {len(problems)} checkpoint(s) in {folder} can be used: {'; '.join(problems)}. Put one back "
            "from a copy, or start a new run in another folder; nothing was changed here."
        )
    return found


def best(folder: Path, note: Note) -> Saved | None:
    """The one with the highest score, the newer of equals, that verifies; None where none has a score."""
    scored = []
    for step, path in stored_steps(folder).items():
        try:
            score = read_manifest(path).score
        except Damaged as damage:
            note(path, str(damage))
            continue
        if score is not None:
            scored.append((score, step, path))
    return _first_whole([path for _, _, path in sorted(scored, reverse=True)], note)


def at(folder: Path, step: int) -> Saved:
    """That one and no other."""
    steps = stored_steps(folder)
    if step not in steps:
        known = ", ".join(str(each) for each in steps) or "none"
        raise UserError(f"There is no checkpoint of step {step} in {folder}. Steps that are there: {known}.")
    try:
        return _read(steps[step], step)
    except Damaged as damage:
        raise UserError(f"{steps[step]} is damaged: {damage}. Choose another checkpoint or put a copy back.") from None


def _first_whole(paths: list[Path], note: Note) -> Saved | None:
    for path in paths:
        try:
            return _read(path, int(path.name.removeprefix("step-")))
        except Damaged as damage:
            note(path, str(damage))
    return None


def _read(path: Path, step: int) -> Saved:
    saved = read_checkpoint(path)
    if saved.step != step:
        raise Damaged(f"it holds step {saved.step}, so the folder was renamed")
    return saved
