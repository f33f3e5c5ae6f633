"""A source of which any image can end or hold up the process that reads it; importable by these processes."""

from __future__ import annotations

import io
import os
import signal
import time
from dataclasses import dataclass, field

import numpy as np

from audit.made_set import encoded, image
from contextae.data.decode import probe
from contextae.data.facts import BadImage, ImageFacts
from contextae.data.names import Names
from contextae.data.sources.listing import Listing


@dataclass(frozen=True)
class Troubled:
    """Images by number; `trouble` is by id."""

    trouble: dict[str, str] = field(default_factory=dict)

    def read(self, sample_id: str) -> bytes | np.ndarray:
        match self.trouble.get(sample_id):
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(1000)
            case "slow":
                time.sleep(0.3)
            case "gone":
                raise BadImage("cannot be read (No such file or directory)")
            case "changed":
                raise FileNotFoundError(2, "No such file or directory", f"/data/{sample_id}")
        return encoded(image(int(sample_id)))

    def probe(self, sample_id: str) -> ImageFacts:
        return probe(io.BytesIO(bytes(self.read(sample_id))))

    def has(self, sample_id: str) -> bool:
        return True


def listing(count: int, trouble: dict[int, str] | None = None) -> Listing:
    source = Troubled({str(position): kind for position, kind in (trouble or {}).items()})
    return Listing(source=source, title="troubled", ids=Names(str(i) for i in range(count)))
