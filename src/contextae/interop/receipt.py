"""Receipt: what a fresh process, with the library an export is for, makes of image files, beside our own encoder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.interop.reload import FORMATS, Preprocessing, batch_sizes, in_batches

NAME = "receipt.json"
TOLERANCE = 1e-4  # largest absolute difference; outputs are of the order of 1, and float32 differs by about 1e-6
START = "from contextae.interop.reload import main; main()"


class Receipt(NamedTuple):
    """What was compared, and how far apart it is at most."""

    to: str
    weights: str
    "where they come from, in the caller's words"
    encoder: str
    "sha256 over the names and values of its tensors"
    largest_difference: float
    tolerance: float
    num_images: int
    batch_sizes: list[int]
    missing: list[str]
    "weights that the library asks for and the export does not have, all of them allowed by name"
    versions: dict[str, str]
    files: dict[str, str]
    "sha256 of every file of the export"
    preprocessing: Preprocessing | None
    "the library's own, beside ours: it decides nothing"

    def to_json(self) -> str:
        """For receipt.json."""
        own = self.preprocessing and self.preprocessing._asdict()
        return json.dumps({**self._asdict(), "preprocessing": own}, indent=1)


class _Answer(NamedTuple):
    summary: np.ndarray
    latents: np.ndarray
    said: dict[str, Any]


def make_receipt(
    encoder: Encoder,
    folder: Path,
    *,
    to: str,
    files: Sequence[Path],
    images: Float[Tensor, "b c h w"],
    allow_missing: Sequence[str] = (),
    weights: str = "",
) -> Receipt:
    """Of the export in `folder`; `images` is what our own transform makes of `files`, in their order.

    UserError where the library cannot load the export, where a weight did not find its place, and where the outputs
    differ by `TOLERANCE` or more.
    """
    answer = _reloaded(folder, to, files, allow_missing)
    said, library = answer.said, _named(FORMATS[to].library, answer.said["versions"])
    wrong = {
        "missing": [name for name in said["missing"] if name not in allow_missing],
        "unexpected": said["unexpected"],
    }
    if any(wrong.values()):
        which = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names)
        raise UserError(
            f"{library} does not find a place for every weight of this export, and nothing was kept of it ({which}). "
            "Use another version of it; a missing one that does not matter may be named with --allow-missing."
        )
    expected = in_batches(_by(encoder), images.numpy())
    difference = largest_difference(expected, (answer.summary, answer.latents))
    if not difference < TOLERANCE:
        raise UserError(
            f"{library} makes something else of this export than contextae of its encoder, and nothing was kept of it: "
            f"the outputs for {len(files)} image(s) differ by up to {difference:.3g}; less than {TOLERANCE:g} is "
            "expected. Try another version of the library, and report this."
        )
    ours = {"contextae": importlib.metadata.version("contextae"), "torch": torch.__version__}
    return Receipt(
        to=to,
        weights=weights,
        encoder=_fingerprint(encoder),
        largest_difference=difference,
        tolerance=TOLERANCE,
        num_images=len(files),
        batch_sizes=batch_sizes(len(files)),
        missing=said["missing"],
        versions={"python": platform.python_version(), **ours, **said["versions"]},
        files={str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()},
        preprocessing=said["preprocessing"] and Preprocessing(**said["preprocessing"]),
    )


def largest_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Largest absolute one of summary and latents, NaN where there is a NaN; of other shapes it is infinite."""
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        return float("inf")
    return float(np.max([np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)]))


def _by(encoder: Encoder) -> Any:
    def run(images: Float[np.ndarray, "b c h w"]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            summary, latents = encoder.summary_and_latents(torch.from_numpy(images))
        return summary.numpy(), latents.numpy()

    return run


def _reloaded(folder: Path, to: str, files: Sequence[Path], allow_missing: Sequence[str]) -> _Answer:
    """By a process that shares nothing with this one; its libraries' chatter is shown only where it fails."""
    with tempfile.TemporaryDirectory() as aside:
        request, result = Path(aside, "request.json"), Path(aside, "result")
        asked = {"files": [str(path.absolute()) for path in files], "allow_missing": list(allow_missing)}
        request.write_text(json.dumps(asked), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", "-c", START, to, str(folder.absolute()), str(request), str(result)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise UserError(
                f"A fresh process with {FORMATS[to].library} could not load this export, and nothing was kept of it: "
                f"{lines[-1] if lines else f'it ended with code {done.returncode} and said nothing'}. Try another "
                "version of the library, and report this."
            )
        with np.load(result.with_suffix(".npz"), allow_pickle=False) as arrays:
            return _Answer(
                arrays["summary"],
                arrays["latents"],
                json.loads(result.with_suffix(".json").read_text(encoding="utf-8")),
            )


def _named(library: str, versions: dict[str, str]) -> str:
    return f"{library} {versions[library]}"


def _fingerprint(encoder: Encoder) -> str:
    found = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        found.update(name.encode() + b"\0" + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
