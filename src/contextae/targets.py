"""What is predicted of hidden patches, and its score: pixels, HOG, codes of a tokenizer, features of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from contextae.errors import UserError
from contextae.grid import Grid, patchify
from contextae.hog import cell_histograms
from contextae.positions import select
from contextae.tokenizers.frozen import Pictured, Teacher, Tokenizer

# MAE adds 1e-6 to the variance of a patch [facebookresearch/mae, models_mae.py], so that flat patches stay finite.
VARIANCE_FLOOR = 1e-6
ORIENTATIONS = 9  # MaskFeat (arXiv 2112.09133), table 2, and Dalal and Triggs before it


@runtime_checkable
class Target(Protocol):
    """`width` outputs per patch, what is wanted there, and the loss of a prediction.

    `value` is given whole normalised images b c h w, and `second`: the same crops rendered for the tokenizer or
    teacher, where it wants another size. It returns b n k, or b n 1 integers where `width` classes are scored.
    """

    @property
    def width(self) -> int: ...

    def value(self, images: Tensor, second: Tensor | None = None) -> Tensor: ...

    def loss(self, prediction: Float[Tensor, "b m k"], wanted: Tensor) -> Float[Tensor, ""]: ...

    def to_patches(
        self, prediction: Float[Tensor, "b m k"], masked: Int[Tensor, "b m"], images: Tensor, second: Tensor | None
    ) -> Float[Tensor, "b m p"]: ...


class Pixels:
    """The pixels of a patch, by default with its own mean and deviation taken out, as MAE's best target.

    The paper predicts d-VAE codes by default and pixels in an ablation; no released code of CAE has a pixel target.
    """

    def __init__(self, *, grid: Grid, normalise: bool = True) -> None:
        self.grid, self.width, self.normalise = grid, grid.patch_values, normalise

    def value(self, images: Float[Tensor, "b c *size"], second: Tensor | None = None) -> Float[Tensor, "b n p"]:
        """Wanted values of every patch; statistics over all channels of a patch together, variance unbiased."""
        patches = patchify(images, self.grid)
        if not self.normalise:
            return patches
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def loss(self, prediction: Float[Tensor, "b m p"], wanted: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
        """Mean squared error over all elements, in float32."""
        return F.mse_loss(prediction.float(), wanted.float())

    def to_patches(
        self, prediction: Float[Tensor, "b m p"], masked: Int[Tensor, "b m"], images: Tensor, second: Tensor | None
    ) -> Float[Tensor, "b m p"]:
        """The prediction as patches to look at; the mean and deviation a patch of it lacks are the image's own."""
        if not self.normalise:
            return prediction
        mean, deviation = self._statistics(select(patchify(images, self.grid), masked))
        return prediction * deviation + mean

    @staticmethod
    def _statistics(patches: Float[Tensor, "b n p"]) -> tuple[Tensor, Tensor]:
        variance = patches.var(dim=-1, keepdim=True, correction=min(1, patches.shape[-1] - 1))
        return patches.mean(dim=-1, keepdim=True), (variance + VARIANCE_FLOOR).sqrt()


