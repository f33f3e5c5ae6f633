"""The verb: what it says, writes and refuses; Ctrl-C keeps what it has."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from audit.made_set import encoded, image
from contextae.audit.manifest import MANIFEST, Manifest, read_record
from contextae.audit.survey import Survey
from contextae.data.sources import open_index
from contextae.data.sources.listing import Listing
from contextae.errors import UserError
from contextae.verbs import audit as verb
from contextae.verbs.audit import PAGE, Looking, run_audit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 images, the last equal to the first; a broken one."""
    made = tmp_path / "my set"
    made.mkdir()
    for i in range(30):
        (made / f"{i:02d}.png").write_bytes(encoded(image(i if i < 29 else 0)))
    (made / "broken.jpg").write_bytes(b"text")
    return made


def test_the_summary_is_short_and_ends_in_a_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_audit(data=[str(folder)], out=out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"30 images of {folder} can be used, of 31 found"
    assert said[1].startswith("  30 PNG, ") and said[1].endswith("; 3 channel(s) of uint8")
    assert said[2] == "  height x width: 40 x 48 the smallest, 40 x 48 the median, 40 x 48 the largest"
    assert said[3:5] == ["left out", "  1 not an image, or its header is damaged: broken.jpg"]
    assert said[5:7] == ["to mind", "  1 equal to an earlier one, pixel for pixel: 29.png"]
    assert said[-2] == f"Done: {out / PAGE}, {out / MANIFEST}"
    assert (
        said[-1]
        == f"Next: contextae pretrain '{folder}' --manifest {out / MANIFEST} --exclude exact-duplicates --out RUN"
    )
    assert len(said) < 16


def test_against_another_set(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for i, name in enumerate(("a.png", "b.png")):
        (other / name).write_bytes(encoded(image(i)))
    (other / "c.jpg").write_bytes(encoded(image(2), "JPEG", quality=80))
    (other / "d.png").write_bytes(encoded(image(77)))
    (other / "e.png").write_bytes(b"")
    out = tmp_path / "out"
    assert run_audit(data=[str(folder)], out=out, against=str(other)) == 0
    said = capsys.readouterr().out
    assert f"of 4 images of {other} that can be used, of 5 found, 2 are equal to one of these, and 1 more near" in said
    assert "--exclude exact-duplicates --exclude exact-overlap --exclude near-overlap --out RUN" in said
    lines = [json.loads(line) for line in (out / "overlap.jsonl").read_text().splitlines()]
    pairs = {(line["finding"], line["image"], line["other"]) for line in lines}
    assert pairs == {
        ("exact-overlap", "00.png", "a.png"),
        ("exact-overlap", "29.png", "a.png"),
        ("exact-overlap", "01.png", "b.png"),
        ("near-overlap", "02.png", "c.jpg"),
    }
    record = read_record(out / MANIFEST)
    assert record.against and (record.against.exact, record.against.near) == (3, 1)
    assert (record.against.other_exact, record.against.other_near) == (2, 1)


def test_several_sources_are_looked_at_together(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(encoded(image(50)))
    data = [f"{folder}=2", str(other)]
    assert run_audit(data=data, out=tmp_path / "out", pictures=False) == 0
    manifest = Manifest(tmp_path / "out")
    index = open_index(data)
    assert manifest.record.used == 31 == len(manifest.apply(index).images)
    assert len(manifest.apply(index, ["exact-duplicates"]).images) == 30


def test_without_paths_the_output_names_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_audit(data=[str(folder)], out=out, paths=False) == 0
    said = capsys.readouterr().out
    assert said.startswith("30 images of the set can be used, of 31 found")
    assert "  1 not an image, or its header is damaged\n" in said and "pixel for pixel: image 30" in said
    assert "29.png" not in said and "Next: contextae pretrain DATA --manifest manifest.json" in said


def test_a_folder_with_something_in_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--out is a new or empty folder"):
        run_audit(data=[str(folder)], out=folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        run_audit(data=[str(folder)], out=tmp_path / "file" / "out")


def test_a_disk_that_is_full_is_the_users(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(verb, "write_manifest", full)
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            run_audit(data=[str(folder)], out=tmp_path / "out")
    assert run_audit(data=[str(folder)], out=tmp_path / "out") == 0, "the same command, with room"


def test_a_stop_in_the_first_set_leaves_the_other_unseen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = []

    def stopped(listing: object, **options: object) -> Survey:
        seen = whole(listing, **options)  # type: ignore[arg-type]
        looked.append(listing)
        os.kill(os.getpid(), signal.SIGTERM)
        return seen

    whole = verb.survey
    monkeypatch.setattr(verb, "survey", stopped)
    assert run_audit(data=[str(folder)], out=tmp_path / "out", against=str(folder)) == 143
    assert len(looked) == 1 and read_record(tmp_path / "out" / MANIFEST).against is None
    assert "what was seen until now is written; the other set was not looked at." in capsys.readouterr().err


def test_a_stop_in_the_other_set_is_said_and_suggests_nothing_that_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked: list[Survey] = []

    def stopped(listing: Listing, **options: Any) -> Survey:
        seen = whole(listing, **options)
        looked.append(seen)
        if len(looked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            return dataclasses.replace(seen, rows=seen.rows[:10])
        return seen

    whole, out = verb.survey, tmp_path / "out"
    monkeypatch.setattr(verb, "survey", stopped)
    assert run_audit(data=[str(folder)], out=out, against=str(folder)) == 130
    said = capsys.readouterr()
    assert f"of 10 images of {folder}, those seen before the stop, 10 are equal to one of these" in said.out
    assert said.out.splitlines()[-1].endswith("--exclude exact-duplicates --out RUN")
    assert len(Manifest(out).apply(open_index(str(folder)), ["exact-duplicates"]).images) == 29
    page = (out / PAGE).read_text()
    assert "exact-duplicates</code> leaves" in page and "exact-overlap</code> leaves" not in page


SLOW = """
import sys, time
from contextae.cli import main
from contextae.verbs import audit

def slow(self, done, total):
    print("seen", done, flush=True)
    time.sleep(0.5)

audit.Looking.count = slow
sys.argv = ["contextae", "audit", *sys.argv[1:]]
main()
"""
"""The command, with a rest after every part."""


def test_ctrl_c_keeps_what_was_seen(tmp_path: Path) -> None:
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for i in range(200):
        (many / f"{i:03d}.png").write_bytes(encoded(image(i)))
    command = [sys.executable, "-c", SLOW, str(many), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline().startswith("seen 32")
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    record = read_record(out / MANIFEST)
    assert not record.complete and 32 <= record.seen < 200 and record.found == 200 and record.used == record.seen
    assert f"STOPPED after {record.seen} images" in said and "Next:" not in said and (out / PAGE).is_file()
    with pytest.raises(UserError, match=f"was stopped after {record.seen} images"):
        Manifest(out)


def test_progress_has_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Looking("looking at x") as looking:
        now[0] += 20
        looking.count(100, 400)  # type: ignore[attr-defined]
        looking.count(101, 400)  # type: ignore[attr-defined]
    assert capsys.readouterr().err == "looking at x 100/400  5 images/s  1m00s left\n"


def test_the_command_knows_it(folder: Path, tmp_path: Path) -> None:
    arguments = ["audit", str(folder), "--out", str(tmp_path / "out"), "--no-pictures", "--no-paths"]
    done = subprocess.run([sys.executable, "-m", "contextae", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "can be used" in done.stdout and "data:image" not in (tmp_path / "out" / PAGE).read_text()
