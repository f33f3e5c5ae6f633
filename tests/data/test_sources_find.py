from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from contextae.data.decode import decode
from contextae.data.index import LeftOut
from contextae.data.sources import continued_index, open_index, open_labelled
from contextae.data.sources.splits import split_of
from contextae.data.stored_index import open_stored, write_index
from contextae.errors import UserError
from data.archives import tar_bytes
from data.pictures import encoded, write


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def saved_dataset(folder: Path, rows: int, shards: int = 1, first: int = 0) -> Path:
    """As `datasets` 5.2 lays it out."""
    folder.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", kind), ("label", pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    names = []
    for shard in range(shards):
        places = range(first + shard * rows // shards, first + (shard + 1) * rows // shards)
        images = [{"bytes": encoded(i), "path": None} for i in places]
        table = pyarrow.table({"image": pyarrow.array(images, kind), "label": [i % 2 for i in places]}, schema=schema)
        names.append(f"data-{shard:05}-of-{shards:05}.arrow")
        with pyarrow.OSFile(str(folder / names[-1]), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_archives_are_read_wherever_they_are_named(tmp_path: Path) -> None:
    one = tar(tmp_path / "shards" / "a-000.tar", {f"{i}.png": encoded(i) for i in range(3)})
    two = zipped(tmp_path / "shards" / "a-001.zip", {f"x/{i}.png": encoded(10 + i) for i in range(2)})
    for source, seeds in (
        (str(one), [0, 1, 2]),
        (str(two), [10, 11]),
        (str(tmp_path / "shards"), [0, 1, 2, 10, 11]),
        (f"{tmp_path}/shards/a-{{000.tar,001.zip}}", [0, 1, 2, 10, 11]),
    ):
        index = open_index(source)
        assert [index.read(i) for i in range(len(index))] == [encoded(seed) for seed in seeds]
        assert index.channels == 3 and index.found == len(index)
    assert open_index(str(tmp_path / "shards")).ids[3] == "a-001.zip/x/0.png"
    write_index(tmp_path / "images", index, found=5, left_out=0)
    stored = open_stored(tmp_path / "images", whole=True, restore="")
    assert continued_index(source, stored, channels=3, dtype="uint8").read(4) == encoded(11)


def test_images_beside_archives_win_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    tar(tmp_path / "b.tar", {"x.png": encoded()})
    index = open_index(str(tmp_path))
    assert list(index.ids) == ["a.png"]
    assert "the 1 archives beside the images are not read; name one to read it" in index.describe()


def test_a_pattern_is_for_archives_or_rows(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"stands for files ending in \.txt\. A pattern with braces is for tar and zip"):
        open_index(f"{tmp_path}/{{a,b}}.txt")


def test_arrays_of_files_and_of_memory(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 4096, (5, 8, 9)).astype(np.uint16)
    np.save(tmp_path / "stack.npy", images)
    np.savez(tmp_path / "two.npz", first=images, second=images[:2])
    for source, count in ((str(tmp_path / "stack.npy"), 5), (f"{tmp_path}/two.npz::second", 2), (images, 5)):
        index = open_index(source)
        assert (len(index), index.channels, index.dtype) == (count, 1, "uint16")
        np.testing.assert_array_equal(decode(index.read(1), channels=1, dtype="uint16")[:, :, 0], images[1])
    single = open_index([images[0], images[1][:4]])
    assert single.facts["height"].tolist() == [8, 4]
    np.save(tmp_path / "folder.npy", images[0])
    assert len(open_index(f"{tmp_path}/stack.npy::nhw")) == 5


def test_a_saved_dataset_of_hugging_face(tmp_path: Path) -> None:
    folder = saved_dataset(tmp_path / "one", 7, shards=2)
    index = open_index(str(folder))
    assert len(index) == 7 and index.ids[3] == "data-00001-of-00002.arrow#0"
    assert [index.read(i) for i in range(7)] == [encoded(i) for i in range(7)]
    assert open_index(str(folder / "data-00001-of-00002.arrow")).read(3) == encoded(6)
    both = tmp_path / "both"
    saved_dataset(both / "train", 8)
    saved_dataset(both / "test", 4, first=8)
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    ids = open_index(str(both)).ids
    assert (ids[7], ids[8]) == ("train/data-00000-of-00001.arrow#7", "test/data-00000-of-00001.arrow#0")
    labelled = open_labelled(str(both))
    assert (len(labelled.train), len(labelled.test), labelled.classes) == (8, 4, ["cat", "dog"])
    assert labelled.train.labels is not None and labelled.train.labels.tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("{", r"does not say which files belong to this dataset, as save_to_disk of Hugging Face's"),
        ("[" * 100_000, r"does not say which files belong"),
        ('{"_data_files": 3}', r"does not say which files belong"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', r"does not say which files belong"),
        ('{"_data_files": [{"filename": "/etc/x.arrow"}]}', r"does not say which files belong"),
        (
            '{"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}',
            r"holds a selection of a dataset, .* Save it once more as dataset\.flatten_indices\(\)\.save_to_disk",
        ),
        ('{"_data_files": [{"filename": "text.arrow"}]}', r"text\.arrow cannot be read as an Arrow stream: "),
    ],
)
def test_a_damaged_dataset_is_refused(tmp_path: Path, state: str, words: str) -> None:
    folder = saved_dataset(tmp_path / "one", 3)
    (folder / "text.arrow").write_text("no arrow")
    (folder / "state.json").write_text(state)
    with pytest.raises(UserError, match=words):
        open_index(str(folder))


def test_a_file_that_a_dataset_names_twice_counts_once(tmp_path: Path) -> None:
    folder = saved_dataset(tmp_path / "one", 3)
    file = '{"filename": "data-00000-of-00001.arrow"}'
    (folder / "state.json").write_text(f'{{"_data_files": [{file}, {file}]}}')
    assert open_index(str(folder)).ids == [f"data-00000-of-00001.arrow#{i}" for i in range(3)]


def test_a_pipe_that_a_dataset_names_keeps_nobody_waiting(tmp_path: Path) -> None:
    folder = saved_dataset(tmp_path / "one", 3)
    os.mkfifo(folder / "pipe.arrow")
    (folder / "state.json").write_text('{"_data_files": [{"filename": "pipe.arrow"}]}')
    with pytest.raises(
        UserError, match=r"pipe\.arrow cannot be read as an Arrow stream: neither a file nor a folder\."
    ):
        open_index(str(folder))


def test_classes_in_archives_are_folders_or_members(tmp_path: Path) -> None:
    members = {f"{part}/{name}/{i}.png": encoded(i) for part in ("train", "test") for name in "ab" for i in range(3)}
    in_folders = open_labelled(str(zipped(tmp_path / "photos.zip", members)))
    assert (len(in_folders.train), len(in_folders.test), in_folders.classes) == (6, 6, ["a", "b"])
    for part, count in (("train", 6), ("test", 4)):
        pairs = [(f"{i}.png", encoded(i), f"{i}.cls", str(i % 2).encode()) for i in range(count)]
        tar(tmp_path / "wds" / f"set-{part}-000.tar", {n: d for a, b, c, e in pairs for n, d in ((a, b), (c, e))})
    by_member = open_labelled(str(tmp_path / "wds"))
    assert (len(by_member.train), len(by_member.test), by_member.classes) == (6, 4, ["0", "1"])
    assert by_member.test.labels is not None and by_member.test.labels.tolist() == [0, 1, 0, 1]
    tar(tmp_path / "wds" / "set-train-001.tar", {"7.png": encoded(7), "8.png": encoded(8), "8.cls": b"1"})
    again = open_labelled(str(tmp_path / "wds"))
    assert ("set-train-001.tar/7.png", "member without a class") in again.train.left_out and len(again.train) == 7


@pytest.mark.parametrize(
    ("sample_id", "split"),
    [
        ("cifar10-train-000000.tar/1.png", "train"),
        ("a/val_0.tar/1.png", "val"),
        ("trainee.tar/1.png", None),
        ("photos.zip/test/cat/1.png", "test"),
        ("photos.zip/cat/test/1.png", None),
        ("test/a.tar/1.png", "test"),
        ("train/data-0.arrow#3", "train"),
    ],
)
def test_splits_in_archives(sample_id: str, split: str | None) -> None:
    assert split_of(sample_id) == split


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_an_archive_or_rows_that_links_lead_to_count_once(tmp_path, kind: str) -> None:
    folder, elsewhere = tmp_path / "all", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
    for i, path in enumerate((folder / f"m.{kind}", elsewhere / f"x.{kind}")):
        if kind == "tar":
            path.write_bytes(tar_bytes([("0.png", encoded(i))]))
        else:
            pyarrow.parquet.write_table(pyarrow.table({"image": [encoded(i)]}), path)
    for name, target in (("a", folder / f"m.{kind}"), ("b", elsewhere / f"x.{kind}"), ("c", elsewhere / f"x.{kind}")):
        (folder / f"{name}.{kind}").symlink_to(target)
    index = open_index(str(folder))
    assert [name.split(".")[0] for name in index.ids] == ["b", "m"]
    assert [index.read(i) for i in range(2)] == [encoded(1), encoded(0)]
    assert index.left_out == [LeftOut(f"{name}.{kind}", "link to a file that is there anyway") for name in "ac"]
    assert index.found == 4
