from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contextae.data import packing, packing_state
from contextae.data.decode import decode
from contextae.data.index import LeftOut
from contextae.data.packed import open_packed, resized_to
from contextae.data.packed_manifest import MANIFEST
from contextae.data.packing import per_shard
from contextae.data.packing_shard import Writer
from contextae.data.packing_state import packed_pixels
from contextae.data.resize import resize
from contextae.data.sources.find import list_source
from contextae.data.sources.origin import origin_of
from contextae.errors import UserError
from data.pack_troubles import Deadly
from data.packs import SHORT, bad_ones, deep, one_colour, opened, packed, photographs, tree
from data.pictures import write

PACK = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from contextae.data import packing
packing.FEWEST = 2
from data.packs import packed
packed({source!r}, Path({out!r}), num_workers=2, processes=True, progress=lambda *at: print(*at, flush=True))
"""
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = photographs(tmp_path_factory.mktemp("source"))
    bad_ones(folder)
    return folder


def test_a_raw_image_is_the_decoded_one_with_its_short_side_resized(source: Path, tmp_path: Path) -> None:
    images = packed(source, tmp_path / "c").images
    index = opened(str(source))
    assert len(images) == 5 and list(images.names) == [name for name in index.ids if "cut" not in name]
    for position, name in enumerate(images.names):
        whole = decode(index.source.read(name), channels=3)
        height, width = whole.shape[:2]
        size = resized_to(height, width, SHORT)
        got = images.read(position)
        assert isinstance(got, np.ndarray) and got.dtype == np.uint8 and got.shape == (*size, 3)
        wanted = whole if size == (height, width) else resize(whole, size, (0, 0, width, height)).transpose(1, 2, 0)
        assert np.array_equal(got, wanted) and not got.flags.writeable
    assert sorted(images.row(i)[2:4] for i in range(5)) == [(11, 90), (20, 20), (24, 40), (40, 24), (46, 24)]


def test_a_jpeg_cache_holds_files_of_quality_90(source: Path, tmp_path: Path) -> None:
    raw, jpeg = (packed(source, tmp_path / kind, kind=kind).images for kind in ("raw", "jpeg"))
    for position in range(len(raw)):
        data, wanted = jpeg.read(position), raw.read(position)
        assert isinstance(data, bytes) and isinstance(wanted, np.ndarray)
        got = decode(data, channels=3)
        assert got.shape == wanted.shape and np.abs(got.astype(int) - wanted).mean() < 4
        assert jpeg.facts(position)[:4] == (wanted.shape[1], wanted.shape[0], 3, "JPEG")
    assert jpeg.manifest.kind == "jpeg" and jpeg.facts(0).kind == "RGB" and jpeg.facts(0).photograph


def test_a_gray_set_stays_one_channel(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "s" / f"{i}.png", seed=i, mode="L")
    for kind in ("raw", "jpeg"):
        images = packed(tmp_path / "s", tmp_path / kind, kind=kind).images
        assert images.facts(1)[:5] == (19, 13, 1, "raw" if kind == "raw" else "JPEG", "gray")
        got = images.read(1)
        image = got if isinstance(got, np.ndarray) else decode(got, channels=1)
        assert image.shape == (13, 19, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_deep_images_keep_their_type_and_channels(tmp_path: Path, dtype: str) -> None:
    source = deep(tmp_path / "s", dtype)
    images = packed(source, tmp_path / "c").images
    index = opened(str(source))
    for position in range(3):
        got = images.read(position)
        whole = decode(index.read(position), channels=5, dtype=dtype)
        size = resized_to(*whole.shape[:2], SHORT)
        assert isinstance(got, np.ndarray) and got.dtype == dtype and got.shape == (*size, 5)
        assert np.array_equal(got, resize(whole, size, (0, 0, whole.shape[1], whole.shape[0])).transpose(1, 2, 0))
        facts = images.facts(position)
        assert (facts.channels, facts.dtype, facts.photograph) == (5, dtype, False)
        assert facts.kind == index.facts["kind"][position].decode()
    with pytest.raises(
        UserError, match=r"^JPEG holds photographs .*holds 5 x .*, kept as they are; pack them as raw\.$"
    ):
        packed(source, tmp_path / "j", kind="jpeg")


def test_what_cannot_be_decoded_is_left_out_by_name_and_all_is_accounted_for(source: Path, tmp_path: Path) -> None:
    images = packed(source, tmp_path / "c").images
    assert list(images.left_out()) == [
        LeftOut("text.jpg", "not an image, or its header is damaged"),
        LeftOut("zz-cut.png", "truncated file"),
    ]
    about = images.manifest
    assert (about.found, about.count, about.left_out) == (7, 5, 2)


def test_a_file_that_vanishes_or_kills_its_process_is_left_out(tmp_path: Path) -> None:
    source = photographs(tmp_path / "s")
    origin, looks = origin_of(str(source), list_source(str(source)))
    index = dataclasses.replace(opened(str(source)), source=Deadly(str(source), "a/002.png", "b/003.jpeg"))
    done = packing.pack(index, tmp_path / "c", origin, looks, short_side=SHORT, num_workers=1)
    assert list(done.images.left_out()) == [
        LeftOut("a/002.png", "the process that read it ended with signal 9"),
        LeftOut("b/003.jpeg", "cannot be read (No such file or directory)"),
    ]
    assert done.images.manifest.found == 5 == len(done.images) + 2


def test_the_cache_does_not_depend_on_processes_or_attempts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FEWEST", 2)
    told: list[tuple[int, int]] = []
    for name, workers in (("one", 1), ("three", 3)):
        packed(source, tmp_path / name, num_workers=workers, processes=True, progress=lambda *at: told.append(at))
    assert tree(tmp_path / "one") == tree(tmp_path / "three") and len(tree(tmp_path / "one")) == 8 + 3
    assert told == [(2, 6), (4, 6), (6, 6)] * 2

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(source, tmp_path / "stopped", progress=stop)
    assert not (tmp_path / "stopped" / MANIFEST).exists()
    again = packed(source, tmp_path / "stopped")
    assert again.made_now == 4 and tree(tmp_path / "stopped") == tree(tmp_path / "one")
    assert packed(source, tmp_path / "stopped").made_now == 0


def killed_at(count: int, work: Callable[[], object]) -> bool:
    """Whether a child of this process was killed at its so manieth change of a file, rather than done."""
    child = os.fork()
    if not child:
        met = []

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in CHANGES and arguments[1] != "r":
                met.append(event)
                if len(met) == count:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_pack_that_is_killed_at_any_moment_ends_bit_identical(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of its changes of a file, in a folder of its own; and at ever later ones, in one folder."""
    monkeypatch.setattr(packing, "FEWEST", 2)
    source = photographs(tmp_path / "s")
    bad_ones(source)
    packed(source, tmp_path / "whole", kind=kind)
    wanted, index = tree(tmp_path / "whole"), opened(str(source))
    count, finished = 0, False
    while not finished:
        count += 1
        finished = not killed_at(count, lambda: packed(source, tmp_path / f"{count}", index=index, kind=kind))  # noqa: B023
        killed_at(count, lambda: packed(source, tmp_path / "one", index=index, kind=kind))
        packed(source, tmp_path / f"{count}", index=index, kind=kind)
        assert tree(tmp_path / f"{count}") == wanted, count
    assert count > 40 and tree(tmp_path / "one") == wanted


