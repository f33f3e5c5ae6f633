"""`contextae audit`: every image looked at before anything is trained, and said what is there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.text import Text

import contextae
from contextae.audit.findings import NEAR, Found, find
from contextae.audit.manifest import DUPLICATES, MANIFEST, OVERLAP, TROUBLES, write_list, write_manifest
from contextae.audit.naming import Naming
from contextae.audit.pictures import choose_shown, draw
from contextae.audit.record import AuditRecord, Recipe, Size
from contextae.audit.stopping import Stopping
from contextae.audit.suggest import suggest
from contextae.audit.summary import About, duplicate_lines, overlap_lines, summarise, trouble_lines
from contextae.audit.survey import Survey, survey
from contextae.data.builtin import PREFIX
from contextae.data.index import readable_bytes
from contextae.data.sources.find import list_source
from contextae.data.sources.mixed import list_mixed
from contextae.report.audit_html import Album, audit_page
from contextae.training.progress import duration
from contextae.verbs.output import empty_folder, writing
from contextae.verbs.terminal import EVERY_SECONDS, Steps

PAGE = "audit.html"


def run_audit(
    *, data: Sequence[str], out: Path, against: str | None = None, pictures: bool = True, paths: bool = True
) -> int:
    """The exit code: 0; 130 and 143 after Ctrl-C and SIGTERM, with everything written of what was seen until then."""
    empty_folder(out)
    listings = [list_source(data[0]) if len(data) == 1 else list_mixed(data, list_source)]
    if against is not None:
        listings.append(list_source(against))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with Stopping() as stopping:
        looked: list[Survey] = []
        for listing in listings:
            if stopping.caught:
                break
            looking = Looking(f"looking at {listing.title}")
            with looking:
                looked.append(survey(listing, stopping=stopping, progress=looking.count))
        if stopping.caught:
            unseen = "; the other set was not looked at" if len(looked) < len(listings) else ""
            typer.echo(f"\nStopping; what was seen until now is written{unseen}.", err=True)
        found = find(looked[0], looked[1] if len(looked) > 1 else None)
        about = About(", ".join(map(located, data)), paths, contextae.__version__)
        record = summarise(found, about)
        if record.sizes:
            record = _with_suggestion(record, found, about, data=data, out=out)
        record = _written(record, found, out, paths=paths, pictures=pictures)
    for line in words(record, out):
        typer.echo(line)
    return 128 + stopping.caught if stopping.caught else 0


def located(source: str) -> str:
    """From any working folder."""
    return source if source.startswith(PREFIX) else str(Path(source).absolute())


def _with_suggestion(record: AuditRecord, found: Found, about: About, *, data: Sequence[str], out: Path) -> AuditRecord:
    """Chosen as `pretrain` would choose; with it, which images are small is known."""
    assert record.sizes
    recipe = recipe_for(about.source, record.used, record.sizes.median)
    found.mark_sizes(recipe.patch_size, recipe.image_size)
    record = summarise(found, about)
    where: tuple[Sequence[str], str] = (data, str(out / MANIFEST)) if about.paths else (["DATA"], MANIFEST)
    return record.model_copy(update={"suggestion": suggest(record, recipe, data=where[0], manifest=where[1])})


def recipe_for(source: str, count: int, size: Size) -> Recipe:
    """Of the device of this machine."""
    import torch

    from contextae.presets.choose import choose

    chosen = choose(source, count=count, size=size, accelerator=torch.cuda.is_available())
    experiment = chosen.experiment
    return Recipe(
        image_size=experiment.data.image_size,
        patch_size=experiment.encoder.patch_size,
        batch_size=experiment.training.batch_size,
        epochs=experiment.training.epochs,
        width=experiment.encoder.width,
        depth=experiment.encoder.depth,
        reason=chosen.reason,
    )


def _written(record: AuditRecord, found: Found, out: Path, *, paths: bool, pictures: bool) -> AuditRecord:
    """Lists, page and, last of all, the manifest; where the disk takes no more none, so that `out` is free again."""
    naming = Naming(found.survey.ids, paths)
    with writing(out), whole_or_nothing(out):
        lists = {
            TROUBLES: write_list(out / TROUBLES, trouble_lines(found, naming)),
            DUPLICATES: write_list(out / DUPLICATES, duplicate_lines(found, naming)),
        }
        if found.other is not None:
            lists[OVERLAP] = write_list(out / OVERLAP, overlap_lines(found, naming))
        record = record.model_copy(update={"lists": lists})
        album = _album(found, naming) if pictures else None
        page = audit_page(record, album, contents(record, paths=paths, pictures=pictures))
        (out / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
        write_manifest(out, record)
    return record


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[None]:
    """Removes what was written by then of the files of an audit where the system refuses more."""
    try:
        yield
    except OSError:
        for name in (PAGE, MANIFEST, TROUBLES, DUPLICATES, OVERLAP):
            (out / name).unlink(missing_ok=True)
        raise


def _album(found: Found, naming: Naming) -> Album:
    """A signal has ended the look at the images, not this one, which takes seconds: Ctrl-C once more does."""
    shown, other, stopping = choose_shown(found), found.other, Stopping()
    here = draw(found.survey, shown.here(), stopping)
    there = draw(other, shown.there(), stopping) if other else {}
    return Album(shown, here, there, naming, Naming(other.ids, naming.paths) if other else None)


def contents(record: AuditRecord, *, paths: bool, pictures: bool) -> dict[str, str]:
    """What the files hold that is the user's own: pixels, names."""
    names = "names of images" if paths else "fingerprints of names, which who guesses a name can check"
    held = {
        PAGE: f"this page, with {'pixels' if pictures else 'no pixels'} and {'names' if paths else 'no names'}",
        MANIFEST: f"the figures, for pretrain --manifest, with {'some names' if paths else 'no names'} and no pixels",
        TROUBLES: f"one line for each file that is not used and each image that is odd: {names}",
        DUPLICATES: f"one line for each group of images that are equal or look alike: {names}",
        OVERLAP: f"one line for each image that the other set holds too: {names}",
    }
    return {name: what for name, what in held.items() if name != OVERLAP or OVERLAP in record.lists}


