"""`--set NAME=VALUE` of an evaluation: a protocol's settings with some of them changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from contextae.errors import UserError, nearest
from contextae.experiment import value_of


def changed(settings: Any, given: Sequence[str]) -> Any:
    """Settings with NAME=VALUE applied, values read as YAML; unknown names are refused with the nearest one."""
    names = [each.name for each in dataclasses.fields(settings)]
    values = {name: getattr(settings, name) for name in names}
    for line in given:
        name, equals, text = line.partition("=")
        if not equals or name not in names or name == "version":
            known = [each for each in names if each != "version"]
            raise UserError(
                f"A setting of this protocol is written NAME=VALUE, of {', '.join(known)}. Got {line!r}."
                f"{nearest(name, known)}"
            )
        values[name] = _like(values[name], value_of(line, text), name)
    try:
        return TypeAdapter(type(settings)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(rule := first.get("ctx", {}).get("error"), UserError):  # a settings' own rule, already in words
            raise rule from None
        place = ".".join(map(str, first["loc"])) or "these"
        raise UserError(f"--set {place}: {first['msg']}. Got {first['input']!r}.") from None


def _like(old: Any, value: Any, name: str) -> Any:
    """A list of one may be written as that one; of settings within a setting, those that are not named stay."""
    if isinstance(old, tuple) and isinstance(value, int | float):
        return (value,)
    if dataclasses.is_dataclass(old) and not isinstance(old, type) and isinstance(value, dict):
        known = {each.name: getattr(old, each.name) for each in dataclasses.fields(old)}
        for each in value:
            if each not in known:
                raise UserError(f"{name} is made of {', '.join(known)}. Got {each!r}.{nearest(str(each), known)}")
        return {**known, **value}
    return value
