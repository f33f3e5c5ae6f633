"""An encoder that looks trained, odd in every number, and image files for it; exports checked in this very process."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contextae.encoder import Encoder
from contextae.interop import receipt
from contextae.interop.input_facts import InputFacts, input_facts
from contextae.interop.reload import FORMATS, Reloaded
from networks import image_grid, shake

MEAN, DEVIATION = (0.41, 0.47, 0.52, 0.3, 0.6), (0.21, 0.26, 0.31, 0.19, 0.24)
SIZE = (10, 21)  # with patches of 2 x 3: 5 x 7 of them


def odd_encoder(
    channels: int = 5,
    *,
    layer_scale: float | None = 0.3,
    num_heads: int = 3,
    depth: int = 2,
    learned_positions: bool = False,
) -> Encoder:
    """Width 21, 52 inside the MLP, noise on every weight."""
    torch.manual_seed(0)
    encoder = Encoder(
        grid=image_grid(channels),
        width=21,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=2.5,
        layer_scale=layer_scale,
        learned_positions=learned_positions,
    )
    shake(encoder, scale=0.2)
    return encoder.eval()


def facts_for(encoder: Encoder) -> InputFacts:
    """With means and deviations that differ from channel to channel."""
    channels = encoder.grid.channels
    return input_facts(
        image_size=encoder.grid.image_size, channels=channels, mean=MEAN[:channels], deviation=DEVIATION[:channels]
    )


def array_files(folder: Path, channels: int = 5, *, count: int = 5) -> list[Path]:
    """uint8 h w c of other sizes than the encoder's, as .npy, of any number of channels."""
    rng = np.random.default_rng(channels)
    files = []
    for i in range(count):
        files.append(folder / f"{i}.npy")
        np.save(files[-1], rng.integers(0, 256, (13 + i, 25 - i, channels)).astype(np.uint8))
    return files


def ours(encoder: Encoder, files: Sequence[Path]) -> tuple[Tensor, Tensor, Tensor]:
    """Images, summary and latents, with normalisation written out once more."""
    facts = facts_for(encoder)
    mean, deviation = (torch.tensor(each).reshape(1, -1, 1, 1) for each in (facts.mean, facts.deviation))
    images = (torch.from_numpy(facts.pixels(files)) / 255 - mean) / deviation
    with torch.no_grad():
        summary, latents = encoder.summary_and_latents(images)
    return images, summary, latents


def close(found: Reloaded, summary: Tensor, latents: Tensor) -> None:
    """To 1e-5, without a name that did not fit."""
    assert found.missing == found.unexpected == []
    torch.testing.assert_close(torch.from_numpy(found.summary), summary, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(found.latents), latents, atol=1e-5, rtol=0)


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts without a fresh process: seconds less, and open to what a test patches."""

    def reloaded(folder: Path, to: str, files: Sequence[Path], allow_missing: Sequence[str]) -> Any:
        module = importlib.import_module(f"contextae.interop.{FORMATS[to].module}")
        found: Reloaded = module.reload(folder, files, allow_missing)
        said = {
            "missing": found.missing,
            "unexpected": found.unexpected,
            "versions": found.versions,
            "preprocessing": found.preprocessing and found.preprocessing._asdict(),
        }
        return receipt._Answer(found.summary, found.latents, said)

    monkeypatch.setattr(receipt, "_reloaded", reloaded)
