"""The other half of a receipt: a fresh process that loads an export with the library it is for and runs it on files.

Started by receipt.py as `python -c "from contextae.interop.reload import main; main()"`. What it found goes into two
files: arrays as .npz, the rest as JSON. It imports torch only where the library does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from contextae.interop.input_facts import InputFacts

BATCH = 3  # after a first batch of one image, so that two sizes of batch are tried


class Format(NamedTuple):
    """A kind of export: our module with `write` and `reload`, whose it is, and what it needs that may be absent."""

    module: str
    library: str
    needs: tuple[str, ...]
    usage: str


FORMATS = {
    "timm": Format("timm", "timm", (), 'timm.create_model("local-dir:{out}", pretrained=True)'),
    "huggingface": Format(
        "huggingface", "transformers", ("transformers",), 'transformers.ViTModel.from_pretrained("{out}")'
    ),
    "onnx": Format(
        "onnx",
        "onnxruntime",
        ("onnx", "onnxscript", "onnxruntime"),
        'onnxruntime.InferenceSession("{out}/model.onnx").run(None, {{"images": images}})',
    ),
    "torch": Format("torch_export", "torch", (), 'torch.export.load("{out}/model.pt2").module()(images)'),
}


class Preprocessing(NamedTuple):
    """What the library's own preprocessing makes of the same files, beside ours: for information."""

    mean_pixel_difference: float
    "absolute, in steps of the pixels' bit depth"
    smallest_cosine: float
    "between the two summaries of an image"


class Reloaded(NamedTuple):
    """What the library made of the export: outputs [b d] and [b n d] of all files, names that did not fit, versions."""

    summary: np.ndarray
    latents: np.ndarray
    missing: list[str]
    unexpected: list[str]
    versions: dict[str, str]
    preprocessing: Preprocessing | None = None

    @classmethod
    def refused(cls, missing: list[str], unexpected: list[str], versions: dict[str, str]) -> Reloaded:
        """Without outputs, for weights that did not all find their place."""
        return cls(np.zeros((0, 0)), np.zeros((0, 0, 0)), missing, unexpected, versions)


Run = Callable[[Float[np.ndarray, "b c h w"]], tuple[np.ndarray, np.ndarray]]


def batch_sizes(count: int) -> list[int]:
    """One image, then `BATCH` at a time, then what is left."""
    whole, rest = divmod(count - 1, BATCH)
    return [1, *[BATCH] * whole, *([rest] if rest else [])]


def in_batches(run: Run, images: Float[np.ndarray, "b c h w"]) -> tuple[np.ndarray, np.ndarray]:
    """Summary and latents of all images, run in batches of `batch_sizes`."""
    parts = [run(part) for part in np.split(images, np.cumsum(batch_sizes(len(images)))[:-1])]
    summary, latents = (np.concatenate(each) for each in zip(*parts, strict=True))
    return summary, latents


def compared(
    theirs: Float[np.ndarray, "b c h w"],
    ours: Float[np.ndarray, "b c h w"],
    summary: Float[np.ndarray, "b d"],
    run: Run,
    facts: InputFacts,
) -> Preprocessing:
    """Of normalised images by the library's own preprocessing and by ours, with the summary of ours."""
    other, _ = in_batches(run, theirs)
    deviation = np.array(facts.deviation).reshape(1, -1, 1, 1)
    steps = np.abs(theirs - ours) * deviation * 255
    norms = np.linalg.norm(other, axis=1) * np.linalg.norm(summary, axis=1)
    return Preprocessing(float(steps.mean()), float(((other * summary).sum(1) / norms).min()))


def main() -> None:
    """FORMAT FOLDER REQUEST RESULT, where RESULT.npz and RESULT.json are written."""
    to, folder, request, result = sys.argv[1], *(Path(each) for each in sys.argv[2:5])
    asked = json.loads(request.read_text(encoding="utf-8"))
    module = importlib.import_module(f"contextae.interop.{FORMATS[to].module}")
    found: Reloaded = module.reload(folder, [Path(name) for name in asked["files"]], asked["allow_missing"])
    np.savez(result.with_suffix(".npz"), summary=found.summary, latents=found.latents)
    said = {
        "missing": found.missing,
        "unexpected": found.unexpected,
        "versions": found.versions,
        "preprocessing": found.preprocessing and found.preprocessing._asdict(),
        "process": os.getpid(),
        "torch": "torch" in sys.modules,
    }
    result.with_suffix(".json").write_text(json.dumps(said), encoding="utf-8")
