"""Published CAE weights as modules of this package, and back: every tensor has a place or is refused by name.

Names and facts are those of the released code, Atten4Vis/CAE at a7fd162, of the earlier lxtGH/CAE at d725971, and of
OpenMMLab. Shapes differ in two places: the class token and the mask query carry two leading axes there, and the patch
embedding is a convolution. Heads are not in the tensors, so they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from contextae.alignment import StopGradient
from contextae.decoder import Decoder
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.official_heads import check_heads, decoder_heads
from contextae.interop.official_names import CAE as CAE_NAMES
from contextae.interop.official_names import CAE_V2 as CAE_V2_NAMES
from contextae.interop.official_names import ENCODER as ENCODER_NAMES
from contextae.interop.official_names import Section, translated
from contextae.interop.official_read import Released, hint, listed, mlp_ratio, read_released
from contextae.interop.official_tables import check_tables, tables_of
from contextae.methods.cae import CAE
from contextae.methods.cae_v2 import CAEv2
from contextae.regressor import Regressor
from contextae.targets import Codes, Features

LAYER_SCALE = 0.1  # that there is one is read from the tensors; its values are theirs
COPY, OWN = "alignment_encoder.", "encoder."
ONES = "all ones, which scale nothing: the encoder of this file has no layer scale"


class Read(NamedTuple):
    """The module, the family of its file, how many tensors found a place, and by name why others were left out."""

    module: CAE | CAEv2 | Encoder
    family: str
    placed: int
    left_out: dict[str, str]
    notes: tuple[str, ...]


def from_state_dict(
    state: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    num_heads: int,
    **options: Any,
) -> CAE | CAEv2 | Encoder:
    """The module alone of `read_state_dict`, which names the options."""
    sizes = {"image_size": image_size, "patch_size": patch_size, "num_heads": num_heads}
    return read_state_dict(state, **sizes, **options).module  # type: ignore[arg-type]


def read_state_dict(
    state: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    num_heads: int,
    decoder_num_heads: int | None = None,
    allow_other_heads: bool = False,
    drop_encoder_copy: bool = False,
    encoder_only: bool = False,
    v2: bool | None = None,
) -> Read:
    """CAE on codes, CAE v2 on features, or an Encoder, in evaluation mode, from tensors by their published names.

    Depths, widths, MLP ratio, layer scale, channels and outputs are read from the tensors. `num_heads` of the encoder
    must be said, `decoder_num_heads` (of regressor and decoder) where it differs; for the widths of the release only
    its own numbers are taken unless `allow_other_heads`. A copy of the encoder is left out where it is equal to it,
    and with `drop_encoder_copy` in any case. A file without decoder blocks and without such a copy is CAE v2 unless
    `v2` says otherwise. Target networks are not in these files: the target has neither tokenizer nor teacher.
    """
    released = read_released(state, drop_encoder_copy=drop_encoder_copy, encoder_only=encoder_only)
    tensors = released.tensors
    convolution = released.need("encoder.patch_embed.proj.weight", axes=4)
    if tuple(convolution.shape[2:]) != tuple(patch_size):
        raise UserError(
            f"patch_size must be the file's own. {released.told('encoder.patch_embed.proj.weight')} has patches of "
            f"{convolution.shape[2]} x {convolution.shape[3]}; got {patch_size[0]} x {patch_size[1]}."
        )
    grid = Grid(image_size=image_size, patch_size=patch_size, channels=convolution.shape[1])
    encoder = _encoder(released, grid, num_heads, allow_other_heads)
    if all(name.startswith(OWN) for name in tensors):
        if decoder_num_heads is not None:
            raise UserError(
                f"decoder_num_heads (--decoder-num-heads) is of regressor and decoder. Got {decoder_num_heads} where "
                "the encoder alone is read; leave it out."
            )
        return _filled(encoder, released)
    width = released.need("mask_token", axes=3).shape[-1]
    heads = decoder_heads(encoder, width, decoder_num_heads)
    check_heads(width, heads, part="regressor and decoder", allow_other_heads=allow_other_heads)
    outputs = released.need("decoder.head.weight", axes=2).shape[0]
    _refuse_heads_of_another_width(released, width)
    shared: dict[str, Any] = {"grid": grid, "width": width, "num_heads": heads}
    regressor = Regressor(**shared, **_regressor_blocks(released))
    decoder = _blocks(released, "decoder.decoder_blocks", "mlp")
    if v2 if v2 is not None else (not decoder["depth"] and released.may_be_v2):
        target = Features(width=outputs, grid=grid)
        return _filled(CAEv2(encoder=encoder, regressor=regressor, target=target), released)
    method = CAE(
        encoder=encoder,
        regressor=regressor,
        decoder=Decoder(**shared, **decoder, outputs=outputs),
        target=Codes(num_codes=outputs, grid=grid),
        alignment=StopGradient(),
    )
    return _filled(method, released)


def to_state_dict(method: nn.Module, *, alignment_copy: bool = False) -> dict[str, Tensor]:
    """The tensors by released names and in released shapes, position tables among them; no memory is shared.

    Of CAE, of CAE v2, or of an encoder alone. `alignment_copy` adds the copy of the encoder that the released CAE
    saves as `alignment_encoder.`. Tables are computed in float32, as the release does; on grids that are not square
    they are ours, which are in the order of the patches (the release's are not).
    """
    encoder, state = _encoder_of(method), {}
    prefix = OWN if method is encoder else ""
    for name, tensor in method.state_dict().items():
        released = translated(prefix + name, _names(method))
        if released is None:
            raise UserError(
                f"{name} has no place in the released layout, which holds encoder, regressor, decoder and one mask "
                f"query. Got {type(method).__name__}."
            )
        state[released] = _their_shape(tensor.detach().clone(), released, encoder.grid)
    if isinstance(method, CAE | CAEv2):
        _add_ones(state, method.regressor)
    state |= tables_of(encoder.grid, encoder.width, None if method is encoder else state["mask_token"].shape[-1])
    if alignment_copy:
        state |= {COPY + name.removeprefix(OWN): t.clone() for name, t in state.items() if name.startswith(OWN)}
    return state


def _encoder(released: Released, grid: Grid, num_heads: int, allow_other_heads: bool) -> Encoder:
    width = released.need("encoder.cls_token", axes=3).shape[-1]
    check_heads(width, num_heads, part="encoder", allow_other_heads=allow_other_heads)
    return Encoder(grid=grid, width=width, num_heads=num_heads, **_blocks(released, "encoder.blocks", "mlp"))


def _blocks(released: Released, prefix: str, mlp: str) -> dict[str, Any]:
    """Depth, MLP ratio and whether there is a layer scale, of the blocks below `prefix`."""
    depth = released.depth(prefix)
    if depth == 0:
        return {"depth": 0}
    hidden, width = released.need(f"{prefix}.0.{mlp}.fc1.weight", axes=2).shape
    scaled = any(name.startswith(f"{prefix}.") and ".gamma_" in name for name in released.tensors)
    return {"depth": depth, "mlp_ratio": mlp_ratio(hidden, width), "layer_scale": LAYER_SCALE if scaled else None}


def _regressor_blocks(released: Released) -> dict[str, Any]:
    """The same of the regressor, whose scales the release saves as frozen ones where layer scale is off."""
    found = _blocks(released, "regresser.regressor_blocks", "mlp_cross")
    scales = [value for name, value in released.tensors.items() if name.endswith("_cross") and ".gamma_" in name]
    encoder = _blocks(released, "encoder.blocks", "mlp")
    if encoder.get("layer_scale") is None and all(bool((scale == 1).all()) for scale in scales):
        found["layer_scale"] = None
    return found


def _refuse_heads_of_another_width(released: Released, width: int) -> None:
    """The release's own large model: 12 heads of 85, because its number of decoder heads is never used."""
    for name in ("regresser.regressor_blocks.0.cross_attn.q.weight", "decoder.decoder_blocks.0.attn.proj.weight"):
        weight = released.tensors.get(name)
        inner = None if weight is None else weight.shape[0 if ".q." in name else 1]
        if inner is not None and inner != width:
            raise UserError(
                f"Attention in regressor and decoder must be as wide as its input. {released.told(name)} of this file "
                f"gives heads of {inner} values together, for a width of {width}: the released code builds 12 heads of "
                "85 for its large model, whatever it is told. Such a regressor is not supported; read the encoder "
                "alone with encoder_only (--encoder-only)."
            )


def _filled(module: CAE | CAEv2 | Encoder, released: Released) -> Read:
    """Loads every tensor; a missing, unknown or differently shaped one is refused by name and nothing is loaded."""
    wanted = {name: value for name, value in to_state_dict(module).items() if not name.endswith("pos_embed")}
    _compare(wanted, released)
    check_tables(released, _encoder_of(module).grid)
    names, own = _names(module), module.state_dict()
    prefix = OWN if isinstance(module, Encoder) else ""
    ours, left_out = {}, dict(released.left_out)
    for name, value in released.tensors.items():
        place = translated(name, names, to_left=True)
        assert place is not None  # the names are those that `to_state_dict` gives
        if place.removeprefix(prefix) in own:
            ours[place.removeprefix(prefix)] = _our_shape(value, name)
        else:
            left_out[released.told(name)] = ONES
    module.load_state_dict(ours)
    return Read(module.eval(), released.family, len(ours) + released.num_tables, left_out, released.notes)


def _compare(wanted: Mapping[str, Tensor], released: Released) -> None:
    given = released.tensors
    missing = [name for name in wanted if name not in given]
    unknown = [released.told(name) for name in given if name not in wanted]
    shapes = [
        f"{released.told(name)} is {list(given[name].shape)} instead of {list(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (("missing", missing), ("without a place", unknown), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise UserError(
            f"These tensors are not a whole CAE, read as {released.family}: {'; '.join(problems)}. Nothing was loaded. "
            + hint(unknown)
        )


def _add_ones(state: dict[str, Tensor], regressor: Regressor) -> None:
    for i, block in enumerate(regressor.blocks):
        for which, scale in ((1, block.ls1), (2, block.ls2)):
            if isinstance(scale, nn.Identity):
                state[f"regresser.regressor_blocks.{i}.gamma_{which}_cross"] = torch.ones_like(regressor.mask_query)


def _names(module: nn.Module) -> tuple[Section, ...]:
    if isinstance(module, CAEv2):
        return CAE_V2_NAMES
    return CAE_NAMES if isinstance(module, CAE) else ENCODER_NAMES


def _encoder_of(module: nn.Module) -> Encoder:
    if isinstance(module, Encoder):
        return module
    if not isinstance(module, CAE | CAEv2):
        raise UserError(
            f"The released layout holds CAE, CAE v2 or an encoder. Got {type(module).__name__}; give its encoder."
        )
    return module.encoder


def _our_shape(value: Tensor, name: str) -> Tensor:
    if name in ("mask_token", "encoder.cls_token"):
        return value.flatten()
    return value.flatten(1) if name == "encoder.patch_embed.proj.weight" else value


def _their_shape(value: Tensor, name: str, grid: Grid) -> Tensor:
    if name in ("mask_token", "encoder.cls_token"):
        return value.reshape(1, 1, -1)
    if name == "encoder.patch_embed.proj.weight":
        return value.reshape(-1, grid.channels, *grid.patch_size)
    return value
