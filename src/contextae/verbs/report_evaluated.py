"""What a report shows of results.jsonl: the newest figure of each kind, whose weights it is of, and its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contextae.data.builtin import PREFIX
from contextae.data.index import printable
from contextae.evaluation.baselines import BASELINES
from contextae.evaluation.record import RANDOM, THIS_ENCODER
from contextae.evaluation.results import FILE, Recorded, read, settings_of
from contextae.evaluation.segmentation.run import FROM_SCRATCH, MAJORITY
from contextae.evaluation.table import sheets_of, titled
from contextae.report.run_page import Difference, Evaluated, Table, shown_value
from contextae.verbs.report_run import Run

CHECKPOINT = re.compile(r"step-(\d{8,})")
ROWS = (THIS_ENCODER, RANDOM, FROM_SCRATCH, MAJORITY, *BASELINES)
"""Rows that are no weights of the user's."""
KNOWN = re.compile(r"timm:[\w.]+")  # a name that everybody knows, without the path of a file behind it
OF_FILES = re.compile(r"/|\.[A-Za-z]")  # in a sentence
HOW = "contextae evaluate writes them into the run folder."


def evaluated(runs: Sequence[Run], *, paths: bool) -> Evaluated:
    """Of results.jsonl of each run: the newest of each figure."""
    records: list[Recorded] = []
    missing: list[str] = []
    for run in runs:
        file = run.folder.path / FILE
        own = [each for each in read(file) if each.results] if file.is_file() else []
        records += [_named(record, run, paths=paths) for record in own]
        missing += _missing(run, own)
    records = _apart(records)
    if not paths:
        records = _without_paths(records)
    weights = {(record.about.get("encoder_sha256"), record.about["weights"]) for record in records}
    shown_as = {(run.chosen.fingerprint if run.chosen else None, run.name) for run in runs}
    if len({of for of, _ in weights}) == 1 and (len(runs) > 1 or not weights <= shown_as):
        records = list(map(_of_which, records))  # of several encoders the tables say it themselves
    tables = [
        Table(sheet.title, sheet.corner or "row", sheet.columns, [(name, list(cells)) for name, cells in sheet.rows],
              sheet.captions)
        for sheet in sheets_of(records)
    ]  # fmt: skip
    return Evaluated(tables, differences(records), [_about(record) for record in records], missing)


def _missing(run: Run, own: Sequence[Recorded]) -> list[str]:
    """What figures there are not."""
    if not own:
        what = "A tokenizer is evaluated by what is trained on it." if run.is_tokenizer else HOW
        return [f"There are no figures of {run.name} yet. {what}"]
    if run.chosen and all(record.about.get("encoder_sha256") != run.chosen.fingerprint for record in own):
        return [f"No figure is of the weights of {run.name} that this page shows, those of step {run.chosen.step:,}."]
    return []


def _named(record: Recorded, run: Run, *, paths: bool) -> Recorded:
    """With the page's own name for the weights, and what was set told below the table."""
    about = record.about
    name = run.name
    if run.chosen is None or about.get("encoder_sha256") != run.chosen.fingerprint:
        name = _other(str(about.get("weights", "?")), str(about.get("checkpoint", "last")), run, paths=paths)
    notes = list(record.notes)
    if given := about.get("settings"):
        protocols = ", ".join(dict.fromkeys(each.protocol for each in record.results))
        notes.append(f"{protocols}: {', '.join(map(str, given))}, other than by default.")
    return replace(record, about={**about, "weights": name}, notes=tuple(notes))


def _other(weights: str, checkpoint: str, run: Run, *, paths: bool) -> str:
    """The name of weights that are not those of the checkpoint shown: another one of the run, or of another run."""
    place = Path(weights)
    place = place.parent if place.suffix == ".safetensors" else place
    one = CHECKPOINT.fullmatch(place.name)  # given as such, and not by its run
    folder = place.parent.parent.name if one else place.name
    if folder not in ("", "..", run.folder.path.resolve().name):
        return f"weights of {printable(folder)}" if paths else "weights of another folder"
    which = f"step {int(one[1]):,}" if one else f"step {int(checkpoint):,}" if checkpoint.isdecimal() else checkpoint
    return f"{run.name}, {which} at that time" if which in ("last", "best") else f"{run.name}, {which}"


def _apart(records: Sequence[Recorded]) -> list[Recorded]:
    """No two encoders of one name: the beginning of the hash behind it tells them apart."""
    hashes: dict[str, set[str]] = {}
    for record in records:
        hashes.setdefault(record.about["weights"], set()).add(str(record.about.get("encoder_sha256")))

    def named(about: dict[str, Any]) -> dict[str, Any]:
        name, several = about["weights"], len(hashes[about["weights"]]) > 1
        return {**about, "weights": f"{name} ({str(about.get('encoder_sha256'))[:8]})" if several else name}

    return [replace(record, about={**named(record.about), "checkpoint": "last"}) for record in records]


