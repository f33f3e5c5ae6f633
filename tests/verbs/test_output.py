"""Where a file cannot be written: said before the work where that can be known, and never as a defect of ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contextae.errors import UserError
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.output import check_output, writing
from contextae.verbs.reconstruct import run_reconstruct


def test_a_file_that_can_be_written_passes_and_is_not_touched(tmp_path: Path) -> None:
    check_output(tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_output(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"


def test_a_folder_is_refused_and_so_is_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^--out is the file to write\. {tmp_path} is a folder; name a file in it"):
        check_output(tmp_path)
    with pytest.raises(UserError, match=rf"There is no folder {tmp_path}/none; create it or choose another\.$"):
        check_output(tmp_path / "none" / "t.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"There is no folder {tmp_path}/file;"):
        check_output(tmp_path / "file" / "t.json")


def test_what_this_user_may_not_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a disk that is mounted to be read only, which `access` knows of."""
    (tmp_path / "old.json").write_text("old")
    refused: list[Path] = []
    monkeypatch.setattr(os, "access", lambda path, mode: refused.append(path) or mode != os.W_OK)
    for name, place in (("new.json", tmp_path), ("old.json", tmp_path / "old.json")):
        with pytest.raises(
            UserError, match=rf"^--out must be writable\. {place} is not, for this user; choose another"
        ):
            check_output(tmp_path / name)
    assert refused == [tmp_path, tmp_path / "old.json"]


def test_a_place_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written: File name too long\. Mend that, or choose another place"):
        check_output(tmp_path / f"{300 * 'a'}.json")


def test_a_full_disk_is_said_in_one_paragraph() -> None:
    full = Path("/dev/full")
    with (
        pytest.raises(UserError, match=r"^/dev/full cannot be written: No space left on device\. Mend that"),
        writing(full),
    ):
        full.write_text("words")


@pytest.mark.parametrize("name", ["folder.png", "none/a.png"])
def test_verbs_refuse_out_before_they_look_at_weights_or_images(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"is a folder|There is no folder"):
        run_reconstruct(
            weights=tmp_path / "nowhere", images=[], out=tmp_path / name, checkpoint="last", count=1, seed=0
        )
    with pytest.raises(UserError, match=r"is a folder|There is no folder"):
        run_evaluate(
            weights=tmp_path / "nowhere", data="", protocols="", checkpoint="last", seeds=1, out=tmp_path / name
        )
