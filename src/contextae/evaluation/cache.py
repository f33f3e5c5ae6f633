"""Frozen features on the disk, by the content that they were made of, so that none is made twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from contextae.data.names import cache_folder
from contextae.disk import reason
from contextae.evaluation.sealed import read_sealed, write_sealed
from contextae.training.manifest import Damaged
from contextae.training.progress import say_on_stderr

LIMIT = 8 * 2**30
"""Bytes of all entries together; tokens of 50,000 images of 65 tokens of width 128 are 0.8 GiB."""
ABANDONED_SECONDS = 3_600
SUFFIX, WRITING = ".safetensors", ".writing-*"


class FeatureCache:
    """`features` in $CONTEXTAE_CACHE or ~/.cache/contextae, or a folder of one's own; may be deleted at any time.

    An entry is a safetensors file with a hash of all that it holds, named by a hash of all that it depends on. At most
    `limit` bytes are kept: what was not used for longest goes first, and an entry larger than that is not kept at all.
    A damaged entry is said and removed, so that it is made again. A cache that cannot be written is said and missed:
    features are then made every time.
    """

    def __init__(
        self, folder: Path | None = None, *, limit: int = LIMIT, say: Callable[[str], None] = say_on_stderr
    ) -> None:
        self.folder, self.limit, self.say = folder or cache_folder() / "features", limit, say

    def get(self, name: str) -> dict[str, Tensor] | None:
        """What was put under this name, if it is still there and whole."""
        path = self.folder / f"{name}{SUFFIX}"
        if not path.exists():
            return None
        try:
            tensors, facts = read_sealed(path)
            if facts != {"name": name}:
                raise Damaged(f"{path.name} holds what belongs under another name")
        except (Damaged, OSError) as damage:
            self.say(f"Features in {self.folder} are damaged and made again: {damage}.")
            self._remove(path)
            return None
        with suppress(OSError):  # whose cache may be read alone: it is whole, and another one counts its uses
            os.utime(path)
        return tensors

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps tensors under a name; older entries make room."""
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        if size > self.limit:
            return
        try:
            self._make_room(size)
            write_sealed(self.folder / f"{name}{SUFFIX}", tensors, {"name": name})
        except OSError as error:
            self.say(f"Features cannot be kept in {self.folder}: {reason(error)}. They are made again next time.")

    def _make_room(self, size: int) -> None:
        for path in self.folder.glob(WRITING):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                self._remove(path)
        facts = [(path, path.stat()) for path in self.folder.glob(f"*{SUFFIX}")]
        total = size + sum(fact.st_size for _, fact in facts)
        for path, fact in sorted(facts, key=lambda each: each[1].st_mtime_ns):
            if total <= self.limit:
                break
            self._remove(path)
            total -= fact.st_size

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.say(f"{path} could not be removed: {reason(error)}.")
