"""An unpickler that imports nothing: every class and function a pickle names becomes an inert record.

Python's own unpickler moves the stack; what it would import is replaced by empty classes made here, which keep what
they are given and do nothing.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import torch

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Record:
    """What a pickle makes of a class or function that was never looked for: its origin, arguments, state and items."""

    origin = ""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Record:
        record = super().__new__(cls)
        record.arguments, record.state, record.items = arguments, None, []
        return record

    def __init__(self, *_: Any, **__: Any) -> None: ...

    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, name: Any, value: Any) -> None:
        self.items.append((name, value))

    def extend(self, values: Any) -> None:
        """Elements of what was a list."""
        self.items.extend(values)


class Stored(NamedTuple):
    """A storage that a tensor is a view of: its class, its key in the file, its number of elements."""

    kind: str
    key: str
    length: int


class Inert(pickle.Unpickler):
    """Unpickles to records; keeps the names of all that the file would import."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")
        self.wishes: dict[str, type[Record]] = {}
        self.storages: dict[str, Stored] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        """A class of our own for every name; nothing is imported."""
        origin = f"{module}.{name}"
        if origin not in self.wishes:
            self.wishes[origin] = type("Record", (Record,), {"origin": origin})
        return self.wishes[origin]

    def persistent_load(self, pid: Any) -> Any:
        """A storage, or (in old files) a module's class with its source code, of which the class's record is taken."""
        if not isinstance(pid, tuple) or not pid:
            raise pickle.UnpicklingError("an unknown kind of reference")
        if pid[0] == "module":
            return pid[1]
        _, kind, key, _, count, *view = pid
        if pid[0] != "storage" or (view and view[0] is not None):
            raise pickle.UnpicklingError("a storage within a storage")
        stored = Stored(str(getattr(kind, "origin", kind)).rpartition(".")[2], str(key), int(count))
        if stored.kind not in DTYPES:
            raise pickle.UnpicklingError(f"a tensor of {stored.kind}, which is none of {', '.join(DTYPES)}")
        return self.storages.setdefault(stored.key, stored)
