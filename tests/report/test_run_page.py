"""The page of runs: curves keep their extremes, verdicts their places, and nothing in it runs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from contextae.report.curves import (
    MOST_POINTS,
    Series,
    Words,
    chart,
    nice,
    number,
    parts_of,
    per_cent,
    series_of,
    thinned,
)
from contextae.report.run_facts import MOST_REASONS, Logged, asides, ended, lasted, pace, read_log, stretches
from contextae.report.run_page import (
    BAR,
    Difference,
    Evaluated,
    Page,
    RunShown,
    Setting,
    Table,
    bar,
    charts_of,
    joint_charts,
    run_page,
    shown_value,
)
from contextae.report.run_pictures import Cell, Row, RunPictures, uri
from report.test_audit_html import HOSTILE, check_harmless

TAGS = re.compile(
    "html|head|meta|title|style|body|h1|h2|h3|p|div|b|span|i|table|tr|th|td|ul|li|dl|dt|dd|details|summary|section|svg|"
    "line|text|polyline|circle|rect|figure|figcaption|img|pre|code"
)


def step(at: int, **values: float | None) -> dict[str, object]:
    return {"kind": "step", "time": 1.0 * at, "step": at, **values}


def check(at: int, word: str, reason: str = "", **values: float) -> dict[str, object]:
    return {"kind": "health", "time": 1.0 * at, "step": at, "verdict": word, "reason": reason, **values}


def logged(*lines: dict[str, object], ending: str = "done") -> Logged:
    steps = [line for line in lines if line["kind"] == "step"]
    return Logged(
        steps,
        [line for line in lines if line["kind"] == "health"],
        ending,
        [],
        0,
        (0.0, 90.0),
        ["a processor, 2 cores, torch 2"],
    )


def run_of(name: str, log: Logged, **values: object) -> RunShown:
    return RunShown(name=name, tiles=[("7", "images")], facts=[("images of", name)], logged=log, batch_size=4, **values)  # type: ignore[arg-type]


def page_of(*runs: RunShown, **values: object) -> str:
    whole: dict[str, object] = {
        "title": "<b>",
        "version": "1",
        "runs": list(runs),
        "compared": [],
        "evaluated": Evaluated([], [], [], ["No figures yet."]),
        "pictures": False,
        "paths": True,
        "held": [],
    }
    return run_page(Page(**{**whole, **values}))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [3, MOST_POINTS, MOST_POINTS + 1, 12_345])
def test_thinning_keeps_ends_peaks_and_order(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    values[count // 3], values[count // 2] = 99, -99
    points = list(enumerate(values.tolist()))
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS and set(kept) <= set(points) and kept == sorted(kept)
    assert {points[0], points[-1], points[count // 3], points[count // 2]} <= set(kept)
    assert kept == points or count > MOST_POINTS


def test_a_thinned_curve_says_so_and_each_stretch_keeps_its_extremes() -> None:
    points = [(float(i), float(i % 7)) for i in range(5000)]
    drawn = chart("t", [Series("a", list(points))], x_name="steps")
    assert "Of up to 5,000 points" in drawn.notes[0] and len(drawn.lines[0].stretches[0].split()) <= MOST_POINTS
    heights = {each.split(",")[1] for each in drawn.lines[0].stretches[0].split()}
    assert {"8.0", "156.0"} <= heights and not chart("t", [Series("a", list(points[:9]))], x_name="s").notes


def test_a_curve_is_drawn_where_its_values_are() -> None:
    drawn = chart("t", [Series("a", [(0, 1.0), (5, 2.0), (10, 3.0)]), Series("b", [(0, 1.0)])], x_name="steps")
    assert drawn.lines[0].stretches == ["46.0,156.0 197.0,82.0 348.0,8.0"] and drawn.lines[0].last == "3"
    assert drawn.lines[1].dots == [(46.0, 156.0)] and drawn.lines[1].colour == 1
    assert [tick.text for tick in drawn.y_ticks] == ["1", "1.5", "2", "2.5", "3"]
    assert drawn.y_ticks[2].at == pytest.approx(82)


def test_large_ratios_get_powers_of_ten_and_gaps_are_said() -> None:
    values: list[tuple[float, float | None]] = [(0, 1e-3), (1, None), (2, 1.0), (3, 10.0)]
    drawn = chart("t", [Series("a", values)], x_name="steps")
    assert [tick.text for tick in drawn.y_ticks] == ["0.001", "0.01", "0.1", "1", "10"]
    assert drawn.notes == [
        "The vertical axis is logarithmic.",
        "1 value(s) were not finite; the curve has a gap there.",
    ]
    assert len(drawn.lines[0].stretches) == 1 and len(drawn.lines[0].dots) == 3
    assert drawn.lines[0].stretches[0].startswith("247.3,")
    nothing = chart("t", [Series("a", [(0, None)])], x_name="steps")
    assert nothing.lines[0].last == "none is finite" and not nothing.lines[0].dots


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 3.0001), (-2e6, 5e6), (0.5, 144), (1e-9, 2e-9)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    ticks = nice(low, high)
    assert 2 <= len(ticks) <= 6 and all(low - 1e-9 <= each <= high + 1e-9 for each in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0], rtol=1e-3)
    assert re.match(r"(1|2|5|10)(\.0*)?$", f"{steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.0001)):.2f}")


@pytest.mark.parametrize(("low", "high"), [(3, 3.0001), (1000, 1001), (0.5612, 0.5639), (1.5e6, 1.50001e6), (5, 5)])
@pytest.mark.parametrize("words", [None, per_cent])
def test_no_two_ticks_read_alike(low: float, high: float, words: Words | None) -> None:
    points: list[tuple[float, float | None]] = [(0, low), (1, high)]
    texts = [tick.text for tick in chart("t", [Series("a", points)], x_name="steps", words=words).y_ticks]
    assert len(set(texts)) == len(texts) >= 2


def test_numbers_are_short() -> None:
    assert [number(x) for x in (0, 0.00123456, 1500, 12_345, 2.5e6, -3e12)] == [
        *("0", "0.001235", "1,500", "12,345", "2.5 million", "-3e+12")
    ]


def test_parts_of_a_loss_are_found_by_what_they_are_not() -> None:
    lines = [
        step(1, reconstruction=1.0, loss=2.0, lr=0.1, waiting=0.0, images_per_s=3.0),
        step(2, loss=None, extra=1.0),
    ]
    assert parts_of(lines) == ["loss", "reconstruction", "extra"]
    found = series_of("loss", lines, "loss", per_step=8)
    assert found and found.points == [(8, 2.0), (16, None)] and series_of("x", lines, "x") is None


def test_verdicts_in_a_row_are_one_stretch() -> None:
    health = [
        check(0, "healthy", "a"),
        check(5, "healthy", "b"),
        check(10, "collapsing", "c"),
        check(20, "healthy", "d"),
    ]
    found = stretches([*health, {"kind": "health", "step": 21}])
    assert [(each.word, each.first, each.last, each.until, each.checks) for each in found] == [
        ("healthy", 0, 5, 10, 2),
        ("collapsing", 10, 10, 20, 1),
        ("healthy", 20, 20, 20, 1),
    ]
    assert (found[0].reason, found[0].last_reason) == ("a", "b")
    pieces = bar(found, 20)
    assert [piece.x for piece in pieces] == [0, 500, 992] and [piece.width for piece in pieces] == [500, 500, 8]
    assert pieces[-1].x + pieces[-1].width == BAR and bar([], 0) == []
    assert bar(found[:1], 80)[0].width == BAR, "the last verdict holds until the end"


def test_a_log_tells_how_the_training_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [check(0, "healthy"), step(10, loss=1.0, images_per_s=100.0), step(30, loss=None, images_per_s=50.0)]

    def read(*more: dict[str, object]) -> Logged:
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
        return read_log(path)

    assert ended(read({"kind": "end", "ending": "done", "time": 99}), 30) == ""
    stopped = {"kind": "end", "ending": "SIGINT", "time": 99}
    assert ended(read(stopped), 40) == "Stopped by Ctrl-C after 30 of 40 steps; --resume goes on with it."
    assert ended(read(stopped, step(31)), 40).startswith("The log has no end, after 31 of 40 steps")
    assert "not a finite number, at step 31" in ended(read({"kind": "non-finite", "step": 31}), 40)
    again = ({"kind": "non-finite", "step": 31}, {"kind": "start"}, step(35))
    assert ended(read(*again), 40).startswith("The log has no end"), "it was started again since"
    assert ended(read_log(tmp_path / "none"), 9).startswith("The log holds no lines yet")
    seconds, words = pace(read(), batch_size=5)
    assert seconds == pytest.approx(10 * 5 / 100 + 20 * 5 / 50) and words.startswith("75 in the middle, 55 to 95")
    assert lasted(read(), 61) == "1m01s of steps; the log reaches from 1970-01-01 00:00 to 00:00 UTC"
    assert lasted(read({"kind": "end", "time": 90_000}), 0).endswith("from 1970-01-01 00:00 to 1970-01-02 01:00 UTC")


def test_what_was_set_aside_is_counted_by_reason_and_named_only_where_wanted() -> None:
    lines = [{"sample_id": f"{i}.png", "reason": f"{i}.png is torn", "epoch": 1} for i in range(4)]
    lines += [{"sample_id": "x\n.png", "reason": "empty", "epoch": None}]
    named = asides(lines, paths=True)
    assert [(each.images, each.when, each.reason) for each in named] == [
        (4, "while training", "the image is torn"),
        (1, "before the start", "empty"),
    ]
    assert named[0].examples == ["0.png", "1.png", "2.png"] and named[1].examples == ["x\\n.png"]
    assert all(each.examples == [] for each in asides(lines, paths=False))


def test_a_name_that_is_a_word_of_the_reason_is_no_name_there() -> None:
    lines = [{"sample_id": name, "reason": "the process ended with signal 11", "epoch": 0} for name in ("1", "11", "a")]
    assert [each.reason for each in asides(lines, paths=True)] == ["the process ended with signal 11"]


def test_of_very_many_reasons_the_rest_stand_in_one_line() -> None:
    lines = [{"sample_id": "a", "reason": f"reason {i}", "epoch": 0} for i in range(20_000)]
    found = asides([*lines, lines[-1]], paths=True)
    assert len(found) == MOST_REASONS + 1 and found[0].reason == "reason 19999" and found[0].images == 2
    assert found[-1].reason == f"for {20_000 - MOST_REASONS:,} other reasons, in quarantine.jsonl"
    assert sum(each.images for each in found) == len(lines) + 1


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_of_a_run_can_run_anything(hostile: str) -> None:
    log = logged(step(4, **{"loss": 1.0, hostile: 2.0}), check(0, hostile, hostile, score=1.0))
    cell = Cell(uri(np.zeros((2, 3, 3))), hostile, 9, 6)
    pictures = RunPictures(
        step=hostile,
        sheet=cell.uri,
        attention=[Row(hostile, [cell])],
        components=[Row(hostile, [cell])],
        shares=[0.5],
        notes=[hostile],
    )
    run = run_of(
        hostile,
        log,
        warning=hostile,
        asides=asides([{"sample_id": hostile, "reason": f"of {hostile}!", "epoch": 0}], paths=True),
        pictures=pictures,
        settings=[Setting(hostile, hostile, hostile, True)],
        python=hostile,
        commands=[hostile],
    )
    evaluated = Evaluated(
        [Table(hostile, hostile, [hostile], [(hostile, [(hostile, True)])], [hostile])],
        [Difference(hostile, hostile, hostile, hostile, 1, -1, 3, random) for random in (True, False)],
        [[(hostile, hostile)]],
        [hostile],
    )
    compared = [(hostile, [hostile, hostile])]
    page = page_of(run, run, evaluated=evaluated, compared=compared, title=hostile, held=[(hostile, hostile)])
    elements = check_harmless(page.encode("utf-8", "backslashreplace").decode())
    assert hostile.encode("utf-8", "backslashreplace").decode() in elements.text and "<b onclick" not in page
    assert all(TAGS.fullmatch(tag) for tag, _ in elements.found)
    assert str(7 * 987654321) not in page


def test_curves_of_several_runs_stand_together_over_images_seen() -> None:
    first = run_of("a", logged(step(10, loss=2.0, lr=1.0), step(20, loss=1.0, lr=1.0)))
    second = run_of("b", logged(step(5, loss=3.0, other=1.0), check(5, "healthy", score=1.0)))
    charts = joint_charts([first, second])
    assert [each.title for each in charts] == ["Loss"] and [line.name for line in charts[0].lines] == ["a", "b"]
    assert charts[0].x_name == "images seen" and charts[0].lines[1].dots[0][0] == 46
    assert [tick.text for tick in charts[0].x_ticks] == ["20", "40", "60", "80"]
    assert [each.title for each in charts_of(first)] == ["Loss and its parts", "Learning rate"]
    text = check_harmless(page_of(first, second)).text
    assert "Curves together" in text and "Curves together" not in check_harmless(page_of(first)).text


def test_what_is_missing_is_said() -> None:
    text = check_harmless(page_of(run_of("a", logged()), run_of("b", logged(), is_tokenizer=True))).text
    for words in (
        "No figures yet.",
        "There was no check yet.",
        "a tokenizer has none",
        "The log holds no lines to draw",
    ):
        assert words in text, words
    assert "No two of these runs logged the same figure." in text


def test_differences_are_said_by_their_interval() -> None:
    def words(points: float, low: float, high: float) -> str:
        return Difference("set", "linear", "this encoder", "random", points, low, high, True).words()

    assert words(5, 1, 9) == (
        "linear on set: this encoder is better: +5.0 points [+1.0, +9.0] to random, outside the interval."
    )
    assert "is worse: -5.0" in words(-5, -9, -1) and "shows no difference: +5.0" in words(5, -1, 9)


def test_differences_on_several_sets_say_of_which_they_are() -> None:
    one = Difference("photos", "linear", "this encoder", "raw pixels", 1, 0.5, 2, False)
    both = Evaluated([], [one, one._replace(data="drawings")], [], [])
    text = check_harmless(page_of(run_of("a", logged()), evaluated=both)).text
    assert "photos" in text and "drawings" in text
    assert (
        "photos" not in check_harmless(page_of(run_of("a", logged()), evaluated=both._replace(differences=[one]))).text
    )


def test_values_of_settings_are_written_in_full() -> None:
    values = ((0.25, 1.0), [], True, None, 1e-4, "a", 7)
    assert [*map(shown_value, values)] == ["0.25, 1", "none", "yes", "null", "0.0001", "a", "7"]
