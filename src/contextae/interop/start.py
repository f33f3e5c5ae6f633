"""Where a run's encoder starts from: existing weights, read by our names, adapted, and loaded whole.

Nothing is downloaded and nothing unpickled. What our encoder cannot hold is refused by name; what changes on the way is
said in a sentence each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from contextae.encoder import Encoder, EncoderConfig
from contextae.errors import UserError, nearest
from contextae.grid import Grid
from contextae.interop.adapt import adapt_channels, adapt_patch
from contextae.interop.foreign import MARK
from contextae.interop.plain_vit import differences, grid_of, our_tensors, ratio_of
from contextae.pickles import SUFFIXES
from contextae.positions import adapt_positions, sine_cosine
from contextae.tokenizers.weights_file import read_weights_file

PREFIX, FOLDER, WEIGHTS = "timm:", "local-dir:", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights of a trained encoder by our names, in float32, and the facts that tensors do not hold.

    `tensors` hold `positions` (n d, without the class token's) where the table has to be kept. `mean` and `deviation`
    are what its images were normalised by, of values in 0..1, None where unknown; `said` is what reading it changed.
    """

    name: str
    tensors: dict[str, Tensor]
    grid: Grid
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    mean: tuple[float, ...] | None
    deviation: tuple[float, ...] | None
    sha256: str | None = None
    said: tuple[str, ...] = ()

    @classmethod
    def of_encoder(
        cls,
        encoder: Encoder,
        *,
        mean: Sequence[float] | None,
        deviation: Sequence[float] | None,
        name: str,
        sha256: str | None = None,
    ) -> Source:
        """An encoder of contextae's own, copied."""
        return cls(
            name=name,
            tensors={key: value.detach().cpu().float().clone() for key, value in encoder.state_dict().items()},
            grid=encoder.grid,
            width=encoder.width,
            depth=encoder.depth,
            num_heads=encoder.num_heads,
            mlp_width=_mlp_width(encoder),
            mean=None if mean is None else tuple(mean),
            deviation=None if deviation is None else tuple(deviation),
            sha256=sha256,
        )

    @property
    def learned_positions(self) -> bool:
        """Whether its table of positions has to be kept."""
        return "positions" in self.tensors

    @property
    def layer_scale(self) -> bool:
        """Whether its residual branches are scaled."""
        return "blocks.0.ls1.gamma" in self.tensors


def _mlp_width(encoder: Encoder) -> int:
    return int(encoder.get_submodule("blocks.0.mlp.fc1").get_parameter("weight").shape[0])


def encoder_settings(source: Source) -> dict[str, Any]:
    """What `encoder.*` of a run must be to hold these weights. Patch size and channels are free: they are adapted.

    The number for `layer_scale` is only where it would start. A run may also have layer scale where the source has
    none (it starts at 1 then, which changes nothing), but not the other way round.
    """
    return {
        "encoder.width": source.width,
        "encoder.depth": source.depth,
        "encoder.num_heads": source.num_heads,
        "encoder.mlp_ratio": ratio_of(source.width, source.mlp_width),
        "encoder.layer_scale": EncoderConfig().layer_scale if source.layer_scale else None,
        "encoder.positions": "learned" if source.learned_positions else "sine-cosine",
    }


def fill_encoder(encoder: Encoder, source: Source) -> list[str]:
    """Loads the source into the whole encoder, and returns what had to be adapted, a sentence each.

    The patch embedding goes to other channels and patch sizes, positions to other grids; anything else that differs is
    refused by name, and nothing is loaded then.
    """
    _refuse_other_sizes(encoder, source)
    tensors, said = dict(source.tensors), list(source.said)
    if (old := source.grid) != encoder.grid:
        said += _adapt_embedding(tensors, old, encoder)
    if encoder.learned_positions and not source.learned_positions:
        tensors["positions"] = sine_cosine(encoder.grid.size, encoder.width)
        said.append("positions: learned ones start at the fixed sine-cosine table, which the source has")
    elif encoder.grid.size != old.size:
        sizes = f"{_times(old.size)} patches, now for {_times(encoder.grid.size)}"
        if source.learned_positions:
            tensors["positions"] = adapt_positions(tensors["positions"], old.size, encoder.grid.size)
            said.append(f"positions: the learned table was resized (bicubic): it was for {sizes}")
        else:
            said.append(f"positions: the fixed sine-cosine table is computed anew: it was for {sizes}")
    scales = [name for name in encoder.state_dict() if name.endswith(".gamma")]
    if scales and not source.layer_scale:
        tensors.update({name: torch.ones(encoder.width) for name in scales})
        said.append("layer scale: starts at 1, for the source has none")
    encoder.load_state_dict(tensors)
    return said


