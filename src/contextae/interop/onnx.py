"""To ONNX: images [batch c h w] -> summary [batch d], latents [batch n d]; batch is free, height and width fixed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from contextae.interop.input_facts import InputFacts
from contextae.interop.reload import Reloaded, in_batches

if TYPE_CHECKING:
    from contextae.encoder import Encoder

FILE, HEADER = "model.onnx", "contextae"
ONE_FILE_BYTES = 1_900_000_000  # a protobuf holds 2 GiB; larger weights lie in a file beside it


def write(encoder: Encoder, facts: InputFacts, folder: Path) -> None:
    """model.onnx, with the facts of its input in its metadata."""
    import torch

    from contextae.interop.torch_export import program

    num_bytes = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
    made = torch.onnx.export(
        program(encoder),
        dynamo=True,
        input_names=["images"],
        output_names=["summary", "latents"],
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert made is not None  # None is what the exporter before dynamo gave
    made.model.metadata_props[HEADER] = facts.to_json()
    made.save(str(folder / FILE), external_data=num_bytes > ONE_FILE_BYTES)


def reload(folder: Path, files: Sequence[Path], allow_missing: Sequence[str]) -> Reloaded:
    """By onnxruntime, without torch, normalised by the facts in the file. Its weights are part of it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    facts = InputFacts.from_json(session.get_modelmeta().custom_metadata_map[HEADER])

    def run(images: Float[np.ndarray, "b c h w"]) -> tuple[np.ndarray, np.ndarray]:
        summary, latents = session.run(["summary", "latents"], {"images": images})
        return summary, latents

    summary, latents = in_batches(run, facts.normalised(facts.pixels(files)))
    return Reloaded(summary, latents, [], [], {"onnxruntime": onnxruntime.__version__})
