"""What a run is for afterwards: encoder and transform, contact sheets, the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_run import SMALL

import contextae
from contextae.errors import UserError
from contextae.pretrained import EXPERIMENT, Transform, load_method
from contextae.training.weights import load_weights
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.pretrain import run_pretrain
from contextae.verbs.reconstruct import run_reconstruct

Run = Callable[..., int]


@pytest.fixture
def run(pretrain: Run, photographs: Path, tmp_path: Path) -> Path:
    assert pretrain(photographs) == 0
    return tmp_path / "run"


@pytest.fixture
def encoder_file(run: Path, tmp_path: Path) -> Path:
    """The encoder alone, as somebody might cut it out of a checkpoint."""
    tensors, metadata = load_weights(run)
    only = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    save_file(only, tmp_path / "encoder.safetensors", metadata=dict(metadata))
    return tmp_path / "encoder.safetensors"


def test_load_gives_the_trained_encoder_and_its_transform(run: Path, photographs: Path) -> None:
    encoder, transform = contextae.load(run)
    assert not encoder.training
    method, _ = load_method(run)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), method.encoder.parameters(), strict=True))
    images = transform([photographs / "cats" / "01.png", photographs / "dogs" / "02.png"])
    assert images.shape == (2, 3, 16, 12) and abs(images.mean().item()) < 1.5
    summary, latents = encoder.summary_and_latents(images)
    assert summary.shape == (2, 16) and latents.shape == (2, 12, 16)
    layers = encoder.layerwise_latents(images)
    assert len(layers) == 1 and torch.equal(layers[-1][:, 1:], latents)


def test_load_takes_a_weights_file_an_encoder_alone_a_checkpoint_and_a_step(run: Path, encoder_file: Path) -> None:
    last = sorted((run / "checkpoints").iterdir())[-1]
    expected = contextae.load(run)[0].state_dict()
    for found in (
        contextae.load(last),
        contextae.load(last / "weights.safetensors"),
        contextae.load(encoder_file),
        contextae.load(run, checkpoint="10"),
    ):
        assert all(torch.equal(value, found[0].state_dict()[name]) for name, value in expected.items())


def test_weights_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    tensors, metadata = load_weights(run)
    (tmp_path / "pickled.pt").write_bytes(b"\x80\x04N.")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    unsaid = {name: value for name, value in metadata.items() if name != EXPERIMENT}
    save_file(dict(tensors), tmp_path / "unsaid.safetensors", metadata=unsaid)
    save_file({**dict(tensors), "more": torch.zeros(1)}, tmp_path / "more.safetensors", metadata=dict(metadata))
    for name, message in (
        ("pickled.pt", "safetensors"),
        ("foreign.safetensors", "that contextae did not write"),
        ("unsaid.safetensors", r"their header holds no settings\. Use a run folder or a weights file that contextae"),
        ("rum", "Did you mean 'run'"),
    ):
        with pytest.raises(UserError, match=message):
            contextae.load(tmp_path / name)
    with pytest.raises(UserError, match="unknown: more"):
        load_method(tmp_path / "more.safetensors")


@pytest.mark.parametrize("left_open", [{"channels": "auto"}, {"mean": None, "deviation": None}])
def test_settings_that_no_run_has_settled_make_no_transform(
    run: Path, tmp_path: Path, left_open: dict[str, object]
) -> None:
    tensors, metadata = load_weights(run)
    settings = json.loads(metadata[EXPERIMENT])
    settings["data"].update(left_open)
    left = {**metadata, EXPERIMENT: json.dumps(settings)}
    save_file(dict(tensors), tmp_path / "open.safetensors", metadata=left)
    with pytest.raises(
        UserError, match=r"open\.safetensors are not those of a run: channels, mean or deviation are miss"
    ):
        contextae.load(tmp_path / "open.safetensors")


def test_transform_takes_paths_arrays_and_pictures_alike(photographs: Path) -> None:
    transform = Transform(size=(10, 8), channels=3, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4))
    path = photographs / "cats" / "01.png"
    picture = Image.open(path)
    array = np.asarray(picture)
    assert torch.equal(transform(path), transform(picture)) and torch.equal(transform(path), transform(array))
    assert transform([path, array]).shape == (2, 3, 10, 8)
    flat = transform(np.full((10, 8, 3), 255, np.uint8))
    assert torch.allclose(flat[0, :, 0, 0], torch.tensor([(1 - 0.5) / 0.2, (1 - 0.4) / 0.3, (1 - 0.3) / 0.4]))
    gray = Transform(size=(10, 8), channels=1, mean=(0.5,), deviation=(0.2,))
    assert gray(path).shape == (1, 1, 10, 8)
    with pytest.raises(UserError, match="An image is a path"):
        transform(np.zeros((10, 8, 3), np.float32))
    with pytest.raises(UserError, match="cannot be read"):
        transform(photographs / "none.png")
    (photographs / "text.png").write_text("text")
    with pytest.raises(UserError, match="not an image that can be used"):
        transform(photographs / "text.png")
    with pytest.raises(UserError, match=r"The image given cannot be used: 1 channel\(s\) of uint16, where 3 of uint8"):
        transform(Image.fromarray(np.zeros((10, 8), np.uint16)))


def test_an_opened_picture_is_what_its_file_is(tmp_path: Path) -> None:
    transform = Transform(size=(10, 8), channels=3, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.png", exif=turned)
    for path in (tmp_path / "alpha.png", tmp_path / "turned.png"):
        with Image.open(path) as picture:
            assert torch.equal(transform(picture), transform(path)), path


def test_a_sheet_of_named_images_and_one_of_the_runs_own(run: Path, photographs: Path, tmp_path: Path) -> None:
    named = sorted((photographs / "cats").iterdir())[:13]
    pages = run_reconstruct(weights=run, images=named, out=tmp_path / "s.png", checkpoint="last", count=8, seed=0)
    assert [page.name for page in pages] == ["s.png", "s-2.png"]
    (own,) = run_reconstruct(weights=run, images=[], out=tmp_path / "own.png", checkpoint="best", count=3, seed=0)
    with Image.open(own) as sheet:
        assert sheet.width > 800 and np.asarray(sheet.convert("L")).std() > 10


def test_what_reconstruct_refuses(run: Path, encoder_file: Path, tmp_path: Path) -> None:
    common = {"checkpoint": "last", "count": 3, "seed": 0}
    with pytest.raises(UserError, match="an encoder alone, without regressor and decoder"):
        run_reconstruct(weights=encoder_file, images=[], out=tmp_path / "s.png", **common)
    with pytest.raises(UserError, match="the PNG to write"):
        run_reconstruct(weights=run, images=[], out=tmp_path / "s.jpg", **common)
    with pytest.raises(UserError, match="no folder"):
        run_reconstruct(weights=run, images=[], out=tmp_path / "none" / "s.png", **common)


def test_reconstruct_with_none_of_the_runs_images_left_whole(
    run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut behind their headers, which still pass."""
    for path in photographs.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(
        UserError, match=rf"^None of the images of {photographs} can be read\. Name images on the comman"
    ):
        run_reconstruct(weights=run, images=[], out=tmp_path / "s.png", checkpoint="last", count=3, seed=0)
    assert capsys.readouterr().err.count("is left out") == 40


