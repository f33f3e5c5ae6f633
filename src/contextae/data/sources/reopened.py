"""What sources of large files share: what they have opened stays in its process, and is opened again in others."""

from __future__ import annotations

import threading
from typing import Any


class Reopened:
    """Attributes whose names begin with _ are not pickled; `_start` makes them anew, here and where it is unpickled.

    Several threads read from one source: `_lock` is for whoever opens something.
    """

    def _start(self) -> None:
        """At the end of `__init__`, and where it is unpickled."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