def test_a_pack_whose_processes_are_killed_with_it_is_gone_on_with(tmp_path: Path) -> None:
    source = photographs(tmp_path / "s", 24)
    bad_ones(source)
    code = PACK.format(tests=str(Path(__file__).parents[1]), source=str(source), out=str(tmp_path / "c"))
    for lines in (1, 4):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (tmp_path / "c" / MANIFEST).exists()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", code.replace("/c'", "/whole'")], check=True, stdout=subprocess.DEVNULL)
    assert tree(tmp_path / "c") == tree(tmp_path / "whole") and len(open_packed(tmp_path / "c")) == 24


def test_unfinished_files_are_removed_and_a_shard_that_was_cut_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FEWEST", 2)
    packed(source, tmp_path / "whole")
    monkeypatch.setattr(packing, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packed(source, tmp_path / "c")
    monkeypatch.undo()
    monkeypatch.setattr(packing, "FEWEST", 2)
    (tmp_path / "c" / "shards" / ".writing-00001.bin-7").write_bytes(b"half")
    (tmp_path / "c" / ".writing-manifest.json-7").write_bytes(b"half")
    os.truncate(tmp_path / "c" / "shards" / "00001.bin", 10)
    (tmp_path / "c" / "parts" / "00002.json").write_text("{")
    unfinished: list[Path] = []
    again = packed(source, tmp_path / "c", progress=lambda *_: unfinished.extend((tmp_path / "c").rglob(".writing-*")))
    assert again.made_now == 4 and not unfinished  # they give their room back at once
    assert tree(tmp_path / "c") == tree(tmp_path / "whole")


def test_another_pack_in_the_same_folder_is_refused_by_what_differs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c"
    packed(source, out)
    with pytest.raises(UserError, match=r"/c holds another packed cache; what differs: --as\. Repeat the command"):
        packed(source, out, kind="jpeg")
    with pytest.raises(UserError, match=r"what differs: --short-side\. Repeat"):
        packed(source, out, short_side=25)
    monkeypatch.setattr(packing, "versions", lambda: {"pillow": "0"})
    assert packed(source, out).made_now == 0  # what is whole is what it is
    other = photographs(tmp_path / "s", 4)
    begun = tmp_path / "begun"
    monkeypatch.setattr(packing, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packed(other, begun)
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"holds the beginning of another pack; what differs: versions of the libraries"
    ):
        packed(other, begun)
    os.utime(other / "a/000.png")
    with pytest.raises(
        UserError, match=r"; the source, or sizes and times of its files\. Repeat|what differs:.*source"
    ):
        packed(other, begun)
    (begun / "packing.json").write_text("{")
    with pytest.raises(UserError, match=r"packing\.json is damaged, so that the pack cannot be gone on with\. Remove"):
        packed(other, begun)


def test_nothing_is_written_among_other_things(source: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match=r"^--out is a new or empty folder, .* There is something else in .*/c; choose"):
        packed(source, tmp_path / "c")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["diary.txt"]


def test_two_processes_do_not_pack_into_one_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    handle = os.open(tmp_path / "c", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"^Another process is packing into .*/c\. Wait for its end, or choose another"):
        packed(source, tmp_path / "c")
    os.close(handle)
    assert packed(source, tmp_path / "c").made_now == 6


def test_settings_that_no_cache_can_have_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^A packed cache is one of raw, jpeg\. Got 'png'\.$"):
        packed(source, tmp_path / "c", kind="png")
    with pytest.raises(
        UserError, match=r"^The short side of a packed image is a number of pixels, 1 or more\. Got 0\.$"
    ):
        packed(source, tmp_path / "c", short_side=0)
    assert not (tmp_path / "c").exists()


def test_a_set_of_which_nothing_can_be_decoded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    bad_ones(tmp_path / "s")
    with pytest.raises(
        UserError, match=r"^None of the 1 images of .* The first, zz-cut\.png, for this reason: truncated"
    ):
        packed(tmp_path / "s", tmp_path / "c")
    assert len(packed(photographs(tmp_path / "other"), tmp_path / "c").images) == 5  # nothing is in its way


def test_a_full_disk_is_said_before_the_work_or_when_it_is_met(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing_state.shutil, "disk_usage", lambda _: usage._replace(free=9000))
    with pytest.raises(
        UserError,
        match=r"takes about 1\d kB, and 9\.0 kB are free at .*; a smaller --short-side takes less, and so does --as j",
    ):
        packed(source, tmp_path / "c")
    assert len(packed(source, tmp_path / "j", kind="jpeg").images) == 5
    with pytest.raises(UserError, match=r"takes less\.$"):
        packed(deep(tmp_path / "d"), tmp_path / "e")
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot be written to .*/file: File exists\. Mend that and repeat the command"
    ):
        packed(source, tmp_path / "file")
    writer = Writer(
        source=opened(str(source)).source,
        channels=3,
        dtype="uint8",
        folder=str(tmp_path / "none"),
        kind="raw",
        short_side=9,
        per_shard=9,
    )
    with pytest.raises(UserError, match=r"cannot be written to .*/none: No such file or directory\. Mend"):
        writer.make([(0, "a/000.png")], set())
    assert writer.name([(3, "c"), (4, "d")], 4) == "d" and "--workers" in writer.advice


