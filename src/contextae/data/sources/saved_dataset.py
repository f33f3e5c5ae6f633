"""Folders that `datasets.Dataset.save_to_disk` of Hugging Face writes: Arrow files, and a file that names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contextae.data.index import printable
from contextae.data.sources.listing import Listing
from contextae.data.sources.parquet import list_parquet
from contextae.errors import UserError

STATE, SPLITS = "state.json", "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    """One dataset, or several splits of one."""
    return (folder / SPLITS).is_file() or ((folder / STATE).is_file() and (folder / "dataset_info.json").is_file())


def list_saved_dataset(folder: Path, title: str, *, column: str | None = None) -> Listing:
    """The rows of all its splits, in the order in which it names them; ids are `train/data-00000-of-00001.arrow#17`."""
    splits = [""]
    if (folder / SPLITS).is_file():
        splits = _read(folder / SPLITS, "splits")
    names = list(dict.fromkeys(name for split in splits for name in _files(folder, split)))
    return list_parquet(folder, names, title, column=column)


def _files(folder: Path, split: str) -> list[str]:
    """Of one split, relative to the folder."""
    state = folder / split / STATE
    if _read(state, "_indices_files", optional=True):
        raise UserError(
            f"{printable(str(state.parent))} holds a selection of a dataset, by row numbers apart from the rows. Save "
            "it once more as dataset.flatten_indices().save_to_disk(FOLDER)."
        )
    files = [str(entry["filename"]) for entry in _read(state, "_data_files")]
    return [f"{split}/{name}" if split else name for name in files]


def _read(path: Path, key: str, *, optional: bool = False) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        value = content.get(key) if optional else content[key]
        if not isinstance(value, list) and not (optional and value is None):
            raise ValueError(key)
        names = [entry["filename"] if isinstance(entry, dict) else entry for entry in value or []]
        if any(not isinstance(name, str) or ".." in Path(name).parts or Path(name).is_absolute() for name in names):
            raise ValueError(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{printable(str(path))} does not say which files belong to this dataset, as save_to_disk of Hugging "
            "Face's datasets writes it. Save the dataset anew, or give its Arrow or Parquet files."
        ) from None
    return value
