"""One run as a report shows it: facts, settings, pictures, and how to use its weights."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import NamedTuple

from contextae.audit.naming import shown
from contextae.data.index import printable
from contextae.data.sampler import Sampler, Share
from contextae.data.stored_index import Stored
from contextae.errors import UserError
from contextae.evaluation.sealed import seal
from contextae.experiment import Experiment
from contextae.methods.masked import MaskedConfig
from contextae.pretrained import ENCODER
from contextae.report.curves import number, per_cent
from contextae.report.run_facts import Logged, asides, ended, lasted, pace, read_log, stretches
from contextae.report.run_page import PROBES, RunShown, latest
from contextae.report.run_pictures import RunPictures
from contextae.tokenizers.stored import NAME as TOKENIZER
from contextae.training.progress import say_on_stderr
from contextae.training.run_folder import RunFolder
from contextae.training.stored import at, best, newest, stored_steps
from contextae.verbs.report_settings import hidden, settings


class Chosen(NamedTuple):
    """The checkpoint of a run that a page shows: its step, and of its weights their numbers and the encoder's hash.

    `name` is what the user called it: last, best or a step.
    """

    name: str
    step: int
    fingerprint: str
    encoder_weights: int
    all_weights: int


class Run(NamedTuple):
    """A run folder, opened. `name` is what the page calls it, `path` what is given to other verbs.

    `chosen` is None where no checkpoint can be used, and `no_weights` says why.
    """

    folder: RunFolder
    name: str
    path: str
    experiment: Experiment
    stored: Stored
    logged: Logged
    chosen: Chosen | None
    no_weights: str

    @property
    def is_tokenizer(self) -> bool:
        return not isinstance(self.experiment.method, MaskedConfig)

    @property
    def total_steps(self) -> int:
        """Of the whole training."""
        shares = tuple(Share(part.num_images, part.slots) for part in self.stored.parts)
        training = self.experiment.training
        sampler = Sampler(length=len(self.stored.ids), batch_size=training.batch_size, seed=0, shares=shares)
        return sampler.steps(training.epochs)

    @property
    def quarantined(self) -> int:
        """Images set aside while training."""
        return len(self.folder.read_quarantine()) - len(self.folder.left_out())


def open_run(path: Path, *, name: str, checkpoint: str, paths: bool) -> Run:
    """UserError where there is no run, or not the checkpoint asked for; there may be none at all yet."""
    folder = RunFolder(path)
    if not os.path.isfile(folder.experiment):  # noqa: PTH113 unlike Path.is_file it takes any name
        there = "a file" if os.path.exists(path) else "nothing"  # noqa: PTH110 as above
        what = "a folder without an experiment.yaml" if os.path.isdir(path) else there  # noqa: PTH112
        kmeans = os.path.isfile(path / TOKENIZER)  # noqa: PTH113 as above
        tokenizer = " It holds a tokenizer of k-means patches, which no training is behind." if kmeans else ""
        raise UserError(
            f"A report is of runs, the folders that pretrain and fit-tokenizer write. At {printable(str(path))} there "
            f"is {what}.{tokenizer} Give the run folder itself, not its "
            "weights or checkpoints."
        )
    experiment = Experiment.read(folder.experiment)
    shown_path = str(path.absolute()) if paths else "RUN"
    try:
        chosen, why = _chosen(folder.checkpoints, checkpoint), "There is no checkpoint yet."
    except UserError as error:
        if checkpoint != "last":
            raise
        chosen, why = None, str(error)
    stored, logged = folder.read_images(whole=False), read_log(folder.log)
    return Run(folder, name, shown_path, experiment, stored, logged, chosen, "" if chosen else why)


def _chosen(checkpoints: Path, checkpoint: str) -> Chosen | None:
    """The checkpoint that `checkpoint` names; None where a run has none yet. UserError where it cannot be had."""

    def note(path: Path, why: str) -> None:
        say_on_stderr(f"Checkpoint {path} is damaged and passed over: {why}.")

    if checkpoint.isdecimal():
        saved = at(checkpoints, int(checkpoint))
    else:
        found = newest(checkpoints, note) if checkpoint == "last" else best(checkpoints, note)
        if found is None and checkpoint == "best":
            raise UserError(
                f"There is no whole checkpoint with a score in {checkpoints}, so none is the best. Leave --checkpoint "
                "out for the last one."
            )
        if found is None:
            return None
        saved = found
    encoder = {name.removeprefix(ENCODER): value for name, value in saved.weights.items() if name.startswith(ENCODER)}
    return Chosen(
        str(int(checkpoint)) if checkpoint.isdecimal() else checkpoint,
        saved.step,
        seal(encoder),
        sum(value.numel() for value in encoder.values()),
        sum(value.numel() for value in saved.weights.values()),
    )


def run_shown(run: Run, *, drawn: RunPictures | None, why: str, paths: bool) -> RunShown:
    """Everything about one run. Without pictures the reason."""
    logged, training = run.logged, run.experiment.training
    verdicts = stretches(logged.health)
    tiles = [
        (f"{len(run.stored.ids) - run.quarantined:,}", "images used"),
        (f"{logged.done:,}", f"of {run.total_steps:,} steps"),
        (latest(logged.steps, "loss"), "last loss"),
    ]
    if verdicts:
        tiles.append((verdicts[-1].word, "at the last check"))
    tiles += [
        (figure, f"{title} on held-out train")
        for name, title in PROBES.items()
        if (figure := latest(logged.health, name, per_cent)) != "-"
    ]
    return RunShown(
        name=run.name,
        tiles=tiles,
        facts=[(name, words) for name, words in _facts(run, paths=paths) if words],
        logged=logged,
        batch_size=training.batch_size,
        warning=ended(logged, run.total_steps),
        asides=asides(run.folder.read_quarantine(), paths=paths),
        pictures=drawn,
        no_pictures=why,
        settings=settings(run.experiment, paths=paths),
        python=_python(run),
        commands=_commands(run),
        is_tokenizer=run.is_tokenizer,
    )


def outcome(run: Run) -> list[tuple[str, str]]:
    """What came out, for a comparison of several."""
    seconds, rates = pace(run.logged, run.experiment.training.batch_size)
    verdicts = stretches(run.logged.health)
    return [
        ("images used", f"{len(run.stored.ids) - run.quarantined:,}"),
        ("steps done", f"{run.logged.done:,} of {run.total_steps:,}"),
        ("images a second", rates.partition(" ")[0] or "-"),
        ("minutes of steps", f"{seconds / 60:.1f}" if seconds else "-"),
        ("last loss", latest(run.logged.steps, "loss")),
        ("last label-free score", latest(run.logged.health, "score")),
        *(
            (f"last {title} on held-out train", latest(run.logged.health, name, per_cent))
            for name, title in PROBES.items()
        ),
        ("last verdict", verdicts[-1].word if verdicts else "-"),
    ]


def _facts(run: Run, *, paths: bool) -> list[tuple[str, str]]:
    e, stored = run.experiment, run.stored
    data, method, trunk = e.data, e.method, e.encoder
    seconds, rates = pace(run.logged, e.training.batch_size)
    sources = data.source if isinstance(data.source, tuple) else (data.source,)
    values = {name: hidden(name, value, paths=paths) for name, value in e.values().items()}
    patches = e.grid_size[0] * e.grid_size[1]
    facts = [
        (
            "images of",
            "; ".join(shown(each) if paths else hidden("data.source", each, paths=False) for each in sources),
        ),
        *(
            (
                f"part {place}" if not paths else shown(part.name),
                f"{part.num_images:,} images of weight {part.weight:g}, {part.slots:,} in an epoch",
            )
            for place, part in enumerate(stored.parts, start=1)
        ),
        (
            "found",
            f"{stored.found:,} = used {len(stored.ids) - run.quarantined:,} + left out {stored.left_out:,} + "
            f"quarantined {run.quarantined:,}",
        ),
        (
            "values",
            f"{data.channels} channel(s) of {data.stored_as}; {data.scaled_from[0]:g} to {data.scaled_from[1]:g} "
            "become 0 to 1",
        ),
        ("method", f"{method.name}: {type(method).model_fields['name'].description or 'a tokenizer, a discrete VAE'}"),
    ]
    size = f"{data.image_size[0]} x {data.image_size[1]} pixels (height x width)"
    if isinstance(method, MaskedConfig):
        masked = method.build_masker(e.grid_size).num_masked
        facts += [
            ("target", f"{values['method.target']}" + (", each patch normalised" if _normalised(method) else "")),
            (
                "masked",
                f"{masked} of {patches} patches, {'in blocks' if method.masker == 'block' else 'each at random'}",
            ),
            ("network", f"width {trunk.width}, depth {trunk.depth}, {trunk.num_heads} heads{_weights(run)}"),
            ("input", f"{size} in patches of {trunk.patch_size[0]} x {trunk.patch_size[1]}"),
            ("began with", f"weights of {values['init.source']}" if e.init.source else "random weights"),
        ]
    else:
        facts += [("input", f"{size}, a code for each of {e.grid_size[0]} x {e.grid_size[1]} places{_weights(run)}")]
    steps = stored_steps(run.folder.checkpoints)
    return [
        *facts,
        (
            "length",
            f"{run.logged.done:,} of {run.total_steps:,} steps of {e.training.batch_size:,} images, "
            f"{e.training.epochs:,} epochs, seed {e.training.seed}",
        ),
        ("learning rate", f"{number(e.peak_lr)} at its peak, after {e.training.warmup_epochs:g} epochs of warm-up"),
        ("time", lasted(run.logged, seconds)),
        ("images a second", rates),
        (
            "checkpoints",
            f"after {', '.join(f'{step:,}' for step in steps)} steps" if steps else "none yet",
        ),
        (
            "hardware, versions",
            "; then ".join(run.logged.machines or ["not written down"]) + f"; products in {e.training.precision}",
        ),
    ]


def _normalised(method: MaskedConfig) -> bool:
    return method.target == "pixels" and method.normalise_target


def _weights(run: Run) -> str:
    """Counted, of the checkpoint shown."""
    if run.chosen is None:
        return ""
    encoder, whole = (f"{count / 1e6:.2f}" for count in (run.chosen.encoder_weights, run.chosen.all_weights))
    return f"; {encoder} of {whole} million weights" if run.chosen.encoder_weights else f"; {whole} million weights"


def _python(run: Run) -> str:
    if run.is_tokenizer:
        return ""
    height, width = run.experiment.grid_size
    given = f", checkpoint={run.chosen.name!r}" if run.chosen and run.chosen.name != "last" else ""
    return (
        "import contextae, torch\n\n"
        f"encoder, transform = contextae.load({run.path!r}{given})\n"
        "with torch.no_grad():\n"
        '    summary, latents = encoder.summary_and_latents(transform(["photo.jpg"]))\n'
        f"# summary: 1 x {run.experiment.encoder.width}; latents: 1 x {height * width} x "
        f"{run.experiment.encoder.width}, of {height} x {width} patches"
    )


def _commands(run: Run) -> list[str]:
    there = shlex.quote(printable(run.path))
    if run.is_tokenizer:
        return [f"contextae pretrain DATA --out RUN --set method.target=codes:{there}"]
    there += f" --checkpoint {run.chosen.name}" if run.chosen and run.chosen.name != "last" else ""
    return [
        f"contextae evaluate {there} --data LABELLED --protocol knn,linear,attentive",
        f"contextae embed {there} IMAGES --out features.parquet",
        *(f"contextae export {there} --to {to} --out for-{to}" for to in ("timm", "huggingface", "onnx", "torch")),
    ]
