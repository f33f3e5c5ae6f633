"""What an encoder is evaluated on: labelled images, checked before minutes are spent on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Real

from contextae.errors import UserError
from contextae.evaluation.features import FrozenEncoder

LabelledImages = tuple[np.ndarray, np.ndarray | None]
"""Images and their labels, if there are any."""

FEW = 30
"""Test images below which a bootstrap over them is not to be trusted: drawn from, they are all that there can be."""


@dataclass(frozen=True)
class Task:
    """Labels are int64 positions in `classes`, one per image."""

    train_images: Real[np.ndarray, "n c h w"]
    train_labels: Int[np.ndarray, " n"]
    test_images: Real[np.ndarray, "m c h w"]
    test_labels: Int[np.ndarray, " m"]
    classes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        encoder: FrozenEncoder,
        *,
        train: LabelledImages,
        test: LabelledImages,
        classes: Sequence[str],
    ) -> Task:
        """UserError where images do not suit the encoder or labels do not suit images and classes."""
        if len(classes) < 2:
            raise UserError(
                f"An evaluation needs at least two classes. Got {len(classes)}: {', '.join(classes) or 'none'}; label "
                f"the images with the classes that are to be told apart."
            )
        labels = []
        for part, (images, of_part) in (("train", train), ("test", test)):
            check_images(encoder, images, part)
            labels.append(_checked_labels(of_part, len(images), len(classes), part))
        return cls(train[0], labels[0], test[0], labels[1], tuple(classes))

    @property
    def chance(self) -> float:
        """Accuracy on test of always naming the most frequent class of train."""
        return float(np.mean(self.test_labels == np.bincount(self.train_labels).argmax()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What lowers every figure of the table alike, and what makes all intervals narrower than they should be."""
        notes = []
        if unseen := sorted(set(np.unique(self.test_labels)) - set(np.unique(self.train_labels))):
            images = int(np.isin(self.test_labels, unseen).sum())
            names = ", ".join(self.classes[each] for each in unseen[:3]) + (", ..." if len(unseen) > 3 else "")
            notes.append(f"{images} test images are of {len(unseen)} class(es) without an image in train: {names}")
        if (few := len(self.test_labels)) < FEW:
            notes.append(f"Intervals over as few as {few} test images are too narrow; test on more, at least {FEW}.")
        return tuple(notes)


def check_images(encoder: FrozenEncoder, images: np.ndarray, part: str) -> None:
    """UserError unless images are [n c h w] of 0 to 255, uint8 or float32, of the encoder's size; at least one."""
    wanted = (encoder.grid.channels, *encoder.grid.image_size)
    if not len(images):
        raise UserError(f"An evaluation needs images of {part}. Got none; check the path and what was left out.")
    if images.dtype not in (np.uint8, np.float32) or images.shape[1:] != wanted:
        raise UserError(
            f"The encoder takes images of 0 to 255, uint8 or float32, of channels x height x width {_times(wanted)}. "
            f"The images of {part} are {images.dtype} and {_times(images.shape[1:])}; load them at the encoder's size "
            "and channels."
        )


def _checked_labels(labels: np.ndarray | None, num_images: int, num_classes: int, part: str) -> np.ndarray:
    if labels is None:
        raise UserError(
            f"An evaluation compares predictions with labels, and {part} has none. Give labelled data: a folder with "
            f"one subfolder per class, or a table with a label column."
        )
    if labels.shape != (num_images,):
        raise UserError(
            f"{part} needs one label per image. Got labels of shape {labels.shape} for {num_images} images; read both "
            f"from one source."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"Labels are positions in the list of classes, 0 to {num_classes - 1}. Those of {part} go from "
            f"{labels.min()} to {labels.max()}; give the list of classes that the labels were made with."
        )
    return labels.astype(np.int64)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(length) for length in shape)
