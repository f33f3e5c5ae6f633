"""Headers looked at in this process, where a test can see or change what is done; otherwise it is done in others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from contextae.data.each import Look
from contextae.data.facts import BadImage, Refusal, Unsupported
from contextae.data.index import Source
from contextae.data.sources.opening import Opened, Opening, Reading


def look_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, for this test."""

    def look_at_each(look: Look, source: Source, ids: Sequence[str], *, chunk: int, **_: Any) -> Iterator[list[Any]]:
        for start in range(0, len(ids), chunk):
            yield [looked(look, source, sample_id) for sample_id in ids[start : start + chunk]]

    monkeypatch.setattr("contextae.data.probing.look_at_each", look_at_each)


def looked(look: Look, source: Source, sample_id: str) -> Any:
    try:
        return look(source, sample_id)
    except BadImage as error:
        return Refusal(error.reason, isinstance(error, Unsupported))


def open_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, for this test, files that hold many images are listed in this process as well."""

    def open_apart(reading: Reading, names: Sequence[str]) -> Opened:
        made = Opening(reading).make(list(names), ())
        return Opened(made.batch, {bad.position: bad.reason for bad in made.bad})

    for kind in ("archives", "numpy_files", "parquet"):
        monkeypatch.setattr(f"contextae.data.sources.{kind}.open_apart", open_apart)
