"""Pickles are known by name or first bytes, and a safetensors file of any header length is none."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from contextae.pickles import is_pickle


def test_what_torch_and_pickle_write_is_one_whatever_its_name(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(pickle.dumps([1, 2, 3]))
    (tmp_path / "c.pth").write_bytes(b"anything")
    assert all(is_pickle(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "c.pth"))


@pytest.mark.parametrize("length", range(0, 256, 8))
def test_a_safetensors_file_is_none_whatever_the_length_of_its_header(length: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path, {"note": "x" * length})
    assert not is_pickle(path)
