from __future__ import annotations

import os
from pathlib import Path

import pytest

from contextae.data.facts import BadImage
from contextae.data.index import LeftOut
from contextae.data.sources import open_index
from contextae.data.sources.find import list_source
from contextae.data.sources.folder import Files
from contextae.errors import UserError
from data.pictures import encoded, write

EXTENSIONS = {"jpg": "JPEG", "JPEG": "JPEG", "Png": "PNG", "webp": "WEBP", "tif": "TIFF", "TIFF": "TIFF", "bmp": "BMP"}
MORE = {"gif": "GIF", "ppm": "PPM", "jp2": "JPEG2000", "avif": "AVIF", "jfif": "JPEG", "j2k": "JPEG2000"}


def ids(root: Path) -> list[str]:
    return list(open_index(str(root)).ids)


def test_a_folder_is_read_at_any_depth_without_classes(tmp_path) -> None:
    for name in ("c.png", "a/b/c/d.png", "a/x.png"):
        write(tmp_path / name)
    assert ids(tmp_path) == ["a/b/c/d.png", "a/x.png", "c.png"]


def test_every_extension_in_any_case(tmp_path) -> None:
    for i, (suffix, kind) in enumerate((EXTENSIONS | MORE).items()):
        write(tmp_path / f"{i:02}.{suffix}", kind=kind)
    index = open_index(str(tmp_path))
    assert len(index) == 13 and not index.left_out


def test_the_content_decides_not_the_extension(tmp_path) -> None:
    write(tmp_path / "really_a_png.jpg", kind="PNG")
    write(tmp_path / "0a1b2c3d")
    assert open_index(str(tmp_path)).facts["format"].tolist() == [b"PNG", b"PNG"]


def test_what_is_no_image_is_left_out_with_its_reason(tmp_path) -> None:
    write(tmp_path / "good.png")
    write(tmp_path / ".hidden.png")
    write(tmp_path / ".cache/thumbnail.png")
    (tmp_path / "text.jpg").write_text("this is text\n" * 50)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(encoded()[:12])
    (tmp_path / "README").write_text("about")
    (tmp_path / "notes.txt").write_text("about")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    index = open_index(str(tmp_path))
    assert list(index.ids) == ["good.png"]
    no_image = "not an image, or its header is damaged"
    assert index.left_out == [
        LeftOut(".cache", "hidden folder"),
        LeftOut(".hidden.png", "hidden file"),
        LeftOut("README", no_image),
        LeftOut("cut.png", no_image),
        LeftOut("dangling.png", "broken link"),
        LeftOut("empty.jpg", "empty file"),
        LeftOut("notes.txt", "not an image by its extension, .txt"),
        LeftOut("pipe.png", "neither a file nor a folder"),
        LeftOut("text.jpg", no_image),
    ]
    assert index.found == 10


def test_a_file_that_may_not_be_read_is_left_out(tmp_path, monkeypatch) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    plain = os.open

    def refusing(path, *arguments, **options):
        if Path(path).name == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    source = list_source(str(tmp_path)).source  # root may read everything, so that the refusal is made here
    for look in (source.probe, source.read):
        assert look("a.png")
        with pytest.raises(BadImage, match=r"^cannot be read \(Permission denied\)$"):
            look("b.png")


def test_loops_of_links_do_not_multiply_the_set(tmp_path) -> None:
    root = tmp_path / "root"
    write(root / "z/a.png")
    (root / "z/self").symlink_to(root / "z", target_is_directory=True)
    (root / "a_link").symlink_to(root / "z", target_is_directory=True)
    (root / "up").symlink_to(root, target_is_directory=True)
    (root / "further_up").symlink_to(tmp_path, target_is_directory=True)
    index = open_index(str(root))
    assert list(index.ids) == ["z/a.png"]
    again = "link to a folder that is there anyway"
    assert index.left_out == [LeftOut(name, again) for name in ("a_link", "further_up", "up", "z/self")]


