"""CAE v2 against numbers captured from the released implementation (Atten4Vis/CAE at a7fd162, float32, CPU).

One small network with fixed random weights; 7 of 25 patches masked, a teacher of 20 features.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from official_cae import Capture, gradients

CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture
def capture() -> Capture:
    return Capture("cae_v2_small")


def test_predictions_of_class_token_visible_and_masked_patches(capture: Capture) -> None:
    prediction = capture.method().equations(capture.batch).prediction
    expected = capture.arrays["prediction_cls_visible_masked"]
    assert expected.shape == (3, 1 + 18 + 7, 20)
    torch.testing.assert_close(F.normalize(prediction, dim=-1), expected, **CLOSE)


def test_loss(capture: Capture) -> None:
    loss = capture.method()(capture.batch)
    torch.testing.assert_close(loss.total.detach(), capture.arrays["loss_total"], **CLOSE)


def test_gradients(capture: Capture) -> None:
    method, recorded = capture.method(), capture.group("grad")
    method(capture.batch).total.backward()
    assert all(weight.grad is None for weight in method.regressor.norm.parameters())
    found = gradients(method)
    assert len(recorded) >= 9
    for name, expected in recorded.items():
        torch.testing.assert_close(found[name], expected, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("num_heads", [1, 2, 4, 6])
def test_another_number_of_heads_is_noticed(capture: Capture, num_heads: int) -> None:
    prediction = F.normalize(capture.method(num_heads=num_heads).equations(capture.batch).prediction, dim=-1)
    assert (prediction - capture.arrays["prediction_cls_visible_masked"]).abs().max() > 1e-3