def _refuse_other_sizes(encoder: Encoder, source: Source) -> None:
    ours = {
        "width": (source.width, encoder.width),
        "depth": (source.depth, encoder.depth),
        "num_heads": (source.num_heads, encoder.num_heads),
        "mlp_width": (source.mlp_width, _mlp_width(encoder)),
    }
    problems = [f"{name} is {there} there and {here} here" for name, (there, here) in ours.items() if there != here]
    if source.learned_positions and not encoder.learned_positions:
        problems.append("its positions are a learned table and here they are a fixed one")
    if source.layer_scale and "blocks.0.ls1.gamma" not in encoder.state_dict():
        problems.append("it has layer scale and here there is none")
    if source.grid != encoder.grid and not len(source.grid.size) == len(encoder.grid.size) == 2:
        problems.append("its patches are others, and only those of images, with two axes, can be adapted")
    if problems:
        settings = encoder_settings(source).items()
        wanted = ", ".join(f"{name}={'null' if value is None else value}" for name, value in settings)
        raise UserError(
            f"The encoder cannot start from {source.name}: {'; '.join(problems)}. Of a network that is trained further "
            f"only patch size, channels and image size may change. Set {wanted}, or choose other weights."
        )


def _adapt_embedding(tensors: dict[str, Tensor], old: Grid, encoder: Encoder) -> list[str]:
    """The patch embedding for the encoder's channels and patch size."""
    new = encoder.grid
    if (old.channels, old.patch_size) == (new.channels, new.patch_size):
        return []
    weight = tensors["patch_embed.weight"].reshape(encoder.width, old.channels, *old.patch_size)
    adapted = adapt_patch(adapt_channels(weight, new.channels), new.patch_size)
    tensors["patch_embed.weight"] = adapted.flatten(1)
    return [
        f"patch embedding: patches of {_times(old.patch_size)} pixels and {old.channels} channel(s) became patches of "
        f"{_times(new.patch_size)} and {new.channels}, with the same response to one gray"
    ]


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def read_timm(spec: str, *, cache: Path | None = None) -> Source:
    """A ViT of timm by `timm:NAME`, `timm:NAME=FILE` or `timm:FOLDER` (also `timm:local-dir:FOLDER`).

    NAME alone looks into the local Hugging Face cache (`cache` is another one) and never downloads. A folder holds
    config.json and model.safetensors, as timm's `save_for_hf` and `contextae export --to timm` write them; where it
    has the name of a network of timm's, the folder is meant.
    """
    name, path = _located(spec)
    vit = _network(name, spec)
    if found := differences(vit):
        raise UserError(
            f"{spec} is not a network that contextae's encoder can hold: it has {', '.join(found)}. The encoder is the "
            "plain ViT: patch embedding, class token, a table of positions, pre-norm blocks of softmax attention and "
            "exact GELU, a final norm. Start from one of these, such as timm's vit_*_patch16_224 (augreg, MAE, DINO), "
            "deit_* or vit_*_patch14_dinov2."
        )
    if path and not name.startswith(FOLDER):
        _refuse_another_network(vit, path, spec)
    path = path or _in_cache(vit.pretrained_cfg.get("hf_hub_id"), spec, cache)
    read, sha256 = _read(path)
    tensors, said = our_tensors(vit, read, origin=str(path))
    grid = grid_of(vit)
    mean, deviation = (tuple(vit.pretrained_cfg.get(key) or ()) for key in ("mean", "std"))
    known = len(mean) == len(deviation) == grid.channels
    return Source(
        name=spec,
        tensors=tensors,
        grid=grid,
        width=vit.embed_dim,
        depth=len(vit.blocks),
        num_heads=vit.blocks[0].attn.num_heads,
        mlp_width=vit.blocks[0].mlp.fc1.out_features,
        mean=mean if known else None,
        deviation=deviation if known else None,
        sha256=sha256,
        said=tuple(said),
    )


