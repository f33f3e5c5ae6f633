"""A folder of which one file ends the process that reads it, and one is gone, importable by loader processes."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from contextae.data.sources.folder import Files


@dataclass(frozen=True)
class Deadly(Files):
    deadly: str
    gone: str

    def read(self, sample_id: str) -> bytes:
        if sample_id == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if sample_id == self.gone:
            raise FileNotFoundError(2, "No such file or directory", sample_id)
        return super().read(sample_id)