def test_a_link_to_itself_is_left_out(tmp_path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    index = open_index(str(tmp_path))
    assert list(index.ids) == ["a.png"] and [entry.path for entry in index.left_out] == ["itself.png"]
    assert index.left_out[0].reason.startswith(("cannot be looked at", "broken link"))


def test_links_to_folders_elsewhere_are_followed_once(tmp_path) -> None:
    write(tmp_path / "store/deep/a.png")
    write(tmp_path / "root/own.png", seed=1)
    (tmp_path / "store/deep/back").symlink_to(tmp_path / "root", target_is_directory=True)
    for name in ("first", "second"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "store", target_is_directory=True)
    index = open_index(str(tmp_path / "root"))
    assert list(index.ids) == ["first/deep/a.png", "own.png"]
    assert [entry.path for entry in index.left_out] == ["first/deep/back", "second"]
    assert index.read(0) == encoded()


def test_links_to_files_count_once(tmp_path) -> None:
    outside = write(tmp_path / "outside.png")
    real = write(tmp_path / "root/z.png", seed=1)
    (tmp_path / "root/a.png").symlink_to(real)
    (tmp_path / "root/b.png").symlink_to(outside)
    (tmp_path / "root/c.png").symlink_to(outside)
    index = open_index(str(tmp_path / "root"))
    assert list(index.ids) == ["b.png", "z.png"]
    again = "link to a file that is there anyway"
    assert index.left_out == [LeftOut("a.png", again), LeftOut("c.png", again)]


def test_the_root_may_be_a_link_and_relative(tmp_path, monkeypatch) -> None:
    write(tmp_path / "store/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "store", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    index = open_index("link")
    monkeypatch.chdir("/")
    assert list(index.ids) == ["a.png"] and index.read(0) == encoded()
    assert index.describe()[0].startswith("1 images of link, ")


def test_names_that_are_not_utf8_are_kept_and_shown(tmp_path) -> None:
    odd, text = os.fsdecode(b"b\xff\n.png"), os.fsdecode(b"c\xe9.jpg")
    write(tmp_path / odd)
    (tmp_path / text).write_text("no image")
    write(tmp_path / os.fsdecode(b"f\xf0/a.png"), seed=1)
    index = open_index(str(tmp_path))
    assert list(index.ids) == [odd, os.fsdecode(b"f\xf0/a.png")]
    assert index.read(0) == encoded() and index.read(1) == encoded(1)
    assert index.describe()[-1] == "  1 not an image, or its header is damaged: c\\xe9.jpg"
    assert all(line.isprintable() for line in index.describe())


def test_an_empty_folder(tmp_path) -> None:
    with pytest.raises(UserError, match=r"is an empty folder\. Give one that holds images, at any depth\.$"):
        open_index(str(tmp_path))
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(UserError, match="is an empty folder"):
        open_index(str(tmp_path))


def test_a_folder_without_images_says_what_it_holds(tmp_path) -> None:
    for name in ("a.xyz", "b.xyz", "c.XYZ", "d.csv", ".git"):
        (tmp_path / name).write_text("x")
    with pytest.raises(
        UserError,
        match=r"holds no images that can be read: 5 files or folders, of which 3 \.xyz, 1 without extension, "
        r"1 \.csv\. Known extensions are \.avif, .*\.webp\.$",
    ):
        open_index(str(tmp_path))


def test_a_folder_of_broken_images_says_why(tmp_path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_text("text")
    (tmp_path / "e.png").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"holds no image that can be used\. Left out: 5 of 5 found; 4 not an image, or its header is damaged: "
        r"0\.jpg, 1\.jpg, 2\.jpg, \.\.\.; 1 empty file: e\.png\.$",
    ):
        open_index(str(tmp_path))


def test_a_folder_that_cannot_be_opened(tmp_path, monkeypatch) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "locked/b.png")
    plain, locked = os.scandir, {"locked"}

    def refusing(path):
        if Path(path).name in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr("contextae.data.sources.folder.os.scandir", refusing)
    index = open_index(str(tmp_path))
    assert index.left_out == [LeftOut("locked", "folder that cannot be opened (Permission denied), with all it holds")]
    locked.add(tmp_path.name)
    with pytest.raises(UserError, match=r"cannot be opened: Permission denied\. Give a folder this user may read\.$"):
        open_index(str(tmp_path))


def test_a_read_that_fails_is_a_bad_image(tmp_path) -> None:
    with pytest.raises(BadImage, match=r"^cannot be read \(No such file or directory\)$"):
        Files(str(tmp_path)).read("gone.png")
    with pytest.raises(BadImage, match=r"^cannot be read \(Is a directory\)$"):
        Files(str(tmp_path)).probe(".")
    with pytest.raises(BadImage, match=r"^cannot be read \(embedded null byte\)$"):
        Files(str(tmp_path)).read("a\0b")


def test_ids_are_in_the_order_of_whole_paths_those_behind_links_too(tmp_path) -> None:
    """A folder stands where its name with a / does, between a.png and a0.png, whatever the system lists first."""
    for i, name in enumerate(("a/z.png", "a.png", "a0.png", "a-b.png", "a/b/c.png", "a/b.png", "B.png", "é.png")):
        write(tmp_path / "root" / name, seed=i)
    write(tmp_path / "far/a.png", seed=20)
    (tmp_path / "root/a/link").symlink_to(tmp_path / "far", target_is_directory=True)
    found = ids(tmp_path / "root")
    assert found == sorted(found) and len(found) == 9 and "a/link/a.png" in found
