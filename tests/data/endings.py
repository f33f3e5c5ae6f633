"""Whether processes have ended."""

from __future__ import annotations

import time
from pathlib import Path


def gone(pid: int, patience: float = 10.0) -> bool:
    """Ended; a zombie that its new parent has not reaped yet has ended too."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False
