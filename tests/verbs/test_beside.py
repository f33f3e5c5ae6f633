"""Other weights in the table: they see images normalised as they were trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contextae.encoder import Encoder
from contextae.grid import Grid
from contextae.verbs.beside import expect
from contextae.verbs.evaluate import run_evaluate
from networks import shake

MEAN, DEVIATION = (0.3, 0.45, 0.6), (0.2, 0.25, 0.31)
OTHER = (0.5, 0.1, 0.2), (0.9, 0.4, 0.15)


def test_it_gives_of_images_normalised_otherwise_what_it_gave_of_its_own() -> None:
    encoder = Encoder(grid=Grid(image_size=(6, 8), patch_size=(2, 4), channels=3), width=16, depth=2, num_heads=2)
    shake(encoder)
    images = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))

    def normalised(mean: tuple[float, ...], deviation: tuple[float, ...]) -> torch.Tensor:
        return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]

    with torch.no_grad():
        wanted = encoder.summary_and_latents(normalised(MEAN, DEVIATION))[1]
        assert (encoder.summary_and_latents(normalised(*OTHER))[1] - wanted).abs().max() > 0.1
        expect(encoder, MEAN, DEVIATION, instead_of=OTHER)
        found = encoder.summary_and_latents(normalised(*OTHER))[1]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)


def test_beside_another_a_run_has_the_figure_that_it_has_by_itself(
    pretrain: Callable[..., int], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mean in (("run", 0.5), ("other", 0.2)):
        assert (
            pretrain(photographs, tmp_path / name, f"data.mean=[{mean},0.4,0.4]", f"data.deviation=[0.3,{mean},0.2]")
            == 0
        )
    other, common = str(tmp_path / "other"), {"data": str(photographs), "protocols": "ridge", "seeds": 1}
    itself = run_evaluate(weights=tmp_path / "other", **common).evaluation  # type: ignore[arg-type]
    beside = run_evaluate(weights=tmp_path / "run", beside=[other], **common).evaluation  # type: ignore[arg-type]
    assert itself and beside
    assert "images are normalised by its own mean and deviation" in capsys.readouterr().out
    one, two = itself.entry("this encoder", "ridge"), beside.entry(other, "ridge")
    assert one and two and (one.correct == two.correct).all() and one.chosen == two.chosen
