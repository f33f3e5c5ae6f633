"""What an audit leaves for a training: manifest.json, with lists of JSON lines beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from contextae.audit.findings import (
    CONSTANT,
    EXACT,
    EXACT_OVERLAP,
    EXTREME,
    MISNAMED,
    NEAR,
    NEAR_OVERLAP,
    SMALL,
    TINY,
    UNREADABLE,
    names_hash,
    sizes_hash,
)
from contextae.audit.naming import FINGERPRINT, NAME, fingerprint
from contextae.audit.record import FORMAT, AuditRecord, Kind, ListFile
from contextae.data.facts import TOO_LARGE
from contextae.data.index import Index, LeftOut, chunks, printable
from contextae.disk import replace_file
from contextae.errors import UserError, nearest

MANIFEST, TROUBLES, DUPLICATES, OVERLAP = "manifest.json", "troubles.jsonl", "duplicates.jsonl", "overlap.jsonl"
IN_LIST = {
    **dict.fromkeys((CONSTANT, EXTREME, TINY, SMALL, MISNAMED), TROUBLES),
    **dict.fromkeys((EXACT, NEAR), DUPLICATES),
    **dict.fromkeys((EXACT_OVERLAP, NEAR_OVERLAP), OVERLAP),
}
"""What may be excluded by name, and the list that says which images these are."""
REASONS = {
    CONSTANT: "constant",
    EXTREME: "extreme ratio of sides",
    TINY: "smaller than a patch",
    SMALL: "smaller than the network's input",
    MISNAMED: "of another format than its extension says",
    EXACT: "equal to another image",
    NEAR: "nearly the same as another image",
    EXACT_OVERLAP: "equal to an image of another set",
    NEAR_OVERLAP: "nearly the same as an image of another set",
}
BY_AUDIT = "left out by the audit's manifest: {}"


def write_list(path: Path, lines: Iterable[Mapping[str, Any]]) -> ListFile:
    """JSON lines of ASCII, so that any name is one readable line. OSError where there is no room."""
    digest, count = hashlib.sha256(), 0
    with path.open("xb") as stream:
        for line in lines:
            data = json.dumps(line, allow_nan=False).encode("ascii") + b"\n"
            digest.update(data)
            stream.write(data)
            count += 1
    return ListFile(lines=count, sha256=digest.hexdigest())


def write_manifest(folder: Path, record: AuditRecord) -> Path:
    """The record; it comes last, after the lists whose hashes it holds."""
    path = folder / MANIFEST
    text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False)
    replace_file(path, text.encode("ascii") + b"\n")
    return path


class Applied(NamedTuple):
    """The images to train on, and in words what was left out."""

    images: Index
    notes: list[str]


class Manifest:
    """An audit's record and its lists. Whatever does not fit what is there now is refused."""

    def __init__(self, path: Path) -> None:
        """`path` is manifest.json, or the folder that holds it."""
        self.path = path / MANIFEST if path.is_dir() else path
        self.record = read_record(self.path)
        if not self.record.complete:
            raise UserError(
                f"{self.path} is of an audit that was stopped after {self.record.seen:,} images, and says nothing of "
                "the others. Run the audit to its end, with another --out."
            )

    def apply(self, index: Index, exclude: Sequence[str] = ()) -> Applied:
        """`index` without the images that the audit found unreadable, and without those of the findings in `exclude`.

        UserError where these are not the images that were audited: another source, files that are gone, new or changed.
        """
        self.check_names(exclude)
        kind = self._kind(index)
        lines = self._lines(TROUBLES)
        unreadable = self._places(
            index, ((line["by"], line["image"], line) for line in lines if line["finding"] == UNREADABLE)
        )
        self._check_same(index, kind, np.array(sorted(place for place, _ in unreadable), np.int64))
        # of an image that is too large tiles may be wanted, which is the training's to say
        out = {place: str(line["reason"]) for place, line in unreadable if line["reason"] != TOO_LARGE}
        notes = [f"left out as unreadable by the audit: {len(out):,}"] if out else []
        for name in dict.fromkeys(exclude):
            new = {place for place, _ in self._places(index, self._named(name))} - out.keys()
            out |= dict.fromkeys(new, BY_AUDIT.format(REASONS[name]))
            notes.append(f"left out by --exclude {name}: {len(new):,}")
        return Applied(_without(index, out), notes)

    def settings(self, index: Index, given: Mapping[str, Any]) -> dict[str, Any]:
        """Range, mean and deviation by their settings' names, where `given` (an Experiment's values) leaves them open.

        They are those that the audit measured over all images of the kind; a range that is given rescales the others.
        """
        kind = self._kind(index)
        low, high = given.get("data.value_range") or kind.value_range
        scale = (kind.value_range[1] - kind.value_range[0]) / (high - low)
        offset = (kind.value_range[0] - low) / (high - low)
        measured = {
            "data.value_range": [low, high],
            "data.mean": [float(f"{value * scale + offset:.6g}") for value in kind.mean],
            "data.deviation": [float(f"{value * scale:.6g}") for value in kind.deviation],
        }
        return {name: value for name, value in measured.items() if given.get(name) is None}

    def _kind(self, index: Index) -> Kind:
        photograph = all(bool(rows["photograph"].all()) for rows in chunks(index.facts))
        for kind in self.record.kinds:
            if (kind.photograph, kind.channels, kind.dtype) == (photograph, index.channels, index.dtype):
                return kind
        known = "; ".join(f"{kind.channels} of {kind.dtype}" for kind in self.record.kinds) or "none"
        raise UserError(
            f"{self.path} holds no statistics of images of {index.channels} channel(s) of {index.dtype}; it has those "
            f"of {known}. Leave --set data.channels and data.dtype out, audit these images, or go without --manifest."
        )

    def check_names(self, exclude: Sequence[str]) -> None:
        """That each is a finding, and one that the audit could make."""
        for name in exclude:
            if name not in IN_LIST:
                raise UserError(
                    f"--exclude takes the name of a finding of the audit: {', '.join(IN_LIST)}. Got {name!r}."
                    f"{nearest(name, IN_LIST)}"
                )
            against = self.record.against
            if IN_LIST[name] == OVERLAP and against and not against.complete:
                raise UserError(
                    f"{self.path} knows only a part of {against.title}, where its audit was stopped, so nothing can be "
                    f"excluded as {name}. Run the audit to its end, with another --out."
                )
            if IN_LIST[name] not in self.record.lists:
                raise UserError(
                    f"{self.path} knows of no other set, so nothing can be excluded as {name}. Run the audit with "
                    "--against OTHER, or leave that --exclude out."
                )

    def _named(self, name: str) -> Iterator[tuple[str, str, Any]]:
        for line in self._lines(IN_LIST[name]):
            if line["finding"] == name:
                yield from ((line["by"], key, line) for key in line.get("others", [line["image"]]))

    def _places(self, index: Index, named: Iterable[tuple[str, str, Any]]) -> list[tuple[int, Any]]:
        """Positions in the index of the images so named; of those that are not there, none."""
        wanted = {(by, key): line for by, key, line in named}
        if not wanted:
            return []
        ways = {by for by, _ in wanted}
        found = []
        for place, name in enumerate(index.ids):
            line = wanted.get((NAME, name))
            if line is None and FINGERPRINT in ways:
                line = wanted.get((FINGERPRINT, fingerprint(name)))
            if line is not None:
                found.append((place, line))
        return found

    def _check_same(self, index: Index, kind: Kind, unreadable: np.ndarray) -> None:
        """That the names, and the sizes of their files, are those of the audit."""
        out = set(unreadable.tolist())
        names = (name for place, name in enumerate(index.ids) if place not in out)
        there, where = len(index) - len(out), printable(index.title)
        again = "Audit what is there now with another --out, or go without --manifest."
        if names_hash(names) != kind.names_sha256:
            if there < kind.count:
                what = f"At least {kind.count - there:,} of them are gone, or cannot be read any more"
            elif there > kind.count:
                what = f"At least {there - kind.count:,} were not there then, or could not be read"
            else:
                what = "They have other names now, or this is another source"
            raise UserError(
                f"{self.path} is of {kind.count:,} images, and {where} holds {there:,} that are not the same ones. "
                f"{what}. {again}"
            )
        if sizes_hash(np.delete(index.facts["num_bytes"], unreadable)) != kind.sizes_sha256:
            raise UserError(
                f"The images of {where} have the names that {self.path} knows, and other sizes in bytes: they have "
                f"changed since the audit, or this is another source. {again}"
            )

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """Of one of the lists, after it has been compared with its hash."""
        path = self.path.parent / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}, which belongs to {self.path}, cannot be read: {error.strerror}. Put it back, or audit again."
            ) from error
        if name not in self.record.lists or hashlib.sha256(data).hexdigest() != self.record.lists[name].sha256:
            raise UserError(f"{path} was damaged or edited: it is not what {self.path} was written with. Audit again.")
        return [json.loads(line) for line in data.splitlines()]


