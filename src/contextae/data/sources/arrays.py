"""Images as NumPy arrays: which axis is which, and those that a program holds in memory.

Axes are height, width and channels, with the images' own number in front. Channels stand last or, in stacks as well,
right before height and width; which of the two is taken from the sizes only where these leave no doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from contextae.data import deep
from contextae.data.facts import ImageFacts, Unsupported
from contextae.data.index import readable_bytes
from contextae.data.names import Names
from contextae.data.sources.listing import Listing
from contextae.errors import UserError

FEW = 32  # channels at most, of an axis that is taken for them by its size
COLOURS = range(1, 5)  # gray to colour with alpha, taken for channels before any other size
LAYOUTS = {"nhw": 3, "nhwc": 4, "nchw": 4}
"How the axes of a stack can be called, and how many they are."
EXACT = 1 << 24  # up to which float32 holds every whole number
CHUNK = 1 << 22  # values looked at together
LARGE = 512_000_000
"Bytes in memory beyond which it is said that every loader process gets a copy."


class Stacked(Protocol):
    """Images by position."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> np.ndarray: ...


def stack_layout(shape: tuple[int, ...], wanted: str | None, where: str, prefix: str) -> str:
    """The axes of a stack, one of LAYOUTS; UserError where it is none, or may be either.

    Of four axes the second or the last are channels: the only one of at most 32, or else the only one of at most 4.
    Three have no channels; but a last one of at most 4 looks like a single image in colours. `prefix` is what the user
    writes before a layout.
    """
    axes = " x ".join(map(str, shape))
    if 0 in shape:
        raise UserError(f"{where} holds no images: its axes are {axes}.")
    if wanted is not None:
        if LAYOUTS.get(wanted) != len(shape):
            raise UserError(
                f"{where} has {len(shape)} axes, {axes}, and cannot be {wanted}. A stack of images is "
                f"{', '.join(LAYOUTS)}: n images, their height, width and channels."
            )
        layout = wanted
    elif len(shape) == 3 and shape[2] not in COLOURS:
        layout = "nhw"
    elif len(shape) == 4:
        layout = four_axes(shape, where, prefix)
    elif len(shape) == 3:
        raise UserError(
            f"{where} has the axes {axes}, which look like one image in colours rather than a stack of them. Give "
            f"{prefix}nhw if these are images, height and width; otherwise add a first axis."
        )
    else:
        raise UserError(
            f"{where} must have 3 axes (images, height, width) or 4 (with channels behind them or before height). It "
            f"has {len(shape)}: {axes or 'a single number'}."
        )
    return layout


def four_axes(shape: tuple[int, ...], where: str, prefix: str) -> str:
    """`nhwc` or `nchw`, whichever the sizes leave."""
    for most in (FEW, COLOURS[-1]):
        before, behind = shape[1] <= most, shape[3] <= most
        if before != behind:
            return "nchw" if before else "nhwc"
    raise UserError(
        f"{where} has the axes {' x '.join(map(str, shape))}, of which the second or the last may be channels: one of "
        f"at most {FEW}, or else one of at most {COLOURS[-1]}, where the other is larger. Give {prefix}nchw "
        f"or {prefix}nhwc."
    )


def image_of(image: np.ndarray, layout: str) -> np.ndarray:
    """h w c of one image of a stack of this layout, in memory of its own."""
    if layout == "nhw":
        image = image[:, :, None]
    elif layout == "nchw":
        image = np.moveaxis(image, 0, -1)
    return np.array(image, order="C", subok=False)


def facts_of_array(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> ImageFacts:
    """Of an image h w c; those of 8 bits and 1 or 3 channels are photographs, as they are among .npy files."""
    height, width, channels = shape
    facts = deep.facts_of(height, width, channels, dtype, format="array", photographic=channels in (1, 3))
    return facts._replace(num_bytes=height * width * channels * dtype.itemsize)


def check_values(images: Stacked, dtype: np.dtype[Any], where: str, alive: Callable[[], None] = lambda: None) -> None:
    """Refuses numbers that would change on the way to float32; looks at all values where their type does not tell.

    uint8, uint16 and booleans stay what they are; whole numbers up to 2**24 and numbers that were float32 pass.
    `alive` is called now and then.
    """
    try:
        kept = deep.stored_as(dtype)
    except Unsupported as error:
        raise UserError(
            f"{where} holds {dtype}, and images are whole or real numbers. Save it as one of uint8, uint16, float32."
        ) from error
    if kept != "float32" or dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4):
        return
    for i in range(len(images)):
        alive()
        values = images[i].reshape(-1)
        for start in range(0, len(values), CHUNK):
            part = values[start : start + CHUNK]
            if not _exact(part):
                raise UserError(
                    f"{where} holds {dtype} that float32 cannot hold exactly, first in image {i}. Nothing is rounded "
                    "unasked: save array.astype(numpy.float32), or whole numbers of at most 16 bits."
                )


