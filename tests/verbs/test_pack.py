"""`contextae pack`: what it says, what it refuses, and what a training may then rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contextae.cli import app
from contextae.data.packed import open_packed
from contextae.errors import UserError
from contextae.verbs.pack import run_pack
from data.packs import bad_ones, deep, photographs

TESTS = Path(__file__).parents[1]


def run(out: Path, data: Path | str | None = None, **options: Any) -> int:
    defaults: dict[str, Any] = {
        "kind": "raw",
        "short_side": 24,
        "workers": 1,
        "settings": [],
        "check": False,
        "untie": False,
    }
    return run_pack(data=None if data is None else str(data), out=out, **defaults | options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = photographs(tmp_path / "source")
    bad_ones(folder)
    return folder


def test_it_says_what_was_found_packed_and_left_out(source: Path, tmp_path: Path, capsys) -> None:
    assert run(tmp_path / "c", source) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"6 images of {source}")
    assert "left out: 2 of 7 found" in said and "  1 truncated file: zz-cut.png" in said
    assert said[-3] == "7 found = 5 packed + 2 left out"
    assert said[-2].startswith(f"Done: {tmp_path}/c, ") and said[-2].endswith(" as raw, short side at most 24")
    assert said[-1] == f"Next: contextae pretrain {tmp_path}/c --out RUN"
    assert run(tmp_path / "c", source) == 0
    assert capsys.readouterr().out.splitlines()[-3].endswith("left out; all was done before")


def test_the_command_takes_every_option(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--as", "jpeg", "--short-side", "20", "--workers", "1", "--set", "data.channels=1"]
    done = CliRunner().invoke(app, ["pack", "source", "--out", "c", *options])
    assert done.exit_code == 0, done.output
    about = open_packed(tmp_path / "c").manifest
    assert (about.kind, about.short_side, about.channels) == ("jpeg", 20, 1)
    assert about.origin and about.origin["path"] == str(source)
    assert CliRunner().invoke(app, ["pack", "--out", "c", "--check"]).exit_code == 0
    assert CliRunner().invoke(app, ["pack", "--out", "c", "--untie"]).exit_code == 0
    assert open_packed(tmp_path / "c").manifest.origin is None


def test_a_check_compares_the_bytes_and_the_source(source: Path, tmp_path: Path, capsys) -> None:
    run(tmp_path / "c", source)
    capsys.readouterr()
    assert run(tmp_path / "c", check=True) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/c is whole: 5 images as raw, all as they were packed",
        f"{source} has not changed since",
    ]
    os.utime(source / "a/000.png", ns=(1, 1))
    with pytest.raises(UserError, match=r"no longer holds what its source holds\..* first a/000\.png\. Pack that"):
        run(tmp_path / "c", check=True)
    source.rename(tmp_path / "moved")
    assert run(tmp_path / "c", check=True) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{source}, its source, cannot be compared with from here"
    assert run(tmp_path / "c", untie=True) == 0
    assert capsys.readouterr().out == f"{tmp_path}/c is no longer compared with {source}\n"
    assert run(tmp_path / "c", check=True) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "it was untied from its source, which was not looked at"
    with pytest.raises(UserError, match=r"/c is untied already\.$"):
        run(tmp_path / "c", untie=True)


def test_what_makes_no_sense_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^DATA is missing: the images to pack"):
        run(tmp_path / "c")
    for options in ({"check": True, "data": source}, {"untie": True, "data": source}, {"check": True, "untie": True}):
        with pytest.raises(UserError, match=r"^--check and --untie are each for a packed cache that is there: give"):
            run(tmp_path / "c", **options)
    for setting in ("crop.flip=0", "data.channels", "channels=3"):
        with pytest.raises(UserError, match=r"^pack takes --set data\.channels=\.\.\. and --set data\.dtype=\.\.\. G"):
            run(tmp_path / "c", source, settings=[setting])
    with pytest.raises(UserError, match=r"^A packed cache is no part of its source, .* lies in .*/source; choose"):
        run(source / "c", source)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UserError, match=r"^A packed cache is no part of its source, .* lies in .*/source; choose"):
        run(tmp_path / "link" / "c", source)
    assert not (tmp_path / "c").exists() and not (source / "c").exists()


def test_one_kind_of_a_mixed_set_is_packed_where_it_is_asked_for(source: Path, tmp_path: Path) -> None:
    deep(source)
    with pytest.raises(UserError, match=r"mixes kinds of images that cannot become one"):
        run(tmp_path / "c", source)
    assert run(tmp_path / "c", source, settings=["data.dtype=uint16"]) == 0
    about = open_packed(tmp_path / "c").manifest
    assert (about.count, about.dtype, about.channels, about.found) == (3, "uint16", 5, 10)


def test_packing_imports_no_torch() -> None:
    code = (
        "import contextae.verbs.pack, sys; "
        "assert 'torch' not in sys.modules, [name for name in sys.modules if 'torch' in name][:3]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