def _of_which(record: Recorded) -> Recorded:
    """With the weights in the names of rows."""
    weights = record.about["weights"]
    return replace(
        record,
        results=tuple(replace(each, row=f"{weights}: {each.row}") for each in record.results),
        compared=tuple(replace(each, row=f"{weights}: {each.row}") for each in record.compared),
    )


def _without_paths(records: Sequence[Recorded]) -> list[Recorded]:
    """Data sets and weights of files as numbers; notes that may name a file are counted."""
    sets = list(dict.fromkeys(str(record.about.get("data", "?")) for record in records))
    rows = {each.row: None for record in records for each in record.results}
    others = [row for row in rows if row not in ROWS and not KNOWN.fullmatch(row)]

    def plain(row: str) -> str:
        return f"other weights {others.index(row) + 1}" if row in others else row

    def told(notes: Sequence[str]) -> tuple[str, ...]:
        kept = [note for note in notes if not OF_FILES.search(note)]
        hidden = len(notes) - len(kept)
        return (*kept, *([f"{hidden} note(s) that may name files are not shown."] if hidden else []))

    return [
        replace(
            record,
            about={**record.about, "data": _data(str(record.about.get("data", "?")), sets)},
            results=tuple(replace(each, row=plain(each.row)) for each in record.results),
            compared=tuple(
                replace(each, row=plain(each.row), baseline=plain(each.baseline)) for each in record.compared
            ),
            notes=told(record.notes),
        )
        for record in records
    ]


def _data(name: str, sets: Sequence[str]) -> str:
    return name if name.startswith(PREFIX) else f"data set {sets.index(name) + 1}"


def differences(records: Sequence[Recorded]) -> list[Difference]:
    """The newest of each, in points; weights and settings are named where there are several."""
    several = len({record.about.get("encoder_sha256") for record in records}) > 1
    newest: dict[tuple[Any, ...], Difference] = {}
    for record in records:
        data, weights = str(record.about.get("data", "?")), record.about.get("weights", "?")
        for each in record.compared:
            under = f" ({titled(each.baseline_protocol, each.metric)})" if each.baseline_protocol else ""
            settings, version = settings_of(record, each.protocol), _version(record, each.protocol)
            apart = _set_apart(records, data, each.protocol, record)
            key = (record.about.get("encoder_sha256"), data, each.protocol, each.metric, each.row, each.baseline, under)
            newest[*key, version, json.dumps(settings, sort_keys=True)] = Difference(
                data=data,
                protocol=", ".join([titled(each.protocol, each.metric), *apart]),
                row=f"{weights}: {each.row}" if several else each.row,
                baseline=f"{each.baseline}{under}",
                points=100 * each.difference,
                low=100 * each.interval[0],
                high=100 * each.interval[1],
                random=each.baseline == RANDOM,
            )
    return list(newest.values())


def _version(record: Recorded, protocol: str) -> int | None:
    return next((each.version for each in record.results if each.protocol == protocol), None)


def _set_apart(records: Sequence[Recorded], data: str, protocol: str, of: Recorded) -> list[str]:
    """What the settings of a protocol in one evaluation have that those of another of the same data have not."""
    alike = [
        each
        for each in records
        if str(each.about.get("data", "?")) == data and any(one.protocol == protocol for one in each.results)
    ]
    own, others = settings_of(of, protocol), [settings_of(each, protocol) for each in alike]
    told = [f"{key}={shown_value(own[key])}" for key in own if any(each.get(key) != own[key] for each in others)]
    version = _version(of, protocol)
    if "version" not in own and len({_version(each, protocol) for each in alike}) > 1:
        told.append(f"version {version}")
    return told


def _about(record: Recorded) -> list[tuple[str, str]]:
    """What an evaluation was of, what it was set to and what it was computed on; of lists and paths nothing."""
    about = record.about
    versions = ", ".join(f"{name} {each}" for name, each in _dict(about.get("versions")).items())
    hardware = ", ".join(f"{name}: {each}" for name, each in _dict(about.get("hardware")).items() if each)
    protocols = dict.fromkeys(f"{each.protocol} version {each.version}" for each in record.results)
    counts = [
        f"{about[name]:,} images to {part}"
        for name, part in (("num_train", "train"), ("num_test", "test"))
        if isinstance(about.get(name), int)
    ]
    facts = {
        "weights": str(about.get("weights", "?")),
        "encoder's hash": str(about.get("encoder_sha256") or "")[:12],
        "data": ", ".join([str(about.get("data", "?")), *counts]),
        "protocols": ", ".join(protocols),
        **{
            f"{protocol} set to": ", ".join(_flat(settings_of(record, protocol)))
            for protocol in dict.fromkeys(each.protocol for each in record.results)
        },
        "when": str(about.get("time") or ""),
        "hardware": hardware,
        "versions": versions,
    }
    return [(name, printable(words)) for name, words in facts.items() if words]


def _flat(settings: dict[str, Any], of: str = "") -> list[str]:
    """Settings as NAME=VALUE, those within others with dots."""
    told: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            told += _flat(value, f"{of}{name}.")
        else:
            text = shown_value(value)
            told.append(f"{of}{name}=[{text}]" if isinstance(value, list) else f"{of}{name}={text}")
    return told


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
