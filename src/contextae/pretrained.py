"""Trained weights, back as modules: from a run folder, one of its checkpoints, or a weights file alone."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from contextae.data.augment import fit
from contextae.data.decode import decode, from_pillow
from contextae.data.facts import BadImage
from contextae.data.sources.regular import read_regular
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.experiment import Experiment, parse
from contextae.methods.masked import MaskedConfig
from contextae.methods.method import Method
from contextae.tokenizers.stored import NAME as TOKENIZER
from contextae.training.checkpoint import load_weights

EXPERIMENT = "experiment"  # the name of the settings in a weights file's own header
ENCODER = "encoder."


class Transform:
    """Images of any size to what the encoder was trained on: decoded, cut to its aspect, resized, normalised.

    `dtype` is that of the images' values, of which `value_range` becomes 0 to 1 before mean and deviation apply.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        channels: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        dtype: str = "uint8",
        value_range: tuple[float, float] = (0.0, 255.0),
    ) -> None:
        self.size, self.channels = size, channels
        self.dtype, self.value_range = dtype, value_range
        self.mean, self.deviation = tuple(mean), tuple(deviation)

    def __call__(self, images: Any) -> Float[Tensor, "b c h w"]:
        """One image or a sequence of them, each a path, a PIL image, or an array h w or h w c of `dtype`."""
        many = images if isinstance(images, list | tuple) else [images]
        low, high = self.value_range
        values = torch.from_numpy(np.stack([fit(self.pixels(image), self.size) for image in many])).float()
        pixels = (values - low) / (high - low)
        mean, deviation = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (self.mean, self.deviation))
        return (pixels - mean) / deviation

    def resized(self, size: tuple[int, int]) -> Transform:
        """The same to another size."""
        other = copy.copy(self)
        other.size = size
        return other

    def pixels(self, image: Any) -> np.ndarray:
        """h w c with the channels and the type that the encoder was trained on."""
        if isinstance(image, str | Path):
            try:
                return decode(read_regular(Path(image)), channels=self.channels, dtype=self.dtype)
            except OSError as error:
                raise UserError(f"{image} cannot be read: {error.strerror}. Give the path of an image.") from None
            except BadImage as error:
                raise UserError(f"{image} is not an image that can be used: {error.reason}.") from None
        if isinstance(image, Image.Image):
            try:
                return from_pillow(image, channels=self.channels, dtype=self.dtype)
            except BadImage as error:
                raise UserError(f"The image given cannot be used: {error.reason}.") from None
        array = np.asarray(image)
        array = array[:, :, None] if array.ndim == 2 else array
        if array.dtype != self.dtype or array.ndim != 3 or array.shape[2] not in (1, self.channels):
            raise UserError(
                f"An image is a path, a PIL image, or a {self.dtype} array of height x width (x {self.channels}). Got "
                f"{type(image).__name__} of shape {array.shape} and type {array.dtype}."
            )
        return np.repeat(array, self.channels, axis=2) if array.shape[2] != self.channels else array


class Origin(NamedTuple):
    """Where weights come from: the settings of their run, and everything else their header says."""

    experiment: Experiment
    channels: int
    metadata: dict[str, str]

    @property
    def transform(self) -> Transform:
        """What makes the encoder's input of images."""
        data = self.experiment.data
        assert data.mean and data.deviation  # `_read` refuses weights without
        return Transform(
            size=data.image_size,
            channels=self.channels,
            mean=data.mean,
            deviation=data.deviation,
            dtype=data.stored_as,
            value_range=data.scaled_from,
        )

    @property
    def masked(self) -> MaskedConfig:
        """Masking and target of the run."""
        assert isinstance(self.experiment.method, MaskedConfig)  # `_read` refuses others
        return self.experiment.method

    @property
    def second_transform(self) -> Transform | None:
        """The same for the run's tokenizer or teacher, where that sees another size."""
        size, transform = self.masked.target_size, self.transform
        if size is None or size == transform.size:
            return None
        return transform.resized(size)

    def random_encoder(self, seed: int) -> Encoder:
        """The same network with random weights."""
        torch.manual_seed(seed)
        return self.experiment.encoder.build(image_size=self.experiment.data.image_size, channels=self.channels)


