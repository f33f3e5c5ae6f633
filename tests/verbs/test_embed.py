"""`contextae embed` and `contextae neighbours`: features of a folder, gone on with after a stop, and their pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deadly import deadly
from PIL import Image
from small_run import paint

import contextae
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.evaluation.embeddings import read_embeddings, write_embeddings
from contextae.verbs import embed
from contextae.verbs import neighbours as verb
from contextae.verbs.embed import run_embed
from contextae.verbs.neighbours import run_neighbours

Run = Callable[..., int]


def neighbours(features: Path, out: Path, **others: object) -> list[list[object]]:
    given = {"of": [], "vectors": "mean_latents", "queries": 3, "count": 4, "pairs": None, "at_least": 0.95, "seed": 0}
    return run_neighbours(features=features, out=out, **{**given, **others})  # type: ignore[arg-type, return-value]


@pytest.fixture
def run(pretrain: Run, photographs: Path, tmp_path: Path) -> Path:
    assert pretrain(photographs) == 0
    return tmp_path / "run"


def test_features_are_those_of_python_whatever_their_parts(
    run: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embed, "PART", 17)
    (photographs / "cut.png").write_bytes((photographs / "cats" / "01.png").read_bytes()[:-60])
    held = run_embed(weights=run, data=str(photographs), out=tmp_path / "f.parquet", checkpoint="last")
    assert "Left out: cut.png: " in capsys.readouterr().err
    found = read_embeddings(tmp_path / "f.parquet")
    assert found.ids == held.ids and len(found.ids) == 40 and "cut.png" not in found.ids
    encoder, transform = contextae.load(str(run))
    summary, latents = encoder.summary_and_latents(transform([photographs / name for name in found.ids]))
    np.testing.assert_allclose(found.vectors["summary"], summary.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found.vectors["mean_latents"], latents.mean(1).detach().numpy(), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.parquet", "photographs", "run"]


def test_a_stopped_one_goes_on_with_the_part_it_was_at(
    run: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "PART", 10)
    whole = run_embed(weights=run, data=str(photographs), out=tmp_path / "whole.npz", checkpoint="last")
    real, calls = embed.extract, []

    def stopping(*given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(embed, "extract", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
    assert not (tmp_path / "f.npz").exists() and len(list((tmp_path / "f.npz.parts").iterdir())) == 2
    (first, _) = sorted((tmp_path / "f.npz.parts").iterdir())
    first.write_bytes(first.read_bytes()[:100])  # a part that was damaged meanwhile is made again
    again = run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
    assert len(calls) == 3 + 3 and again.ids == whole.ids and not (tmp_path / "f.npz.parts").exists()
    assert all(np.array_equal(again.vectors[name], whole.vectors[name]) for name in whole.vectors)


def test_parts_of_other_weights_and_of_images_that_changed_are_not_taken(
    pretrain: Run, run: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "PART", 10)
    monkeypatch.setattr(embed, "_forget", lambda parts: None)  # parts stay, as after a stop
    out = tmp_path / "f.npz"

    def made(weights: Path) -> dict[str, np.ndarray]:
        return run_embed(weights=weights, data=str(photographs), out=out, checkpoint="last").vectors

    first = made(run)["summary"]
    assert pretrain(photographs, tmp_path / "other", "training.seed=1") == 0
    assert not np.allclose(made(tmp_path / "other")["summary"], first)
    paint(photographs / "cats" / "01.png", 99, size=(30, 40))
    again = made(run)["summary"]
    assert not np.allclose(again[0], first[0]) and np.array_equal(again[1:], first[1:])


def test_neighbours_are_drawn_and_pairs_listed(run: Path, photographs: Path, tmp_path: Path) -> None:
    (photographs / "dogs" / "copy.png").write_bytes((photographs / "cats" / "07.png").read_bytes())
    run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
    out, pairs = tmp_path / "n.png", tmp_path / "pairs.csv"
    (row,) = neighbours(tmp_path / "f.npz", out, of=["cats/07.png"], pairs=pairs, at_least=0.9999)
    ids = read_embeddings(tmp_path / "f.npz").ids
    assert ids[row[0].second] == "dogs/copy.png" and row[0].similarity == pytest.approx(1)  # type: ignore[attr-defined]
    with Image.open(out) as picture:
        assert picture.width > 300
    lines = list(csv.DictReader(pairs.read_text().splitlines()))
    assert {(line["image"], line["other"]) for line in lines} >= {("cats/07.png", "dogs/copy.png")}
    (photographs / "cats" / "07.png").unlink()
    neighbours(tmp_path / "f.npz", out, of=["dogs/copy.png"])  # what is gone is a gap


def test_what_lies_beside_the_parts_stays(run: Path, photographs: Path, tmp_path: Path) -> None:
    mine = tmp_path / "f.npz.parts" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
    assert list(mine.parent.iterdir()) == [mine] and mine.read_text() == "precious"


def test_what_was_left_out_is_counted_also_where_its_part_was_there(
    run: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embed, "_forget", lambda parts: None)
    (photographs / "cut.png").write_bytes((photographs / "cats" / "01.png").read_bytes()[:-60])
    (photographs / "words.txt").write_text("words")
    for _ in range(2):
        run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
        assert "2 of 42 images found were left out" in capsys.readouterr().err


def test_an_image_that_ends_its_process_is_a_gap_and_no_end_of_the_picture(
    run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
    monkeypatch.setattr(verb, "open_index", lambda source, **wanted: deadly(open_index(source, **wanted)))
    neighbours(tmp_path / "f.npz", tmp_path / "n.png", of=["cats/07.png"])
    assert "Not drawn: cats/07.png: the process that read it ended with signal 11" in capsys.readouterr().err
    with Image.open(tmp_path / "n.png") as picture:
        assert picture.width > 300


def test_what_cannot_be_done_is_said(run: Path, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Features are written as \.parquet or \.npz\. Got f\.csv"):
        run_embed(weights=run, data=str(photographs), out=tmp_path / "f.csv", checkpoint="last")
    run_embed(weights=run, data=str(photographs), out=tmp_path / "f.npz", checkpoint="last")
    with pytest.raises(UserError, match=r"--of names an image of the features.*Did you mean 'cats/.7[.]png'"):
        neighbours(tmp_path / "f.npz", tmp_path / "n.png", of=["cats/7.png"])
    with pytest.raises(UserError, match=r"holds summary, mean_latents\. Got --vectors mean"):
        neighbours(tmp_path / "f.npz", tmp_path / "n.png", vectors="mean")
    with pytest.raises(UserError, match=r"--out is the PNG to write"):
        neighbours(tmp_path / "f.npz", tmp_path / "n.jpg")
    with pytest.raises(UserError, match=r"A file of features is no part of its source.*choose another folder"):
        run_embed(weights=run, data=str(photographs), out=photographs / "f.npz", checkpoint="last")
    with pytest.raises(UserError, match=r"Pictures and pairs are two files\. Got .*n\.png for --out and for --pairs"):
        neighbours(tmp_path / "f.npz", tmp_path / "n.png", pairs=tmp_path / "n.png")
    held = read_embeddings(tmp_path / "f.npz")
    write_embeddings(tmp_path / "edited.npz", held._replace(about={"source": str(photographs)}))
    with pytest.raises(UserError, match=r"edited\.npz does not say of which images its features are.*embed the images"):
        neighbours(tmp_path / "edited.npz", tmp_path / "n.png")
    photographs.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"from where they were embedded\. There is nothing at .* Put them back, or"):
        neighbours(tmp_path / "f.npz", tmp_path / "n.png")
