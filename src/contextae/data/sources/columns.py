"""Which column of a Parquet file holds the images, and which the labels, found by type and name."""

from __future__ import annotations

import json
from typing import Any

from contextae.errors import UserError, nearest

IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")


def image_column(schema: Any, *, where: str, wanted: str | None = None) -> tuple[str, str]:
    """Its name, and a note on what else it could have been.

    Bytes, or Hugging Face's struct of bytes and path. One such column is it, whatever its name; of several, the only
    one with a usual name is.
    """
    paths = [field.name for field in schema if leaf(field)]
    if several := [name for name in paths if schema.names.count(name) > 1]:
        raise UserError(
            f"{where} has {schema.names.count(several[0])} columns of one name, {several[0]}, so that none of them can "
            f"be named. Give all columns names of their own. {_columns(schema)}"
        )
    if wanted is not None:
        if wanted not in paths:
            raise UserError(
                f"{where} has no column {wanted!r} of encoded images.{nearest(wanted, paths)} {_columns(schema)}"
            )
        return wanted, ""
    usual = [name for name in paths if name.lower() in IMAGE_NAMES]
    likely = paths if len(paths) == 1 else usual
    if len(likely) == 1:
        others = [name for name in paths if name != likely[0]]
        return likely[0], f"images are in column {likely[0]}, not in {', '.join(others)}" if others else ""
    if not paths:
        raise UserError(
            f"{where} has no column of encoded images: bytes, or a struct of bytes and path, are looked for. "
            f"{_columns(schema)}"
        )
    raise UserError(
        f"{where} has {len(paths)} columns that may hold images: {', '.join(paths)}. Name one of them as in "
        f"{where}::{paths[0]}. {_columns(schema)}"
    )


def label_column(schema: Any) -> str | None:
    """The first of the usual names that is there."""
    names = {name.lower(): name for name in reversed(schema.names)}
    return next((names[usual] for usual in LABEL_NAMES if usual in names), None)


def class_names(schema: Any, column: str) -> list[str] | None:
    """Those that Hugging Face's `datasets` writes beside integer labels."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def leaf(field: Any) -> str | None:
    """The path of a column's bytes, `image` or `image.bytes`; None if it has none."""
    import pyarrow.types as types

    def binary(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if binary(kind):
        return str(field.name)
    if types.is_struct(kind) and any(inner.name == "bytes" and binary(inner.type) for inner in kind):
        return f"{field.name}.bytes"
    return None


def _columns(schema: Any) -> str:
    return f"Its columns are {', '.join(f'{field.name} ({field.type})' for field in schema)}."
