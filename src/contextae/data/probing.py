"""The headers of all images of a source: first contact with unknown files, in processes that may die of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from contextae.data.each import look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import FACTS, Source
from contextae.data.names import Column, as_array

CHUNK = 128
PER_PROCESS = 512  # a header takes 50 us from a local disk, and 10 ms from a distant one

Progress = Callable[[int, int], None]


def probe_all(
    source: Source, ids: Sequence[str], progress: Progress | None, *, timeout: float = 60.0
) -> tuple[np.ndarray, dict[int, Refusal]]:
    """Rows of FACTS, and why others cannot be used, by position. `progress(done, total)` is called now and then."""
    column, bad, done = Column(), dict[int, Refusal](), 0
    for results in look_at_each(probed, source, ids, chunk=CHUNK, per_process=PER_PROCESS, timeout=timeout):
        facts = np.zeros(len(results), FACTS)
        for i, result in enumerate(results):
            if isinstance(result, Refusal):
                bad[done + i] = result
            else:
                facts[i] = result
        column.append(facts.tobytes())
        done += len(results)
        if progress:
            progress(done, len(ids))
    return as_array(column.whole(), FACTS), bad


def probed(source: Source, sample_id: str) -> tuple[Any, ...]:
    """A row of FACTS."""
    fact = source.probe(sample_id)
    return tuple(getattr(fact, name) for name in FACTS.names or ())