def test_the_table_of_a_run_on_class_folders(
    run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_evaluate(
        weights=run,
        data=str(photographs),
        protocols="knn, linear",
        checkpoint="last",
        seeds=2,
        out=tmp_path / "table.json",
    )
    said = capsys.readouterr().out
    assert "this encoder" in said and "random initialisation" in said and "raw pixels" in said and "HOG" in said
    assert found.about["num_train"] + found.about["num_test"] == 40
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["evaluation"]["protocols"] == ["knn", "linear"] and record["about"]["weights"] == str(run)
    assert len(record["words"]) == 2 and len(record["results"]) == 10 == len(record["evaluation"]["entries"])


def test_the_table_says_which_images_it_leaves_out(
    run: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "cats" / "text.png").write_text("text")
    run_evaluate(weights=run, data=str(photographs), protocols="ridge", checkpoint="last", seeds=1, out=None)
    said = capsys.readouterr().out
    assert "left out: 1 of" in said and "not an image, or its header is damaged: cats/text.png" in said


def test_what_evaluate_refuses(run: Path, photographs: Path, tmp_path: Path) -> None:
    common = {"weights": run, "checkpoint": "last", "seeds": 1, "out": None}
    with pytest.raises(UserError, match="linaer"):
        run_evaluate(data=str(photographs), protocols="linaer", **common)
    with pytest.raises(UserError, match="no folder"):
        run_evaluate(data=str(photographs), protocols="knn", **{**common, "out": tmp_path / "none" / "t.json"})


def test_a_full_disk_is_the_users_after_the_work_as_well(run: Path, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "full.png").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"full\.png cannot be written: No space left on device"):
        run_reconstruct(weights=run, images=[], out=tmp_path / "full.png", checkpoint="last", count=1, seed=0)
    common = {"data": str(photographs), "protocols": "knn", "checkpoint": "last", "seeds": 1}
    with pytest.raises(UserError, match=r"full\.png cannot be written: No space left on device"):
        run_evaluate(weights=run, out=tmp_path / "full.png", **common)


@pytest.mark.slow
def test_the_embedded_images_train_evaluate_and_draw_in_one_channel(tmp_path: Path) -> None:
    from contextae.verbs.demo import run_demo

    assert run_demo(out=tmp_path, quick=True) == 0
    for name in ("reconstruction.png", "curves.png", "table.json", "table.md", "experiment.yaml"):
        assert (tmp_path / "quick" / name).stat().st_size > 0


def test_an_encoder_of_gray_images_reads_colour_ones_as_gray(tmp_path: Path, photographs: Path) -> None:
    settings = [name for name in SMALL if "image_size" not in name]
    code = run_pretrain(
        data="builtin:fashion-mnist",
        out=tmp_path / "gray",
        preset="demo",
        settings=[*settings, "data.image_size=[28, 28]", "training.batch_size=3000", "training.epochs=1"],
        config=None,
        resume=False,
        labelled=None,
        tensorboard=False,
    )
    assert code == 0
    _, transform = contextae.load(tmp_path / "gray")
    assert transform(photographs / "cats" / "01.png").shape == (1, 1, 28, 28)
