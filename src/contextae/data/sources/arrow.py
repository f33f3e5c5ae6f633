"""Parquet files through pyarrow: footers, a column of bytes block by block, a column of scalars."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.index import printable
from contextae.data.sources.columns import leaf
from contextae.errors import UserError

ROWS_PER_BLOCK = 1024


def open_parquet(path: Path) -> Any:
    """pyarrow's ParquetFile, of which only the footer is read; UserError where the file is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error)) from error


def refusal(path: Path, error: Exception) -> str:
    """The paragraph for a file that is none, or is damaged, in the words of pyarrow's first line."""
    words = (str(error).splitlines() or ["no reason given"])[0][:200].rstrip(".")
    return f"{printable(str(path))} cannot be read as Parquet: {words}. Mend it, or take it out of the set."


def blocks(path: Path, column: str) -> Iterator[tuple[memoryview, np.ndarray]]:
    """Consecutive rows of a column of images: their bytes without gaps, and each one's length; null has none."""
    import pyarrow as pa

    try:
        with open_parquet(path) as file:
            field = file.schema_arrow.field(column)
            for batch in file.iter_batches(batch_size=ROWS_PER_BLOCK, columns=[leaf(field)]):
                yield block_of(batch.column(0))
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error)) from error


def block_of(values: Any) -> tuple[memoryview, np.ndarray]:
    """Of an Arrow array of bytes, plain or as the one field of a struct, dictionary-encoded or not."""
    import pyarrow as pa

    if pa.types.is_struct(values.type):
        values = values.flatten()[0]  # unlike field(0), with the struct's own nulls
        return block_of(values)
    filled = values.cast(pa.large_binary()).fill_null(b"")
    _, ends, data = filled.buffers()
    bounds = np.frombuffer(ends, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    inner = memoryview(data if data is not None else b"")[bounds[0] : bounds[-1]]
    return inner, np.diff(bounds)


def column_bytes(metadata: Any, column: str) -> int:
    """Of the column once decompressed, from the footer."""
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    chunks = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


def read_column(path: Path, column: str) -> list[Any]:
    """A column of scalars as Python values, None where there is none."""
    import pyarrow as pa

    try:
        with open_parquet(path) as file:
            values: list[Any] = file.read(columns=[column])[column].to_pylist()
            return values
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error)) from error
