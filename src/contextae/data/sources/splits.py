"""Train, validation and test by the names people give to folders and files, or by a keyed draw."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from contextae.randomness import key

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
TEST_SHARE = 0.2
NAMED = r"(train|training|val|valid|validation|test|testing)(?![a-z])"
ROW_FILE = re.compile(NAMED + r".*\.(parquet|arrow)#\d+")
ARCHIVE = re.compile(r"(?:.*[-_.])?" + NAMED + r".*\.(?:tar|zip)")


def split_of(sample_id: str) -> str | None:
    """By the topmost folder with such a name, of an archive also inside it, or by how the name of a file of rows begins
    (train-00000-of-00002.parquet) or that of an archive is put together (cifar10-train-000000.tar)."""
    *folders, name = sample_id.lower().split("/")
    if in_file := ROW_FILE.fullmatch(name):
        return SPLITS[in_file[1]]
    archive = next((at for at, folder in enumerate(folders) if folder.endswith((".tar", ".zip"))), None)
    if archive is not None:
        if in_archive := ARCHIVE.fullmatch(folders[archive]):
            return SPLITS[in_archive[1]]
        folders = [*folders[:archive], *folders[archive + 1 : archive + 2]]
    elif ".parquet#" not in name and ".arrow#" not in name:
        folders = folders[:1]
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), None)


def drawn_test(ids: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """True for a fifth of each class, at least one of two; an image's place depends on the ids of its class alone."""
    chosen = np.zeros(len(ids), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = sorted(members.tolist(), key=lambda i: key("test part", ids[i]))
        count = max(round(TEST_SHARE * len(order)), 1) if len(order) > 1 else 0
        chosen[order[:count]] = True
    return chosen
