from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextae.data.facts import ImageFacts
from contextae.data.index import Index, LeftOut
from contextae.data.sources import open_labelled, open_labelled_train
from contextae.data.sources.folder import Files
from contextae.data.sources.splits import drawn_test, split_of
from contextae.errors import UserError
from data.in_process import look_here
from data.pictures import encoded, write

IMAGE = encoded(size=(2, 3))


def tree(root: Path, counts: dict[str, int]) -> str:
    for folder, count in counts.items():
        for i in range(count):
            write(root / folder / f"{i}.png", size=(2, 3))
    return str(root)


def rows(path: Path, labels: object, column: str = "label", **columns: object) -> Path:
    values = pa.array(labels) if not isinstance(labels, pa.Array) else labels
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [IMAGE] * len(values), column: values, **columns}), path)
    return path


def named(index: Index) -> dict[str, str]:
    assert index.labels is not None and index.classes is not None and index.labels.dtype == np.int64
    return {name: index.classes[label] for name, label in zip(index.ids, index.labels, strict=True)}


def test_train_and_test_folders(tmp_path) -> None:
    source = tree(tmp_path, {"train/b": 3, "train/a": 2, "test/a": 1, "test/b": 1})
    found = open_labelled(source)
    assert found.classes == ["a", "b"] == found.train.classes == found.test.classes
    assert named(found.train) == {f"train/{c}/{i}.png": c for c, n in (("a", 2), ("b", 3)) for i in range(n)}
    assert named(found.test) == {"test/a/0.png": "a", "test/b/0.png": "b"}
    assert found.notes == []
    assert found.test.read(0) == IMAGE


def test_the_class_is_the_folder_below_the_part_at_any_depth(tmp_path) -> None:
    found = open_labelled(tree(tmp_path, {"Train/a/x/y": 1, "Train/b": 1, "TEST/a/z": 1}))
    assert named(found.train) == {"Train/a/x/y/0.png": "a", "Train/b/0.png": "b"}
    assert named(found.test) == {"TEST/a/z/0.png": "a"}
    assert found.notes == ["1 of 2 classes have no test images"]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_val_is_the_test_part_where_there_is_no_other(tmp_path, val: str) -> None:
    found = open_labelled(tree(tmp_path, {"train/a": 2, "train/b": 2, f"{val}/a": 1, f"{val}/b": 1}))
    assert len(found.train) == 4 and list(found.test.ids) == [f"{val}/a/0.png", f"{val}/b/0.png"]
    assert found.notes == ["val, 2 images, is the test part; there is no other"]


def test_val_is_joined_to_train_where_there_is_a_test_part(tmp_path) -> None:
    found = open_labelled(tree(tmp_path, {f"{part}/{c}": 2 for part in ("train", "val", "test") for c in "ab"}))
    assert {name.split("/")[0] for name in found.train.ids} == {"train", "val"}
    assert {name.split("/")[0] for name in found.test.ids} == {"test"}
    assert found.notes == ["val, 4 images, is joined to train, 4"]


def test_class_folders_alone_keep_a_fifth_of_each_class(tmp_path) -> None:
    found = open_labelled(tree(tmp_path, {"cat": 20, "dog": 10, "owl": 2, "yak": 1}))
    assert found.classes == ["cat", "dog", "owl", "yak"]
    assert np.bincount(found.test.labels, minlength=4).tolist() == [4, 2, 1, 0]
    assert np.bincount(found.train.labels).tolist() == [16, 8, 1, 1]
    assert not set(found.train.ids) & set(found.test.ids)
    assert found.notes == [
        f"{tmp_path} has no test part: 7 of 33 images, 20% of each class, drawn by their ids, are kept for it",
        "1 of 4 classes have no test images",
    ]


def test_the_draw_is_by_id_alone() -> None:
    ids, labels = [f"{i}.png" for i in range(50)], np.arange(50) % 3
    chosen = drawn_test(ids, labels)
    assert chosen.sum() == sum(round(0.2 * n) for n in (17, 17, 16))
    order = np.random.default_rng(0).permutation(50)
    again = drawn_test([ids[i] for i in order], labels[order])
    np.testing.assert_array_equal(again, chosen[order])
    first = {ids[i] for i in np.flatnonzero(chosen) if labels[i] == 0}
    others = labels != 0
    assert {i for i, t in zip(ids, drawn_test(ids, np.where(others, 1, 0)), strict=True) if t} & set(
        np.array(ids)[~others]
    ) == first


