from __future__ import annotations

import os
from pathlib import Path

import pytest

from contextae.data.index import LeftOut
from contextae.data.sources import file_list, open_index
from contextae.errors import UserError
from data.pictures import encoded, write


def listed(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_paths_are_relative_to_the_list_and_in_its_order(tmp_path, monkeypatch) -> None:
    for seed, name in enumerate(("lists/near.png", "pictures/b.png", "pictures/a b.png")):
        write(tmp_path / name, seed=seed)
    far = write(tmp_path / "far.png", seed=3)
    text = f"# mine\n../pictures/b.png\n\n  ./near.png  \r\n../pictures/a b.png\n{far}\n#near.png\n"
    source = listed(tmp_path / "lists/all.txt", text)
    monkeypatch.chdir("/")
    index = open_index(source)
    assert list(index.ids) == ["../pictures/b.png", "near.png", "../pictures/a b.png", str(far)]
    assert [index.read(i) for i in range(4)] == [encoded(seed) for seed in (1, 0, 2, 3)]
    assert not index.left_out


def test_a_path_named_twice_counts_once_and_a_missing_one_is_left_out(tmp_path) -> None:
    write(tmp_path / "a.png")
    index = open_index(listed(tmp_path / "list.lst", "a.png\ngone.png\n./a.png\n"))
    assert list(index.ids) == ["a.png"] and index.found == 3
    assert index.left_out == [
        LeftOut("./a.png", "path named more than once"),
        LeftOut("gone.png", "cannot be read (No such file or directory)"),
    ]


def test_a_byte_order_mark_and_names_that_are_not_utf8(tmp_path) -> None:
    write(tmp_path / os.fsdecode(b"\xe9.png"))
    index = open_index(listed(tmp_path / "list.txt", b"\xef\xbb\xbf\xe9.png\n"))
    assert list(index.ids) == [os.fsdecode(b"\xe9.png")] and index.read(0) == encoded()


def test_a_list_that_names_nothing(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"list\.txt names no images: it has 2 lines, all empty or comments\. Write one path in a line"
    ):
        open_index(listed(tmp_path / "list.txt", "# nothing\n\n"))


def test_a_list_of_which_nothing_exists(tmp_path) -> None:
    with pytest.raises(
        UserError,
        match=r"holds no image that can be used\. Left out: 2 of 2 found; 2 cannot be read \(No such file or "
        r"directory\): a\.png, b\.png\.$",
    ):
        open_index(listed(tmp_path / "list.txt", "a.png\nb.png\n"))


def test_a_step_back_from_a_link_leads_where_the_system_says(tmp_path) -> None:
    for seed, name in enumerate(("x.png", "far/x.png", "far/deep/y.png")):
        write(tmp_path / name, seed=seed)
    (tmp_path / "link").symlink_to(tmp_path / "far/deep")
    index = open_index(listed(tmp_path / "list.txt", "link/../x.png\nx.png\n.//x.png\nlink/./y.png"))
    assert list(index.ids) == ["link/../x.png", "x.png", "link/y.png"]
    assert [index.read(i) for i in range(3)] == [encoded(1), encoded(0), encoded(2)]
    assert index.left_out == [LeftOut(".//x.png", "path named more than once")]


def test_a_line_that_is_no_name_is_shown_in_part(tmp_path) -> None:
    write(tmp_path / "a.png")
    index = open_index(listed(tmp_path / "list.txt", f"a.png\n{'x' * 100_000}"))
    assert index.describe()[-1] == f"  1 cannot be read (File name too long): {'x' * 300}..."


def test_a_list_that_is_not_text(tmp_path) -> None:
    with pytest.raises(UserError, match=r"list\.txt is not text\. A list of images is a text file with one path in"):
        open_index(listed(tmp_path / "list.txt", b"\0\1\2"))


def test_a_list_that_may_not_be_read(tmp_path, monkeypatch) -> None:
    source = listed(tmp_path / "list.txt", "a.png\n")

    def refusing(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_list, "read_regular", refusing)
    with pytest.raises(UserError, match=r"cannot be read: Permission denied\. Give a file this user may read\.$"):
        open_index(source)
