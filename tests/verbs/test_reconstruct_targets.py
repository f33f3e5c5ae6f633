"""`contextae reconstruct` for every target: what can be drawn is, and what cannot is refused with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import SMALL

import contextae
from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.methods.method import Pictures
from contextae.presets import preset
from contextae.pretrained import load_method
from contextae.tokenizers.stored import open_tokenizer
from contextae.verbs import reconstruct
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.fit_tokenizer import run_fit_tokenizer
from contextae.verbs.reconstruct import run_reconstruct

Run = Callable[..., int]
RANDOM_TEACHER = "features:timm:test_vit=random"


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each sheet was drawn from."""
    drawn: list[dict[str, Any]] = []
    whole = reconstruct.contact_sheet

    def contact_sheet(pictures: Pictures, **facts: Any) -> None:
        drawn.append({"pictures": pictures, **facts})
        whole(pictures, **facts)

    monkeypatch.setattr(reconstruct, "contact_sheet", contact_sheet)
    return drawn


def fit_kmeans(photographs: Path, out: Path, *geometry: str) -> Path:
    code = run_fit_tokenizer(
        data=str(photographs),
        out=out,
        kind="kmeans",
        codes=16,
        preset=None,
        settings=list(geometry),
        config=None,
        resume=False,
    )
    assert code == 0
    return out


def draw(weights: Path, out: Path, *images: Path) -> list[Path]:
    return run_reconstruct(weights=weights, images=list(images), out=out, checkpoint="last", count=3, seed=0)


def check_sheet(page: Path, sheet: dict[str, Any]) -> Pictures:
    """It can be opened, has an image in it, and its parts are where they should be."""
    with Image.open(page) as opened:
        assert opened.width > 800 and np.asarray(opened.convert("L")).std() > 10
    pictures: Pictures = sheet["pictures"]
    visible, decoded = pictures.visible.isfinite(), pictures.decoded.isfinite()
    assert torch.equal(visible, ~decoded) and 0 < visible.float().mean() < 1
    assert torch.equal(pictures.visible[visible], pictures.images[visible])
    assert torch.equal(pictures.pasted[decoded], pictures.decoded[decoded])
    return pictures


def test_hog_is_drawn_as_strokes(
    pretrain: Run, photographs: Path, tmp_path: Path, sheets: list[dict[str, Any]]
) -> None:
    geometry = ("data.image_size=[32, 24]", "encoder.patch_size=[8, 8]", "method.mask_ratio=0.34")
    assert pretrain(photographs, None, *geometry, "method.target=hog", "training.epochs=1") == 0
    (page,) = draw(tmp_path / "run", tmp_path / "hog.png")
    check_sheet(page, sheets[0])
    assert sheets[0]["note"].startswith("Histograms of gradients are predicted")


def test_codes_are_drawn_as_the_tokenizer_decodes_them(
    pretrain: Run, photographs: Path, tmp_path: Path, sheets: list[dict[str, Any]]
) -> None:
    geometry = ("data.image_size=[16, 12]", "encoder.patch_size=[4, 4]")
    tok = fit_kmeans(photographs, tmp_path / "tok", *geometry)
    assert pretrain(photographs, None, f"method.target=codes:{tok}", "training.epochs=1") == 0
    named = [photographs / "cats" / "01.png", photographs / "dogs" / "02.png"]
    (page,) = draw(tmp_path / "run", tmp_path / "codes.png", *named)
    pictures = check_sheet(page, sheets[0])
    assert sheets[0]["note"].startswith("Codes are predicted")
    _, origin = load_method(tmp_path / "run")
    tokenizer: Any = open_tokenizer(tok)
    mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in (origin.transform.mean, origin.transform.deviation))
    book = {tuple((255 * patch).round().int().tolist()) for patch in tokenizer.patches}
    shown = (pictures.decoded * deviation + mean)[0].unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).flatten(2)
    found = [tuple((255 * p).round().int().tolist()) for p in shown.flatten(0, 1) if p.isfinite().all()]
    assert found and all(patch in book for patch in found)  # every decoded patch is one of the codebook


def test_codes_of_a_second_view_are_drawn_at_the_size_of_the_image(
    pretrain: Run, photographs: Path, tmp_path: Path, sheets: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tok = fit_kmeans(photographs, tmp_path / "tok", "data.image_size=[12, 8]", "encoder.patch_size=[4, 4]")
    geometry = ("data.image_size=[24, 16]", "encoder.patch_size=[8, 8]", "method.mask_ratio=0.34")
    assert pretrain(photographs, None, *geometry, f"method.target=codes:{tok}", "training.epochs=1") == 0
    seen, whole = [], CAE.pictures

    def pictures(self: CAE, view: Any) -> Pictures:
        seen.append(view)
        return whole(self, view)

    monkeypatch.setattr(CAE, "pictures", pictures)
    (page,) = draw(tmp_path / "run", tmp_path / "codes.png")
    assert seen[0].images.shape == (3, 3, 24, 16) and seen[0].second.shape == (3, 3, 12, 8)
    assert check_sheet(page, sheets[0]).decoded.shape == (3, 3, 24, 16)


def test_without_its_tokenizer_a_run_is_evaluated_but_not_drawn(
    pretrain: Run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    geometry = ("data.image_size=[16, 12]", "encoder.patch_size=[4, 4]")
    tok = fit_kmeans(photographs, tmp_path / "tok", *geometry)
    assert pretrain(photographs, None, f"method.target=codes:{tok}", "training.epochs=1") == 0
    shutil.rmtree(tok)
    with pytest.raises(UserError, match=rf"There is no tokenizer at {tok}"):
        draw(tmp_path / "run", tmp_path / "codes.png")
    run_evaluate(weights=tmp_path / "run", data=str(photographs), protocols="knn", checkpoint="last", seeds=1, out=None)
    assert "this encoder" in capsys.readouterr().out


REFUSED = {
    "cae": r"Predicted features are no pixels, so there is nothing to reconstruct\. Use weights trained on pixels, hog",
    "cae_v2": r"CAEv2 has no decoder, so there is nothing to reconstruct\. Use weights of a method that decodes",
}


@pytest.mark.parametrize("method", REFUSED)
def test_features_are_no_pictures(pretrain: Run, photographs: Path, tmp_path: Path, method: str) -> None:
    taught = ["method.target_size=[160, 160]", f"method.target={RANDOM_TEACHER}", "training.epochs=1"]
    if method == "cae":
        assert pretrain(photographs, None, *taught) == 0
    else:
        small = [name for name in SMALL if "decoder" not in name]  # which v2 has none of
        recipe = preset("cae_v2_tiny", "x").with_settings([*small, "method.regressor_width=null", *taught])
        recipe.write(tmp_path / "recipe.yaml")
        assert pretrain(photographs, config=tmp_path / "recipe.yaml") == 0
    with pytest.raises(UserError, match=REFUSED[method]):
        draw(tmp_path / "run", tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
    encoder, transform = contextae.load(tmp_path / "run")
    assert encoder.summary_and_latents(transform(photographs / "cats" / "01.png"))[0].shape == (1, 16)
