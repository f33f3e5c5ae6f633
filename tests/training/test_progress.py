"""One line that fits, messages above it, plain lines elsewhere, and a run that outlives its terminal."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from contextae.training import progress as module
from contextae.training.progress import Progress, duration, progress_line, say_on_stderr

FIELDS = {
    "loss": 0.512345,
    "reconstruction": 0.401234,
    "alignment": 0.111111,
    "gradient_norm": 1.5,
    "epoch": 2.25,
    "lr": 1e-3,
    "images_per_s": 1234.5,
    "waiting": 0.034,
    "seconds_left": 3723.0,
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def plain(encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    return Console(file=io.TextIOWrapper(raw, encoding, write_through=True)), raw


def screen(text: str) -> list[str]:
    """The lines a terminal shows after all of that was written to it."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\n|\r)", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif part and not part.startswith("\x1b") and part != "\r":
            lines[row] = part + lines[row][len(part) :]
    return lines


def test_the_line_says_where_the_run_stands() -> None:
    assert progress_line(1234, 5000, 12, FIELDS) == (
        "epoch 3/12  step 1,234/5,000  loss 0.5123  (reconstruction 0.4012, alignment 0.1111)  1,234 images/s  "
        "waiting 3%  1h02m left"
    )
    assert progress_line(1, 5, 1, {}) == "step 1/5"


@pytest.mark.parametrize(("epoch", "shown"), [(0.0001, 1), (1.0, 1), (1.0001, 2), (12.0, 12)])
def test_the_epoch_is_the_one_under_way(epoch: float, shown: int) -> None:
    assert progress_line(1, 5, 12, {"epoch": epoch}).startswith(f"epoch {shown}/12 ")


def test_what_matters_least_goes_first_where_it_is_narrow() -> None:
    assert progress_line(1234, 5000, 12, FIELDS, 79) == (
        "epoch 3/12  step 1,234/5,000  loss 0.5123  1,234 images/s  1h02m left"
    )
    assert progress_line(1234, 5000, 12, FIELDS, 50) == "epoch 3/12  step 1,234/5,000  loss 0.5123"
    assert progress_line(1234, 5000, 12, FIELDS, 10) == "epoch 3/12"
    for width in range(1, 140):
        assert len(progress_line(1234, 5000, 12, FIELDS, width)) <= width


def test_numbers_that_are_none_do_not_stop_the_line() -> None:
    line = progress_line(1, 5, 12, {**FIELDS, "loss": math.nan, "seconds_left": math.inf, "waiting": math.nan})
    assert "loss nan" in line and "? left" in line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (45.4, "45s"), (59.6, "1m00s"), (750, "12m30s"), (3900, "1h05m"), (273_600, "3d04h"), (math.nan, "?")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_plain_lines_come_at_once_then_now_and_then_and_at_the_end(clock: Clock) -> None:
    console, raw = plain()
    with Progress(total_steps=100, epochs=12, interval=10, console=console) as progress:
        for step in range(1, 26):
            progress.update(step, FIELDS)
            clock.now += 1
    shown = [int(re.search(r"step (\d+)/100", line)[1]) for line in raw.getvalue().decode().splitlines()]
    assert shown == [1, 11, 21, 25]
    assert b"\x1b" not in raw.getvalue()
    assert "reconstruction" in raw.getvalue().decode().splitlines()[0]  # no width to fit


def test_the_last_plain_line_is_not_shown_twice(clock: Clock) -> None:
    console, raw = plain()
    with Progress(total_steps=100, epochs=12, console=console) as progress:
        progress.update(1, FIELDS)
    assert len(raw.getvalue().splitlines()) == 1


def test_a_terminal_shows_one_line_with_messages_above_it(clock: Clock) -> None:
    console = terminal()
    with Progress(total_steps=5000, epochs=12, console=console) as progress:
        for step in range(1, 8):
            progress.update(step, FIELDS)
            clock.now += 0.2
            if step == 3:
                progress.say("the first message")
            if step == 5:
                progress.say("the second " + "long " * 30)
    lines = screen(console.file.getvalue())
    assert lines[0] == "the first message"
    assert lines[1] == "the second " + "long " * 30
    assert lines[2] == "epoch 3/12  step 7/5,000  loss 0.5123  1,234 images/s  waiting 3%  1h02m left"
    assert "".join(lines[3:]) == ""