class HOG:
    """Histograms of oriented gradients of each channel, each cell of unit length, as in MaskFeat (arXiv 2112.09133).

    A patch is cut into 2 x 2 cells (into 1 along an axis of odd length): of 16 x 16 pixels and 3 channels, 108 values,
    MaskFeat's own. Differs from it: magnitudes are shared between the two nearest orientations.
    """

    def __init__(self, *, grid: Grid) -> None:
        if len(grid.size) != 2:
            raise UserError(
                f"The hog target needs images of two axes, height and width. Got patches of {len(grid.size)} axes; "
                "use pixels."
            )
        self.grid = grid
        self.cells = tuple(2 if length % 2 == 0 else 1 for length in grid.patch_size)
        self.width = grid.channels * self.cells[0] * self.cells[1] * ORIENTATIONS

    def value(self, images: Float[Tensor, "b c h w"], second: Tensor | None = None) -> Float[Tensor, "b n k"]:
        """Values of a patch in (channel, cell row, cell column, orientation) order."""
        rows, columns = (length // parts for length, parts in zip(self.grid.patch_size, self.cells, strict=True))
        planes = images.float().flatten(0, 1).unsqueeze(1)
        histograms = cell_histograms(planes, cell_size=(rows, columns), orientations=ORIENTATIONS)
        unit = F.normalize(histograms, dim=1).unflatten(0, images.shape[:2])  # b c o (rows cell) (columns cell)
        split = unit.unflatten(4, (-1, self.cells[1])).unflatten(3, (-1, self.cells[0]))
        return split.permute(0, 3, 5, 1, 4, 6, 2).flatten(3).flatten(1, 2)

    def loss(self, prediction: Float[Tensor, "b m k"], wanted: Float[Tensor, "b m k"]) -> Float[Tensor, ""]:
        """Mean squared error over all elements, in float32."""
        return F.mse_loss(prediction.float(), wanted.float())

    def to_patches(
        self, prediction: Float[Tensor, "b m k"], masked: Int[Tensor, "b m"], images: Tensor, second: Tensor | None
    ) -> Float[Tensor, "b m p"]:
        """A stroke along the edge of each orientation in each cell, as bright as its histogram is high."""
        rows, columns = (length // parts for length, parts in zip(self.grid.patch_size, self.cells, strict=True))
        y = torch.arange(rows, device=prediction.device).reshape(-1, 1) - (rows - 1) / 2
        x = torch.arange(columns, device=prediction.device).reshape(1, -1) - (columns - 1) / 2
        angles = (torch.arange(ORIENTATIONS, device=prediction.device) + 0.5).reshape(-1, 1, 1) * torch.pi
        angles = angles / ORIENTATIONS  # of the gradient, across the edge
        strokes = (0.8 - (x * angles.cos() + y * angles.sin()).abs()).clamp(min=0)
        shape = (*prediction.shape[:2], self.grid.channels, *self.cells, ORIENTATIONS)
        drawn = torch.einsum("bmcijo,orq->bmcirjq", prediction.float().reshape(shape), strokes)
        return drawn.flatten(2)


class Codes:
    """The code that a tokenizer gives each patch: its index in a codebook of `num_codes`; cross-entropy.

    The tokenizer is frozen and belongs to no method: it is in no checkpoint. Without one, trained weights can still be
    used for everything but a loss.
    """

    def __init__(
        self,
        *,
        num_codes: int,
        grid: Grid,
        tokenizer: Tokenizer | None = None,
        mean: Sequence[float] = (),
        deviation: Sequence[float] = (),
    ) -> None:
        self.width, self.grid, self.tokenizer = num_codes, grid, tokenizer
        self.mean, self.deviation = tuple(mean), tuple(deviation)

    def value(self, images: Float[Tensor, "b c h w"], second: Tensor | None = None) -> Int[Tensor, "b n 1"]:
        """Codes of all patches, in float32 whatever the precision of the training."""
        tokenizer = self._known()
        shown = raw(images if second is None else second, self.mean, self.deviation)
        rows, columns = self.grid.size
        if (size := tuple(shown.shape[2:])) != (wanted := tokenizer.input_size((rows, columns))):
            raise UserError(
                f"A tokenizer must give each patch one code, in the same order. This one does so for a grid of {rows} "
                f"x {columns} patches at {wanted[0]} x {wanted[1]} pixels. Got images of "
                f"{' x '.join(map(str, size))}; set method.target_size to {list(wanted)}."
            )
        return tokenizer.to(images.device).codes(shown).unsqueeze(-1)

    def loss(self, prediction: Float[Tensor, "b m k"], wanted: Int[Tensor, "b m 1"]) -> Float[Tensor, ""]:
        """Cross-entropy, mean over all patches, in float32: ln(num_codes) where every code is as likely."""
        return F.cross_entropy(prediction.flatten(0, 1).float(), wanted.flatten())

    def to_patches(
        self, prediction: Float[Tensor, "b m k"], masked: Int[Tensor, "b m"], images: Tensor, second: Tensor | None
    ) -> Float[Tensor, "b m p"]:
        """What the tokenizer decodes from the likeliest codes of masked patches among the codes of visible ones."""
        tokenizer = self._known()
        if not isinstance(tokenizer, Pictured):
            raise UserError(
                f"{type(tokenizer).__name__} has no decoder, so its codes cannot be drawn. Use a tokenizer of "
                "`contextae fit-tokenizer`, or pixels."
            )
        codes = self.value(images, second).squeeze(-1).scatter(1, masked, prediction.argmax(-1))
        decoded = tokenizer.decode(codes, (self.grid.size[0], self.grid.size[1]))
        if decoded.shape[2:] != self.grid.image_size:
            decoded = F.interpolate(decoded, self.grid.image_size, mode="bilinear", antialias=True)
        mean, deviation = (torch.tensor(each, device=images.device) for each in (self.mean, self.deviation))
        normalised = (decoded - mean.reshape(-1, 1, 1)) / deviation.reshape(-1, 1, 1)
        return select(patchify(normalised, self.grid), masked)

    def _known(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError(
                "These weights predict codes, and the tokenizer that gives them is not here. Name it with "
                "method.target=codes:FILE."
            )
        return self.tokenizer


class Features:
    """What a frozen teacher says about each patch; one minus the cosine, as in CAE v2 (arXiv 2211.09799).

    Like a tokenizer, the teacher belongs to no method and is in no checkpoint.
    """

    def __init__(
        self,
        *,
        width: int,
        grid: Grid,
        teacher: Teacher | None = None,
        mean: Sequence[float] = (),
        deviation: Sequence[float] = (),
    ) -> None:
        self.width, self.grid, self.teacher = width, grid, teacher
        self.mean, self.deviation = tuple(mean), tuple(deviation)

    def tokens(self, images: Float[Tensor, "b c *size"], second: Tensor | None = None) -> Float[Tensor, "b s k"]:
        """Features of the whole image and of all patches, the former first: s = 1 + n."""
        if self.teacher is None:
            raise UserError(
                "These weights predict features, and the teacher that gives them is not here. Name it with "
                "method.target=features:TEACHER."
            )
        shown = raw(images if second is None else second, self.mean, self.deviation)
        return self.teacher.to(images.device).features(shown, self.grid.size)

    def value(self, images: Float[Tensor, "b c *size"], second: Tensor | None = None) -> Float[Tensor, "b n k"]:
        """Features of all patches."""
        return self.tokens(images, second)[:, 1:]

    def loss(self, prediction: Float[Tensor, "b m k"], wanted: Float[Tensor, "b m k"]) -> Float[Tensor, ""]:
        """1 - cosine, mean over all patches, in float32: 1 between unrelated vectors."""
        return 1 - F.cosine_similarity(prediction.float(), wanted.float(), dim=-1).mean()

    def to_patches(
        self, prediction: Float[Tensor, "b m k"], masked: Int[Tensor, "b m"], images: Tensor, second: Tensor | None
    ) -> Float[Tensor, "b m p"]:
        """Refused: there is nothing to look at."""
        raise UserError(
            "Predicted features are no pixels, so there is nothing to reconstruct. Use weights trained on pixels, hog, "
            "or codes of `contextae fit-tokenizer`."
        )


def raw(
    images: Float[Tensor, "b c *size"], mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "b c *size"]:
    """Normalised images back in 0..1, in float32."""
    shape = (-1, *[1] * (images.ndim - 2))
    scale, shift = (torch.tensor(each, device=images.device).reshape(shape) for each in (deviation, mean))
    return images.float() * scale + shift