def test_a_class_may_be_called_train(tmp_path) -> None:
    found = open_labelled(tree(tmp_path, {"bus": 5, "train": 5, "car": 5}))
    assert found.classes == ["bus", "car", "train"] and len(found.test) == 3


def test_a_train_folder_alone_is_entered(tmp_path) -> None:
    found = open_labelled(tree(tmp_path, {"train/a": 5, "train/b": 5}))
    assert found.classes == ["a", "b"] and len(found.test) == 2
    assert found.notes[0].endswith("are kept for it")


def test_what_stands_outside_is_left_out_on_its_side(tmp_path) -> None:
    source = tree(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "extra/a": 1, "test": 1, "train": 1, ".": 1})
    (tmp_path / "test/a/broken.jpg").write_bytes(b"")
    found = open_labelled(source)
    outside = "outside the train, val and test folders"
    assert found.train.left_out == [
        LeftOut("0.png", outside),
        LeftOut("extra/a/0.png", outside),
        LeftOut("train/0.png", "not in a class folder"),
    ]
    assert found.test.left_out == [
        LeftOut("test/0.png", "not in a class folder"),
        LeftOut("test/a/broken.jpg", "empty file"),
    ]
    assert (found.train.found, found.test.found) == (4 + 3, 1 + 2)


def test_a_flat_folder_has_no_labels(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"has no labels: no image is in a class folder\. Give a folder of class folders"
    ):
        open_labelled(tree(tmp_path, {".": 3}))


