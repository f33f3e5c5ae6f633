"""What several verbs say of the same argument."""

from __future__ import annotations

DATA = (
    "Folder of images (recursive), text file of paths, Parquet or Arrow, tar or zip archives, NumPy arrays, what pack "
    "wrote, or builtin:fashion-mnist."
)
MANIFEST = "An audit of these images: without what it found unreadable, and with its statistics."
EXCLUDE = "With --manifest, leave out as well what this finding names, such as exact-duplicates; repeatable."
LABELLED = "Folder of class folders (with or without train / test), Parquet with a label column, or the built-in set."
PROTOCOLS = (
    "knn, linear, attentive, ridge, fewshot, finetune of images with classes; segmentation-linear, "
    "segmentation-upernet; detection"
)
