"""`contextae pretrain`: from images to a run folder, with a look at the latents while it trains."""

from __future__ import annotations

import shlex
from pathlib import Path

from contextae.data.sources import open_labelled_train
from contextae.data.sources.labelled import LabelledTrain
from contextae.data.transfer import Transfer
from contextae.errors import UserError
from contextae.evaluation.protocols import PROTOCOLS
from contextae.methods.masked import MaskedConfig
from contextae.methods.method import Method
from contextae.settings import HealthConfig, Sources
from contextae.training.log import read_lines
from contextae.verbs.checks import Checks, HealthCheck, ProbeCheck
from contextae.verbs.plan import asked_for, continued
from contextae.verbs.purpose import Purpose
from contextae.verbs.request import Request
from contextae.verbs.run import Run, run_on


def run_pretrain(
    *,
    data: Sources | None,
    out: Path,
    preset: str | None,
    settings: list[str],
    config: Path | None,
    resume: bool,
    labelled: str | None,
    tensorboard: bool,
    init: str | None = None,
    manifest: Path | None = None,
    exclude: tuple[str, ...] = (),
) -> int:
    """The exit code, as of every run."""

    def prepare(run: Run) -> LabelledTrain | None:
        if not isinstance(run.experiment.method, MaskedConfig):
            raise UserError(
                "These are the settings of a tokenizer, which `contextae fit-tokenizer` trains with the same options. "
                "For an encoder choose another method.name, such as cae."
            )
        probes, data = run.experiment.health.probes, run.experiment.data
        if not labelled and probes != HealthConfig().probes:
            raise UserError(
                f"health.probes={','.join(probes)} needs images with classes, which are given as --labelled DATA. Give "
                "them, or leave health.probes out."
            )
        return open_labelled_train(labelled, channels=data.channels, dtype=data.dtype) if labelled else None

    purpose = Purpose(
        asked_for=asked_for,
        continued=lambda request, recorded, index, device: continued(request, recorded),
        prepare=prepare,
        check=check,
        finished=finished,
        verb="pretrain",
        options=["--labelled", shlex.quote(labelled)] if labelled else [],
    )
    request = Request(data, preset, settings, config, init, manifest, exclude)
    return run_on(out, request, purpose, resume=resume, tensorboard=tensorboard)


def check(run: Run, method: Method, transfer: Transfer) -> Checks:
    """Of the latents and, with labels, by probes on a held-out part of train."""
    experiment, labels = run.experiment, run.prepared
    lines = read_lines(run.folder.log)  # cut to the step gone on at
    past = HealthCheck.past(lines)
    health = HealthCheck(method=method, experiment=experiment, index=run.index, transfer=transfer, past=past)
    if labels is None:
        return Checks(health, None)
    probes = ProbeCheck(method=method, experiment=experiment, labelled=labels)
    start = [line for line in lines if line["kind"] == "health" and line["step"] == 0]
    first = {name: line[name] for line in start for name in PROTOCOLS if name in line}
    return Checks(health, probes, continued=experiment.init.source is not None, first=first)


def finished(run: Run, method: Method) -> list[str]:
    """What to do next."""
    there = shlex.quote(str(run.folder.path))
    return [
        f"Done: {run.folder.path}",
        f"Next: contextae reconstruct {there} --out sheet.png",
        f"      contextae evaluate {there} --data LABELLED",
    ]
