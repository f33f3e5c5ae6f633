"""`pretrain --init`: the encoder starts from existing weights of a timm network, a run or a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.interop.start import FOLDER, PREFIX, WEIGHTS, Source, encoder_settings, fill_encoder, read_timm
from contextae.methods.masked import MaskedConfig
from contextae.pretrained import load_encoder
from contextae.settings import InitConfig

SAFE: dict[str, Any] = {"init.frozen_share": 0.1, "optimizer.layer_decay": 0.75}
"""What --init sets unless told otherwise. 0.75 is CAE v2's in fine-tuning [Atten4Vis/CAE]; the share is ours."""
NETWORK = ("width", "depth", "num_heads", "mlp_ratio", "layer_scale", "positions")  # the source's own, of encoder.*
SET_BY_INIT = ("init.source", "init.sha256", *(f"encoder.{name}" for name in NETWORK), *SAFE)


def absolute_init(source: str) -> str:
    """The same weights from any working folder."""
    if not source.startswith(PREFIX):
        return str(Path(source).expanduser().absolute())
    folder = Path(source.removeprefix(PREFIX).removeprefix(FOLDER)).expanduser()
    # os.path, because a Path refuses names that are too long with an OSError
    if os.path.isfile(folder / "config.json"):  # noqa: PTH113
        return f"{PREFIX}{folder.absolute()}"
    name, _, path = source.partition("=")
    return f"{name}={Path(path).expanduser().absolute()}" if path else source


def read_source(source: str) -> Source:
    """Weights of a timm network, or those of a run, one of its checkpoints or a weights file."""
    if source.startswith(PREFIX):
        return read_timm(source)
    _refuse_timms(source)
    encoder, origin = load_encoder(source)
    transform = origin.transform
    return Source.of_encoder(encoder, mean=transform.mean, deviation=transform.deviation, name=source)


def _refuse_timms(source: str) -> None:
    """A folder as timm and `contextae export` write them, or the weights in it, given without the word for it."""
    path = Path(source)
    folder = path.parent if path.name == WEIGHTS else path
    try:
        timms = (folder / WEIGHTS).is_file() and '"architecture"' in (folder / "config.json").read_text("utf-8")
    except (OSError, UnicodeDecodeError):  # nothing there, a name too long, another program's
        return
    if timms:
        raise UserError(
            f"--init takes a run folder, one of its checkpoints or a weights file as they are. {source} is of a folder "
            f"as timm and `contextae export --to timm` write it; give it as {PREFIX}{folder}."
        )


def init_settings(source: str) -> dict[str, Any]:
    """What a run that starts there has for settings, before any --set: the network's own, and a careful recipe."""
    read = read_source(source)
    return {"init.source": source, "init.sha256": fingerprint(read), **encoder_settings(read), **SAFE}


def fingerprint(source: Source) -> str:
    """SHA-256 over names and values of the weights, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(source.tensors):
        digest.update(name.encode())
        digest.update(source.tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_start(experiment: Experiment, channels: int) -> None:
    """Refuses what would be refused when the training starts; no weights are drawn for it.

    A tokenizer's settings are passed over: it starts from nothing, and its verb says so.
    """
    if not isinstance(experiment.method, MaskedConfig):
        return
    with torch.random.fork_rng(devices=()):
        encoder = experiment.encoder.build(image_size=experiment.data.image_size, channels=channels)
    _fill(encoder, experiment.init)


def started(encoder: Encoder, init: InitConfig, frozen_steps: int) -> list[str]:
    """Fills the encoder, and says what from, what was adapted, and how long it is left alone."""
    source, said = _fill(encoder, init)
    lines = [f"The encoder starts from {init.source}.", *(f"  {line}" for line in said)]
    if source.mean and source.deviation:
        known = [" ".join(f"{value:.3f}" for value in values) for values in (source.mean, source.deviation)]
        lines.append(f"  its images had mean {known[0]} and deviation {known[1]}; each set is normalised by its own")
    if frozen_steps:
        lines.append(f"  it is frozen for the first {frozen_steps:,} step(s), while the other parts are trained")
    return lines


def _fill(encoder: Encoder, init: InitConfig) -> tuple[Source, list[str]]:
    assert init.source
    source = read_source(init.source)
    found = fingerprint(source)
    if init.sha256 and init.sha256 != found:
        raise UserError(
            f"The weights of {init.source} are not those that this experiment started from: their sha256 is {found} "
            f"and was {init.sha256}. Put the old ones back, or set init.sha256=null."
        )
    return source, fill_encoder(encoder, source)
