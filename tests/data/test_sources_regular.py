"""What is no file keeps nobody waiting: a pipe without a writer is refused at once, in every kind of source."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from contextae.data.facts import BadImage
from contextae.data.index import LeftOut
from contextae.data.sources import open_index
from contextae.data.sources.find import list_source
from contextae.data.sources.folder import LARGE, Files
from contextae.data.sources.handles import Handles
from contextae.data.sources.npy import header_of
from contextae.data.sources.regular import NOT_A_FILE, check_regular, descriptor, open_regular, read_regular
from contextae.errors import UserError
from data.pictures import write

OPENERS = (descriptor, open_regular, read_regular, check_regular)


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """A test that would wait for ever ends instead: SIGALRM ends its process unless it is over by then."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def bound(path: Path) -> Path:
    """A socket of the file system, which stays when nobody listens any more."""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
    return path


@pytest.mark.parametrize("opener", OPENERS)
def test_what_is_no_file_is_not_opened(tmp_path, opener: Callable[[Path], object]) -> None:
    for path in (pipe(tmp_path / "a.png"), bound(tmp_path / "b.png"), Path(os.devnull), Path("/dev/zero")):
        with pytest.raises(OSError, match=NOT_A_FILE):
            opener(path)
    with pytest.raises(IsADirectoryError):
        opener(tmp_path)
    with pytest.raises(FileNotFoundError):
        opener(tmp_path / "c.png")


def test_nothing_stays_open_that_was_refused(tmp_path) -> None:
    path = pipe(tmp_path / "a.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for opener in OPENERS:
        with pytest.raises(OSError, match=NOT_A_FILE):
            opener(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_list_may_name_pipes_sockets_and_devices(tmp_path) -> None:
    write(tmp_path / "good.png")
    pipe(tmp_path / "pipe.png")
    bound(tmp_path / "socket.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("pipe.png")
    names = ("good.png", "pipe.png", "socket.png", "folder.png", "link.png", "/dev/zero")
    (tmp_path / "list.txt").write_text("\n".join(names))
    index = open_index(str(tmp_path / "list.txt"))
    assert list(index.ids) == ["good.png"]
    assert index.left_out == [
        LeftOut("/dev/zero", NOT_A_FILE),
        LeftOut("folder.png", "cannot be read (Is a directory)"),
        *(LeftOut(name, NOT_A_FILE) for name in ("link.png", "pipe.png", "socket.png")),
    ]


def test_a_folder_names_them_behind_links_too(tmp_path) -> None:
    write(tmp_path / "good.png")
    pipe(tmp_path / "pipe.png")
    bound(tmp_path / "socket.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    index = open_index(str(tmp_path))
    names = ("device.png", "link.png", "pipe.png", "socket.png")
    assert index.left_out == [LeftOut("broken.png", "broken link"), *(LeftOut(name, NOT_A_FILE) for name in names)]


def test_a_file_that_became_a_pipe_is_a_bad_image(tmp_path) -> None:
    pipe(tmp_path / "a.png")
    source = Files(str(tmp_path))
    for look in (source.read, source.probe):
        with pytest.raises(BadImage, match=f"^{NOT_A_FILE}$"):
            look("a.png")
    with pytest.raises(BadImage, match=f"^{NOT_A_FILE}$"):
        Handles(str(tmp_path), ["a.png"], [(0, 0)]).read(0, 0, 1)


def test_a_large_file_that_became_a_pipe_is_not_waited_for(tmp_path) -> None:
    with (tmp_path / "a.tif").open("wb") as stream:
        stream.truncate(LARGE + 1)
    parts = Files(str(tmp_path)).open_parts("a.tif")
    assert parts is not None
    (tmp_path / "a.tif").unlink()
    pipe(tmp_path / "a.tif")
    with pytest.raises(OSError, match=NOT_A_FILE):
        parts.read(1)


@pytest.mark.parametrize("suffix", [".txt", ".tar", ".zip", ".parquet", ".arrow", ".npy", ".npz", ".png", ""])
def test_one_that_is_named_itself_is_refused(tmp_path, suffix: str) -> None:
    with pytest.raises(UserError, match=rf"images{suffix} is {NOT_A_FILE}: a pipe, a socket or a device\. Give a fol"):
        list_source(str(pipe(tmp_path / f"images{suffix}")))


def test_an_array_that_became_a_pipe_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=f"cannot be read: {NOT_A_FILE}"):
        header_of(pipe(tmp_path / "a.npy"))


@pytest.mark.parametrize("suffix", [".tar", ".zip", ".parquet", ".arrow", ".npz"])
def test_a_folder_of_such_files_only(tmp_path, suffix: str) -> None:
    pipe(tmp_path / f"a{suffix}")
    with pytest.raises(UserError, match="holds no images that can be read"):
        list_source(str(tmp_path))


def test_what_was_read_is_the_file(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    with open_regular(tmp_path / "a.npy") as stream:
        assert stream.read() == (tmp_path / "a.npy").read_bytes() == read_regular(tmp_path / "a.npy")
