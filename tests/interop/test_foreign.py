"""Files of weights of any kind to tensors by name, and what is said of those that are none."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from contextae.errors import UserError
from contextae.interop.foreign import read_foreign


class Settings:
    """A class that torch's restricted unpickler refuses."""


def test_a_checkpoint_with_its_arguments(tmp_path: Path) -> None:
    state = {"encoder.norm.weight": torch.arange(3.0)}
    path = tmp_path / "checkpoint-1.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 1, "args": argparse.Namespace(lr=0.1)}, path)
    read = read_foreign(path)
    assert torch.equal(read.state["model"]["encoder.norm.weight"], state["encoder.norm.weight"])
    assert read.state["epoch"] == 1 and not read.notes
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_checkpoint_with_classes_of_its_program(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": Settings()}, path)
    read = read_foreign(path)
    assert torch.equal(read.state["w"], torch.ones(2))
    assert read.notes == (
        "A pickled dict, of which the tensors alone were read. It names 1 classes and functions "
        "(test_foreign.Settings); none was imported or called.",
    )


def test_a_pickled_module(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "model.pkl")
    read = read_foreign(tmp_path / "model.pkl")
    assert read.state.keys() == {"weight", "bias"}
    assert read.notes[0].startswith("A pickled torch.nn.modules.linear.Linear, of which the tensors alone were read")


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "a.pth")
    with pytest.raises(UserError, match="it holds list, in which no tensors by name can be found"):
        read_foreign(tmp_path / "a.pth")


def test_safetensors_and_npz(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_foreign(tmp_path / "a.safetensors").state["w"], torch.ones(2))
    np.savez(tmp_path / "a.npz", w=np.ones(2, np.float32))
    assert torch.equal(read_foreign(tmp_path / "a.npz").state["w"], torch.ones(2))
    np.savez(tmp_path / "b.npz", **{"state/w": np.ones(2, np.float32), "images": np.zeros(3)})
    assert read_foreign(tmp_path / "b.npz").state.keys() == {"w"}


def test_a_file_of_contextae_needs_no_conversion(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"contextae": "1"})
    with pytest.raises(UserError, match=r"already a file of contextae, so there is nothing to convert"):
        read_foreign(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_files_that_are_cut_off(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if name == "a.npz":
        np.savez(path, w=np.ones(200))
    else:
        save_file({"w": torch.ones(200)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"is no whole (npz|safetensors) file.*Copy it again from where it came"):
        read_foreign(path)


def test_objects_in_an_npz_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"is no whole npz file of arrays: .*pickle"):
        read_foreign(tmp_path / "a.npz")


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "cae_base.pth").touch()
    with pytest.raises(UserError, match=r"cae_bsae.pth is not there; give .* Did you mean 'cae_base.pth'\?"):
        read_foreign(tmp_path / "cae_bsae.pth")
    with pytest.raises(UserError, match=r"must be one of weights. .* is a folder; give the path of a file\.$"):
        read_foreign(tmp_path)
    with pytest.raises(UserError, match=r"is not there; give the path of a file\.$"):
        read_foreign(tmp_path / "no" / "where.pth")


def test_a_torchscript_archive_is_not_run(tmp_path: Path) -> None:
    """As CLIP is published."""
    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as file:
        for name in ("data.pkl", "constants.pkl"):
            file.writestr(f"clip/{name}", pickle.dumps({}))
        file.writestr("clip/code/__torch__.py", "raise SystemExit")
    with pytest.raises(UserError, match="a TorchScript archive, which holds a program"):
        read_foreign(tmp_path / "ViT-B-16.pt")


def test_a_bomb_never_goes_off(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "mark"),)

    torch.save({"model": {"w": torch.ones(2)}, "args": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"asks to run posix.mkdir"):
        read_foreign(tmp_path / "a.pth")
    assert not (tmp_path / "mark").exists()