def read_record(path: Path) -> AuditRecord:
    """What `write_manifest` wrote."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"--manifest is the manifest.json of an audit, or its folder. {printable(str(path))} cannot be read: "
            f"{error.strerror}."
        ) from error
    except (ValueError, RecursionError):
        values = None
    version = values.get("format") if isinstance(values, dict) else None
    if version is not None and version != FORMAT:
        raise UserError(
            f"{path} has format version {version!r}, and this version of contextae reads {FORMAT}. Audit again."
        )
    try:
        return AuditRecord.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path} is not the manifest of an audit, or was edited. {'.'.join(map(str, first['loc'])) or 'It'}: "
            f"{first['msg']}. Audit again."
        ) from None


def _without(index: Index, out: Mapping[int, str]) -> Index:
    """The others; these join what was left out, with their reasons."""
    if not out:
        return index
    kept = np.setdiff1d(np.arange(len(index)), np.array(sorted(out), np.int64))
    if not len(kept):
        raise UserError(
            f"Without what the audit's manifest and --exclude leave out, nothing of {printable(index.title)} is left. "
            "Exclude less."
        )
    subset = index.subset(kept)
    left_out = sorted([*index.left_out, *(LeftOut(index.ids[place], reason) for place, reason in out.items())])
    return replace(subset, found=index.found, left_out=left_out)