def words(record: AuditRecord, out: Path) -> list[str]:
    """The summary for the console."""
    lines = [f"{record.used:,} images of {record.title} can be used, of {record.found:,} found"]
    if not record.complete:
        lines.append(f"STOPPED after {record.seen:,} images; the rest was not looked at")
    if record.sizes:
        sizes = (
            f"{height} x {width}"
            for height, width in (record.sizes.smallest, record.sizes.median, record.sizes.largest)
        )
        low, middle, high = sizes
        formats = ", ".join(f"{count:,} {name}" for name, count in record.formats.items())
        kind = record.kinds[0]
        lines += [
            f"  {formats}, {readable_bytes(record.sizes.num_bytes)}; {kind.channels} channel(s) of {kind.dtype}",
            f"  height x width: {low} the smallest, {middle} the median, {high} the largest",
            *(f"  {each.count:,} {each.words}" for each in record.traits),
            *(f"  {note}" for note in record.notes),
        ]
    if record.left_out:
        lines += [
            "left out",
            *(f"  {each.count:,} {each.reason}{_such_as(each.examples, each.count)}" for each in record.left_out),
        ]
    if findings := [each for each in record.findings if each.count]:
        lines += [
            "to mind",
            *(f"  {each.count:,} {each.words}{_such_as(each.examples, each.count)}" for each in findings),
        ]
    if not record.near_complete:
        lines.append(f"  very many look alike, so that the search for {NEAR} was ended before it had compared all")
    if record.against:
        other = record.against
        seen = "" if other.complete else ", those seen before the stop,"
        rest = f" that can be used, of {other.found:,} found," if other.complete and other.used < other.found else ""
        lines.append(
            f"of {other.used:,} images of {other.title}{seen}{rest} {other.other_exact:,} are equal to one of these, "
            f"and {other.other_near:,} more nearly so"
        )
    if record.suggestion:
        lines += [f"suggested for {record.suggestion.reason}", *(f"  {note}" for note in record.suggestion.notes)]
    lines.append(f"Done: {out / PAGE}, {out / MANIFEST}")
    if record.suggestion and record.suggestion.command:
        lines.append(f"Next: {record.suggestion.command}")
    return lines


def _such_as(examples: list[str], count: int) -> str:
    return f": {', '.join(examples)}{', ...' if count > len(examples) else ''}" if examples else ""


class Looking(Steps):
    """Progress over images: how many, how many a second, how long it will still take."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def count(self, done: int, total: int) -> None:
        """After so many."""
        now = time.monotonic()
        elapsed = max(now - self.began, 1e-3)
        line = f"{self.what} {done:,}/{total:,}  {done / elapsed:,.0f} images/s"
        if done and elapsed > 2:
            line += f"  {duration(elapsed * (total - done) / done)} left"
        if self.live:
            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif now - self.shown_at > EVERY_SECONDS:
            self.shown_at = now
            self.console.print(line, soft_wrap=True, markup=False)
