"""CAE against numbers captured from the released implementation (Atten4Vis/CAE at a7fd162, torch 2.14.1, float32, CPU).

Small networks with fixed random weights on a square grid, where the released position table is right; 11 of 25 patches
masked, and 9 of 25 in the network whose regressor is narrower than its encoder.
"""

from __future__ import annotations

import pytest
import torch
from official_cae import Capture, gradients

CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(params=["cae_v1_small", "cae_v1_projected"])
def capture(request: pytest.FixtureRequest) -> Capture:
    return Capture(request.param)


def test_latents_and_logits(capture: Capture) -> None:
    z = capture.method().equations(capture.batch)
    torch.testing.assert_close(z.predicted, capture.arrays["latent_predict"], **CLOSE)
    torch.testing.assert_close(z.aligned_to, capture.arrays["latent_target"], **CLOSE)
    torch.testing.assert_close(z.prediction, capture.arrays["logits"], **CLOSE)


def test_losses(capture: Capture) -> None:
    loss = capture.method()(capture.batch)
    torch.testing.assert_close(loss.parts["reconstruction"], capture.arrays["loss_reconstruction"], **CLOSE)
    torch.testing.assert_close(loss.parts["alignment"], capture.arrays["loss_alignment"], **CLOSE)
    torch.testing.assert_close(loss.total.detach(), capture.arrays["loss_total"], **CLOSE)


def test_gradients(capture: Capture) -> None:
    method, recorded = capture.method(), capture.group("grad")
    method(capture.batch).total.backward()
    found = gradients(method)
    assert len(recorded) >= 10
    for name, expected in recorded.items():
        torch.testing.assert_close(found[name], expected, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("num_heads", [1, 2, 4, 6])
def test_another_number_of_heads_is_noticed(capture: Capture, num_heads: int) -> None:
    """Heads are not in the tensors, so nothing but the numbers tells."""
    z = capture.method(num_heads=num_heads).equations(capture.batch)
    assert (z.prediction - capture.arrays["logits"]).abs().max() > 1e-3
