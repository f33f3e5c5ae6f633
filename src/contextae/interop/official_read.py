"""What lies in a published file: unwrapped, its family of names recognised, renamed to the released layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contextae.errors import UserError
from contextae.interop.official_names import FAMILIES, Family, translated

WRAPPERS = ("model", "module", "state_dict")
ENCODER = "encoder."
CLASSIFIER = re.compile(r"fc_norm\.|head\.(weight|bias)$|.*relative_position")
FUSED_BIAS = "attn.qkv.bias"
NOT_ASKED = "not asked for: the encoder alone is"


class Released(NamedTuple):
    """Tensors by released name, in float32; position tables, which are not loaded, stand apart as they are.

    `names` gives the name that a tensor has in its file. `may_be_v2`: of the family that has CAE v2, and without a copy
    of the encoder, which CAE v2 does not have.
    """

    family: str
    tensors: dict[str, Tensor]
    tables: dict[str, Tensor]
    names: dict[str, str]
    left_out: dict[str, str]
    may_be_v2: bool
    notes: tuple[str, ...]

    @property
    def num_tables(self) -> int:
        """Position tables of the file, which were found to be ours."""
        return len(self.tables)

    def told(self, name: str) -> str:
        """What the file calls it."""
        return self.names.get(name, name)

    def need(self, name: str, *, axes: int) -> Tensor:
        """A tensor that sizes are read from."""
        value = self.tensors.get(name)
        if value is None or value.ndim != axes:
            got = "It is missing" if value is None else f"It is of shape {list(value.shape)}"
            raise UserError(
                f"Sizes are read from {self.told(name)}, a tensor of {axes} axes in the released layout. {got} in this "
                f"file, read as {self.family}; give an unchanged file of CAE or CAE v2."
            )
        return value

    def depth(self, prefix: str) -> int:
        """Number of blocks below `prefix`; a gap in their numbers shows when names are compared."""
        pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
        return len({match[1] for name in self.tensors if (match := pattern.match(name))})


def unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by name: out of `model`, `module` or `state_dict`, without the prefix `module.`."""
    for _ in WRAPPERS:
        inner = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        state = inner
    stripped = {str(name).removeprefix("module."): value for name, value in state.items()}
    strange = [name for name, value in stripped.items() if not isinstance(value, Tensor)]
    if strange or not stripped:
        raise UserError(
            "A state dict holds tensors by name, below model, module or state_dict or at the top. "
            + (f"Under {listed(strange)} there is none" if strange else "This one is empty")
            + "; give the file of a model."
        )
    return stripped


def read_released(state: Mapping[str, Any], *, drop_encoder_copy: bool, encoder_only: bool) -> Released:
    """Recognises the family and renames; what has no place, and a copy that is not equal to its encoder, is refused."""
    given = unwrap(state)
    family, prefix = _recognised(given)
    copies = {name: value for name, value in given.items() if name.startswith(family.copy)}
    left_out = _check_copies(copies, given, family, drop_encoder_copy)
    tensors: dict[str, Tensor] = {}
    tables: dict[str, Tensor] = {}
    names, without = {}, []
    for name, value in given.items():
        why = next((reason for start, reason in family.unused if name.startswith(start)), None)
        released = translated(prefix + name, family.sections)
        if name in copies:
            continue
        if why or (encoder_only and released and not released.startswith(ENCODER)):
            left_out[name] = why or NOT_ASKED
        elif released is None:
            without.append(name)
        else:
            names[released] = name
            (tables if released.endswith("pos_embed") else tensors)[released] = value
    if without:
        raise UserError(
            f"Every tensor must have a place, and these have none in a CAE read as {family.name}: {listed(without)}. "
            + hint(without)
        )
    notes = _notes(tensors)
    single = {name: value.float() for name, value in tensors.items()}
    return Released(family.name, single, tables, names, left_out, family.has_v2 and not copies, notes)


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio of which `int(width * ratio)` is `hidden`; the plain quotient may fall one short."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _recognised(given: Mapping[str, Tensor]) -> tuple[Family, str]:
    """The family, and the prefix that its names lack where the file is of an encoder alone."""
    if "encoder.class_token" in given:
        raise UserError("These weights have contextae's own names already. Use them as they are.")
    for family in FAMILIES:
        if any(name.startswith(family.marks) for name in given):
            return family, ""
    for family in FAMILIES:
        if family.bare and family.bare in given:
            return family, family.encoder
    raise UserError(
        f"These are not CAE weights by any of the names known: {', '.join(family.name for family in FAMILIES)}, or an "
        f"encoder of one of them alone. The file holds {listed(given)}. Give a CAE or CAE v2 checkpoint."
    )


def _check_copies(
    copies: Mapping[str, Tensor], given: Mapping[str, Tensor], family: Family, drop: bool
) -> dict[str, str]:
    """Why each tensor of the encoder's copy is left out, if it may be."""
    differing = []
    for name, value in copies.items():
        own = given.get(family.encoder + name.removeprefix(family.copy))
        if own is None or not torch.equal(own, value):
            differing.append(name)
    if differing and not drop:
        raise UserError(
            f"A copy of the encoder ({family.copy}) is left out only where it is equal to the encoder. Here "
            f"{len(differing)} of {len(copies)} tensors differ: {listed(differing)}. In the earlier release and in "
            "OpenMMLab's port it lags one step behind, or it moves slowly. To leave it out and read the encoder "
            "itself, give drop_encoder_copy (--drop-encoder-copy)."
        )
    why = "a copy of the encoder that differs from it, left out as asked" if differing else "equal to the encoder"
    return dict.fromkeys(copies, why)


def hint(names: Iterable[str]) -> str:
    """What a user who gave tensors of these names may have meant."""
    names = list(names)
    if any(name.endswith(FUSED_BIAS) for name in names):
        return (
            f"A bias of queries, keys and values in one, {FUSED_BIAS}, is timm's or another method's and not CAE's: "
            "take the tensors as they are with --to tensors, and start from them with --init timm:NAME=FILE."
        )
    if any(CLASSIFIER.match(name) for name in names):
        return "A fine-tuned classifier is read by to_beit (--to beit)."
    return "Give an unchanged CAE or CAE v2 checkpoint."


def _notes(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    integers = [name for name, value in tensors.items() if not value.is_floating_point()]
    if integers:
        raise UserError(f"Weights are floating-point numbers. {listed(integers)} are not. {hint(integers)}")
    others = sorted({str(value.dtype) for value in tensors.values()} - {"torch.float32"})
    return (f"Read in float32; the file holds {', '.join(others)}.",) if others else ()
