"""Files that hold many images are listed in a process that may die of one: that file alone is to blame."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import openings
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextae.data.each import STANDBY
from contextae.data.index import LeftOut
from contextae.data.pool import LoaderDefectError
from contextae.data.sources import open_index, open_labelled
from contextae.data.sources.find import list_source
from contextae.data.sources.opening import open_apart
from contextae.errors import UserError
from data.archives import tar_bytes, zip_bytes
from data.endings import gone
from data.pictures import encoded

PNG = [encoded(seed) for seed in range(6)]
DEADLY = "deadly"
"What a file is called whose listing ends its process."
SITE = """
import os
import sys

class Deadly:
    \"\"\"Ends a process of ours when it opens a file of that name, as a library does that it makes crash.\"\"\"

    def __call__(self, event, arguments):
        if event == "open" and "deadly" in str(arguments[0]) and "contextae.data.worker" in sys.modules:
            os.abort()

sys.addaudithook(Deadly())
"""


@pytest.fixture(autouse=True)
def _own_processes(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))
    STANDBY.close()
    yield
    STANDBY.close()


@pytest.fixture
def _planted(monkeypatch, tmp_path) -> None:
    """Processes that are started from here on die of every file with the deadly name; this one would not notice."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def opened(*names: str, **options: float) -> tuple[list[str], dict[int, str]]:
    (found, _), bad = open_apart(partial(openings.read, names), names, **options)
    return found, bad


def test_what_is_read_comes_from_another_process_which_is_used_again() -> None:
    (found, first), bad = open_apart(partial(openings.read, ("a", "b")), ["a", "b"])
    assert (found, bad) == (["a", "b"], {}) and first != os.getpid()
    (_, second), _ = open_apart(partial(openings.read, ("c",)), ["c"])
    with pytest.raises(UserError, match=r"^user is for the user to mend\.$"):
        opened("user")
    (_, third), _ = open_apart(partial(openings.read, ("c",)), ["c"])
    assert first == second == third
    STANDBY.close()
    assert gone(first)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("segfault", "ended with signal 11"),
        ("abort", "ended with signal 6"),
        ("exit", "ended with exit code 7"),
    ],
)
def test_files_that_end_their_process_are_told_from_the_others(name: str, reason: str) -> None:
    reason = f"the process that read it {reason}"
    assert opened("a", f"{name}1", "b", f"{name}2") == (["a", "b"], {1: reason, 3: reason})


def test_a_file_that_takes_absurd_memory_or_is_gone_costs_itself_alone() -> None:
    found, bad = opened("greedy1", "a", "gone", "b", "greedy2")
    much = "not enough memory to decode it"
    assert (found, bad) == (["a", "b"], {0: much, 2: "cannot be read (No such file or directory)", 4: much})


def test_silence_is_ended_and_what_gives_signs_of_life_is_waited_for() -> None:
    silent = "the process that read it gave no answer for 0.6 s"
    assert opened("slow", "hang", "a", timeout=0.6) == (["slow", "a"], {1: silent})


def test_a_defect_of_ours_is_no_fault_of_a_file() -> None:
    with pytest.raises(LoaderDefectError, match="ZeroDivisionError"):
        opened("a", "defect")
    assert opened("a") == (["a"], {})


@pytest.mark.usefixtures("_planted")
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_an_archive_that_ends_the_process_is_left_out_by_name(tmp_path, suffix: str) -> None:
    made = tar_bytes if suffix == ".tar" else zip_bytes
    for i, name in enumerate(("a", DEADLY, "z")):
        (tmp_path / f"{name}{suffix}").write_bytes(made([("0.png", PNG[i])]))
    for _ in range(2):  # the second time a table of the others is there
        index = open_index(str(tmp_path))
        assert list(index.ids) == [f"a{suffix}/0.png", f"z{suffix}/0.png"]
        assert [index.read(i) for i in range(2)] == [PNG[0], PNG[2]]
        reason = "the process that read it ended with signal 6"
        assert [entry for entry in index.left_out if DEADLY in entry.path] == [LeftOut(f"{DEADLY}{suffix}", reason)]
    with pytest.raises(UserError, match=rf"holds no images that can be read\. .*; 1 {reason}: {DEADLY}\{suffix}\. "):
        list_source(str(tmp_path / f"{DEADLY}{suffix}"))


def rows(path: Path) -> Path:
    labels = [0, 1, 0, 1, 0, 1]
    pq.write_table(pa.table({"image": PNG, "label": labels}), path)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
@pytest.mark.usefixtures("_planted")
def test_an_array_that_ends_the_process_is_refused_by_name(tmp_path, kind: str) -> None:
    stack = np.zeros((3, 5, 7), np.uint8)
    path = tmp_path / f"{DEADLY}.{'npy' if kind == 'npy' else 'npz'}"
    if kind == "npy":
        np.save(path, stack)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, a=stack)
    with pytest.raises(
        UserError, match=rf"{path.name} cannot be read as NumPy's arrays: .* ended with signal 6\. Mend it, or take it"
    ):
        list_source(str(path))


@pytest.mark.usefixtures("_planted")
@pytest.mark.parametrize("opener", [open_index, open_labelled])
def test_rows_that_end_the_process_are_refused_by_the_name_of_their_file(tmp_path, opener) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    rows(folder / "a.parquet")
    assert len(open_index(str(folder))) == 6
    rows(folder / f"{DEADLY}.parquet")
    with pytest.raises(
        UserError,
        match=rf"rows/{DEADLY}\.parquet cannot be read as Parquet: the process that read it ended with signal 6\. "
        r"Mend it, or take it out of the set\.$",
    ):
        opener(str(folder))


def test_a_directory_that_takes_absurd_memory_is_not_read_here(tmp_path) -> None:
    """Its length is of a field that lies: nothing of that size is taken."""
    data = bytearray(zip_bytes([("0.png", PNG[0])]))
    end = data.rfind(b"PK\5\6")
    data[end + 12 : end + 16] = b"\xff\xff\xff\x7f"
    (tmp_path / "a.zip").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("1.png", PNG[1])
    assert list(open_index(str(tmp_path)).ids) == ["b.zip/1.png"]