def _exact(values: np.ndarray) -> bool:
    if values.dtype.kind in "iu":
        return bool(int(values.min()) >= -EXACT and int(values.max()) <= EXACT)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(values.astype(np.float32).astype(values.dtype), values, equal_nan=True))


@dataclass(frozen=True, eq=False)
class InMemory:
    """Arrays of a program, h w c once read; ids are `NAME#17`. Each process gets a copy of all of them."""

    name: str
    images: np.ndarray | list[np.ndarray]
    layouts: str | list[str]
    "Of the stack, or of each array without its first letter."

    arrays: ClassVar[bool] = True

    def read(self, sample_id: str) -> np.ndarray:
        position = self._position(sample_id)
        return deep.canonical(image_of(self.images[position], self._layout(position)))

    def probe(self, sample_id: str) -> ImageFacts:
        position = self._position(sample_id)
        image = self.images[position]
        return facts_of_array(image_shape(image.shape, self._layout(position)), image.dtype)

    def has(self, sample_id: str) -> bool:
        name, _, number = sample_id.rpartition("#")
        return name == self.name and number.isdecimal() and int(number) < len(self.images)

    def _layout(self, position: int) -> str:
        return self.layouts if isinstance(self.layouts, str) else self.layouts[position]

    def _position(self, sample_id: str) -> int:
        if not self.has(sample_id):
            raise KeyError(sample_id)
        return int(sample_id.rpartition("#")[2])


def image_shape(shape: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    """h w c of an image of these axes."""
    if layout == "nhw":
        return shape[0], shape[1], 1
    return (shape[1], shape[2], shape[0]) if layout == "nchw" else (shape[0], shape[1], shape[2])


def list_arrays(images: Any, *, name: str = "array", layout: str | None = None) -> Listing:
    """A stack of images as one array, or a list of arrays, each an image of its own size.

    `layout` is `nhw`, `nhwc` or `nchw`, of the stack, or of each array of a list with a first axis before it; without
    it, the sizes tell, or are refused. The arrays are not copied: changing them changes the images.
    """
    prefix = "layout="
    if isinstance(images, np.ndarray):
        found: str | list[str] = stack_layout(images.shape, layout, f"The array {name}", prefix)
        arrays: np.ndarray | list[np.ndarray] = images
        check_values(images, images.dtype, f"The array {name}")
        num_bytes = images.nbytes
    else:
        arrays = listed(images, name)
        found = []
        for i, array in enumerate(arrays):
            where = f"Array {i} of {name}"
            if array.ndim not in (2, 3):
                raise UserError(
                    f"{where} must have 2 axes (height, width) or 3 (with channels behind or before them). It has "
                    f"{array.ndim}. Give one stack, or a list of single images."
                )
            axes = layout or ("nhw" if array.ndim == 2 else None)
            found.append(stack_layout((1, *array.shape), axes, where, prefix))
            check_values([array], array.dtype, where)
        num_bytes = sum(array.nbytes for array in arrays)
    notes = [axes_note(images.shape, found)] if isinstance(found, str) else []
    if num_bytes > LARGE:
        notes.append(
            f"{readable_bytes(num_bytes)} of arrays are copied to each loader process; saved as a .npy file, they "
            "would be shared"
        )
    return Listing(
        source=InMemory(name, arrays, found),
        title=f"the arrays of {name}" if isinstance(arrays, list) else f"the array {name}",
        ids=Names(f"{name}#{i}" for i in range(len(arrays))),
        notes=notes,
    )


def listed(images: Any, name: str) -> list[np.ndarray]:
    """What was given, as a list of arrays; UserError where it is something else."""
    if not isinstance(images, (list, tuple)):
        raise UserError(
            f"{name} must be a NumPy array, or a list of such arrays. Got {type(images).__name__}; numpy.asarray makes "
            "an array of most things."
        )
    for i, array in enumerate(images):
        if not isinstance(array, np.ndarray):
            raise UserError(
                f"Each image of {name} must be a NumPy array. Number {i} is of type {type(array).__name__}; "
                "numpy.asarray makes an array of most things."
            )
    if not images:
        raise UserError(f"{name} holds no images: the list is empty.")
    return list(images)


def axes_note(shape: tuple[int, ...], layout: str) -> str:
    """How the axes of a stack were read."""
    words = {"n": "images", "h": "height", "w": "width", "c": "channels"}
    return f"its axes {' x '.join(map(str, shape))} are {', '.join(words[letter] for letter in layout)}"
