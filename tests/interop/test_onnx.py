"""ONNX: named outputs for any number of images, in a file that says what its input is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import SIZE, array_files, close, facts_for, odd_encoder, ours

from contextae.interop import onnx as exported
from contextae.interop.input_facts import InputFacts

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("onnx")
    exported.write(odd_encoder(), facts_for(odd_encoder()), made)
    return made


def test_what_is_reloaded_from_files_is_the_encoder(folder: Path, tmp_path: Path) -> None:
    encoder, files = odd_encoder(), array_files(tmp_path)
    close(exported.reload(folder, files, []), *ours(encoder, files)[1:])


def test_names_sizes_and_facts(folder: Path, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("images", ["batch", 5, 10, 21])]
    outputs = [("summary", ["batch", 21]), ("latents", ["batch", 35, 21])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == outputs
    said = session.get_modelmeta().custom_metadata_map["contextae"]
    assert InputFacts.from_json(said) == facts_for(odd_encoder())
    images, summary, latents = ours(odd_encoder(), array_files(tmp_path))
    for count in (1, 3, 5):
        found = session.run(None, {"images": images[:count].numpy()})
        np.testing.assert_allclose(found[0], summary[:count], atol=1e-5, rtol=0)
        np.testing.assert_allclose(found[1], latents[:count], atol=1e-5, rtol=0)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Got: 21 Expected: 10"):
        session.run(None, {"images": np.zeros((2, 5, *SIZE[::-1]), np.float32)})


def test_weights_too_large_for_one_file_lie_beside_it_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exported, "ONE_FILE_BYTES", 1000)
    encoder, first, moved = odd_encoder(depth=1), tmp_path / "first", tmp_path / "moved"
    first.mkdir()
    exported.write(encoder, facts_for(encoder), first)
    assert capfd.readouterr() == ("", "")
    first.rename(moved)
    assert sorted(path.name for path in moved.iterdir()) == ["model.onnx", "model.onnx.data"]
    files = array_files(tmp_path)
    close(exported.reload(moved, files, []), *ours(encoder, files)[1:])


def test_it_is_reloaded_without_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from contextae.interop.onnx import reload\n"
        f"print(reload(Path({str(folder)!r}), [Path({str(array_files(tmp_path)[0])!r})], []).summary.shape)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(1, 21)", "False"]


def test_torch_and_onnx_give_the_same(folder: Path, tmp_path: Path) -> None:
    from contextae.interop.torch_export import program

    images, _, _ = ours(odd_encoder(), array_files(tmp_path))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        summary, _ = program(odd_encoder()).module()(images)
    np.testing.assert_allclose(session.run(["summary"], {"images": images.numpy()})[0], summary, atol=1e-5, rtol=0)
