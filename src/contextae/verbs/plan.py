"""What a start of `pretrain` amounts to: the experiment asked for, what was found, and whether a resume may go on."""

from __future__ import annotations

import os

import numpy as np
import torch

from contextae.data.facts import TOO_LARGE
from contextae.data.index import EXAMPLES, Index, printable
from contextae.data.statistics import pixel_statistics
from contextae.errors import UserError
from contextae.experiment import Experiment, named_values
from contextae.methods.masked import MaskedConfig
from contextae.named_targets import asked_of_target
from contextae.presets import preset
from contextae.presets.choose import choose
from contextae.training.distributed import Distributed
from contextae.training.precision import resolve
from contextae.verbs.init import SET_BY_INIT, absolute_init, fingerprint, init_settings, read_source
from contextae.verbs.request import AUDITED, Request, absolute, located, source_of

HARMLESS = (
    "training.workers",
    "training.log_steps",
    "training.save_minutes",
    "training.keep_checkpoints",
    "data.max_bad_share",
)
"""Settings that may change between stop and resume: the weights do not depend on them."""
LEFT_OPEN = {
    "data.mean": None,
    "data.deviation": None,
    "data.channels": "auto",
    "data.dtype": "auto",
    "data.value_range": None,
    "training.precision": "auto",
    "method.target_size": None,
    "method.target_sha256": None,
    "init.sha256": None,
}
"""Settings that a start fills in, and what stands for them before."""


def asked_for(request: Request, index: Index, device: torch.device) -> tuple[Experiment, str]:
    """The experiment before anything measured is filled in, and a sentence that says where it comes from."""
    source = source_of(request)
    if request.config:
        experiment = Experiment.read(request.config)
        experiment = experiment.with_values({"data.source": source})
        origin = f"from {request.config}"
    elif request.preset:
        experiment, origin = preset(request.preset, source), f"preset {request.preset}"
    else:
        chosen = choose(source, count=len(index), size=median_size(index), accelerator=device.type != "cpu")
        experiment, origin = chosen.experiment, f"no preset given; chosen for {chosen.reason}"
    if request.init is not None:
        values = init_settings(absolute_init(request.init))
        experiment = experiment.with_values(values)
        named = {name: value for name, value in values.items() if not name.endswith("sha256")}
        origin += f"; with --init {', '.join(f'{name}={value}' for name, value in named.items())}"
    experiment = experiment.with_values(request.audited, origin="settings of the audit")
    if experiment.data.manifest:
        origin += f"; with the audit {experiment.data.manifest}"
    changed = experiment.with_settings(request.settings)
    if request.settings:
        origin += f"; then changed by --set {', '.join(request.settings)}"
        named = named_values(request.settings)
        if (
            "training.warmup_epochs" not in named
            and changed.training.warmup_epochs != experiment.training.warmup_epochs
        ):
            origin += f" (and with it training.warmup_epochs={changed.training.warmup_epochs:g})"
    return located(changed), origin


def median_size(index: Index) -> tuple[int, int]:
    """Height and width, each the median over the images."""
    return int(np.median(index.facts["height"])), int(np.median(index.facts["width"]))


def large_enough(index: Index, patch_size: tuple[int, int]) -> tuple[Index, list[str]]:
    """Without images that are smaller than a patch, and in words which these are; refuses where none are left."""
    small = (index.facts["height"] < patch_size[0]) | (index.facts["width"] < patch_size[1])
    if not small.any():
        return index, []
    rest = index.without(small, f"smaller than a patch of {patch_size[0]} x {patch_size[1]}")
    names = ", ".join(printable(index.ids[i]) for i in np.flatnonzero(small)[:EXAMPLES].tolist())
    words = f"{int(small.sum()):,} smaller than a patch of {patch_size[0]} x {patch_size[1]}: {names}"
    if not len(rest):
        raise UserError(
            f"An image must be at least as large as a patch. Got {words}, and no larger one; give a smaller one with "
            "--set encoder.patch_size=[HEIGHT, WIDTH]."
        )
    return rest, [f"left out as well: {words}"]


def whole_enough(index: Index, kind: str) -> tuple[Index, list[str]]:
    """Without images that are too large to be decoded, unless tiles are asked for; refuses where none are left."""
    large = index.facts["parts"] if kind != "tile" else np.zeros(0, bool)
    if not large.any():
        return index, []
    advice = "with --set crop.kind=tile tiles of data.image_size are read out of them"
    words = f"{int(large.sum()):,} {TOO_LARGE}"
    if large.all():
        raise UserError(f"{index.title} holds {words} and no other images; {advice}.")
    return index.without(large, TOO_LARGE), [f"left out as well: {words}; {advice}"]


