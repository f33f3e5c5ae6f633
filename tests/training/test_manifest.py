"""The manifest proves itself, each thing wrong has its own words, and past formats stay readable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import assert_of_one_step, save

from contextae.training.checkpoint import Checkpoints
from contextae.training.manifest import LARGEST, NAME, Damaged, FileFacts, read_manifest, verify
from contextae.training.saved import read_checkpoint
from contextae.training.weights import load_weights

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = save(Checkpoints(tmp_path, say=lambda _: None), 7, score=0.25)
    assert path
    return path


def rewrite(folder: Path, change: dict[str, Any]) -> None:
    """As a program would that knows the format and seals what it writes."""
    content = {**json.loads((folder / NAME).read_bytes()), **change}
    del content["sha256"]
    seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    (folder / NAME).write_text(json.dumps({**content, "sha256": seal}, indent=1) + "\n")


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("format_*/step-*")), ids=lambda path: path.parent.name)
def test_checkpoints_of_every_past_format_still_load(path: Path) -> None:
    assert_of_one_step(read_checkpoint(path), 7)
    tensors, metadata = load_weights(path / "weights.safetensors")
    assert metadata["contextae"] == path.parent.name.removeprefix("format_")
    assert len(tensors) == 2


def test_the_fixture_of_the_first_format_is_there() -> None:
    assert (FIXTURES / "format_1" / "step-00000007" / NAME).is_file()


def test_the_manifest_holds_step_score_sizes_and_hashes(folder: Path) -> None:
    manifest = verify(folder)
    data = (folder / "state.json").read_bytes()
    assert (manifest.step, manifest.score) == (7, 0.25)
    assert manifest.files["state.json"] == FileFacts(len(data), hashlib.sha256(data).hexdigest())
    assert json.loads((folder / NAME).read_bytes())["format"] == 1


@pytest.mark.parametrize("bits", [[5], pytest.param([0, 1, 2, 3, 4, 6, 7], marks=pytest.mark.slow)], ids=str)
def test_every_flipped_bit_of_a_manifest_is_noticed(folder: Path, bits: list[int]) -> None:
    """Bit 5 is the one between a small and a capital letter."""
    data = (folder / NAME).read_bytes()
    for place in range(len(data)):
        for bit in bits:
            (folder / NAME).write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises(Damaged):
                read_manifest(folder)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("state.json", None, "state.json is missing"),
        ("state.json", b"", "state.json has 0 bytes instead of 83"),
        ("state.json", b"?" * 83, "state.json was altered: its sha256 is not the recorded one"),
        (NAME, None, "manifest.json is missing, so it was never completed"),
        (NAME, b"", "manifest.json is not readable as JSON"),
        (NAME, b"[1]", "manifest.json is not readable as JSON with a format version"),
        (NAME, b"[" * 100_000, "manifest.json is not readable as JSON"),
        (NAME, b"\xff{}", "manifest.json is not readable as JSON"),
        (NAME, b'{"format": 2}', "manifest.json has format version 2; this version of contextae reads 1"),
        (NAME, b'{"format": 1, "step": NaN}', "manifest.json was altered: it does not agree with its own sha256"),
        (NAME, b" " * (LARGEST + 1), "manifest.json is not readable as JSON"),
    ],
)
def test_each_damage_has_its_words(folder: Path, name: str, data: bytes | None, words: str) -> None:
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    with pytest.raises(Damaged, match=words):
        verify(folder)


@pytest.mark.parametrize("name", ["state.json", NAME])
def test_what_cannot_be_read_has_its_words(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(Damaged, match=f"{name} cannot be read: Is a directory"):
        verify(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": {}}, "manifest.json does not list weights.safetensors"),
        ({"files": []}, "manifest.json lacks what format 1 says"),
        ({"files": {"state.json": {"size": 1}}}, "manifest.json lacks what format 1 says"),
        ({"step": None}, "manifest.json lacks what format 1 says"),
        ({"score": "high"}, "manifest.json lacks what format 1 says"),
        ({"step": 10**400}, None),
    ],
)
def test_a_sealed_manifest_must_still_say_what_the_format_says(
    folder: Path, change: dict[str, Any], words: str | None
) -> None:
    rewrite(folder, change)
    if words:
        with pytest.raises(Damaged, match=words):
            read_manifest(folder)
    else:
        assert read_manifest(folder).step == 10**400


def test_other_files_in_the_folder_are_nobodys_concern(folder: Path) -> None:
    (folder / "batch.safetensors").write_bytes(b"of a bundle")
    assert_of_one_step(read_checkpoint(folder), 7)


def test_a_state_that_is_no_json_is_damage_even_when_its_hash_agrees(folder: Path) -> None:
    (folder / "state.json").write_bytes(b"{")
    facts = {"size": 1, "sha256": hashlib.sha256(b"{").hexdigest()}
    rewrite(folder, {"files": {**json.loads((folder / NAME).read_bytes())["files"], "state.json": facts}})
    with pytest.raises(Damaged, match=r"state.json cannot be read: Expecting"):
        read_checkpoint(folder)
