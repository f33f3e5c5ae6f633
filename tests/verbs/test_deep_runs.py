"""Whole runs on images of 16 bits and floats, of one, two and five channels: trained, resumed, drawn and probed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import contextae
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.pretrained import load_encoder
from contextae.tokenizers.stored import open_tokenizer
from contextae.training.log import read_lines
from contextae.verbs.audit import run_audit
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.export import run_export
from contextae.verbs.fit_tokenizer import run_fit_tokenizer
from contextae.verbs.reconstruct import run_reconstruct

Run = Callable[..., int]
KINDS = [("uint16", 2, 3000), ("uint16", 1, 60_000), ("float32", 5, 0.01)]


def stacks(folder: Path, dtype: str, channels: int, largest: float, count: int = 12) -> Path:
    """Blobs at other places in every channel, in two classes."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:26, :34]
    for i in range(count):
        centres = rng.uniform(5, 20, (channels, 2))
        image = np.stack([np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (9 + 40 * (i % 2))) for y, x in centres])
        image = largest * (0.8 * image + 0.1 * rng.random(image.shape))
        path = folder / "ab"[i % 2] / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        axes = {"metadata": {"axes": "CYX"}} if channels > 1 else {}
        tifffile.imwrite(path, image.astype(dtype).squeeze(), photometric="minisblack", **axes)
    return folder


@pytest.mark.parametrize(("dtype", "channels", "largest"), KINDS)
def test_deep_images_are_trained_on_as_they_are(
    pretrain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, channels: int, largest: float
) -> None:
    images = stacks(tmp_path / "images", dtype, channels, largest)
    assert pretrain(images, tmp_path / "whole") == 0
    said = capsys.readouterr().out
    data = Experiment.read(tmp_path / "whole" / "experiment.yaml").data
    assert (data.channels, data.dtype) == (channels, dtype) and data.value_range is not None
    top = {3000: 4095, 60_000: 65_535}.get(int(largest))
    assert data.value_range == (0, top) if top else 0 < data.value_range[1] <= largest
    assert f"kept as {dtype}" in said and "become 0 to 1, measured" in said
    assert read_lines(tmp_path / "whole" / "log.jsonl")[-1]["used"] == 12

    assert pretrain(None, tmp_path / "whole", resume=True) == 0
    written = run_reconstruct(
        weights=tmp_path / "whole", images=[], out=tmp_path / "s.png", checkpoint="last", count=2, seed=0
    )
    assert written == [tmp_path / "s.png"]

    _, transform = contextae.load(tmp_path / "whole")
    path = next((images / "a").iterdir())
    array = tifffile.imread(path)
    array = array[:, :, None] if channels == 1 else array.transpose(1, 2, 0)
    from_file, from_array = transform(path), transform(array)
    assert torch.equal(from_file, from_array) and from_file.shape[1] == channels
    assert 0.05 < from_file.std() < 5, "normalised, whatever the range of the values"
    with pytest.raises(UserError, match=rf"or a {dtype} array of height x width \(x {channels}\)\. Got ndarray"):
        transform(array.astype(np.uint8))

    found = run_evaluate(
        weights=tmp_path / "whole",
        data=str(images),
        protocols="knn",
        checkpoint="last",
        seeds=1,
        out=None,
    )
    assert found


def test_a_batch_is_the_value_of_the_file(pretrain: Run, tmp_path: Path) -> None:
    """What evaluation, transform and training make of one image of the network's own size is the same number."""
    images = stacks(tmp_path / "images", "uint16", 2, 3000)
    assert pretrain(images) == 0
    _, origin = load_encoder(tmp_path / "run", checkpoint="last")
    data = origin.experiment.data
    height, width = data.image_size
    values = np.random.default_rng(1).integers(0, 4096, (height, width, 2)).astype(np.uint16)
    assert data.mean and data.deviation
    expected = (values / 4095 - np.array(data.mean)) / np.array(data.deviation)
    np.testing.assert_allclose(origin.transform(values)[0].numpy().transpose(1, 2, 0), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["kmeans", "dvae"])
