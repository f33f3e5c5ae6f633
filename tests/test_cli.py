"""The command as a user meets it: help at once, exit codes, one paragraph and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "contextae", *arguments], capture_output=True, text=True, env=environment, cwd=cwd
    )


def test_help_names_the_verbs_and_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['contextae', '--help']\nfrom contextae.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("demo", "pretrain", "evaluate", "reconstruct"):
        assert verb in done.stdout


def test_version() -> None:
    from contextae import __version__

    assert command("--version").stdout.strip() == f"contextae {__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "nowhere", "--out", "run"], "nowhere"),
        (["pretrain", "empty", "--out", "run"], "empty"),
        (["pretrain", "texts", "--out", "run"], "texts"),
        (["evaluate", "nowhere", "--data", "builtin:fashion-mnist"], "nowhere"),
        (["reconstruct", "nowhere"], "nowhere"),
        (["pretrain", "builtin:fashion-mnits", "--out", "run"], "fashion-mnist"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words")
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("Error:") == 1


def test_usage_errors_are_exit_code_2_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert command("pretrain", "--uot", "run").returncode == 2
    assert command("pretrian").returncode == 2
    done = command("--debug", "pretrain", "nowhere", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_a_defect_of_ours_is_exit_code_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from contextae.ending import Reported

    with pytest.raises(SystemExit) as ended, Reported():
        raise RuntimeError("a defect")
    assert ended.value.code == 70 and "defect of contextae" in capsys.readouterr().err


def test_ctrl_c_outside_a_training_is_said_and_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contextae import cli
    from contextae.verbs import reconstruct

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reconstruct, "run_reconstruct", interrupted)
    monkeypatch.setattr(sys, "argv", ["contextae", "reconstruct", "run"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "Stopped at once. What had been saved before is still there." in capsys.readouterr().err