def metadata_of(experiment: Experiment) -> dict[str, str]:
    """What a weights file carries of its run, so that it can be used alone."""
    return {EXPERIMENT: json.dumps(experiment.model_dump(mode="json"))}


def load_method(path: str | Path, *, checkpoint: str = "last") -> tuple[Method, Origin]:
    """The whole method, in evaluation mode; weights of the encoder alone are refused, for they reconstruct nothing."""
    tensors, origin = _read(Path(path), checkpoint)
    if all(name.startswith(ENCODER) for name in tensors):
        raise UserError(
            f"The weights in {path} are an encoder alone, without regressor and decoder, so there is nothing to "
            "reconstruct with. Use the run folder, or the weights.safetensors of one of its checkpoints."
        )
    method = origin.experiment.build_method(origin.channels)
    fill(method, tensors, origin=str(path))
    return method.eval(), origin


def load_encoder(path: str | Path, *, checkpoint: str = "last") -> tuple[Encoder, Origin]:
    """The encoder, in evaluation mode, from weights of a whole method or of an encoder alone."""
    tensors, origin = _read(Path(path), checkpoint)
    encoder = origin.random_encoder(0)
    own = {name.removeprefix(ENCODER): value for name, value in tensors.items() if name.startswith(ENCODER)}
    fill(encoder, own, origin=str(path))
    return encoder.eval(), origin


def load(path: str | Path, *, checkpoint: str = "last") -> tuple[Encoder, Transform]:
    """Encoder, in evaluation mode, and the transform that makes its input, from a run folder or a weights file.

    Of a run folder `checkpoint` is "last", "best" (by the label-free score) or the number of a step.
    """
    encoder, origin = load_encoder(path, checkpoint=checkpoint)
    return encoder, origin.transform


def _tokenizer(path: Path) -> UserError:
    return UserError(
        f"{path} holds a tokenizer, which has no encoder of images to use. Train one on it: contextae pretrain "
        f"DATA --out RUN --set method.target=codes:{path}"
    )


def _read(path: Path, checkpoint: str) -> tuple[dict[str, Tensor], Origin]:
    if path.name == TOKENIZER or os.path.isfile(path / TOKENIZER):  # noqa: PTH113 unlike Path.is_file it takes any name
        raise _tokenizer(path)
    tensors, metadata = load_weights(path, checkpoint=checkpoint)
    if EXPERIMENT not in metadata:
        raise UserError(
            f"The weights in {path} do not say which network they belong to: their header holds no settings. Use a run "
            "folder or a weights file that contextae wrote."
        )
    experiment = parse(json.loads(metadata[EXPERIMENT]), origin=f"the header of {path}")
    if not isinstance(experiment.method, MaskedConfig):
        raise _tokenizer(path)
    channels = experiment.data.channels
    if channels == "auto" or not experiment.data.mean or not experiment.data.deviation:
        raise UserError(
            f"The settings in the header of {path} are not those of a run: channels, mean or deviation are missing."
        )
    return tensors, Origin(experiment, channels, metadata)


def fill(module: torch.nn.Module, tensors: dict[str, Tensor], *, origin: str) -> None:
    """Loads every tensor; a missing, unknown or differently shaped one is refused by name and nothing is loaded."""
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    shapes = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    if missing or unknown or shapes:
        problems = [
            f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if names
        ]
        raise UserError(
            f"The weights in {origin} are not those of this network ({'; '.join(problems)}). They come from another "
            "configuration; use the experiment.yaml they were trained with."
        )
    module.load_state_dict(tensors)
