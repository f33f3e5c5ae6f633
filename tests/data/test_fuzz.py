"""A quick round of benchmarks/fuzz.py: damaged files of five formats, and some that end the process that reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from contextae.data.decode import decode, probe
from contextae.data.each import STANDBY
from contextae.data.facts import Refusal

COUNT, DEADLY = 1_500, 4


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, under the name by which other processes find it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import fuzz

    yield fuzz
    STANDBY.close()
    del sys.modules["fuzz"]


def test_the_files_are_a_function_of_their_number_and_the_seed(fuzz: ModuleType) -> None:
    first = list(fuzz.mutants(60, 0))
    assert first == list(fuzz.mutants(80, 0))[:60]
    assert sum(a[2] != b[2] for a, b in zip(first, fuzz.mutants(60, 1), strict=True)) > 55
    assert {origin.format for _, origin, _ in first} == {
        "JPEG",
        "PNG",
        "WebP",
        "TIFF",
        "GIF",
        "16-bit PNG",
        "16-bit TIFF",
    }
    assert sum(data == origin.data for _, origin, data in first) < 6


def test_what_they_are_made_of_is_sound(fuzz: ModuleType) -> None:
    for seed in fuzz.seeds():
        fact = probe(seed.data)
        image = decode(seed.data, channels=fact.channels, dtype=fact.dtype)
        assert image.shape[:2] in ((fuzz.HEIGHT, fuzz.WIDTH), (fuzz.WIDTH, fuzz.HEIGHT))
        assert (image.dtype == "uint16") == seed.format.startswith("16-bit")


def test_checksums_of_png_are_made_to_fit(fuzz: ModuleType) -> None:
    (sound, *_) = (seed.data for seed in fuzz.seeds() if seed.format == "PNG")
    assert fuzz.with_checksums(sound) == sound
    assert fuzz.with_checksums(sound[:29] + b"wrong" + sound[34:]) != sound
    assert fuzz.with_checksums(sound[:29] + b"\0\1\2\3" + sound[33:]) == sound


@pytest.mark.slow
def test_none_ends_the_training_and_each_death_has_its_file(
    fuzz: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = fuzz.write_files(tmp_path, COUNT, 0, DEADLY)
    outcome = fuzz.fuzzed(tmp_path, names)
    assert fuzz.wrong(outcome, names) == []
    dead = [name for name in names if fuzz.died(outcome.pixels[name])]
    assert sorted(dead) == sorted(name for name in names if fuzz.DEADLY in name) and len(dead) == DEADLY
    for kind in {Path(name).parts[0] for name in names}:
        refused = {isinstance(outcome.pixels[name], Refusal) for name in names if name.startswith(kind)}
        assert refused == {True, False}, kind
    fuzz.report(outcome, names)
    assert "DEADLY" not in capsys.readouterr().out


def test_a_wrong_judgement_is_noticed(fuzz: ModuleType) -> None:
    photograph, deep = (3, "uint8", True), (1, "uint16", False)
    ended, damaged = Refusal(f"{fuzz.ENDED} ended with signal 11"), Refusal("damaged pixels")
    cases = {
        "sound": (photograph, (53, 71, 3), None, False),
        "refused": (damaged, damaged, "damaged pixels", False),
        "another kind": (deep, (53, 71, 1), "1 channel(s) of uint16, where 3 of uint8 are used", False),
        "stricter": (photograph, (53, 71, 3), "damaged pixels", False),
        f"{fuzz.DEADLY} found": (photograph, ended, ended.reason, False),
        f"{fuzz.DEADLY} not found": (photograph, (53, 71, 3), None, True),
        "trained on": (photograph, damaged, None, True),
        "pixels without a header": (damaged, (53, 71, 3), "damaged pixels", True),
        "lost": (photograph, (53, 71, 3), "empty file", True),
        "taken for a photograph": (deep, (53, 71, 1), None, True),
    }
    for name, (head, pixels, aside, is_wrong) in cases.items():
        quarantine = {name: aside} if aside else {}
        outcome = fuzz.Outcome({name: head}, {name: pixels}, {name: pixels}, quarantine, (0.0,) * 4)
        assert bool(fuzz.wrong(outcome, [name])) == is_wrong, name
    for reason, is_wrong in (("damaged pixels", False), ("empty file", True)):
        tiles: dict[str, object] = {"a": Refusal(reason)}
        outcome = fuzz.Outcome({"a": photograph}, {"a": (53, 71, 3)}, tiles, {}, (0.0,) * 4)
        assert bool(fuzz.wrong(outcome, ["a"])) == is_wrong
