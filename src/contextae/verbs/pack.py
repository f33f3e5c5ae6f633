"""`contextae pack`: the images of a set, resized once, into a folder that a training reads several times as fast."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import typer

from contextae.data.builtin import PREFIX
from contextae.data.index import left_out_lines, printable, readable_bytes
from contextae.data.names import as_array, mapped_bytes
from contextae.data.packed import open_packed, verify
from contextae.data.packed_manifest import LOOKS, MANIFEST
from contextae.data.packing import pack
from contextae.data.sources.find import list_source
from contextae.data.sources.open import index_of
from contextae.data.sources.origin import LOOK, Origin, changed_since, is_there, origin_of
from contextae.data.sources.packed import stale
from contextae.disk import replace_file
from contextae.errors import UserError
from contextae.verbs.output import check_outside, writing
from contextae.verbs.terminal import Steps

SETTINGS = ("data.channels", "data.dtype")


def run_pack(
    *,
    data: str | None,
    out: Path,
    kind: str,
    short_side: int,
    workers: int | None,
    settings: list[str],
    check: bool,
    untie: bool,
) -> int:
    """The exit code, 0; whatever is wrong is a UserError."""
    if check or untie:
        if data or (check and untie):
            raise UserError("--check and --untie are each for a packed cache that is there: give --out alone with one.")
        return checked(out) if check else untied(out)
    if not data:
        raise UserError("DATA is missing: the images to pack, in any form that pretrain takes.")
    source = data if data.startswith(PREFIX) else str(Path(data).expanduser().absolute())
    check_outside(out, source, "A packed cache")
    wanted = kind_of(settings)
    with Steps() as steps:
        listing = list_source(source)
        origin, looks = origin_of(source, listing)
        index = index_of(
            listing,
            wanted.get("channels", "auto"),
            lambda done, total: steps("reading headers", done / total),
            wanted.get("dtype", "auto"),
        )
        for line in index.describe():
            typer.echo(line)
        images, made_now = pack(
            index,
            out,
            origin,
            looks,
            kind=kind,
            short_side=short_side,
            num_workers=workers or max(1, (os.cpu_count() or 2) - 1),
            progress=lambda done, total: steps(f"packing {total:,} images", done / total),
        )
    about = images.manifest
    left_out = list(images.left_out())
    for line in left_out_lines(left_out, about.found):
        typer.echo(line)
    size = readable_bytes(sum(size for size, _ in about.files.values()))
    typer.echo(
        f"{about.found:,} found = {about.count:,} packed + {about.left_out:,} left out"
        + ("; all was done before" if not made_now else "")
    )
    typer.echo(f"Done: {printable(str(out))}, {size} as {about.kind}, short side at most {about.short_side}")
    typer.echo(f"Next: contextae pretrain {printable(str(out))} --out RUN")
    return 0


def kind_of(settings: list[str]) -> dict[str, Any]:
    """Channels and type asked for by --set."""
    found: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if name not in SETTINGS or not equals:
            raise UserError(f"pack takes --set {'=... and --set '.join(SETTINGS)}=... Got {printable(text)}.")
        found[name.removeprefix("data.")] = int(value) if value.isdecimal() else value
    return found


def checked(out: Path) -> int:
    """Every byte of the cache, and all files of its source where that is there."""
    with Steps() as steps:
        images = verify(out, lambda done, total: steps("comparing bytes with their checksums", done / total))
    about = images.manifest
    typer.echo(f"{printable(str(out))} is whole: {about.count:,} images as {about.kind}, all as they were packed")
    if about.origin is None:
        typer.echo("it was untied from its source, which was not looked at")
        return 0
    origin = Origin(**about.origin)
    if differs := changed_since(origin, as_array(mapped_bytes(out / LOOKS), LOOK)):
        raise UserError(stale(out, origin, differs))
    where = printable(origin.path)
    typer.echo(
        f"{where} has not changed since"
        if is_there(origin)
        else f"{where}, its source, cannot be compared with from here"
    )
    return 0


def untied(out: Path) -> int:
    """Forgets the source, so that its changes no longer count."""
    manifest = open_packed(out).manifest
    if manifest.origin is None:
        raise UserError(f"{printable(str(out))} is untied already.")
    with writing(out):
        replace_file(out / MANIFEST, dataclasses.replace(manifest, origin=None).text().encode("ascii"))
    typer.echo(f"{printable(str(out))} is no longer compared with {printable(manifest.origin['path'])}")
    return 0
