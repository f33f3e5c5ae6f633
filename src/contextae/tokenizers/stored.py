"""Tokenizers as files: one safetensors file whose header says what it is, or the folder that holds it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.pickles import is_pickle
from contextae.tokenizers.dalle import read_dalle
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.frozen import Tokenizer
from contextae.tokenizers.kmeans import PatchCodebook

NAME = "tokenizer.safetensors"
FORMAT = 1
KINDS: dict[str, Any] = {"dvae": DVAE, "kmeans": PatchCodebook}
FACTS = {"dvae": ("stride", "width"), "kmeans": ("patch_size",)}  # what to build one from, beside channels and codes
LARGEST = {"num_codes": 2**20, "channels": 2**12, "patch_size": 2**12, "stride": 2**12, "width": 2**12}
DALLE_KEYS = {"blocks.input.w", "blocks.input.weight"}  # of the published encoder, whose file says nothing else


def save_tokenizer(tokenizer: DVAE | PatchCodebook, folder: Path) -> Path:
    """Into `folder`, complete or not at all."""
    kind = next(name for name, made in KINDS.items() if isinstance(tokenizer, made))
    facts = {name: getattr(tokenizer, name) for name in (*FACTS[kind], "channels", "num_codes")}
    path, partial = folder / NAME, folder / f"{NAME}.partial"
    header = {"contextae": json.dumps({"format": FORMAT, "kind": kind, **facts})}
    data = save({name: value.contiguous() for name, value in tokenizer.state_dict().items()}, header)
    try:
        partial.write_bytes(data)  # safetensors' own save_file makes a file that only its owner can read
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def open_tokenizer(path: Path) -> Tokenizer:
    """Frozen. Of a folder, the tokenizer in it; every tensor must have its place."""
    file = tokenizer_file(path)
    try:
        if is_pickle(file):
            raise UserError(
                f"Tokenizers are read from safetensors files only. {file} is a pickle or an archive of one, which can "
                "run any program when it is opened, so it was not opened. Make a safe file of it first: contextae "
                f"convert {file} --out {file.with_suffix('.safetensors').name}"
            )
        with safe_open(file, "pt") as opened:
            header, names = opened.metadata() or {}, list(opened.keys())
            tensors = {name: opened.get_tensor(name) for name in names} if "contextae" in header else {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file: {error}. Take a whole copy of it.") from None
    if "contextae" not in header and DALLE_KEYS & set(names):
        return read_dalle(file)
    return _filled(*_described(header, file), tensors, file)


def _described(header: dict[str, str], file: Path) -> tuple[str, dict[str, Any]]:
    """The kind of tokenizer and what it is built from, as the file's header says them."""
    try:
        facts = json.loads(header["contextae"])
        version, kind = facts.pop("format"), facts.pop("kind")
        other = version != FORMAT or kind not in KINDS
        described = other or set(facts) == {*FACTS[kind], "channels", "num_codes"}
    except (KeyError, ValueError, AttributeError, TypeError):  # no header of ours, or no JSON object in it
        described = False
    if not described:
        raise UserError(
            f"{file} is no tokenizer: its header does not say which kind it is. Make one with `contextae "
            "fit-tokenizer`, or give DALL-E's encoder as `contextae convert` writes it."
        )
    if other:
        raise UserError(
            f"{file} is a tokenizer of kind {kind!r} in format {version!r}; this version of contextae reads "
            f"{', '.join(KINDS)} in format {FORMAT}. Use the version that wrote it, or fit it anew."
        )
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    wrong = [f"{name} is {value!r}"[:60] for name, value in facts.items() if not _possible(name, value)]
    if wrong:
        raise UserError(
            "The numbers in a tokenizer's header are whole and at least 1, and no larger than a codebook or a patch "
            f"can be. In {file}, {' and '.join(wrong)}. Take a whole copy of it, or fit it anew."
        )
    return kind, facts


def _possible(name: str, value: Any) -> bool:
    """Whether a tokenizer can have this; a patch has two lengths, and a stride halves an image some times."""
    numbers = value if name == "patch_size" and isinstance(value, tuple) and len(value) == 2 else (value,)
    if not all(type(number) is int and 1 <= number <= LARGEST[name] for number in numbers):
        return False
    return len(numbers) == 2 if name == "patch_size" else name != "stride" or (value > 1 and math.log2(value) % 1 == 0)


def tokenizer_file(path: Path) -> Path:
    """The file itself, which must be there."""
    file = path / NAME if os.path.isdir(path) else path  # noqa: PTH112
    if not os.path.isfile(file):  # noqa: PTH113 unlike Path.is_file it takes any name, also a long one
        raise UserError(
            f"There is no tokenizer at {path}. Give the folder that `contextae fit-tokenizer` wrote, or a "
            f"{NAME}; a fit that was interrupted goes on with --resume."
        )
    return file


def sha256_of(path: Path) -> str:
    """Of the tokenizer's file."""
    with tokenizer_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled(kind: str, facts: dict[str, Any], tensors: dict[str, Tensor], file: Path) -> Tokenizer:
    with torch.device("meta"):  # without memory, until the tensors are known to be of these sizes
        tokenizer: nn.Module = KINDS[kind](**facts)
    wanted = {name: value.shape for name, value in tokenizer.state_dict().items()}
    wrong = sorted(
        {name for name in wanted if name not in tensors or tensors[name].shape != wanted[name]}
        | {name for name in tensors if name not in wanted}
    )
    if wrong:
        raise UserError(
            f"{file} does not hold the tensors of the tokenizer that its header describes: {', '.join(wrong[:3])} "
            f"{'is' if len(wrong) == 1 else 'are'} missing, unknown or of another shape. Take a whole copy of it."
        )
    tokenizer.to_empty(device="cpu").load_state_dict(tensors)
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer.requires_grad_(False).eval()
