"""What people read, from records whose numbers are known."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from contextae.evaluation.console import on_console
from contextae.evaluation.record import RANDOM, Evaluation
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.table import compared_lines, markdown, sheet, sheet_of, words
from evaluation.known_record import HOG, answers, record


def shown(evaluation: Evaluation, width: int = 90) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(on_console(sheet_of(evaluation)))
    return console.export_text(styles=True)


def test_the_table_on_a_console() -> None:
    text = shown(record(0.612, (0.5, 0.52, 0.54), 0.65, notes=("3 test images are of an unseen class",)))
    assert "random initialisation, 3 seeds" in text and "3 test images are of an unseen class" in text
    assert "\x1b[1m65.0 [62.0, 67.9]\x1b[0m" in text or "\x1b[1m65.0" in text, "the best of its column is bold"
    assert "\x1b[1m61.2" in text, "and so is the best of the other"
    assert "51.2 %" in text and " - " in text
    assert max(len(line) for line in text.splitlines() if "\x1b" not in line) <= 90


@pytest.mark.parametrize("width", [50, 60, 80])
def test_nothing_is_cut_off_where_there_is_little_room(width: int) -> None:
    text = shown(record(0.612, (0.5, 0.52, 0.54), 0.65), width)
    assert "…" not in text and text.count("[") >= 5
    assert "64.3]" in text and "55.5]" in text


def test_a_protocol_of_several_columns_has_a_table_of_its_own_which_fits_in_80() -> None:
    labels = ("1 per class", "5 per class", "10 per class", "1 % of labels", "10 % of labels")
    rows = [RANDOM, "HOG with thumbnail"]
    results = [figure("fewshot", f"accuracy, {each}", row) for each in labels for row in rows]
    results += [figure("finetune", metric, rows[0]) for metric in ("accuracy, 1 % of labels", "accuracy")]
    results += [figure("knn", "accuracy", each) for each in (*rows, "of kNN alone")]
    given = sheet("the set", [(each.row, each) for each in results], ["said below"])
    assert given.columns == [*(f"fewshot, {each}" for each in labels), "finetune, 1 % of labels", "finetune", "kNN"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(on_console(given))
    text = console.export_text()
    first, second, third = re.split("(?:fewshot|finetune): accuracy", text)
    assert first.startswith("the set\n") and "kNN" in first and "of kNN alone" in first
    assert "of kNN alone" not in second and "accuracy" not in second
    assert "1 % of labels" in third and "all labels" in third and third.rstrip().endswith("said below")
    assert second.count("[12.3, 45.6]") == 10 and "initialisation" in second and "thumbnail" in second
    assert max(map(len, text.splitlines())) <= 80


def figure(protocol: str, metric: str, row: str) -> Result:
    return Result(
        protocol=protocol,
        version=1,
        row=row,
        metric=metric,
        value=0.234,
        interval=(0.123, 0.456),
        num_images=9,
        seeds=1,
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("ours", "random", "free", "verdict"),
    [
        (0.6, (0.5, 0.5), 0.55, "learns, and is more useful than any training-free baseline"),
        (0.6, (0.5, 0.5), 0.65, "learns, but is not yet more useful than a training-free baseline"),
        (0.6, (0.5, 0.5), 0.6, "learns, and is level with the best training-free baseline"),
        (0.5, (0.49, 0.51), 0.4, "no difference from random weights is shown"),
        (0.4, (0.5, 0.5), 0.3, "worse than random weights"),
    ],
)
def test_verdicts(ours: float, random: tuple[float, ...], free: float, verdict: str) -> None:
    linear, attentive = words(record(ours, random, free))
    assert linear.endswith(f": {verdict}") and attentive.endswith(f": {verdict}")


def test_words_name_both_differences_with_their_intervals() -> None:
    linear, attentive = words(record(0.6, (0.5,), 0.62))
    assert linear.startswith("linear: +10.0 points [+8.") and " to random initialisation; -2.0 points [-2." in linear
    assert "to HOG with thumbnail:" in linear and "to HOG with thumbnail (linear):" in attentive


def test_intervals_are_low_then_high_everywhere() -> None:
    plain = record(0.6, (0.5, 0.52), 0.62).to_json()
    for each in (*plain["entries"], *plain["differences"]):
        low, high = each["interval"]
        value = each.get("accuracy", each.get("difference"))
        assert low <= value <= high and low < high


def test_json_holds_everything() -> None:
    plain = json.loads(json.dumps(record(0.6, (0.5, 0.52), 0.62).to_json()))
    entry = plain["entries"][1]
    assert entry["accuracy_of_each_seed"] == [0.5, 0.52] and entry["chosen"] == [{"k": 5}, {"k": 5}]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["correct"][1]), np.uint8))[:1_000]
    assert np.array_equal(bits.astype(bool), answers(0.52)[0])
    assert plain["format"] == 1 and plain["differences"][2]["baseline_protocol"] == "linear"


def test_markdown() -> None:
    lines = markdown(sheet_of(record(0.6, (0.5, 0.52), 0.62))).splitlines()
    assert lines[0] == "| frozen representation | linear | attentive |"
    assert lines[1] == "|---|---:|---:|"
    assert lines[2].startswith("| this encoder | 60.0 [") and "| **60.0 [" in lines[2]
    assert lines[4].startswith("| HOG with thumbnail | **62.0 [") and lines[4].endswith("| - |")


def test_what_a_protocol_cannot_read() -> None:
    evaluation = record(0.6, (0.5, 0.52), 0.62)
    assert evaluation.entry(HOG, "attentive") is None and evaluation.difference("attentive", HOG) is None
    difference = evaluation.difference("attentive", RANDOM)
    assert difference and difference.outside and difference.difference == pytest.approx(0.09)


def test_of_many_baselines_the_untrained_network_and_the_hardest_are_named() -> None:
    def to(baseline: str, difference: float, metric: str = "accuracy, 1 per class") -> Compared:
        return Compared(
            protocol="fewshot",
            row="this encoder",
            baseline=baseline,
            metric=metric,
            difference=difference,
            interval=(difference - 0.05, difference + 0.05),
        )

    lines = compared_lines([to(RANDOM, 0.1), to("raw pixels", 0.2), to(HOG, -0.3), to("from scratch", 0.01, "AP")])
    assert lines == [
        "fewshot, 1 per class: +10.0 points [+5.0, +15.0] to random initialisation: better",
        "fewshot, 1 per class: -30.0 points [-35.0, -25.0] to HOG with thumbnail: worse",
        "fewshot AP: +1.0 points [-4.0, +6.0] to from scratch: no difference is shown",
    ]
