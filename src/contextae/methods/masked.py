"""Settings that every masked method shares: how patches are hidden, and what is predicted of them."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contextae.data.augment import Crop
from contextae.encoder import EncoderConfig
from contextae.errors import nearest
from contextae.masking import BlockMasker, Masker, RandomMasker, count_masked
from contextae.methods.views import MaskedViews, Second

TARGET = r"pixels|hog|codes:.+|features:.+"


def misfit(part: str, num_heads: int, width: int) -> list[str]:
    """What is wrong with the attention heads of regressor or decoder, in words."""
    if width % num_heads:
        return [f"method.{part}_num_heads must divide method.{part}_width. Got {num_heads} and {width}"]
    return []


class MaskedConfig(BaseModel):
    """Masking and target. What a tokenizer or teacher is asked for at the start of a run is written down here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    masker: Literal["block", "random"] = Field("block", description="how masked patches are drawn")
    mask_ratio: float = Field(0.5, gt=0, lt=1, description="masked patches of all [released recipe: 98 of 196]")
    min_block: int | None = Field(None, ge=1, description="least area of a block in patches; null: 16 of 196, in scale")
    target: str = Field("pixels", description="pixels, hog, codes:TOKENIZER or features:TEACHER")
    normalise_target: bool = Field(True, description="take each patch's own mean and deviation out of its pixels")
    target_size: tuple[int, int] | None = Field(
        None, description="(height, width) that tokenizer or teacher see of the same crop; null: what they ask for"
    )
    target_sha256: str | None = Field(None, description="of the file of tokenizer or teacher; null: read at the start")

    target_cache_gib: float = Field(
        0.0, ge=0, description="memory for a teacher's features of views that come again, as with crop.scale=[1, 1]"
    )

    @field_validator("target", mode="before")
    @classmethod
    def _of_a_kind(cls, target: Any) -> str:
        if isinstance(target, str) and re.fullmatch(TARGET, target):
            return target
        kinds = {kind.partition(":")[0]: kind for kind in TARGET.replace(".+", "NAME").split("|")}
        close = nearest(target.partition(":")[0].lower(), kinds) if isinstance(target, str) else ""
        raise ValueError(f"a target is written {', '.join(kinds.values())}, without a blank.{close}")

    def problems(self, trunk: EncoderConfig) -> list[str]:
        """What is wrong with these settings beside that encoder, in words."""
        return []

    def check_grid(self, size: tuple[int, ...]) -> None:
        """Refuses a grid of so many patches along each axis that cannot be masked."""
        self.build_masker(size)

    def build_masker(self, size: tuple[int, ...]) -> Masker:
        """Draws masks for a grid of this many patches along each axis."""
        num_patches = math.prod(size)
        num_masked = count_masked(num_patches, self.mask_ratio)
        if self.masker == "random":
            return RandomMasker(size=size, num_masked=num_masked)
        min_block = self.min_block or max(1, round(num_patches * 16 / 196))
        return BlockMasker(size=size, num_masked=num_masked, min_block=min_block)

    def build_views(self, crop: Crop, size: tuple[int, int]) -> MaskedViews:
        """One crop and one mask for a grid of `size`; rendered a second time where the target wants another size.

        Lanczos for codes, as the released code renders for its tokenizer; bicubic for a teacher, as it does for CLIP.
        """
        second = None
        if self.target_size and self.target_size != crop.size:
            second = Second(self.target_size, lanczos=self.target.startswith("codes:"))
        return MaskedViews(crop=crop, masker=self.build_masker(size), second=second)
