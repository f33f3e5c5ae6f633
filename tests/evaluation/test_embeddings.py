"""Features in files, and which images lie close together, against brute force."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from contextae.errors import UserError
from contextae.evaluation import embeddings as module
from contextae.evaluation.embeddings import (
    Embeddings,
    close_pairs,
    nearest,
    read_embeddings,
    unit,
    write_embeddings,
)

ODD = ["a/b.png", "new\nline.png", b"\xff\xfe.png".decode("utf-8", "surrogateescape"), "tail.png ", "\u00e9.png"]


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, (count, 6)).astype(np.float32)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("ids", [ODD, ["plain.png", "\u00e9.png"]], ids=["odd", "plain"])
def test_what_is_written_is_read_back(tmp_path: Path, ending: str, ids: list[str]) -> None:
    held = Embeddings(ids, {"summary": vectors(len(ids)), "mean_latents": vectors(len(ids), 1)}, {"weights": "RUN"})
    path = tmp_path / f"features.{ending}"
    write_embeddings(path, held)
    found = read_embeddings(path)
    assert found.ids == ids and found.about == {"weights": "RUN"} and list(found.vectors) == list(held.vectors)
    assert all(np.array_equal(found.vectors[name], held.vectors[name]) for name in held.vectors)


def test_other_programs_read_it(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_embeddings(tmp_path / "f.parquet", Embeddings(["a", "b"], {"summary": vectors(2)}, {}))
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["path", "summary"] and table.column("path").to_pylist() == ["a", "b"]
    np.testing.assert_array_equal(np.array(table.column("summary").to_pylist(), np.float32), vectors(2))


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"features.{ending}"
    with pytest.raises(UserError, match=r"There is no file .* `contextae embed` writes one"):
        read_embeddings(path)
    write_embeddings(path, Embeddings(["a"], {"summary": vectors(1)}, {}))
    data = path.read_bytes()
    for damaged in (b"", b"text", data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is not a file of features that `contextae embed` wrote, or it is damaged"):
            read_embeddings(path)
    with pytest.raises(UserError, match=r"written as \.parquet or \.npz\. Got features\.csv"):
        read_embeddings(tmp_path / "features.csv")


def test_objects_in_a_file_are_not_made(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", about=np.array([{"format": 1}], dtype=object), path=np.array([b"a"]))
    with pytest.raises(UserError, match="is not a file of features"):
        read_embeddings(tmp_path / "x.npz")


@pytest.mark.parametrize("block", [3, 1_000])
def test_neighbours_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    alike = unit(vectors(40))
    np.testing.assert_allclose(np.linalg.norm(alike, axis=1), 1, rtol=1e-6)
    found = nearest(alike, [7, 0, 39, 12, 5], 4)
    for query, row in zip([7, 0, 39, 12, 5], found, strict=True):
        order = sorted((i for i in range(40) if i != query), key=lambda i: -float(alike[i] @ alike[query]))
        assert [pair.second for pair in row] == order[:4] and all(pair.first == query for pair in row)
        np.testing.assert_allclose([pair.similarity for pair in row], alike[order[:4]] @ alike[query], rtol=1e-5)
    assert [len(row) for row in nearest(alike[:3], [0], 8)] == [2]


@pytest.mark.parametrize("block", [3, 1_000])
def test_pairs_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    alike = unit(vectors(40))
    pairs = close_pairs(alike, 0.6)
    wanted = {(i, j) for i in range(40) for j in range(i + 1, 40) if alike[i] @ alike[j] >= 0.6}
    assert {(pair.first, pair.second) for pair in pairs} == wanted and len(wanted) > 5
    assert [pair.similarity for pair in pairs] == sorted((pair.similarity for pair in pairs), reverse=True)
    with pytest.raises(UserError, match=r"More than 3 pairs of images are at least -1 alike"):
        close_pairs(alike, -1.0, most=3)


def test_what_all_images_share_does_not_make_them_alike() -> None:
    shared = np.full((1, 6), 100, np.float32) + np.eye(6, dtype=np.float32)
    assert (unit(shared) @ unit(shared).T)[0, 1] < 0


def test_columns_that_somebody_added_are_passed_over(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "f.parquet"
    write_embeddings(path, Embeddings(["a", "b"], {"summary": vectors(2)}, {"weights": "RUN"}))
    pq.write_table(pq.read_table(path).append_column("class", pa.array(["cat", "dog"])), path)
    found = read_embeddings(path)
    assert list(found.vectors) == ["summary"] and np.array_equal(found.vectors["summary"], vectors(2))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    held = vectors(3)
    held[1, 2] = np.nan
    write_embeddings(tmp_path / "f.npz", Embeddings(["a", "b", "c"], {"summary": held}, {}))
    with pytest.raises(UserError, match="summary holds numbers that are not finite"):
        read_embeddings(tmp_path / "f.npz")


def test_pairs_take_memory_of_blocks_and_not_of_the_set() -> None:
    alike = unit(np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32))
    tracemalloc.start()
    close_pairs(alike, 0.9999999)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6 * 4 * module.BLOCK**2, "a row of blocks would take twenty times one"
