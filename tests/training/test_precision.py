"""Which number format is taken, and why."""

from __future__ import annotations

import pytest
import torch

from contextae.errors import UserError
from contextae.training import precision
from contextae.training.precision import autocast, resolve

CPU = torch.device("cpu")


def rates(monkeypatch: pytest.MonkeyPatch, *, bfloat16: float, supported: bool = True) -> None:
    """A CPU whose bfloat16 products are so many times as fast as its float32 ones."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": supported})
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: 1 / bfloat16 if dtype == torch.bfloat16 else 1.0)


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(4.0, "bfloat16"), (1.25, "bfloat16"), (1.1, "float32"), (0.6, "float32")]
)
def test_auto_takes_bfloat16_only_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, ratio: float, chosen: str
) -> None:
    rates(monkeypatch, bfloat16=ratio)
    found = resolve("auto", CPU)
    assert found.precision == chosen and f"{ratio:.1f} times" in found.reason


def test_a_cpu_without_the_instructions_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, bfloat16=9.0, supported=False)
    assert resolve("auto", CPU) == ("float32", "this CPU has no bfloat16 products")
    with pytest.raises(UserError, match="bfloat16 needs a device that has it"):
        resolve("bfloat16", CPU)


def test_what_is_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, bfloat16=0.1)
    assert resolve("bfloat16", CPU).precision == "bfloat16"
    rates(monkeypatch, bfloat16=10.0)
    assert resolve("float32", CPU).precision == "float32"


def test_a_real_product_takes_some_time() -> None:
    assert 0 < precision.product_seconds(torch.float32) < 60


def test_autocast_computes_products_in_its_format() -> None:
    a = torch.ones(2, 2)
    with autocast("bfloat16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("float32", CPU):
        assert (a @ a).dtype == torch.float32
