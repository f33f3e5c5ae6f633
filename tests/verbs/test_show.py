"""`contextae show`: what presets and runs resolve to, and what stands there is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from small_run import SMALL

from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.methods.dvae import DVAETraining
from contextae.presets import PRESETS, preset
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.kmeans import PatchCodebook
from contextae.tokenizers.stored import save_tokenizer
from contextae.training.cost import Cost, measure_cost
from contextae.verbs import show
from contextae.verbs.plan import LEFT_OPEN
from contextae.verbs.show import IMAGENET, run_show

Run = Callable[..., int]
Shown = Callable[..., dict[str, str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Every first word of a line with what follows, and the whole under `all`."""

    def run(what: Path | str, *settings: str, **options: Any) -> dict[str, str]:
        capsys.readouterr()  # of what went before
        given: dict[str, Any] = {"world_size": 1, "images": None, "recipe": False}
        run_show(what=str(what), settings=list(settings), **{**given, **options})
        said = capsys.readouterr().out
        rows = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in said.splitlines()]
        return {"all": said, **{row[0]: row[1] for row in rows if len(row) == 2}}

    return run


QUICK = ("demo", "clothing10", "cae_v2_tiny")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]
)
def test_every_preset_is_reckoned_by_shapes_alone(name: str, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_shapes(method: Any, batch: Any, images: int) -> Cost:
        assert all(each.is_meta for each in (*method.parameters(), *method.buffers()))
        return measure_cost(method, batch, images)

    monkeypatch.setattr(show, "measure_cost", on_shapes)
    found, experiment = shown(name), preset(name, "DATA")
    assert found["all"].startswith(f"{name}: ") and (PRESETS[name].__doc__ or "").split()[0] in found["all"]
    for setting, value in experiment.values().items():
        assert setting in found, setting
        if isinstance(value, int):
            assert found[setting].split()[0] == str(value)
    assert found["learning rate"].startswith(f"{experiment.peak_lr:.4g} at its peak")
    height, width = experiment.grid_size
    assert found["patches"].startswith(f"{height} x {width} = {height * width}: ")
    assert ("Reckoned for 512 features a patch" in found["all"]) == name.startswith("cae_v2")


def test_the_released_recipe_of_base(shown: Shown) -> None:
    """Against numbers written out here: 1.5e-3 for 2,048 images, 1,600 epochs, timm's ViT-B."""
    found = shown("cae_base")
    assert found["learning rate"] == "0.0015 at its peak, 1e-05 at the end"
    assert found["images"] == "1,281,167, those of ImageNet-1K" and found["images per step"] == "2,048"
    steps = -(-1600 * 1_281_167 // 2048)
    assert found["steps"] == f"{steps:,}, of which {round(40 * 1_281_167 / 2048):,} warm up"
    assert found["patches"] == "14 x 14 = 196: 98 masked, 98 visible"
    vit = timm.create_model("vit_base_patch16_224", num_classes=0, init_values=0.1, device="meta")
    encoder = sum(p.numel() for p in vit.parameters()) - vit.pos_embed.numel() - 12 * 768  # fixed table, no key bias
    assert f"(encoder {encoder / 1e6:.2f} million)" in found["parameters"]
    flops = float(found["FLOPs of the training"])
    assert flops == pytest.approx(float(found["FLOPs of an image"].split()[3]) * 1e9 * steps * 2048, rel=0.01)


def test_parameters_and_checkpoint_are_those_of_the_method(shown: Shown) -> None:
    built = preset("demo", "x").with_settings(["data.mean=[0.5]", "data.deviation=[0.2]"]).build_method(1)
    count = sum(p.numel() for p in built.parameters())
    encoder = sum(p.numel() for p in built.encoder.parameters())
    found = shown("demo", "data.channels=1")
    assert found["parameters"] == (
        f"{count / 1e6:.2f} million, {count / 1e6:.2f} million trained (encoder {encoder / 1e6:.2f} million)"
    )
    assert found["checkpoint"] == f"{12 * count / 2**20:,.0f} MiB"
    assert "Reckoned for images of three channels." not in found["all"]


def test_settings_images_and_processes(shown: Shown) -> None:
    found = shown("cae_base", "training.accumulate=4", "optimizer.lr_per_256_images=1e-3", world_size=8, images=5001)
    assert found["images"] == "5,001, as given"
    assert found["images per step"] == "2,048 = 8 process(es) x 4 part(s) x 64"
    assert found["steps"] == f"{-(-1600 * 5001 // 2048):,}, of which {round(40 * 5001 / 2048):,} warm up"
    assert found["learning rate"] == f"{8e-3:.4g} at its peak, {8e-3 / 150:.4g} at the end"
    assert "for each of 64 images" in found["memory of a process"]
    pixels, codes = shown("cae_base"), shown("cae_base", "method.target=codes:TOK")
    assert float(found["memory of a process"].split()[0]) < float(pixels["memory of a process"].split()[0]) / 10
    assert "Reckoned for 8,192 codes (DALL-E's)" in codes["all"]
    more = float(codes["parameters"].split()[0]) - float(pixels["parameters"].split()[0])
    assert more == pytest.approx((8192 - 768) * 769 / 1e6, abs=0.02)  # the decoder's head, and nothing else
    assert "method.target" in shown("demo", "method.target=hog")["all"]


def test_a_tokenizer_is_shown_for_what_it_is(tmp_path: Path, shown: Shown) -> None:
    folder = tmp_path / "km"
    folder.mkdir()
    file = save_tokenizer(PatchCodebook(channels=3, patch_size=(4, 2), num_codes=17), folder)
    for what in (folder, file):
        said = shown(what)["all"]
        assert said.startswith(f"{what}: a tokenizer of k-means patches, 17 codes, each of 4 x 2 pixels in 3 channel")
        assert f"--set method.target=codes:{what}" in said
        for options in ({"world_size": 2}, {"images": 3}, {"recipe": True}):
            with pytest.raises(UserError, match=rf"{what.name} is a tokenizer and nothing else, .* Give none\."):
                shown(what, **options)
        with pytest.raises(UserError, match="no option of show applies"):
            shown(what, "training.epochs=3")
    save_tokenizer(DVAE(channels=1, stride=4, width=8, num_codes=5), folder)
    assert "a tokenizer of a discrete VAE, 5 codes, each of 4 x 4 pixels in 1 channel" in shown(folder)["all"]


def test_codes_are_counted_in_the_tokenizer_where_it_is_here(tmp_path: Path, shown: Shown) -> None:
    save_tokenizer(PatchCodebook(channels=3, patch_size=(4, 4), num_codes=17), tmp_path)
    found, pixels = shown("demo", f"method.target=codes:{tmp_path}"), shown("demo")
    assert "Reckoned for 17 codes (the tokenizer's), without the tokenizer's own cost." in found["all"]
    fewer = float(pixels["parameters"].split()[0]) - float(found["parameters"].split()[0])
    assert fewer == pytest.approx((4 * 4 * 3 - 17) * (96 + 1) / 1e6, abs=0.011)


def test_broken_settings_of_a_run_are_told_before_what_else_is_missing(tmp_path: Path, shown: Shown) -> None:
    (tmp_path / "experiment.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"experiment\.yaml"):
        shown(tmp_path)
    preset("demo", "x").write(tmp_path / "experiment.yaml")
    with pytest.raises(UserError, match=r"images, the list of images of this run, cannot be read"):
        shown(tmp_path)


def test_what_show_refuses(tmp_path: Path, shown: Shown) -> None:
    with pytest.raises(UserError, match=r"Got 2048 images for 7 processes x 1; choose another number of processes"):
        shown("cae_base", world_size=7)
    with pytest.raises(UserError, match=r"neither a preset nor a run 'cae_bas'\. Did you mean 'cae_base'\? Presets"):
        shown("cae_bas")
    with pytest.raises(
        UserError, match=r"neither a preset nor a run .*a run is a folder that holds an experiment\.yaml"
    ):
        shown(tmp_path)
    with pytest.raises(UserError, match="neither a preset nor a run 'xxx"):
        shown("x" * 300)
    with pytest.raises(UserError, match=r"no setting 'training.epoch'\. Did you mean 'training.epochs'"):
        shown("cae_base", "training.epoch=3")


def test_a_run_is_what_it_trained(pretrain: Run, photographs: Path, tmp_path: Path, shown: Shown) -> None:
    run = (
        tmp_path / "a folder with a rather long name, so that its path does not fit into one cell of any table" / "run"
    )
    data = run.parent / "photographs"
    run.parent.mkdir()
    photographs.rename(data)
    assert pretrain(data, run, "training.epochs=3", "training.batch_size=16") == 0
    found = shown(run)
    assert f"{run}: a run, 8 steps done" in " ".join(found["all"].split())
    assert found["images"] == "40, those of the run" and found["steps"] == "8, of which 1 warm up"  # 7.5 and 1.25
    experiment = Experiment.read(run / "experiment.yaml")
    assert f"{experiment.peak_lr:.4g} at its peak" in found["learning rate"]
    assert experiment.data.mean and str(list(experiment.data.mean))[:9] in found["data.mean"]
    assert "…" not in found["all"] and max(map(len, found["all"].splitlines())) <= 120
    lines = found["all"].splitlines()
    head = next(line for line in lines if line.startswith("setting "))
    values = "".join(line[head.index("value") : head.index("what it is")].strip() for line in lines)
    assert str(data).replace(" ", "") in values.replace(" ", "")


def test_yaml_goes_into_pretrain(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_show(what="cifar10", settings=SMALL, world_size=1, images=None, recipe=True)
    written = tmp_path / "recipe.yaml"
    written.write_text(capsys.readouterr().out)
    wanted = preset("cifar10", "DATA").with_settings(SMALL)
    assert Experiment.read(written) == wanted
    assert pretrain(photographs, config=written) == 0
    capsys.readouterr()
    found, expected = Experiment.read(tmp_path / "run" / "experiment.yaml").values(), wanted.values()
    assert found.pop("data.source") == str(photographs) and expected.pop("data.source") == "DATA"
    assert {name for name in found if found[name] != expected[name]} <= LEFT_OPEN.keys()
    run_show(what=str(tmp_path / "run"), settings=[], world_size=1, images=None, recipe=True)
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load((tmp_path / "run" / "experiment.yaml").read_text())


def test_a_tokenizer_is_built_for_its_noise_and_counted_alike(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["method.name=dvae", "method.num_codes=24", "method.width=8"]
    experiment = preset("demo", "x").with_settings([*settings, "data.mean=[0.5]", "data.deviation=[0.2]"])
    built = experiment.build_method(1)
    assert isinstance(built, DVAETraining)
    found = shown("demo", *settings, "data.channels=1")
    count = sum(p.numel() for p in built.parameters())
    assert found["patches"] == "7 x 7 codes" and found["parameters"].startswith(f"{count / 1e6:.2f} million")
    assert "encoder " not in found["parameters"] and IMAGENET == 1_281_167
    assert torch.get_default_device() == torch.device("cpu")
