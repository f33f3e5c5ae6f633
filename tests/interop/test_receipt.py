"""Exports are kept only after another process has given the same outputs from files: what is planted must raise."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import DEVIATION, MEAN, SIZE, array_files, facts_for, in_this_process, odd_encoder, ours

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.interop import huggingface, receipt, timm
from contextae.interop.export import check_export, export
from contextae.interop.receipt import Receipt, largest_difference
from contextae.interop.reload import FORMATS, batch_sizes, compared
from contextae.positions import sine_cosine


def exported(tmp_path: Path, to: str = "timm", *, encoder: Encoder | None = None, **options: Any) -> Receipt:
    (tmp_path / "files").mkdir()
    encoder, files = encoder or odd_encoder(), array_files(tmp_path / "files")
    images = ours(encoder, files)[0]
    given = {"mean": MEAN, "deviation": DEVIATION, "files": files, "images": images, **options}
    return export(encoder, to=to, out=tmp_path / "out", **given)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "files")


def test_a_fresh_process_reloads_it_and_the_receipt_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is patched here would break the check, were it made in this process."""
    seen: list[Any] = []
    reloaded = receipt._reloaded

    def listening(*arguments: Any) -> Any:
        seen.append(reloaded(*arguments))
        return seen[0]

    monkeypatch.setattr(receipt, "_reloaded", listening)
    monkeypatch.setattr(timm, "reload", lambda *_: pytest.fail("it was reloaded in this process"))
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "timm.py").write_text("raise ImportError('not the timm that is installed')")
    monkeypatch.chdir(tmp_path / "aside")
    encoder = odd_encoder().train()
    found = exported(tmp_path, encoder=encoder, weights="RUN, checkpoint 7")
    assert seen[0].said["process"] != os.getpid() and seen[0].said["torch"]
    assert 0 < found.largest_difference < 1e-5
    said = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert said == json.loads(found.to_json())
    assert (said["to"], said["weights"], said["tolerance"]) == ("timm", "RUN, checkpoint 7", 1e-4)
    assert (said["num_images"], said["batch_sizes"], said["missing"]) == (5, [1, 3, 1], [])
    assert {"timm", "torch", "python", "contextae"} <= set(said["versions"])
    for name, digest in said["files"].items():
        done = subprocess.run(["sha256sum", tmp_path / "out" / name], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == digest
    assert set(said["files"]) == {"config.json", "contextae.json", "model.safetensors"}
    assert left_in(tmp_path) == ["aside", "out"] and encoder.training
    assert re.fullmatch("[0-9a-f]{64}", said["encoder"])


def test_an_encoder_in_training_is_exported_as_in_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    encoder = Encoder(grid=odd_encoder().grid, width=21, depth=3, num_heads=3, drop_path=0.9).train()
    assert exported(tmp_path, encoder=encoder).largest_difference < 1e-5 and encoder.training


def test_few_images_are_taken_more_than_once_and_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    encoder = odd_encoder()
    files = array_files(tmp_path, count=2)
    found = exported(tmp_path, encoder=encoder, files=files, images=ours(encoder, files)[0])
    assert (found.num_images, found.batch_sizes) == (2, [1, 3])


def other_heads(encoder: Encoder) -> None:
    encoder.num_heads = 7


def no_gamma(encoder: Encoder) -> None:
    encoder.blocks[1].ls1.gamma.data.fill_(1)


def columns_first(encoder: Encoder) -> None:
    table = sine_cosine((7, 5), encoder.width).reshape(7, 5, -1)
    encoder.positions.copy_(table.transpose(0, 1).reshape(35, -1))


def key_for_value(encoder: Encoder) -> None:
    attention = encoder.blocks[0].attn
    q, k, v = attention.qkv.weight.data.chunk(3)
    attention.qkv.weight.data = torch.cat([q, v, k])


def columns_before_rows(encoder: Encoder) -> None:
    weight = encoder.patch_embed.weight.data.reshape(21, 5, 2, 3)
    encoder.patch_embed.weight.data = weight.transpose(2, 3).reshape(21, -1)


def twice_the_tolerance(encoder: Encoder) -> None:
    encoder.norm.bias.data[3] += 2e-4


PLANTED = [twice_the_tolerance, other_heads, no_gamma, columns_first, key_for_value, columns_before_rows]
SOME = [*((to, plant) for to in ("timm", "huggingface") for plant in PLANTED)]
SOME += [(to, plant) for to in ("onnx", "torch") for plant in (other_heads, no_gamma)]


@pytest.mark.parametrize(("to", "plant"), SOME, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_error_raises_and_nothing_is_left(
    to: str, plant: Callable[[Encoder], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    for name in FORMATS[to].needs:
        pytest.importorskip(name)
    module = importlib.import_module(f"contextae.interop.{FORMATS[to].module}")
    write = module.write

    def planted(encoder: Encoder, *arguments: Any) -> None:
        from contextae.interop.trunk import resized

        wrong = resized(encoder, SIZE)
        plant(wrong)
        write(wrong, *arguments)

    monkeypatch.setattr(module, "write", planted)
    with pytest.raises(
        UserError, match=r"makes something else of this export .* differ by up to \d.*; less than 0.0001"
    ):
        exported(tmp_path, to)
    assert left_in(tmp_path) == []


def test_layer_scale_that_is_not_folded_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    in_this_process(monkeypatch)
    monkeypatch.setattr(huggingface, "SCALED", {})
    with pytest.raises(UserError, match="makes something else"):
        exported(tmp_path, "huggingface")


@pytest.mark.parametrize("to", ["timm", "huggingface"])
def test_another_mean_in_the_librarys_own_settings_raises(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    for name in FORMATS[to].needs:
        pytest.importorskip(name)
    other = tuple(value + 0.01 for value in MEAN)
    with pytest.raises(UserError, match="makes something else"):
        exported(tmp_path, to, mean=other)


def test_weights_that_are_not_a_number_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    encoder = odd_encoder()
    encoder.norm.bias.data[3] = float("nan")
    with pytest.raises(UserError, match="differ by up to nan"):
        exported(tmp_path, encoder=encoder)


def test_a_missing_weight_raises_unless_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    encoder = odd_encoder()
    encoder.norm.bias.data.zero_()
    weights = timm.weights
    monkeypatch.setattr(timm, "weights", lambda given: {k: v for k, v in weights(given).items() if k != "norm.bias"})
    with pytest.raises(UserError, match=r"place for every weight .*\(missing: norm\.bias\)\. .*--allow-missing"):
        exported(tmp_path, encoder=encoder)
    assert left_in(tmp_path) == []
    (tmp_path / "again").mkdir()
    assert exported(tmp_path / "again", encoder=encoder, allow_missing=["norm.bias"]).missing == ["norm.bias"]


def test_an_unknown_weight_raises_whatever_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    weights = timm.weights
    monkeypatch.setattr(timm, "weights", lambda given: {**weights(given), "more": torch.zeros(1)})
    with pytest.raises(UserError, match=r"\(unexpected: more\)"):
        exported(tmp_path, allow_missing=["more"])


def test_a_library_that_cannot_load_it_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = timm.write

    def cut(encoder: Encoder, facts: Any, folder: Path) -> None:
        write(encoder, facts, folder)
        (folder / "model.safetensors").write_bytes(b"short")

    monkeypatch.setattr(timm, "write", cut)
    with pytest.raises(UserError, match=r"A fresh process with timm could not load this export.*SafetensorError"):
        exported(tmp_path)
    assert left_in(tmp_path) == []


def test_a_process_that_dies_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt, "START", "import os; os._exit(9)")
    with pytest.raises(UserError, match="it ended with code 9 and said nothing"):
        exported(tmp_path)


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(receipt.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path)
    assert left_in(tmp_path) == []


def test_what_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"timm, huggingface, onnx, torch\. Got 'hugginface'\. Did you mean 'hugging"):
        check_export("hugginface", tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for taken in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(UserError, match=rf"There is something at {taken}; name another"):
            check_export("timm", taken)
    (tmp_path / "empty").mkdir()
    check_export("timm", tmp_path / "empty")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("onnx", "transformers") else find(name)
    )
    with pytest.raises(UserError, match=r'needs onnx, which is not installed.*pip install "contextae\[onnx\]"'):
        check_export("onnx", tmp_path / "new")
    with pytest.raises(UserError, match=r'pip install "contextae\[huggingface\]"'):
        check_export("huggingface", tmp_path / "new")


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out cannot be written: Not a directory"):
        export(
            odd_encoder(),
            to="timm",
            out=tmp_path / "file" / "out",
            mean=MEAN,
            deviation=DEVIATION,
            files=[tmp_path / "file"],
            images=torch.zeros(1, 5, *SIZE),
        )

    def refused(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "shut").mkdir()
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=r"shut cannot be written: Permission denied"):
        check_export("timm", tmp_path / "shut")


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a volume, or the folder that the user's shell stands in (`--out .`)."""
    in_this_process(monkeypatch)
    (tmp_path / "out").mkdir()
    same = (tmp_path / "out").stat().st_ino
    with pytest.raises(UserError, match="mean and deviation need one number"):
        exported(tmp_path, mean=(0.5,))
    assert left_in(tmp_path / "out") == []
    shutil.rmtree(tmp_path / "files")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="differ by up to"):
        patch.setattr(receipt, "TOLERANCE", 0.0)
        exported(tmp_path)
    assert left_in(tmp_path / "out") == [] and left_in(tmp_path) == ["out"]
    shutil.rmtree(tmp_path / "files")
    exported(tmp_path)
    assert (tmp_path / "out").stat().st_ino == same and left_in(tmp_path) == ["out"]
    assert left_in(tmp_path / "out") == ["config.json", "contextae.json", "model.safetensors", "receipt.json"]


def test_sizes_of_the_batches() -> None:
    assert [batch_sizes(count) for count in (1, 4, 6, 8)] == [[1], [1, 3], [1, 3, 2], [1, 3, 3, 1]]


def test_the_librarys_own_preprocessing_is_told_in_steps_of_a_pixel_and_a_cosine() -> None:
    facts, pixels = facts_for(odd_encoder()), np.zeros((4, 5, *SIZE), np.uint8)
    brighter = pixels.copy()
    brighter[:, :, :5] += 3  # half of the rows

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turned = images.reshape(len(images), -1)[:, [0, -1]]
        return turned, turned[:, None]

    ours, theirs = facts.normalised(pixels), facts.normalised(brighter)
    told = compared(theirs, ours, run(ours)[0], run, facts)
    assert told.mean_pixel_difference == pytest.approx(1.5, rel=1e-4)
    a, b = run(ours)[0][0], run(theirs)[0][0]
    assert told.smallest_cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) and a @ b > 0
    assert told.smallest_cosine < 1


def test_outputs_of_other_shapes_are_infinitely_far_apart() -> None:
    two, three = np.zeros((2, 3)), np.zeros((3, 3))
    assert largest_difference([two], [three]) == float("inf")
    assert largest_difference([two, three], [two + 0.5, three - 2]) == 2
    assert np.isnan(largest_difference([two, three], [two + np.nan, three]))
