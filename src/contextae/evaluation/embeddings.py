"""Features of a set of images with their names, in a file; and which of them lie close together."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from contextae.errors import UserError

ABOUT = "contextae"
"Where a file says what it is of."
FORMAT = 1
PATH, BYTES = "path", "path_bytes"
ENDINGS = (".parquet", ".npz")
BLOCK = 2_048
"Rows compared with as many others at a time: 16 MB of similarities, however large the set."


class Embeddings(NamedTuple):
    """`vectors` by name, each n d in float32, of the images `ids`; `about` says of which weights and source."""

    ids: list[str]
    vectors: dict[str, Float[np.ndarray, "n d"]]
    about: dict[str, Any]


class Pair(NamedTuple):
    """Two images by position, the first one first, and the cosine of their vectors."""

    first: int
    second: int
    similarity: float


def check_ending(path: Path) -> None:
    """UserError for a name of which the kind of file cannot be told."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"Features are written as {' or '.join(ENDINGS)}. Got {path.name}; name the file so.")


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """By the ending: Parquet with a column `path` and a list of numbers for each kind of vector, or NumPy's npz.

    The file is whole or what it was before. OSError where it cannot be written.

    Texts of Parquet are UTF-8: where a name is not, the column `path_bytes` holds all of them as they are.
    """
    beside = path.with_name(f".{path.name}.part")
    _write(beside, path.suffix.lower(), embeddings)
    beside.replace(path)


def _write(path: Path, ending: str, embeddings: Embeddings) -> None:
    about = json.dumps({"format": FORMAT, **embeddings.about})
    names = [each.encode("utf-8", "surrogateescape") for each in embeddings.ids]
    if ending == ".npz":
        with path.open("wb") as stream:
            held = {"about": np.array(about), PATH: np.array(names or np.zeros(0, "S1")), **embeddings.vectors}
            np.savez(stream, allow_pickle=False, **held)
        return
    shown = [name.decode("utf-8", "backslashreplace") for name in names]
    columns: dict[str, Any] = {PATH: pa.array(shown, pa.string())}
    if shown != list(embeddings.ids):
        columns[BYTES] = pa.array(names, pa.binary())
    for name, values in embeddings.vectors.items():
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    table = pa.table(columns).replace_schema_metadata({ABOUT: about})
    pq.write_table(table, path)


def read_embeddings(path: Path) -> Embeddings:
    """What `write_embeddings` wrote; UserError for anything else."""
    check_ending(path)
    try:
        return _read_npz(path) if path.suffix.lower() == ".npz" else _read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}. `contextae embed` writes one.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Embed the images again.") from None
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is not a file of features that `contextae embed` wrote, or it is damaged: {error}. Embed the "
            "images again."
        ) from None


def _read_npz(path: Path) -> Embeddings:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
        about = _about(str(held["about"]))
        ids = [bytes(row).decode("utf-8", "surrogateescape") for row in held[PATH]]
        vectors = {name: held[name] for name in held.files if name not in ("about", PATH)}
    return _whole(ids, vectors, about)


def _read_parquet(path: Path) -> Embeddings:
    table = pq.read_table(path)
    about = _about((table.schema.metadata or {})[ABOUT.encode()].decode())
    ids = table.column(PATH).to_pylist()
    if BYTES in table.column_names:
        ids = [name.decode("utf-8", "surrogateescape") for name in table.column(BYTES).to_pylist()]
    vectors = {}
    for name in table.column_names:
        if name not in (PATH, BYTES) and _is_list(table.schema.field(name).type):  # others are the user's own
            column = table.column(name).combine_chunks()
            vectors[name] = np.asarray(column.flatten()).reshape(len(table), -1)
    return _whole(ids, vectors, about)


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _whole(ids: list[str], vectors: dict[str, np.ndarray], about: dict[str, Any]) -> Embeddings:
    for name, values in vectors.items():
        if values.dtype != np.float32 or values.ndim != 2 or len(values) != len(ids):
            raise ValueError(f"{name} is {values.dtype} of shape {values.shape} for {len(ids)} images")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    if not vectors:
        raise ValueError("no vectors")
    return Embeddings(ids, vectors, about)


def _about(text: str) -> dict[str, Any]:
    about = json.loads(text)
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    return about


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Centred on the mean of all, so that what every image shares does not count, and of length 1; in float32."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def nearest(vectors: Float[np.ndarray, "n d"], queries: Sequence[int], count: int) -> list[list[Pair]]:
    """Of each query the `count` most similar others, the most similar first; `vectors` are of length 1."""
    found = []
    for start in range(0, len(queries), BLOCK):
        chosen = list(queries[start : start + BLOCK])
        similarities = vectors[chosen] @ vectors.T
        similarities[np.arange(len(chosen)), chosen] = -np.inf
        most = min(count, len(vectors) - 1)
        for query, row in zip(chosen, similarities, strict=True):
            best = np.argpartition(-row, most - 1)[:most] if most else np.zeros(0, int)
            best = best[np.lexsort((best, -row[best]))]
            found.append([Pair(query, int(other), float(row[other])) for other in best])
    return found


def close_pairs(
    vectors: Float[np.ndarray, "n d"],
    at_least: float,
    *,
    most: int = 100_000,
    progress: Callable[[float], None] | None = None,
) -> list[Pair]:
    """Every pair at least so similar, the most similar first; UserError where there are more than `most`."""
    pairs: list[Pair] = []
    starts = range(0, len(vectors), BLOCK)
    for start in starts:
        for other in starts[start // BLOCK :]:
            similarities = vectors[start : start + BLOCK] @ vectors[other : other + BLOCK].T
            close = similarities >= at_least
            if other == start:
                close = np.triu(close, 1)  # each pair once, and none with itself
            rows, columns = np.nonzero(close)
            if len(pairs) + len(rows) > most:
                raise UserError(
                    f"More than {most:,} pairs of images are at least {at_least:g} alike. Give a larger one, up to 1."
                )
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                pairs.append(Pair(start + row, other + column, float(similarities[row, column])))
        if progress:
            progress(min(1.0, (start + BLOCK) / len(vectors)))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))
