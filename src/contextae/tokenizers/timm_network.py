"""A network of timm with weights that are on this machine, from one line such as `timm:NAME=PATH`.

Nothing is ever downloaded: timm's `pretrained=True` would.
"""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import list_pretrained
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.tokenizers import efficientnet_names
from contextae.tokenizers.weights_file import place, read_weights_file

PREFIX, DIRECTORY, RANDOM = "timm:", "local-dir:", "random"
FORMS = (
    "timm:NAME=PATH (a safetensors file), timm:local-dir:DIR (timm's config.json and model.safetensors), timm:NAME "
    "(already in this machine's Hugging Face cache), or timm:NAME=random; each with @INDEX for an inner stage"
)
CACHED_NAMES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
CLIP_PREFIX = "visual."
UNUSABLE = (TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError)
"""What timm and torch raise at settings of no network: a wrong kind, a missing name, a size of zero or below."""


class Wanted(NamedTuple):
    """A line of settings, taken apart: `source` is a path, "random", or empty for the cache."""

    name: str
    source: str
    block: int | None
    directory: Path | None = None


class Loaded(NamedTuple):
    """The network, its own words about itself (timm's pretrained_cfg) and the hash of its weights file."""

    network: nn.Module
    facts: dict[str, Any]
    sha256: str | None


def parse_teacher(line: str) -> Wanted:
    """`timm:NAME[=PATH|=random][@INDEX]` or `timm:local-dir:DIR[@INDEX]`; an @ that no number follows is the path's."""
    if not line.startswith(PREFIX):
        raise UserError(f"A teacher is written {FORMS}. Got {line!r}.")
    rest, block = line.removeprefix(PREFIX), None
    before, at, index = rest.rpartition("@")
    if at and index.isdecimal():
        rest, block = before, int(index)
    if rest.startswith(DIRECTORY):
        directory = Path(rest.removeprefix(DIRECTORY))
        return Wanted(_architecture_in(directory), "", block, directory)
    name, equals, source = rest.partition("=")
    if not name or (equals and not source):
        raise UserError(f"A teacher is written {FORMS}. Got {line!r}.")
    _check_name(name)
    return Wanted(name, source, block)


def build(wanted: Wanted) -> Loaded:
    """The whole network, classifier included, so that every tensor of its file finds its place."""
    if wanted.directory is not None:
        network = _create(f"{DIRECTORY}{wanted.directory}", origin=str(wanted.directory / "config.json"))
        return _filled(network, wanted.directory / CACHED_NAMES[0])
    if wanted.source == RANDOM:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            network = timm.create_model(wanted.name)
        return Loaded(network, dict(network.pretrained_cfg), None)
    path = Path(wanted.source) if wanted.source else _cached(wanted.name)
    return _filled(timm.create_model(wanted.name), path)


def _create(name: str, *, origin: str) -> nn.Module:
    try:
        return timm.create_model(name)
    except UNUSABLE as error:  # settings in the file
        why = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"timm cannot build the network that {origin} describes: {why}. Export it again.") from None


def _filled(network: Any, path: Path) -> Loaded:
    file = read_weights_file(path)
    tensors = _timm_names(network, file.tensors)
    advice = (
        "Give the name with the tag the weights were published under, or the file that belongs to "
        f"{network.pretrained_cfg['architecture']}."
    )
    place(network, tensors, origin=str(path), advice=advice)
    return Loaded(network, dict(network.pretrained_cfg), file.sha256)


def _timm_names(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names for those of efficientnet-pytorch and of OpenAI's and OpenCLIP's CLIP, whose text part is left."""
    if efficientnet_names.MARK in tensors and hasattr(network, "conv_stem"):
        return efficientnet_names.to_timm_names(tensors, [len(stage) for stage in network.blocks])
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None and any(name.startswith(CLIP_PREFIX) for name in tensors):
        return convert(tensors, network)
    return tensors


def _check_name(name: str) -> None:
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        near = f" Near are {', '.join(close)}." if close else ""
        raise UserError(
            f"A teacher is a network of timm {timm.__version__}, and it has none named {architecture!r}.{near} "
            "timm.list_models() lists all."
        )
    tags = [each.partition(".")[2] for each in list_pretrained(f"{architecture}.*")]
    if dot and tag not in tags:
        raise UserError(
            f"timm knows {architecture} with the tags {', '.join(tags) or '(none)'}. Got {tag!r}; choose one of them, "
            "or leave it out."
        )


def _architecture_in(directory: Path) -> str:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        architecture = config["architecture"]
    except OSError as error:
        raise UserError(
            f"timm:local-dir: takes a folder with config.json and model.safetensors, as timm saves them. "
            f"{directory / 'config.json'} cannot be read: {error.strerror}."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{directory / 'config.json'} is not timm's: it is no JSON with the name of an architecture. Export the "
            "network again, or give its name and weights as timm:NAME=PATH."
        ) from None
    _check_name(str(architecture))
    return str(architecture)


def _cached(name: str) -> Path:
    """The weights file of a published name in the local Hugging Face cache; the network is not asked."""
    config = timm.get_pretrained_cfg(name)
    repository, _, revision = (config.hf_hub_id or "").partition("@") if config else ("", "", "")
    for filename in CACHED_NAMES if repository else ():
        found = try_to_load_from_cache(repository, filename, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    where = f"its Hugging Face cache holds nothing of {repository}" if repository else "none are published for it"
    raise UserError(
        f"The weights of {name} are not on this machine: {where}, and contextae downloads nothing. Give their file as "
        f"timm:{name}=PATH, with a safetensors file."
    )