def test_a_jpeg_that_would_be_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "long.png").write_bytes(one_colour(7, (2, 66_000)))
    (tmp_path / "s" / "tall.png").write_bytes(one_colour(7, (20, 20)))
    images = packed(tmp_path / "s", tmp_path / "c", kind="jpeg").images
    assert list(images.left_out()) == [LeftOut("long.png", "longer than 65,500 pixels, which no JPEG holds")]
    assert len(packed(tmp_path / "s", tmp_path / "r").images) == 2


def test_how_large_shards_and_images_are() -> None:
    assert [per_shard(n) for n in (1, 10_000, 50_000, 2_000_000, 50_000_000)] == [64, 64, 196, 1024, 12_208]
    assert resized_to(375, 500, 256) == (256, 341) and resized_to(500, 375, 256) == (341, 256)
    assert resized_to(100, 5000, 256) == (100, 5000) and resized_to(256, 256, 256) == (256, 256)
    assert resized_to(30_000, 300, 256) == (25_600, 256)
    rows = np.array([375, 100], np.uint32), np.array([500, 5000], np.uint32)
    assert packed_pixels(*rows, 256) == pytest.approx([256 * 341.33, 500_000], rel=1e-4)


def test_the_manifest_says_what_it_was_made_of(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "c")
    values = json.loads((tmp_path / "c" / MANIFEST).read_text())
    assert values["origin"]["path"] == str(source) and values["origin"]["listed"] == 7
    assert values["made_with"]["pillow"] and values["short_side"] == SHORT and values["image_kind"] == "RGB"
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "ends.bin", "hashes.bin", "left_out.jsonl", "looks.bin", "manifest.json", "names.bin", "order.bin", "rows.bin",
        "shards",
    ]  # fmt: skip
    assert open_packed(tmp_path / "c").manifest == open_packed(tmp_path / "c").manifest
