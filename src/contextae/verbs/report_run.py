"""One run as a report shows it: facts, settings, pictures, and how to use its weights."""

from __future__ import annotations

import io
import os
import shlex
from pathlib import Path
from typing import NamedTuple

import torch

from contextae.audit.naming import Naming, shown
from contextae.data.images import load_images
from contextae.data.index import Index, printable
from contextae.data.sampler import Sampler, Share
from contextae.data.sources import continued_index, open_index
from contextae.data.stored_index import Stored
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.methods.masked import MaskedConfig
from contextae.pretrained import load_encoder, load_method
from contextae.report.curves import number, per_cent
from contextae.report.figures import tokenizer_sheet
from contextae.report.maps import look
from contextae.report.run_facts import Logged, asides, ended, lasted, pace, read_log, stretches
from contextae.report.run_page import PROBES, RunShown, latest
from contextae.report.run_pictures import RunPictures, attention_rows, component_rows, png_uri, shown_pixels
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.stored import NAME as TOKENIZER
from contextae.tokenizers.stored import open_tokenizer
from contextae.training.run_folder import RunFolder
from contextae.training.stored import stored_steps
from contextae.training.weights import load_weights
from contextae.verbs.reconstruct import draw_images, draw_sheet, reconstructed, windowed
from contextae.verbs.report_settings import hidden, settings

IMAGES, SEED = 6, 0  # shown of each run; of the draw and of the masks, the same in every report


class Run(NamedTuple):
    """A run folder, opened. `name` is what the page calls it, `path` what is given to other verbs."""

    folder: RunFolder
    name: str
    path: str
    experiment: Experiment
    stored: Stored
    logged: Logged

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


def open_run(path: Path, *, name: str, paths: bool) -> Run:
    """UserError where there is no run."""
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
    return Run(folder, name, shown_path, experiment, folder.read_images(whole=False), read_log(folder.log))


def run_shown(run: Run, *, data: str | None, pictures: bool, paths: bool) -> RunShown:
    """Everything about one run. Pictures that cannot be drawn are left out with the reason."""
    logged, training = run.logged, run.experiment.training
    drawn, why = None, "Pictures were not asked for (--no-pictures)."
    if pictures:
        try:
            drawn, why = _pictures(run, data, paths=paths), ""
        except UserError as error:
            why = (
                f"There are no pictures: {error}" if paths else "There are no pictures: images or weights are missing."
            )
    verdicts = stretches(logged.health)
    tiles = [
        (f"{len(run.stored.ids) - run.quarantined:,}", "images used"),
        (f"{logged.done:,}", f"of {run.total_steps:,} steps"),
        (latest(logged.steps, "loss"), "loss at the end"),
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
    """Counted, of the last checkpoint."""
    try:
        tensors, _ = load_weights(run.folder.path, say=lambda _: None)
    except UserError:
        return ""
    encoder = sum(value.numel() for name, value in tensors.items() if name.startswith("encoder."))
    whole = sum(value.numel() for value in tensors.values())
    return f"; {encoder / 1e6:.2f} of {whole / 1e6:.2f} million weights" if encoder else f"; {whole / 1e6:.2f} million"


def _python(run: Run) -> str:
    if run.is_tokenizer:
        return ""
    height, width = run.experiment.grid_size
    return (
        "import contextae, torch\n\n"
        f"encoder, transform = contextae.load({run.path!r})\n"
        "with torch.no_grad():\n"
        '    summary, latents = encoder.summary_and_latents(transform(["photo.jpg"]))\n'
        f"# summary: 1 x {run.experiment.encoder.width}; latents: 1 x {height * width} x "
        f"{run.experiment.encoder.width}, of {height} x {width} patches"
    )


def _commands(run: Run) -> list[str]:
    there = shlex.quote(printable(run.path))
    if run.is_tokenizer:
        return [f"contextae pretrain DATA --out RUN --set method.target=codes:{there}"]
    return [
        f"contextae evaluate {there} --data LABELLED --protocol knn,linear,attentive",
        f"contextae embed {there} IMAGES --out features.parquet",
        *(f"contextae export {there} --to {to} --out for-{to}" for to in ("timm", "huggingface", "onnx", "torch")),
    ]


def _index(run: Run, data: str | None) -> Index:
    """The images to draw from: those of the run, or of `data`."""
    own = run.experiment.data
    assert isinstance(own.channels, int)  # settled at the start
    if data is not None:
        return open_index(data, channels=own.channels, dtype=own.stored_as)
    try:
        return continued_index(own.source, run.stored, channels=own.channels, dtype=own.stored_as)
    except UserError as error:
        raise UserError(f"{error} Or name other images with --data.") from None


def _pictures(run: Run, data: str | None, *, paths: bool) -> RunPictures:
    index = _index(run, data)
    if run.is_tokenizer:
        return _codes(run, index)
    notes: list[str] = []
    method = None
    try:
        method, origin = load_method(run.folder.path)
        encoder = method.encoder
    except UserError as error:  # a tokenizer or teacher that is gone: the encoder needs none
        encoder, origin = load_encoder(run.folder.path)
        notes.append(f"There are no reconstructions: {error}" if paths else "There are no reconstructions.")
    found = draw_images(index, count=IMAGES, seed=SEED)
    naming = Naming(index.ids, paths)
    notes += [f"{naming.words(position)} is left out: {reason}." for position, reason in found.left_out]
    names = [naming.words(position) for position in found.positions]
    images = origin.transform(found.pixels)
    looked = look(encoder, images)
    pixels = shown_pixels(
        images, mean=origin.transform.mean, deviation=origin.transform.deviation, windowed=windowed(origin)
    )
    sheet = None
    if method is not None:
        try:
            ids = [index.ids[position] for position in found.positions]
            pictures = reconstructed(method, origin, ids, found.pixels, seed=SEED)
            drawn = io.BytesIO()
            draw_sheet(pictures, origin, names, drawn)
            sheet = png_uri(drawn.getvalue())
        except UserError as error:  # a method that decodes nothing
            notes.append(str(error))
    components, shares = component_rows(looked, pixels, names)
    return RunPictures(
        step=f"step {max(stored_steps(run.folder.checkpoints)):,}",
        sheet=sheet,
        attention=attention_rows(looked, pixels, names),
        components=components,
        shares=shares,
        notes=notes,
        windowed=windowed(origin),
        channels=origin.channels,
    )


def _codes(run: Run, index: Index) -> RunPictures:
    """What the codes of a finished tokenizer decode to."""
    if not (run.folder.path / TOKENIZER).is_file():
        raise UserError("The training of this tokenizer has not come to its end, which writes the tokenizer's file.")
    tokenizer = open_tokenizer(run.folder.path)
    assert isinstance(tokenizer, DVAE)  # k-means is no run
    found = draw_images(index, count=IMAGES, seed=SEED)
    some = index.subset(found.positions)
    data = run.experiment.data
    images = torch.from_numpy(load_images(some, data.image_size, value_range=data.scaled_from).images).float() / 255
    decoded = tokenizer.decode(tokenizer.codes(images), run.experiment.grid_size)
    drawn = io.BytesIO()
    tokenizer_sheet(images.numpy(), decoded.numpy(), drawn)
    return RunPictures(
        step="the finished tokenizer",
        sheet=png_uri(drawn.getvalue()),
        attention=[],
        components=[],
        shares=[],
        notes=[],
        channels=index.channels,
    )
