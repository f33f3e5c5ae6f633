"""How many attention heads published weights were trained with: the tensors do not tell, so the rule is here.

The released sizes: 12 heads for tiny, small and base, 16 for large (timm's tiny and small have 3 and 6).
"""

from __future__ import annotations

from contextae.encoder import Encoder
from contextae.errors import UserError

RELEASED_HEADS = {192: 12, 384: 12, 768: 12, 1024: 16}  # by width


def check_heads(width: int, num_heads: int, *, part: str, allow_other_heads: bool) -> None:
    """Refuses a number that does not divide the width, or is not the release's for one of the release's widths."""
    if num_heads < 1 or width % num_heads:
        raise UserError(
            f"The number of heads must divide the width. The {part} of these weights is {width} wide; got "
            f"{num_heads} heads. Give the number it was trained with."
        )
    wanted = RELEASED_HEADS.get(width, num_heads)
    if num_heads != wanted and not allow_other_heads:
        raise UserError(
            f"Published CAE weights of width {width} have {wanted} heads. Got {num_heads} for the {part}; with another "
            "number the weights load and give wrong outputs. Give "
            f"{wanted}, or allow_other_heads (--allow-other-heads) if these weights were trained so."
        )


def check_table_heads(name: str, table_heads: int, num_heads: int) -> None:
    """Refuses a number that a relative-position table contradicts: it has one column for each head."""
    if table_heads != num_heads:
        raise UserError(
            f"The number of heads must agree with the relative-position tables. {name} has {table_heads} columns, one "
            f"for each head; got num_heads={num_heads}. Give {table_heads}."
        )


def decoder_heads(encoder: Encoder, width: int, given: int | None) -> int:
    """Heads of regressor and decoder: as given, else the encoder's, else what the release has for their width."""
    if given is not None:
        return given
    return encoder.num_heads if width == encoder.width else RELEASED_HEADS.get(width, encoder.num_heads)