def test_parts_without_class_folders_have_no_labels(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no labels: no image is in a class folder\."):
        open_labelled(tree(tmp_path, {"train": 3, "test": 2, "val": 2}))


def test_a_list_has_no_labels(tmp_path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(UserError, match=r"list\.txt has no labels"):
        open_labelled(str(tmp_path / "list.txt"))


def test_one_class_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has one class, a, and an evaluation needs two or more\. Give a folder of"):
        open_labelled(tree(tmp_path, {"train/a": 3, "test/a": 2}))


def test_one_class_that_can_be_read_is_refused(tmp_path) -> None:
    source = tree(tmp_path, {"train/a": 3, "test/a": 2})
    (tmp_path / "train/b").mkdir()
    (tmp_path / "train/b/x.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"has one class in train, a, and an evaluation needs two or more classes\.$"):
        open_labelled(source)
    for path in (tmp_path / "train/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"has no image in train that can be used, and an evaluation needs two or more"):
        open_labelled(source)


def test_classes_that_only_test_has_are_refused(tmp_path) -> None:
    source = tree(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1, "test/c": 2, "test/d": 1})
    with pytest.raises(
        UserError,
        match=r"has 2 classes in test that train does not have: c \(2\), d \(1\)\. Every class of test must be",
    ):
        open_labelled(source)


def test_parts_without_train_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has the parts val and test, and none for training\. Give a folder"):
        open_labelled(tree(tmp_path, {f"{part}/{c}": 1 for part in ("val", "test") for c in "ab"}))


@pytest.mark.parametrize("column", ["label", "labels", "class", "target", "fine_label", "Label"])
def test_parquet_with_a_column_of_labels(tmp_path, column: str) -> None:
    labels = [7, 2, 7, 10] * 5
    found = open_labelled(str(rows(tmp_path / "a.parquet", labels, column)))
    assert found.classes == ["2", "7", "10"]
    assert np.bincount(found.train.labels).tolist() == [4, 8, 4]
    together = named(found.train) | named(found.test)
    assert together == {f"a.parquet#{i}": str(label) for i, label in enumerate(labels)}
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train.parquet", "val.parquet", "test.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet", "data/test-0.parquet"),
        ("train/0.parquet", "valid/0.parquet", "test/0.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet", "default/test/0000.parquet"),
    ],
)
def test_parquet_files_in_parts(tmp_path, train: str, val: str, test: str) -> None:
    rows(tmp_path / train, ["x", "y", "y"])
    rows(tmp_path / val, ["y"])
    found = open_labelled(str(tmp_path))
    assert list(found.test.ids) == [f"{val}#0"] and found.test.labels.tolist() == [1]
    assert found.notes == ["val, 1 images, is the test part; there is no other", "1 of 2 classes have no test images"]
    rows(tmp_path / test, ["x", "y"])
    found = open_labelled(str(tmp_path))
    assert list(found.test.ids) == [f"{test}#0", f"{test}#1"] and len(found.train) == 4
    assert found.notes == ["val, 1 images, is joined to train, 3"]


def test_rows_without_a_label_are_left_out(tmp_path) -> None:
    found = open_labelled(str(rows(tmp_path / "a.parquet", [0, 1, None, -1, 0, 1])))
    assert len(found.train) + len(found.test) == 4
    assert found.train.left_out == [LeftOut(f"a.parquet#{i}", "row without a label") for i in (2, 3)]


def test_class_names_beside_the_labels_are_used(tmp_path) -> None:
    path = rows(tmp_path / "a.parquet", [1, 0, 1, 0, 3, 3])
    features = {"info": {"features": {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}}}
    content = pq.read_table(path)
    pq.write_table(content.replace_schema_metadata({b"huggingface": json.dumps(features).encode()}), path)
    assert open_labelled(str(path)).classes == ["cat", "dog", "3"]
    for broken in (b"no json", b"{}", b'{"info": {"features": {"label": {"names": 3}}}}', b"[]"):
        pq.write_table(content.replace_schema_metadata({b"huggingface": broken}), path)
        assert open_labelled(str(path)).classes == ["0", "1", "3"]


def test_dictionary_and_boolean_labels(tmp_path) -> None:
    coded = pa.array(["b", "a"] * 5).dictionary_encode()
    assert open_labelled(str(rows(tmp_path / "a.parquet", coded))).classes == ["a", "b"]
    assert open_labelled(str(rows(tmp_path / "b.parquet", [True, False] * 5))).classes == ["False", "True"]


def test_parquet_without_labels_is_refused(tmp_path) -> None:
    path = rows(tmp_path / "a.parquet", [1, 2], "number")
    with pytest.raises(
        UserError,
        match=r"a\.parquet has no column of labels: none of label, labels, class, target, fine_label\. Its columns are "
        r"image, number\.$",
    ):
        open_labelled(str(path))


@pytest.mark.parametrize("labels", [[[1, 2], [3]], [0.5, 1.5]])
def test_labels_that_are_no_classes_are_refused(tmp_path, labels: list[object]) -> None:
    with pytest.raises(UserError, match=r"must hold one class per row, a number or a name\. Row 0 has '.*'\.$"):
        open_labelled(str(rows(tmp_path / "a.parquet", labels)))


def test_a_folder_of_unlabelled_rows_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="has no labels"):
        open_labelled(str(rows(tmp_path / "a.parquet", [-1, -1])))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train/a.png", "train"),
        ("a/train/b.png", None),
        ("train.png", None),
        ("trainer/a.png", None),
        ("train.parquet#3", "train"),
        ("training_data.parquet#3", "train"),
        ("trains.parquet#3", None),
        ("testing-1.parquet#0", "test"),
        ("a/b/valid/x.parquet#0", "val"),
        ("default/x.parquet#0", None),
    ],
)
def test_parts_by_name(name: str, part: str | None) -> None:
    assert split_of(name) == part