def _located(spec: str) -> tuple[str, Path | None]:
    """timm's name of the network, and the file of its weights, None for the cache's."""
    rest = spec.removeprefix(PREFIX)
    folder = Path(rest.removeprefix(FOLDER))
    # os.path, because a Path refuses names that are too long with an OSError
    named = timm.is_model(rest) and not os.path.isfile(folder / "config.json")  # noqa: PTH113
    if os.path.isdir(folder) and not named:  # noqa: PTH112
        return f"{FOLDER}{folder}", _in_folder(folder)
    name, equals, file = rest.partition("=")
    if timm.is_model(name) and (file or not equals):
        return name, Path(file) if equals else None
    raise UserError(
        f"{spec} names neither a network of timm nor a folder. Give timm:NAME (weights from the local cache), "
        f"timm:NAME=FILE.safetensors, or timm:FOLDER with config.json and {WEIGHTS}.{nearest(name, timm.list_models())}"
    )


def _in_folder(folder: Path) -> Path:
    for wanted in (WEIGHTS, "config.json"):
        if (folder / wanted).is_file():
            continue
        if wanted == WEIGHTS and (pickles := sorted(each for each in folder.iterdir() if each.suffix in SUFFIXES)):
            raise _pickled(pickles[0])
        raise UserError(
            f"There is no {wanted} in {folder}. A folder to start from holds config.json and {WEIGHTS}, as timm's "
            "save_for_hf and `contextae export --to timm` write them. For weights alone give timm:NAME=FILE."
        )
    return folder / WEIGHTS


def _refuse_another_network(vit: Any, path: Path, spec: str) -> None:
    """Heads are not in tensors: a NAME that has others than the file's own network must not pass in silence."""
    heads, folder = vit.blocks[0].attn.num_heads, path.parent
    if _exported(path):
        why = "it is an export of contextae's, whose number of heads, mean and deviation stand in its config.json alone"
    elif path.name == WEIGHTS and (own := _heads_beside(folder / "config.json")) not in (None, heads):
        why = f"the config.json beside it says {own} heads and this network has {heads}, which tensors do not show"
    else:
        return
    raise UserError(
        f"{path} cannot be read by the name of {spec.partition('=')[0]}: {why}. Give its folder, {PREFIX}{folder}."
    )


def _exported(path: Path) -> bool:
    """Whether `contextae export` wrote this file; not of one absent, damaged or pickled, as reading it says."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(MARK, "").startswith("{")  # facts of its input; runs write a number
    except (SafetensorError, OSError):
        return False


def _heads_beside(config: Path) -> Any:
    """What timm's config.json says, None where there is none or it leaves that to the architecture."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    arguments = found.get("model_args") if isinstance(found, dict) else None
    return arguments.get("num_heads") if isinstance(arguments, dict) else None


def _network(name: str, spec: str) -> Any:
    """The network without weights or memory; torch's generator stays as it is."""
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, device="meta")
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"timm {timm.__version__} cannot build the network of {spec}: {type(error).__name__}, {why}. Look at the "
            "name and its tag, or at the folder's config.json."
        ) from None


def _in_cache(repository: str | None, spec: str, cache: Path | None) -> Path:
    found = huggingface_hub.try_to_load_from_cache(repository, WEIGHTS, cache_dir=cache) if repository else None
    if isinstance(found, str):
        return Path(found)
    get = f"Where there is a network, `hf download {repository} {WEIGHTS}` puts them there. " if repository else ""
    raise UserError(
        f"The weights of {spec} are not in the local Hugging Face cache, and contextae downloads nothing. {get}A file "
        f"of them is given as {spec}=FILE.safetensors."
    )


def _pickled(path: Path) -> UserError:
    return UserError(
        f"Weights are read from safetensors files only. {path} is a pickle or an archive of one, which can run any "
        f"program when it is opened, so it was not opened. `contextae convert {path} --out OUT.safetensors --to "
        "tensors` reads it without running anything, for --init timm:NAME=OUT.safetensors; published CAE weights it "
        "converts with --to timm."
    )


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors in float32, copied out of the file, and the file's hash."""
    file = read_weights_file(path, pickled=_pickled)
    return {name: tensor.float() for name, tensor in file.tensors.items()}, file.sha256