def test_codes_of_deep_images(pretrain: Run, tmp_path: Path, kind: str) -> None:
    """Fitted to, and predicted from, values of the range that was measured."""
    images = stacks(tmp_path / "images", "uint16", 2, 3000)
    geometry = ["data.image_size=[16, 12]", "encoder.patch_size=[4, 4]"]
    own = [] if kind == "kmeans" else ["training.epochs=1", "training.workers=0", "method.width=8", "health.images=16"]
    code = run_fit_tokenizer(
        data=str(images),
        out=tmp_path / "tok",
        kind=kind,
        codes=9,
        preset=None,
        settings=geometry + own,
        config=None,
        resume=False,
    )
    assert code == 0
    tokenizer = open_tokenizer(tmp_path / "tok")
    if kind == "kmeans":
        assert 0.05 < float(tokenizer.patches.max()) < 1, "of values scaled to 0..1"
    assert pretrain(images, tmp_path / "run", f"method.target=codes:{tmp_path / 'tok'}") == 0


@pytest.mark.parametrize("to", ["timm", "huggingface", "onnx", "torch"])
def test_exports_of_deep_images_read_the_files_as_they_are(pretrain: Run, tmp_path: Path, to: str) -> None:
    """The receipt's images are 16-bit stacks; a range or a type that got lost on the way would be refused by it."""
    images = stacks(tmp_path / "images", "uint16", 2, 3000)
    assert pretrain(images) == 0
    receipt = run_export(weights=tmp_path / "run", to=to, out=tmp_path / "out")
    assert receipt.largest_difference < 1e-4 and receipt.preprocessing is None and receipt.num_images == 8
    facts = json.loads((tmp_path / "out" / "contextae.json").read_text())
    assert (facts["dtype"], facts["bit_depth"], facts["stored_range"]) == ("uint16", 16, [0, 4095])
    if to == "huggingface":
        own = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
        assert own["rescale_factor"] == 1 / 4095


def test_tiles_of_very_large_images(pretrain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slide of 600 MB of values, nearly all of them holes in its file, and two small images beside it."""
    slides = tmp_path / "slides"
    slides.mkdir()
    slide = np.lib.format.open_memmap(slides / "slide.npy", "w+", np.uint8, (20_000, 10_000, 3))
    slide[9_500:10_500, 4_500:5_500] = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3))  # its middle
    slide.flush()
    for i in range(2):
        np.save(slides / f"{i}.npy", np.random.default_rng(i).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    small = ["training.batch_size=2"]
    assert pretrain(slides, tmp_path / "tiles", "crop.kind=tile", *small) == 0
    assert read_lines(tmp_path / "tiles" / "log.jsonl")[-1]["used"] == 3
    data = Experiment.read(tmp_path / "tiles" / "experiment.yaml").data
    assert data.mean and 0.4 < data.mean[0] < 0.6, "of a part of the slide"
    assert pretrain(slides, tmp_path / "whole", *small) == 0
    said = capsys.readouterr().out
    assert "1 too large to be decoded as a whole; with --set crop.kind=tile tiles of data.image_size are read" in said
    ended = read_lines(tmp_path / "whole" / "log.jsonl")[-1]
    assert (ended["found"], ended["used"], ended["left_out"]) == (3, 2, 1)
    assert run_audit(data=[str(slides)], out=tmp_path / "audit") == 0
    for kind, used in (("tile", 3), ("resized", 2)):
        run = tmp_path / f"audited {kind}"
        assert pretrain(slides, run, f"crop.kind={kind}", *small, manifest=tmp_path / "audit") == 0
        assert read_lines(run / "log.jsonl")[-1]["used"] == used, (
            "of a slide that was not looked at tiles are trained on"
        )
    for i in range(2):
        (slides / f"{i}.npy").unlink()
    with pytest.raises(UserError, match=r"holds 1 too large to be decoded as a whole and no other images; with --set"):
        pretrain(slides, tmp_path / "none", *small)
