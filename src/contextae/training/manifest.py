"""The manifest of a checkpoint: size and sha256 of its files. A folder without a manifest that agrees is no checkpoint.

No format in use detects a flipped bit by itself, safetensors included; this does, in the files and in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from contextae.disk import reason, write_file

FORMAT = 1
"""Version of the whole layout; every past one stays readable."""
NAME = "manifest.json"
WEIGHTS, OPTIMIZER, STATE = FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
LARGEST = 1 << 20  # bytes of a manifest; more is not ours


class Damaged(Exception):  # noqa: N818 it names a state, not a mistake of ours
    """A checkpoint that cannot be trusted; the text says what is wrong with it."""


class FileFacts(NamedTuple):
    """What one file must be."""

    size: int
    sha256: str


class Manifest(NamedTuple):
    """Step, label-free score by which the best is chosen (None: not scored), and the files by name."""

    step: int
    score: float | None
    files: dict[str, FileFacts]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file of a checkpoint. JSON knows no NaN: such a score is no score."""
    score = manifest.score if manifest.score is not None and math.isfinite(manifest.score) else None
    files = {name: facts._asdict() for name, facts in sorted(manifest.files.items())}
    write_file(folder / NAME, _sealed({"format": FORMAT, "step": manifest.step, "score": score, "files": files}))


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, proven by its own hash; the files may still be damaged."""
    try:
        with (folder / NAME).open("rb") as file:
            data = file.read(LARGEST)
    except FileNotFoundError:
        raise Damaged(f"{NAME} is missing, so it was never completed") from None
    except OSError as error:
        raise Damaged(f"{NAME} cannot be read: {reason(error)}") from None
    content = _unsealed(data)
    try:
        files = {name: FileFacts(int(facts["size"]), str(facts["sha256"])) for name, facts in content["files"].items()}
        score = content["score"]
        manifest = Manifest(int(content["step"]), None if score is None else float(score), files)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise Damaged(f"{NAME} lacks what format {FORMAT} says") from None
    if missing := [name for name in FILES if name not in files]:
        raise Damaged(f"{NAME} does not list {missing[0]}")
    return manifest


def verify(folder: Path) -> Manifest:
    """Reads every file named in the layout and compares; other files in the folder are nobody's concern."""
    manifest = read_manifest(folder)
    for name in FILES:
        wanted = manifest.files[name]
        size, sha256 = _facts(folder / name)
        if size != wanted.size:
            raise Damaged(f"{name} has {size:,} bytes instead of {wanted.size:,}")
        if sha256 != wanted.sha256:
            raise Damaged(f"{name} was altered: its sha256 is not the recorded one")
    return manifest


def _facts(path: Path) -> FileFacts:
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return FileFacts(file.tell(), sha256)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {reason(error)}") from None


def _sealed(content: dict[str, Any]) -> bytes:
    """The one spelling of the content, with the hash of the rest as its last entry."""
    seal = hashlib.sha256(json.dumps(content, allow_nan=False).encode()).hexdigest()
    return json.dumps({**content, "sha256": seal}, indent=1, allow_nan=False).encode() + b"\n"


def _unsealed(data: bytes) -> dict[str, Any]:
    """The content, if every byte is as `_sealed` wrote it."""
    try:
        content = json.loads(data)
        version = content["format"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise Damaged(f"{NAME} is not readable as JSON with a format version") from None
    if version != FORMAT:
        raise Damaged(f"{NAME} has format version {version!r}; this version of contextae reads {FORMAT}")
    try:
        same = _sealed({name: value for name, value in content.items() if name != "sha256"}) == data
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Damaged(f"{NAME} was altered: it does not agree with its own sha256")
    return content
