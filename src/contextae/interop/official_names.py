"""Rename tables of published CAE weights: four families of names, each to the released one, and that one to ours.

From Atten4Vis/CAE at a7fd162 ("released") and lxtGH/CAE at d725971 ("earlier"); OpenMMLab's names
from open-mmlab/mmselfsup (models/necks/cae_neck.py, models/utils/transformer_blocks.py) and open-mmlab/mmpretrain
(models/necks/cae_neck.py, models/backbones/beit.py). Names only; no code is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

Pairs = tuple[tuple[str, str], ...]


class Section(NamedTuple):
    """Names below `left` are names below `right`; a `#` stands for the number of a block, `inner` renames within it.

    Without `inner` whatever follows is the same on both sides. A name that no pair of `inner` fits has no place.
    """

    left: str
    right: str
    inner: Pairs = ()


def same(*names: str) -> Pairs:
    """Names that both sides share."""
    return tuple((name, name) for name in names)


NORMS, LINEAR = same("norm1.", "norm2."), same("attn.", "mlp.")

# ours on the left, the released one on the right
BLOCK: Pairs = (("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2"), *NORMS, *LINEAR)
REGRESSOR_BLOCK: Pairs = (
    ("ls1.gamma", "gamma_1_cross"),
    ("ls2.gamma", "gamma_2_cross"),
    ("norm_q.", "norm1_q."),
    ("norm_k.", "norm1_k."),
    ("norm_v.", "norm1_v."),
    ("norm2.", "norm2_cross."),
    ("attn.", "cross_attn."),
    ("mlp.", "mlp_cross."),
)
ENCODER = (
    Section("encoder.class_token", "encoder.cls_token"),
    Section("encoder.patch_embed.", "encoder.patch_embed.proj."),
    Section("encoder.blocks.#.", "encoder.blocks.#.", BLOCK),
    Section("encoder.norm.", "encoder.norm."),
)
SHARED = (
    *ENCODER,
    Section("projection.0.", "encoder_to_regresser."),
    Section("projection.1.", "encoder_to_regresser_norm."),
    Section("regressor.mask_query", "mask_token"),
    Section("regressor.blocks.#.", "regresser.regressor_blocks.#.", REGRESSOR_BLOCK),
    Section("regressor.norm.", "regresser.norm."),
)
CAE = (
    *SHARED,
    Section("decoder.blocks.#.", "decoder.decoder_blocks.#.", BLOCK),
    Section("decoder.norm.", "decoder.norm."),
    Section("decoder.head.", "decoder.head."),
)
CAE_V2 = (*SHARED, Section("norm.", "decoder.norm."), Section("head.", "decoder.head."))

# a foreign family on the left, the released one on the right
RELEASED = (
    Section("encoder.", "encoder."),
    Section("encoder_to_regresser.", "encoder_to_regresser."),
    Section("encoder_to_regresser_norm.", "encoder_to_regresser_norm."),
    Section("regresser.", "regresser."),
    Section("decoder.", "decoder."),
    Section("mask_token", "mask_token"),
    Section("rd_pos_embed", "rd_pos_embed"),
)
EARLIER = (
    Section("encoder.", "encoder."),
    Section("encoder_to_decoder.", "encoder_to_regresser."),
    Section("encoder_to_decoder_norm.", "encoder_to_regresser_norm."),
    Section("mask_token", "mask_token"),
    Section("pretext_neck.regressor_blocks.", "regresser.regressor_blocks."),
    Section("pretext_neck.decoder_blocks.", "decoder.decoder_blocks."),
    Section("pretext_neck.norm.", "regresser.norm."),
    Section("pretext_neck.norm2.", "decoder.norm."),
    Section("pretext_neck.head.", "decoder.head."),
)
MM_BLOCK: Pairs = (
    *same("gamma_1", "gamma_2", "attn."),
    ("ln1.", "norm1."),
    ("ln2.", "norm2."),
    ("ffn.layers.0.0.", "mlp.fc1."),
    ("ffn.layers.1.", "mlp.fc2."),
)
MM_REGRESSOR_BLOCK: Pairs = (
    *same("gamma_1_cross", "gamma_2_cross", "norm2_cross.", "cross_attn."),
    ("norm1_q_cross.", "norm1_q."),
    ("norm1_k_cross.", "norm1_k."),
    ("norm1_v_cross.", "norm1_v."),
    ("ffn.layers.0.0.", "mlp_cross.fc1."),
    ("ffn.layers.1.", "mlp_cross.fc2."),
)
OPENMMLAB = (
    Section("backbone.cls_token", "encoder.cls_token"),
    Section("backbone.pos_embed", "encoder.pos_embed"),
    Section("backbone.patch_embed.projection.", "encoder.patch_embed.proj."),
    Section("backbone.layers.#.", "encoder.blocks.#.", MM_BLOCK),
    Section("backbone.ln1.", "encoder.norm."),
    Section("neck.mask_token", "mask_token"),
    Section("neck.regressors.#.", "regresser.regressor_blocks.#.", MM_REGRESSOR_BLOCK),
    Section("neck.decoders.#.", "decoder.decoder_blocks.#.", MM_BLOCK),
    Section("neck.norm_regressor.", "regresser.norm."),
    Section("neck.norm_decoder.", "decoder.norm."),
    Section("neck.head.", "decoder.head."),
)


class Family(NamedTuple):
    """One way of naming: what tells it, its table, its encoder, the copy of it, and what it holds besides.

    `marks` are prefixes of which one at least occurs; `bare` is a name that tells a file of the encoder alone whose
    names have lost the prefix `encoder`. `unused` gives, by prefix, the reason why such tensors are left out.
    """

    name: str
    marks: tuple[str, ...]
    bare: str
    sections: tuple[Section, ...]
    encoder: str
    copy: str
    unused: tuple[tuple[str, str], ...] = ()
    has_v2: bool = False


TOKENIZER = "the tokenizer, which belongs to no method here; convert its own file"
FAMILIES = (
    Family(
        "OpenMMLab",
        ("backbone.", "neck."),
        "patch_embed.projection.weight",
        OPENMMLAB,
        "backbone.",
        "teacher.",
        (
            ("target_generator.", TOKENIZER),
            (
                "head.encoder.",
                TOKENIZER,
            ),  # where it stood before 1.0 [open-mmlab/mmselfsup at 3d44156, heads/cae_head.py]
            ("data_preprocessor.", "constants of the data, not weights"),
        ),
    ),
    Family(
        "earlier release (lxtGH/CAE)",
        ("pretext_neck.", "encoder_to_decoder.", "teacher."),
        "",
        EARLIER,
        "encoder.",
        "teacher.",
    ),
    Family(
        "released (Atten4Vis/CAE)",
        ("encoder.cls_token", "encoder.blocks.", "alignment_encoder.", "regresser."),
        "patch_embed.proj.weight",
        RELEASED,
        "encoder.",
        "alignment_encoder.",
        has_v2=True,
    ),
)


def translated(name: str, sections: Iterable[Section], *, to_left: bool = False) -> str | None:
    """The other side's name, or None where the table has no place for it."""
    for section in sections:
        source, target = (section.right, section.left) if to_left else (section.left, section.right)
        number = ""
        if "#" in source:
            match = re.match(re.escape(source).replace(r"\#", r"(\d+)"), name)
            if match is None:
                continue
            number, rest = match[1], name[match.end() :]
        elif name.startswith(source) and (source.endswith(".") or name == source):
            rest = name[len(source) :]
        else:
            continue
        inner = _inner(rest, section.inner, to_left) if section.inner else rest
        if inner is not None:
            return target.replace("#", number) + inner
    return None


def _inner(rest: str, pairs: Pairs, to_left: bool) -> str | None:
    for left, right in pairs:
        source, target = (right, left) if to_left else (left, right)
        if rest == source or (source.endswith(".") and rest.startswith(source)):
            return target + rest[len(source) :]
    return None