def test_the_builtin_set() -> None:
    found = open_labelled("builtin:fashion-mnist")
    assert (len(found.train), len(found.test), len(found.classes)) == (12_000, 2_000, 10)
    assert found.notes == [] and found.test.ids[3] == "test#3" and found.train.channels == 1
    assert named(found.train)["train#0"] == "ankle boot"
    assert np.bincount(found.test.labels).tolist() == [200, 203, 214, 190, 219, 195, 197, 200, 194, 188]
    assert not np.array_equal(found.test.read(0), found.train.read(0))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of files in the order in which their headers are read."""
    look_here(monkeypatch)
    names: list[str] = []
    probe = Files.probe

    def watched(self: Files, sample_id: str) -> ImageFacts:
        names.append(sample_id)
        return probe(self, sample_id)

    monkeypatch.setattr(Files, "probe", watched)
    return names


def same_train(source: str) -> Index:
    """Train as both openings find it, which must be the same."""
    whole, alone = open_labelled(source), open_labelled_train(source)
    assert alone.train.ids == whole.train.ids and alone.classes == whole.classes == alone.train.classes
    assert np.array_equal(alone.train.labels, whole.train.labels) and np.array_equal(
        alone.train.facts, whole.train.facts
    )
    assert (alone.train.left_out, alone.train.found) == (whole.train.left_out, whole.train.found)
    return alone.train


def test_train_alone_opens_no_image_of_test(tmp_path, opened: list[str]) -> None:
    source = tree(tmp_path, {f"{part}/{c}": 2 for part in ("train", "val", "test") for c in "ab"} | {"extra": 1})
    (tmp_path / "test/a/0.png").write_bytes(b"")
    (tmp_path / "val/b/0.png").write_bytes(b"")
    found = open_labelled_train(source)
    assert {name.split("/")[0] for name in opened} == {"train", "val"}
    assert list(found.train.ids) == sorted(set(opened) - {"val/b/0.png"})
    assert found.notes == ["val, 4 images, is joined to train, 4"]
    assert [entry.path for entry in same_train(source).left_out] == ["extra/0.png", "val/b/0.png"]


def test_train_alone_is_the_same_where_val_is_the_test_part(tmp_path, opened: list[str]) -> None:
    source = tree(tmp_path, {f"{part}/{c}": 3 for part in ("train", "val") for c in "ab"})
    open_labelled_train(source)
    assert {name.split("/")[0] for name in opened} == {"train"}
    assert len(same_train(source)) == 6


def test_a_drawn_test_part_is_never_in_train_whatever_is_damaged(tmp_path, opened: list[str]) -> None:
    source = tree(tmp_path, {"cat": 20, "dog": 10})
    test = set(open_labelled(source).test.ids)
    for i in range(6):
        (tmp_path / f"cat/{i}.png").write_bytes(b"")
    opened.clear()
    open_labelled_train(source)
    assert len(test) == 6 and not test & set(opened)
    train, found = same_train(source), open_labelled(source)
    assert not test & set(train.ids) and set(found.test.ids) <= test
    assert len(train.left_out) + len(found.test.left_out) == 6
    assert {entry.path for entry in found.test.left_out} <= test


def test_what_is_left_out_of_a_train_folder_alone_is_of_train(tmp_path) -> None:
    source = tree(tmp_path, {"train/a": 5, "train/b": 5, "train": 1})
    found = open_labelled(source)
    assert [entry.path for entry in found.train.left_out] == ["train/0.png"] and not found.test.left_out
    assert same_train(source).left_out == found.train.left_out


def test_train_alone_of_rows_and_of_the_builtin_set(tmp_path) -> None:
    rows(tmp_path / "train.parquet", ["x", "y", None, "y"])
    rows(tmp_path / "test.parquet", ["x", "y"])
    assert list(same_train(str(tmp_path)).ids) == ["train.parquet#0", "train.parquet#1", "train.parquet#3"]
    assert len(same_train("builtin:fashion-mnist")) == 12_000


def test_train_alone_refuses_what_the_whole_refuses(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has one class in train, a, and an evaluation needs two or more classes\.$"):
        open_labelled_train(tree(tmp_path, {"train/a": 2, "test/a": 1, "test/b": 1}))
    with pytest.raises(UserError, match=r"holds no image that fits data\.channels=5"):
        open_labelled_train(str(tmp_path), channels=5)


def test_forced_channels_and_progress(tmp_path) -> None:
    calls: list[tuple[int, int]] = []
    source = tree(tmp_path, {"a": 3, "b": 3})
    found = open_labelled(source, channels=1, progress=lambda done, total: calls.append((done, total)))
    assert found.train.channels == found.test.channels == 1 and calls == [(6, 6)]
    with pytest.raises(UserError, match=r"holds no image that fits data\.channels=5"):
        open_labelled(source, channels=5)


def test_real_photographs(shared_data) -> None:
    found = open_labelled(str(shared_data / "clothing10"))
    assert (len(found.train), len(found.test), len(found.classes)) == (3068 + 341, 372, 10)
    assert found.notes == ["val, 341 images, is joined to train, 3,068"]
    assert named(found.test)[found.test.ids[0]] == found.test.ids[0].split("/")[1]


def test_real_rows(shared_data) -> None:
    found = open_labelled(str(shared_data / "cifar10/parquet"))
    assert (len(found.train), len(found.test)) == (50_000, 10_000)
    assert found.classes == [str(i) for i in range(10)] and found.notes == []
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
