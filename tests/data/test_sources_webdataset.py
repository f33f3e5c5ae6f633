from __future__ import annotations

import pickle
import tarfile
import time
from collections import Counter

import numpy as np
import pytest

from contextae.data.index import LeftOut
from contextae.data.sources.archives import list_archives
from data.archives import listed, tar_bytes
from data.pictures import encoded

PNG = [encoded(seed) for seed in range(5)]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


def test_samples_of_webdataset_are_their_images_with_classes(tmp_path) -> None:
    members = []
    for i, name in enumerate(("7", "12", "7", "")):
        members += [
            (f"s/{i}.jpg", PNG[i]),
            (f"s/{i}.cls", name.encode()),
            (f"s/{i}.json", b"{}"),
            (f"s/{i}.seg.png", PNG[4]),
        ]
    members += [("scan.1.png", PNG[0]), ("scan.2.png", PNG[1]), ("more/notes.txt", b"")]
    listing = listed(tmp_path / "x.tar", tar_bytes(members))
    assert [i.removeprefix("x.tar/") for i in listing.ids] == [f"s/{i}.jpg" for i in range(4)] + [
        "scan.1.png",
        "scan.2.png",
    ]
    assert listing.classes == ["7", "12"] and listing.labels.tolist() == [0, 1, 0, -1, -1, -1]
    assert listing.left_out == [LeftOut("x.tar/more/notes.txt", "not an image by its extension, .txt")]
    assert listing.notes[:2] == [
        "members that go with an image and are not images of their own: 4 .cls, 4 .json, 4 .seg.png",
        "3 of 6 images have no .cls member that can be read, and so no class",
    ]


def test_classes_are_names_where_one_is_no_number_and_long_ones_are_none(tmp_path) -> None:
    members = [
        ("a.png", PNG[0]),
        ("a.cls", b" 10\n"),
        ("b.png", PNG[1]),
        ("b.cls", b"dog"),
        ("c.png", PNG[2]),
        ("c.cls", b"x" * 257),
    ]
    listing = listed(tmp_path / "x.tar", tar_bytes(members))
    assert listing.classes == ["10", "dog"] and listing.labels.tolist() == [0, 1, -1]
    assert listed(tmp_path / "y.tar", tar_bytes([("a.png", PNG[0])])).labels is None


def test_a_key_that_very_many_share_is_no_sample(tmp_path) -> None:
    members = [(f"scan.{i:04}.png", PNG[i % 5]) for i in range(70)] + [("scan.txt", b"about")]
    listing = listed(tmp_path / "x.tar", tar_bytes(members))
    assert len(listing.ids) == 70 and [entry.path for entry in listing.left_out] == []
    members.insert(0, ("scan.md", b"about"))
    listing = listed(tmp_path / "y.tar", tar_bytes(members))
    assert len(listing.ids) == 70 and listing.left_out == [
        LeftOut("y.tar/scan.md", "not an image by its extension, .md")
    ]


def test_real_shards_open_and_are_read_at_random(shared_data, tmp_path) -> None:
    root = shared_data / "cifar10/wds"
    names = ["cifar10-train-000000.tar", "cifar10-train-000001.tar"]
    listing = list_archives(root, names, "wds")
    assert len(listing.ids) == 4000 and listing.left_out == [] and listing.classes == [str(i) for i in range(10)]
    start = time.perf_counter()
    again = list_archives(root, names, "wds")
    assert time.perf_counter() - start < 1 and again.ids == listing.ids
    assert np.array_equal(again.labels, listing.labels) and len(pickle.dumps(again.source)) < 1000
    with tarfile.open(root / names[1]) as archive:
        for info in archive.getmembers()[::400]:
            stream = archive.extractfile(info)
            assert stream is not None
            assert again.source.read(f"{names[1]}/{info.name}") == stream.read()
    by_name = Counter(sample_id.split("/")[1].split("_")[0] for sample_id in listing.ids)
    assert len(by_name) == 10
    for name in by_name:
        labels = {
            int(label) for sample_id, label in zip(listing.ids, listing.labels, strict=True) if f"/{name}_" in sample_id
        }
        assert len(labels) == 1
