"""Figures that are kept, read back, merged and shown."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contextae.errors import UserError
from contextae.evaluation.plot import plot
from contextae.evaluation.record import RANDOM, THIS_ENCODER
from contextae.evaluation.results import Compared, Recorded, Result, append, newest, read
from contextae.evaluation.table import markdown, sheets_of, to_csv
from contextae.training.hardware import hardware
from evaluation.known_record import HOG, record


def result(row: str = THIS_ENCODER, value: float = 0.6, **others: Any) -> Result:
    fields = {
        "protocol": "linear",
        "version": 1,
        "metric": "accuracy",
        "interval": (value - 0.02, value + 0.02),
        "num_images": 1_000,
        "seeds": 1,
        "seconds": 2.5,
    }
    return Result(row=row, value=value, **{**fields, **others})


def recorded(*results: Result, **about: Any) -> Recorded:
    of = {"weights": "RUN", "encoder_sha256": "abc", "data": "cats", "time": "2026-01-01T00:00:00+00:00"}
    return Recorded(about={**of, **about}, results=results, compared=(), notes=("a note",))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    compared = Compared(
        protocol="linear",
        row=THIS_ENCODER,
        baseline=RANDOM,
        metric="accuracy",
        difference=0.1,
        interval=(0.05, 0.15),
    )
    first = dataclasses.replace(
        recorded(result(details={"of each class": {"cat": 0.5}, "chosen": [{"k": 5}]}), size=[32, 48]),
        compared=(compared,),
    )
    second = recorded(result(value=0.7))
    for each in (first, second):
        append(tmp_path / "results.jsonl", each)
    assert read(tmp_path / "results.jsonl") == [first, second]
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"format": 1, "about": {')  # of a write that was killed
    assert read(tmp_path / "results.jsonl") == [first, second]
    append(tmp_path / "results.jsonl", first)
    assert read(tmp_path / "results.jsonl") == [first, second, first]


def test_numbers_of_numpy_become_plain(tmp_path: Path) -> None:
    odd = result(value=np.float64(0.5), details={"counts": (np.int64(3), np.bool_(True))})  # type: ignore[arg-type]
    append(tmp_path / "results.jsonl", recorded(odd))
    (found,) = read(tmp_path / "results.jsonl")
    assert found.results[0].details == {"counts": [3, True]} and type(found.results[0].value) is float


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('{"format": 2}', "has format 2, and this version of contextae reads 1"),
        ('{"kind": "step"}', "has format None"),
        ('{"format": 1, "about": {}, "results": [], "notes": []}', "damaged or edited: 'compared'"),
        ('{"format": 1, "about": {}, "results": [{"interval": [0, 1]}], "compared": [], "notes": []}', "damaged or"),
        ('{"format": 1, "about": {}, "results": [{"interval": [0]}], "compared": [], "notes": []}', "damaged or"),
        ('{"format": 1, "about": "x", "results": [], "compared": [], "notes": []}', "damaged or edited"),
    ],
)
def test_what_is_no_file_of_results_is_refused(tmp_path: Path, line: str, rule: str) -> None:
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=rule):
        read(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match=r"There is no .*absent\. `contextae evaluate` writes"):
        read(tmp_path / "absent")


def test_a_classification_keeps_its_figures() -> None:
    evaluation = record(0.6, (0.5, 0.52), 0.62)
    results, compared = evaluation.results, evaluation.differences
    assert [(each.row, each.protocol, each.seeds) for each in results][:2] == [
        (THIS_ENCODER, "linear", 1),
        (RANDOM, "linear", 2),
    ]
    assert [each.value for each in results] == [entry.accuracy for entry in evaluation.entries]
    (other,) = [each for each in compared if (each.protocol, each.baseline) == ("attentive", HOG)]
    assert other.baseline_protocol == "linear" and other.outside and other.difference == pytest.approx(-0.02)


def test_the_newest_of_equal_figures_counts() -> None:
    old, new = recorded(result(value=0.5), result(RANDOM, 0.4)), recorded(result(value=0.6))
    other_version = recorded(result(value=0.7, version=2))
    others = [recorded(result(value=0.1), data="dogs"), recorded(result(value=0.2), encoder_sha256="def")]
    kept, older = newest([old, new, other_version, *others])
    assert [each.value for _, each in kept] == [0.6, 0.4, 0.7, 0.1, 0.2] and older == 1


def test_tables_by_data_set_name_the_weights_where_there_are_several() -> None:
    records = [
        recorded(result(value=0.5), result(RANDOM, 0.4, seeds=3)),
        recorded(result(value=0.6), result(value=0.3, protocol="segmentation-linear", metric="mIoU")),
        recorded(result(value=0.9), encoder_sha256="def", weights="a|b"),
        recorded(result(value=0.2), data="dogs"),
    ]
    cats, dogs = sheets_of(records)
    assert cats.columns == ["linear", "segmentation-linear mIoU"] and dogs.columns == ["linear"]
    rows = {name: [cell.text for cell in cells] for name, cells in cats.rows}
    assert rows == {
        "RUN: this encoder": ["60.0 [58.0, 62.0]", "30.0 [28.0, 32.0]"],
        "RUN: random initialisation, 3 seeds": ["40.0 [38.0, 42.0]", "-"],
        "a|b: this encoder": ["90.0 [88.0, 92.0]", "-"],
    }
    assert [name for name, _ in dogs.rows] == [THIS_ENCODER] and "a note" in cats.captions
    assert "1 older figure(s) of the same kind are not shown." in cats.captions
    lines = markdown(cats).splitlines()
    assert lines[0] == "|  | linear | segmentation-linear mIoU |" and lines[1] == "|---|---:|---:|"
    assert r"| a\|b: this encoder | **90.0 [88.0, 92.0]** | - |" in lines


def test_csv_has_a_line_for_each_figure() -> None:
    text = to_csv([recorded(result(details={"x": 1}), result(RANDOM, 0.4, seeds=3))])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["row"], line["value"], line["low"], line["seeds"]) for line in lines] == [
        (THIS_ENCODER, "0.6", "0.58", "1"),
        (RANDOM, "0.4", "0.38", "3"),
    ]
    assert lines[0]["data"] == "cats" and lines[0]["encoder_sha256"] == "abc"


def test_the_plot_is_a_picture_with_something_in_it(tmp_path: Path) -> None:
    records = [recorded(result(), result(RANDOM, 0.4)), recorded(result(protocol="knn"), data="dogs")]
    plot(records, tmp_path / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB")).astype(int)
    blue = (pixels[:, :, 2] - pixels[:, :, 0]) > 80
    assert blue.sum() > 100 and (pixels == 255).all(-1).mean() > 0.5


def test_hardware_has_a_name() -> None:
    found = hardware()
    assert found["processor"] and found["cores"] >= 1 and found["threads"] >= 1


def rows_of(*records: Recorded) -> dict[str, list[str]]:
    (shown,) = sheets_of(records)
    return {name: [cell.text for cell in cells] for name, cells in shown.rows}


def test_checkpoints_of_one_run_are_rows_of_their_own(tmp_path: Path) -> None:
    early = recorded(result(value=0.5), encoder_sha256="a" * 64, checkpoint="100")
    last = recorded(result(value=0.6), encoder_sha256="b" * 64, checkpoint="last")
    later = recorded(result(value=0.7), encoder_sha256="c" * 64, checkpoint="last")
    assert rows_of(early, last) == {
        "RUN (100): this encoder": ["50.0 [48.0, 52.0]"],
        "RUN (last): this encoder": ["60.0 [58.0, 62.0]"],
    }
    assert rows_of(early, last, later) == {
        "RUN (100): this encoder": ["50.0 [48.0, 52.0]"],
        "RUN (last, bbbbbbbb): this encoder": ["60.0 [58.0, 62.0]"],
        "RUN (last, cccccccc): this encoder": ["70.0 [68.0, 72.0]"],
    }
    plot([early, last, later], tmp_path / "three.png")
    plot([later], tmp_path / "one.png")
    with Image.open(tmp_path / "three.png") as three, Image.open(tmp_path / "one.png") as one:
        assert three.height > one.height


def test_figures_of_other_settings_are_no_older_ones_of_the_same_kind() -> None:
    def of(steps: int, value: float) -> Recorded:
        settings = {"steps": steps, "rates": (0.1, 0.2), "width": 8}
        whole = result(value=value, protocol="finetune", details={"settings": settings})
        return recorded(whole, result(value=value, protocol="finetune", metric="mean class accuracy"))

    short, long, again = of(50, 0.5), of(500, 0.6), of(50, 0.55)
    assert rows_of(short, long, again) == {
        "this encoder, steps=50": ["55.0 [53.0, 57.0]"] * 2,
        "this encoder, steps=500": ["60.0 [58.0, 62.0]"] * 2,
    }
    assert newest([short, long, again])[1] == 2
    assert list(rows_of(short, again)) == ["this encoder"]


def test_two_versions_of_a_protocol_stand_in_two_columns() -> None:
    old = recorded(result(value=0.7, version=1), encoder_sha256="a", weights="A")
    new = recorded(result(value=0.6, version=2), encoder_sha256="b", weights="B")
    (shown,) = sheets_of([old, new])
    assert shown.columns == ["linear, version 1", "linear, version 2"]
    assert [[cell.text for cell in cells] for _, cells in shown.rows] == [
        ["70.0 [68.0, 72.0]", "-"],
        ["-", "60.0 [58.0, 62.0]"],
    ]
    assert all(cell.best for _, cells in shown.rows for cell in cells if cell.text != "-")


def test_a_plot_takes_names_of_files_as_they_are(tmp_path: Path) -> None:
    odd = recorded(result(), encoder_sha256="a", weights="$\\no$", data="/data/$x_{y$")
    plot([odd, recorded(result(), encoder_sha256="b", data="/data/$x_{y$")], tmp_path / "odd.png")
    with Image.open(tmp_path / "odd.png") as picture:
        assert picture.width > 300
