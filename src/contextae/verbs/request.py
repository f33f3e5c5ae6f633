"""What the command line asks for, and the images that it names, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from contextae.audit.manifest import Manifest
from contextae.data.index import Index, printable
from contextae.data.sources import open_index
from contextae.data.sources.mixed import weighted
from contextae.errors import UserError
from contextae.experiment import Experiment, named_values
from contextae.methods.masked import MaskedConfig
from contextae.named_targets import absolute_target
from contextae.settings import DataConfig, Sources
from contextae.verbs.init import absolute_init

AUDITED = ("data.manifest", "data.exclude")
OPENING = ("data.source", "data.channels", "data.dtype", *AUDITED)
"""Settings that say which images are opened, and as what."""


class Request(NamedTuple):
    """The command line of `pretrain`, as given."""

    data: Sources | None
    preset: str | None
    settings: list[str]
    config: Path | None
    init: str | None = None
    manifest: Path | None = None
    exclude: tuple[str, ...] = ()

    @property
    def audited(self) -> dict[str, Any]:
        """Values of data.manifest and data.exclude, where options or settings name them."""
        return self._options | {name: value for name, value in named_values(self.settings).items() if name in AUDITED}

    @property
    def _options(self) -> dict[str, Any]:
        values = {"data.manifest": self.manifest and str(self.manifest), "data.exclude": list(self.exclude)}
        return {name: value for name, value in values.items() if value}

    def check(self) -> None:
        """Refuses what says one thing twice, and mistyped settings, before a million headers are read."""
        named = named_values(self.settings)
        if twice := self._options.keys() & named.keys():
            raise UserError(
                "An audit is given as --manifest and --exclude, or by --set data.manifest and data.exclude. Got both "
                f"for {', '.join(sorted(twice))}; leave one of them out."
            )
        if self.init == "":
            raise UserError("--init names the weights to start from, and is empty. Name some, or leave it out.")
        if self.config and self.preset:
            raise UserError(
                "--config and --preset both name a whole experiment. Give one of them, and --set for the rest."
            )
        if "data.source" in named:
            raise UserError("data.source is where the images are, which is given as DATA and not by --set.")


def absolute(source: Sources) -> Sources:
    """A source, or several, each with its weight, that mean the same from any working folder."""
    if not isinstance(source, str):
        return tuple(
            _absolute(path) + (f"={weight:g}" if weight != 1 else "") for path, weight in map(weighted, source)
        )
    return _absolute(source)


def _absolute(source: str) -> str:
    return source if source.startswith("builtin:") else str(Path(source).expanduser().absolute())


def source_of(request: Request) -> Sources:
    """Where the images are: on the command line, or in the experiment file."""
    request.check()
    if request.data:
        return absolute(request.data)
    if request.config:
        return absolute(Experiment.read(request.config).data.source)
    raise UserError(
        "DATA is missing: a folder of images, a text file of paths, Parquet files, archives, arrays or "
        "builtin:fashion-mnist; docs/data.md has them all."
    )


def named(source: Sources) -> str:
    """One source or several, for the user."""
    return printable(source if isinstance(source, str) else ", ".join(source))


class Opened(NamedTuple):
    """The images that a request names, what an audit says of them, and what is to be said of both."""

    images: Index
    manifest: Manifest | None
    words: list[str]

    def measured(self, asked: Experiment) -> Experiment:
        """With the audit's statistics, where the settings leave them open."""
        return asked.with_values(self.manifest.settings(self.images, asked.values())) if self.manifest else asked


def opened(request: Request) -> Opened:
    """Looks at the images; those that an audit found unreadable, or that --exclude names, join what is left out."""
    data = _opening(request)
    manifest = Manifest(Path(data.manifest)) if data.manifest else None
    if manifest:
        manifest.check_names(data.exclude)  # before a million headers are read
    index = open_index(data.source, channels=data.channels, dtype=data.dtype)
    if manifest is None:
        return Opened(index, None, index.describe())
    applied = manifest.apply(index, data.exclude)
    return Opened(applied.images, manifest, [*index.describe(), *applied.notes])


def _opening(request: Request) -> DataConfig:
    """Of the section data, what says which images are opened, and as what: by options, --set or experiment file."""
    values: dict[str, Any] = {"data.source": source_of(request)}
    if request.config:
        recorded = Experiment.read(request.config).values()
        values = {name: recorded[name] for name in OPENING} | values
    named = named_values(request.settings)
    values |= request.audited | {name: named[name] for name in OPENING if name in named}
    return located(Experiment(data=DataConfig(source="")).with_values(values, origin="settings of data")).data


def located(experiment: Experiment) -> Experiment:
    """The same from any working folder: files of the target and of the weights to start from by absolute paths."""
    values: dict[str, Any] = {}
    if isinstance(experiment.method, MaskedConfig):
        values["method.target"] = absolute_target(experiment.method.target)
    if experiment.init.source:
        values["init.source"] = absolute_init(experiment.init.source)
    if experiment.data.manifest:
        values["data.manifest"] = _absolute(experiment.data.manifest)
    return experiment.with_values(values)