def resolved(experiment: Experiment, index: Index, *, device: torch.device) -> tuple[Experiment, list[str]]:
    """Everything that `auto` and null leave open, measured once and said aloud; a resume reads it back."""
    notes = []
    values: dict[str, object] = {"data.channels": index.channels, "data.dtype": index.dtype}
    data = experiment.data
    known_range = data.value_range or ((0.0, 255.0) if index.dtype == "uint8" else None)
    values["data.value_range"] = known_range
    if data.mean is None or data.deviation is None or known_range is None:
        found = pixel_statistics(index, value_range=known_range, seed=experiment.training.seed)
        values["data.value_range"] = list(found.value_range)
        values["data.mean"] = list(data.mean or map(_short, found.mean))
        values["data.deviation"] = list(data.deviation or map(_short, found.deviation))
        if index.dtype != "uint8":
            low, high = found.value_range
            notes.append(f"values {low:g} to {high:g} become 0 to 1" + ("" if known_range else ", measured"))
        notes.append(f"mean {_listed(values['data.mean'])}, deviation {_listed(values['data.deviation'])}, measured")
    if isinstance(experiment.method, MaskedConfig):
        grid = experiment.encoder.grid(image_size=data.image_size, channels=index.channels)
        asked = asked_of_target(experiment.method, grid)
        values |= asked.values
        notes += asked.notes
    if experiment.init.source and not experiment.init.sha256:
        values["init.sha256"] = fingerprint(read_source(experiment.init.source))
    precision = resolve(experiment.training.precision, device)
    values["training.precision"] = precision.precision
    notes.append(f"{precision.precision}: {precision.reason}")
    whole = experiment.with_values(values)
    for name in ("mean", "deviation"):
        given = getattr(whole.data, name)
        if len(given) != index.channels:
            raise UserError(
                f"data.{name} needs one number per channel, {index.channels} here. Got {len(given)}: {list(given)}."
            )
    return whole, notes


def workers(experiment: Experiment, distributed: Distributed) -> int:
    """Loader processes of this process: as set, else one for every second core, at most eight."""
    if experiment.training.workers is not None:
        return experiment.training.workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2 // local))


def continued(request: Request, recorded: Experiment) -> Experiment:
    """The recorded experiment with the harmless changes that the command line asks for; others are refused."""
    request.check()
    if request.init and absolute_init(request.init) != recorded.init.source:
        raise UserError(
            f"A resumed run goes on from its own checkpoint: --init was {recorded.init.source} at its start and is "
            f"{request.init} now. Leave it out, or start a new run in another folder."
        )
    if not (request.data or request.preset or request.settings or request.config or request.audited):
        return recorded
    if request.preset:
        asked = preset(request.preset, absolute(request.data) if request.data else recorded.data.source)
    elif request.config:
        asked = Experiment.read(request.config)
        asked = asked.with_values({"data.source": absolute(asked.data.source)})
    else:
        asked = recorded
    if request.data:
        asked = asked.with_values({"data.source": absolute(request.data)})
    if request.init and asked is not recorded:  # the source is not read again: what it set stands in the run
        values = recorded.values()
        asked = asked.with_values({name: values[name] for name in SET_BY_INIT})
    if asked is not recorded and not request.config:  # neither a preset nor DATA says anything of an audit
        asked = asked.with_values({name: recorded.values()[name] for name in AUDITED})
    asked = asked.with_values(request.audited, origin="settings of the audit")
    return unchanged(recorded, located(asked.with_settings(request.settings)))


def unchanged(recorded: Experiment, asked: Experiment) -> Experiment:
    """The recorded experiment with the harmless ones of its differences from what is asked for now; others refused."""
    was, wanted = recorded.values(), asked.values()
    different = [
        name
        for name in {**was, **wanted}
        if was.get(name) != wanted.get(name) and not (name in LEFT_OPEN and wanted.get(name) == LEFT_OPEN[name])
    ]
    refused = [name for name in different if name not in HARMLESS]
    if refused:
        lines = "\n".join(f"  - {name}: {was.get(name)} in the run, {wanted.get(name)} now" for name in refused)
        raise UserError(
            f"A resumed run keeps its configuration, and {len(refused)} setting(s) differ.\n{lines}\nResume with the "
            f"run's own settings (--resume --out RUN is enough), or start a new run in another folder. These may "
            f"change: {', '.join(HARMLESS)}."
        )
    return recorded.with_values({name: wanted[name] for name in different})


def _listed(values: object) -> str:
    assert isinstance(values, list)
    return " ".join(f"{value:.3f}" if value >= 0.01 else f"{value:.3g}" for value in values)


def _short(value: float) -> float:
    """With six digits, as it stands in the experiment file."""
    return float(f"{value:.6g}")
