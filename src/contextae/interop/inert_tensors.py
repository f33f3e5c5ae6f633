"""Tensors and state dicts of what was unpickled to inert records: a pickled module's own, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from contextae.interop.inert_records import DTYPES, Record, Stored

DEEPEST = 100  # modules within modules; deeper is no network but a loop
MOST = 100_000  # modules; a file of a few bytes can hold each of many levels twice
Content = Callable[[Stored], bytes]


class Tensors:
    """Makes tensors and state dicts of what was unpickled to records."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._storages: dict[str, Tensor] = {}
        self._visited = 0

    def states(self, found: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        """Tensors by name of a pickled module, or of the mapping of a checkpoint."""
        if depth > DEEPEST:
            raise ValueError("its modules lie within each other without end")
        self._visited += 1
        if self._visited > MOST:
            raise ValueError(f"it holds more than {MOST:,} modules")
        module = found.state if isinstance(found, Record) else None
        if isinstance(module, dict) and {"_parameters", "_buffers", "_modules"} <= module.keys():
            unsaved = _elements(module.get("_non_persistent_buffers_set", ()))
            buffers = [(name, value) for name, value in _items(module["_buffers"]) if name not in unsaved]
            for name, value in (*_items(module["_parameters"]), *buffers):
                if value is not None:
                    yield f"{prefix}{name}", self.value(value)
            for name, value in _items(module["_modules"]):
                if value is not None:
                    yield from self.states(value, f"{prefix}{name}.", depth + 1)
            return
        items = dict(_items(found))
        inner = next((items[name] for name in ("model", "module", "state_dict") if _holds_names(items.get(name))), None)
        if inner is not None:
            yield from self.states(inner, prefix, depth + 1)
            return
        for name, value in items.items():
            yield f"{prefix}{name}", self.value(value)

    def value(self, found: Any) -> Any:
        """The tensor that a record stands for; anything else as it is."""
        if not isinstance(found, Record):
            return found
        origin, arguments = found.origin, found.arguments
        if origin == "torch._tensor._rebuild_from_type_v2":
            origin, arguments = arguments[0].origin, arguments[2]
        if origin.startswith("torch._utils._rebuild_parameter"):
            return self.value(arguments[0])
        if origin in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return self._view(*arguments[:4])
        return found

    def _view(self, stored: Stored, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """A copy of the part of a storage; a shape that does not lie in it is refused before any memory is taken."""
        numbers = (offset, *size, *stride)
        if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(size) != len(stride):
            raise ValueError(f"a tensor of shape {size} and stride {stride}")
        values = torch.Size(size).numel()
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if values > stored.length or (values and last >= stored.length):
            raise ValueError(f"a tensor of shape {tuple(size)} does not lie in its {stored.length} values")
        if stored.key not in self._storages:
            data, dtype = bytearray(self._content(stored)), DTYPES[stored.kind]
            self._storages[stored.key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[stored.key].as_strided(size, stride, offset).clone().contiguous()


def _items(found: Any) -> list[tuple[Any, Any]]:
    """Pairs of a dict, or of the record of an OrderedDict."""
    if isinstance(found, dict):
        return list(found.items())
    if isinstance(found, Record) and found.origin in ("collections.OrderedDict", "collections.defaultdict"):
        given = found.arguments[0] if found.arguments and isinstance(found.arguments[0], list) else []
        return [(name, value) for name, value in (*given, *found.items)]
    kind = getattr(found, "origin", type(found).__name__)
    raise ValueError(f"it holds {kind}, in which no tensors by name can be found")


def _holds_names(found: Any) -> bool:
    if isinstance(found, Record):
        return found.origin == "collections.OrderedDict" or isinstance(found.state, dict)
    return isinstance(found, dict)


def _elements(found: Any) -> set[Any]:
    """Of a set, which some protocols pickle as a call of `set` with a list."""
    return set(found.arguments[0] if isinstance(found, Record) else found)
