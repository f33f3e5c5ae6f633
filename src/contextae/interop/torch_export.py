"""To torch: a program (torch.export) of the encoder, any number of images at a time, height and width fixed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from contextae.encoder import Encoder
from contextae.interop.input_facts import NAME, InputFacts
from contextae.interop.reload import Reloaded, in_batches
from contextae.interop.timm import to_timm

FILE = "model.pt2"


class SummaryAndLatents(nn.Module):
    """What `Encoder.summary_and_latents` gives, by timm's modules: they take a batch of a size that is not known."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        tokens = self.model.forward_features(images)
        return tokens[:, 0], tokens[:, 1:]


def program(encoder: Encoder) -> torch.export.ExportedProgram:
    """images [b c h w] -> summary [b d], latents [b n d]."""
    example = torch.zeros(2, encoder.grid.channels, *encoder.grid.image_size)
    return torch.export.export(
        SummaryAndLatents(to_timm(encoder)).eval(),
        (example,),
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
    )


def write(encoder: Encoder, facts: InputFacts, folder: Path) -> None:
    """model.pt2, with the facts of its input inside."""
    torch.export.save(program(encoder), folder / FILE, extra_files={NAME: facts.to_json()})


def reload(folder: Path, files: Sequence[Path], allow_missing: Sequence[str]) -> Reloaded:
    """By torch, normalised by the facts inside the file. Its weights are part of the program: none can be missing."""
    inside = {NAME: ""}
    loaded = torch.export.load(folder / FILE, extra_files=inside).module()
    facts = InputFacts.from_json(inside[NAME])

    def run(images: Float[np.ndarray, "b c h w"]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            summary, latents = loaded(torch.from_numpy(images))
        return summary.numpy(), latents.numpy()

    summary, latents = in_batches(run, facts.normalised(facts.pixels(files)))
    return Reloaded(summary, latents, [], [], {"torch": torch.__version__})
