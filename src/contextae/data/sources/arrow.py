"""Parquet and Arrow files through pyarrow: footers, a column of bytes block by block or row by row, one of scalars."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextae.data.index import printable
from contextae.data.sources.columns import leaf
from contextae.data.sources.regular import NOT_A_FILE, NotAFileError, check_regular
from contextae.errors import UserError

ROWS_PER_BLOCK = 1024
STREAM = ".arrow"
"The suffix of Arrow's stream format, in which Hugging Face's `datasets` keeps what it saves."


class Footer(NamedTuple):
    """What a file says of itself before any row is read."""

    schema: Any
    num_rows: int


class MappedRows:
    """A column of images of an Arrow file, memory-mapped: any row for the price of its bytes."""

    def __init__(self, path: Path, column: str) -> None:
        self.column = mapped_table(path).column(column)

    def __getitem__(self, row: int) -> bytes:
        value = self.column[row].as_py()
        found = value.get("bytes") if isinstance(value, dict) else value
        return found or b""


def is_stream(path: Path) -> bool:
    """By its name, in whatever case."""
    return path.suffix.lower() == STREAM


def open_parquet(path: Path) -> Any:
    """pyarrow's ParquetFile, of which only the footer is read; UserError where the file is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(path)
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error)) from error


def check_stream(path: Path, column: str) -> None:
    """Refuses one whose rows do not lie where it says, which is met otherwise when they are read."""
    import pyarrow as pa

    try:
        mapped_table(path).column(column).validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error, "an Arrow stream")) from error


def mapped_table(path: Path) -> Any:
    """The table of an Arrow stream, whose columns lie in the memory map; UserError where the file is none."""
    import pyarrow as pa

    try:
        check_regular(path)
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error, "an Arrow stream")) from error


def footer(path: Path) -> Footer:
    """Of a Parquet or an Arrow file."""
    if is_stream(path):
        table = mapped_table(path)
        return Footer(table.schema, table.num_rows)
    with open_parquet(path) as file:
        return Footer(file.schema_arrow, file.metadata.num_rows)


def refusal(path: Path, error: Exception | str, kind: str = "Parquet") -> str:
    """The paragraph for a file that is none, or is damaged, in the words of pyarrow's first line."""
    words = NOT_A_FILE if isinstance(error, NotAFileError) else str(error)
    words = (words.splitlines() or ["no reason given"])[0][:200].rstrip(".")
    return f"{printable(str(path))} cannot be read as {kind}: {words}. Mend it, or take it out of the set."


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


def column_bytes(path: Path, column: str) -> int:
    """Of a Parquet file's column once decompressed, from the footer; nothing of an Arrow file, which needs no copy."""
    if is_stream(path):
        return 0
    with open_parquet(path) as file:
        metadata = file.metadata
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    chunks = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


def read_column(path: Path, column: str) -> list[Any]:
    """A column of scalars as Python values, None where there is none."""
    import pyarrow as pa

    if is_stream(path):
        found: list[Any] = mapped_table(path).column(column).to_pylist()
        return found
    try:
        with open_parquet(path) as file:
            values: list[Any] = file.read(columns=[column])[column].to_pylist()
            return values
    except (pa.ArrowException, OSError) as error:
        raise UserError(refusal(path, error)) from error
