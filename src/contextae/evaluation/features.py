"""What a frozen encoder makes of images: summaries, mean latents and, where asked for, all tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.heads.attentive import normalise
from contextae.evaluation.progress import Progress
from contextae.evaluation.sealed import seal
from contextae.grid import Grid

Precision = Literal["float32", "bfloat16"]

VERSION = 1
"""Of what `extract` computes, for the cache."""
WITH_TOKENS = "-tokens"
CLASS_TOKEN, MEAN_OF_LATENTS = "class token", "mean of latents"


@runtime_checkable
class FrozenEncoder(Protocol):
    """An `nn.Module` that sees whole images; `contextae.encoder.Encoder` is one."""

    grid: Grid
    width: int
    num_heads: int

    def summary_and_latents(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    # of nn.Module
    training: bool

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def eval(self) -> nn.Module: ...

    def to(self, device: torch.device) -> nn.Module: ...


@dataclass(frozen=True)
class Features:
    """Of n images, on the CPU; tokens are the class token first, then the latents of all patches, each `normalise`d."""

    summary: Float[Tensor, "n d"]
    mean_latents: Float[Tensor, "n d"]
    tokens: Float[Tensor, "n t d"] | None = None

    @property
    def vectors(self) -> dict[str, Tensor]:
        """What a classifier of vectors can choose between."""
        return {CLASS_TOKEN: self.summary, MEAN_OF_LATENTS: self.mean_latents}


def extract(
    encoder: FrozenEncoder,
    images: Real[np.ndarray, "n c h w"],
    *,
    mean: Sequence[float],
    deviation: Sequence[float],
    with_tokens: bool = False,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    token_bytes_limit: int = 8 * 2**30,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Features:
    """Runs the frozen encoder over images scaled to 0..1 and normalised by `mean` and `deviation` per channel.

    The encoder's weights, mode and gradient flags are afterwards what they were, on the device where they were.
    Tokens are kept in float16 and normalised, with which every head that attends to them begins; what they will take
    is reckoned after the first batch, and more than `token_bytes_limit` is refused. With a `cache`, features are made
    once for the same weights, grid, heads, images, normalisation and precision.
    """
    _check(images, mean, deviation)
    name = ""
    if cache:
        name = _name(encoder, images, mean=mean, deviation=deviation, precision=precision)
        if known := _known(cache, name, with_tokens=with_tokens):
            if progress:
                progress("features", 1.0)
            return known
    center, scale = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (mean, deviation))
    summaries, means = (torch.empty(len(images), encoder.width) for _ in range(2))
    tokens: Tensor | None = None
    finite = True
    with _frozen(encoder, device) as place, torch.no_grad():
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size]).to(place).float() / 255
            batch = (batch - center.to(place)) / scale.to(place)
            with torch.autocast(place.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                summary, latents = encoder.summary_and_latents(batch)
            rows = slice(start, start + len(batch))
            summaries[rows], means[rows] = summary.float().cpu(), latents.float().mean(dim=1).cpu()
            if with_tokens:
                if tokens is None:
                    tokens = _room(len(images), 1 + latents.shape[1], encoder.width, token_bytes_limit)
                tokens[rows] = normalise(torch.cat([summary[:, None], latents], dim=1)).half().cpu()
                finite = finite and bool(tokens[rows].isfinite().all())
            if progress:
                progress("features", rows.stop / len(images))
    if not (finite and summaries.isfinite().all() and means.isfinite().all()):
        raise UserError(
            "The encoder's outputs must be finite numbers. Got infinite or undefined ones; the weights are damaged or "
            "the training diverged. Use an earlier checkpoint."
        )
    features = Features(summary=summaries, mean_latents=means, tokens=tokens)
    if cache:
        kept = {"summary": summaries, "mean_latents": means, **({} if tokens is None else {"tokens": tokens})}
        cache.put(name + (WITH_TOKENS if with_tokens else ""), kept)
    return features


def fingerprint(encoder: FrozenEncoder) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights and buffers."""
    return seal({name: value.detach().cpu() for name, value in encoder.state_dict().items()})


def _name(
    encoder: FrozenEncoder,
    images: np.ndarray,
    *,
    mean: Sequence[float],
    deviation: Sequence[float],
    precision: Precision,
) -> str:
    """SHA-256 of everything that features depend on; the version counts changes of what `extract` computes."""
    digest = hashlib.sha256(f"features {VERSION} {type(encoder).__module__}.{type(encoder).__qualname__}\n".encode())
    told = (encoder.grid, encoder.width, encoder.num_heads, tuple(mean), tuple(deviation), precision)
    digest.update(f"{told} {fingerprint(encoder)} {images.dtype} {images.shape}\n".encode())
    fixed = getattr(encoder, "positions", None)  # computed, so they are in no state
    if isinstance(fixed, Tensor):
        digest.update(fixed.detach().cpu().contiguous().numpy().tobytes())
    for start in range(0, len(images), 1_024):
        digest.update(np.ascontiguousarray(images[start : start + 1_024]).tobytes())
    return digest.hexdigest()


def _known(cache: FeatureCache, name: str, *, with_tokens: bool) -> Features | None:
    """Of an entry with tokens also what is asked for without."""
    for ending in (WITH_TOKENS,) if with_tokens else ("", WITH_TOKENS):
        if (found := cache.get(name + ending)) is not None:
            tokens = found["tokens"] if with_tokens else None
            return Features(summary=found["summary"], mean_latents=found["mean_latents"], tokens=tokens)
    return None


@contextmanager
def _frozen(encoder: FrozenEncoder, device: torch.device | str | None) -> Iterator[torch.device]:
    """The encoder in evaluation mode on the device, and afterwards as it was found."""
    home = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
    place = torch.device(device) if device is not None else home
    modes = [(module, module.training) for module in encoder.modules()]
    try:
        encoder.to(place)
        encoder.eval()
        yield place
    finally:
        for module, training in modes:
            module.training = training
        encoder.to(home)


def _check(images: np.ndarray, mean: Sequence[float], deviation: Sequence[float]) -> None:
    if not len(images):
        raise UserError("Features need at least one image. Got none.")
    if not len(mean) == len(deviation) == images.shape[1] or min(deviation) <= 0:
        raise UserError(
            f"mean and deviation need one number per channel, deviations above 0. Got mean={tuple(mean)} and "
            f"deviation={tuple(deviation)} for images of {images.shape[1]} channel(s)."
        )


def _room(n: int, num_tokens: int, width: int, limit: int) -> Tensor:
    needed = n * num_tokens * width * 2
    if needed > limit:
        raise UserError(
            f"Attentive probing keeps all tokens of all images in memory: {n} images x {num_tokens} tokens x {width} "
            f"values in float16 are {needed / 2**30:.2f} GiB, over the limit of {limit / 2**30:.2f} GiB. Use fewer "
            f"images, leave the protocol out, or raise token_bytes_limit."
        )
    return torch.empty(n, num_tokens, width, dtype=torch.float16)