def test_a_terminal_is_redrawn_ten_times_a_second_and_at_the_end(clock: Clock) -> None:
    console = terminal()
    with Progress(total_steps=5000, epochs=12, console=console) as progress:
        for step in range(1, 1001):
            progress.update(step, FIELDS)
            clock.now += 0.001
    drawn = set(re.findall(r"step ([\d,]+)/5,000", console.file.getvalue()))
    assert "1" in drawn and "1,000" in drawn and len(drawn) <= 12


@pytest.mark.parametrize("width", [20, 79, 80, 200])
def test_no_line_is_wider_than_the_terminal(clock: Clock, width: int) -> None:
    console = terminal(width)
    with Progress(total_steps=5000, epochs=12, console=console) as progress:
        progress.update(1234, FIELDS)
    assert all(len(line) < width for line in screen(console.file.getvalue()))


def test_the_cursor_is_back_after_an_error(clock: Clock) -> None:
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Progress(total_steps=5, epochs=1, console=console) as progress:
        progress.update(1, FIELDS)
        raise KeyboardInterrupt
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")
    progress.say("after")
    assert console.file.getvalue().endswith("after\n")


def test_quiet_shows_nothing() -> None:
    console = terminal()
    with Progress(total_steps=5, epochs=1, quiet=True, console=console) as progress:
        progress.update(1, FIELDS)
        progress.say("nothing")
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "é 猫 \\udcff.png"), ("latin-1", "é \\u732b \\udcff.png"), ("ascii", "\\xe9 ")]
)
def test_names_reach_any_terminal(encoding: str, shown: str) -> None:
    console, raw = plain(encoding)
    Progress(total_steps=5, epochs=1, console=console).say("é 猫 \udcff.png [bold] :smile:")
    assert raw.getvalue().decode(encoding).startswith(shown)
    assert raw.getvalue().decode(encoding).endswith("[bold] :smile:\n")


def test_names_do_not_command_the_terminal() -> None:
    console, raw = plain()
    Progress(total_steps=5, epochs=1, console=console).say("two\nlines \x1b[2J \x07 \r \x9b31m \u202etxt.exe")
    assert raw.getvalue().decode() == "two\nlines \\x1b[2J \\x07 \\r \\x9b31m \\u202etxt.exe\n"


def test_it_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total_steps=5, epochs=1) as progress:
        progress.update(1, FIELDS)
        progress.say("said")
    say_on_stderr("said too")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[1:] == ["said", "said too"]


RUN = """
import sys
from contextae.training.progress import Progress
with Progress(total_steps=9, epochs=1, interval=0) as progress:
    for step in range(1, 10):
        progress.update(step, {"loss": 0.5, "epoch": step / 9})
        progress.say("x" * 100)
        print(f"result {step}")
"""


def run(code: str, **given) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "80"}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False, **given)


RESULTS = b"".join(b"result %d\n" % step for step in range(1, 10))


def test_a_reader_that_leaves_does_not_end_the_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = run(RUN, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert (ended.returncode, ended.stdout) == (0, RESULTS)


@pytest.mark.parametrize(
    "close", ["import os; os.close(2)", "import sys; sys.stderr.close()", "import sys; sys.stderr=None"]
)
def test_a_closed_standard_error_does_not_end_the_run(close: str) -> None:
    ended = run(f"{close}\n{RUN}", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout) == (0, RESULTS)


def test_a_full_disk_behind_standard_error_does_not_end_the_run() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run(RUN, stdout=subprocess.PIPE, stderr=full)
    assert (ended.returncode, ended.stdout) == (0, RESULTS)


@pytest.mark.parametrize("results", ["terminal", "pipe"])
def test_on_a_real_terminal_results_in_a_pipe_stay_apart(results: str) -> None:
    main, side = pty.openpty()
    ended = run(RUN, stdout=side if results == "terminal" else subprocess.PIPE, stderr=side, stdin=side)
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # its end
            break
        shown += part
    os.close(main)
    assert ended.returncode == 0
    lines = screen(shown.decode().replace("\r\n", "\n"))
    wanted = []
    for step in range(1, 10):
        wanted += ["x" * 100, f"result {step}"] if results == "terminal" else ["x" * 100]
    assert [line for line in lines if line] == [*wanted, "epoch 1/1  step 9/9  loss 0.5"]
    if results == "pipe":
        assert (ended.returncode, ended.stdout) == (0, RESULTS)


def test_a_terminal_that_hangs_up_does_not_end_the_run(tmp_path: Path) -> None:
    main, side = pty.openpty()
    mark = tmp_path / "done"
    code = f"import sys\nsys.stdin.readline()\n{RUN}\nopen({str(mark)!r}, 'w').close()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    os.close(main)
    process.communicate(b"go\n", timeout=60)
    assert mark.exists()
