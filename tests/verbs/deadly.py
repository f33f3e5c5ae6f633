"""A source at one image of which the process that decodes it ends."""

from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass

import numpy as np

from contextae.data.facts import ImageFacts
from contextae.data.index import Index, Source


@dataclass(frozen=True)
class Deadly:
    """The source `of`, but for the image `name`."""

    of: Source
    name: str
    pid: int

    def read(self, sample_id: str) -> bytes | np.ndarray:
        """In the test's own process it raises, as that must not decode anything."""
        if sample_id == self.name:
            assert os.getpid() != self.pid, "decoded in the main process"
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.of.read(sample_id)

    def probe(self, sample_id: str) -> ImageFacts:
        return self.of.probe(sample_id)

    def has(self, sample_id: str) -> bool:
        return self.of.has(sample_id)


def deadly(index: Index, name: str = "cats/07.png") -> Index:
    """The index with such an image."""
    return dataclasses.replace(index, source=Deadly(index.source, name, os.getpid()))
