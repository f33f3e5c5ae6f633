"""Tokenizers as files: one safetensors file whose header says what it is, or the folder that holds it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.tokenizers.dalle import read_dalle
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.frozen import Tokenizer
from contextae.tokenizers.kmeans import PatchCodebook

NAME = "tokenizer.safetensors"
FORMAT = 1
KINDS = {"dvae": DVAE, "kmeans": PatchCodebook}
DALLE_KEY = "blocks.input.w"  # a weight of the published encoder, whose file says nothing about itself


def save_tokenizer(tokenizer: DVAE | PatchCodebook, folder: Path) -> Path:
    """Into `folder`, complete or not at all."""
    if isinstance(tokenizer, DVAE):
        kind = "dvae"
        facts: dict[str, Any] = {"stride": tokenizer.stride, "width": tokenizer.width}
    else:
        kind, facts = "kmeans", {"patch_size": list(tokenizer.patch_size)}
    facts |= {"channels": tokenizer.channels, "num_codes": tokenizer.num_codes}
    path, partial = folder / NAME, folder / f"{NAME}.partial"
    header = {"contextae": json.dumps({"format": FORMAT, "kind": kind, **facts})}
    save_file({name: value.contiguous() for name, value in tokenizer.state_dict().items()}, partial, header)
    partial.replace(path)
    return path


def open_tokenizer(path: Path) -> Tokenizer:
    """Frozen. Of a folder, the tokenizer in it; every tensor must have its place."""
    file = tokenizer_file(path)
    try:
        with safe_open(file, "pt") as opened:
            header, names = opened.metadata() or {}, list(opened.keys())
            if "contextae" not in header and DALLE_KEY in names:
                return read_dalle(file)
            tensors = {name: opened.get_tensor(name) for name in names}
        facts = json.loads(header["contextae"])
        version, kind = facts.pop("format"), facts.pop("kind")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file: {error}. Take a whole copy of it.") from None
    except (KeyError, ValueError, AttributeError):
        raise UserError(
            f"{file} is no tokenizer: its header does not say which kind it is. Make one with `contextae "
            "fit-tokenizer`, or give DALL-E's encoder as `contextae convert` writes it."
        ) from None
    if version != FORMAT or kind not in KINDS:
        raise UserError(
            f"{file} is a tokenizer of kind {kind!r} in format {version!r}; this version of contextae reads "
            f"{', '.join(KINDS)} in format {FORMAT}. Use the version that wrote it, or fit it anew."
        )
    return _filled(KINDS[kind], facts, tensors, file)


def tokenizer_file(path: Path) -> Path:
    """The file itself, which must be there."""
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"There is no tokenizer at {path}. Give the folder that `contextae fit-tokenizer` wrote, or a "
            f"{NAME}; a fit that was interrupted goes on with --resume."
        )
    return file


def sha256_of(path: Path) -> str:
    """Of the tokenizer's file."""
    with tokenizer_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled(kind: Any, facts: dict[str, Any], tensors: dict[str, Tensor], file: Path) -> Tokenizer:
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    tokenizer: nn.Module = kind(**facts)
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
    tokenizer.load_state_dict(tensors)
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer.requires_grad_(False).eval()
