"""Bad and odd inputs of every kind, from the index to whole runs: N of N are handled, and none in silence."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_index import VIEWS, same

from contextae.audit.examine import TOO_LARGE
from contextae.audit.findings import CONSTANT, EXTREME, MISNAMED, UNREADABLE
from contextae.audit.findings import LEFT_OUT as FILE_LEFT_OUT
from contextae.audit.manifest import MANIFEST, TROUBLES, read_record
from contextae.data.each import STANDBY, look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import Index, printable
from contextae.data.loader import LoadedBatch, Loader
from contextae.data.sampler import Sampler
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.training.log import read_lines
from contextae.training.weights import load_weights
from contextae.verbs.audit import run_audit
from contextae.verbs.pretrain import run_pretrain
from data.corpus import ANOTHER, LEFT_OUT, QUARANTINED, USED, Kind, photograph
from data.corpus_sources import refused_tables, sources_of, write_corpus
from data.pictures import pixels, write
from verbs.small_run import SMALL, interrupt, paint

PATCH = 4
AS_PHOTOGRAPHS = ("data.channels=3", "data.dtype=uint8")
IN_TILES = "images/bomb.tif"
"What is refused by its size, and could be read in tiles."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Kind]]]:
    """With 40 good images beside it."""
    root = tmp_path_factory.mktemp("corpus")
    kinds = write_corpus(root)
    for i in range(40):
        write(root / "images" / "good" / f"{i:02}.png", seed=100 + i)
        kinds.append(Kind(f"images/good/{i:02}.png", USED, pixels=pixels(100 + i)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTEXTAE_CACHE", str(root / "cache"))
        yield root, kinds
        STANDBY.close()
    shutil.rmtree(root)  # a path that is too long for others


@pytest.fixture(scope="module")
def index(corpus: tuple[Path, list[Kind]]) -> Index:
    return open_index(sources_of(corpus[0]), channels=3, dtype="uint8")


def test_there_are_many_kinds_each_once(corpus: tuple[Path, list[Kind]]) -> None:
    kinds = [kind for kind in corpus[1] if not kind.name.startswith("images/good/")]
    assert len({kind.name for kind in kinds}) == len(kinds) >= 160
    assert len({kind.reason for kind in kinds}) >= 45
    for outcome in (LEFT_OUT, QUARANTINED, USED):
        assert sum(kind.outcome == outcome for kind in kinds) >= 12


def test_each_is_left_out_with_its_reason_or_listed(corpus: tuple[Path, list[Kind]], index: Index) -> None:
    left_out = {entry.path: entry.reason for entry in index.left_out}
    assert left_out == {kind.name: kind.reason for kind in corpus[1] if kind.outcome == LEFT_OUT}
    assert len(index.left_out) == len(left_out), "none twice"
    assert set(index.ids) == {kind.name for kind in corpus[1] if kind.outcome != LEFT_OUT}
    assert index.found == len(index) + len(left_out) == len(corpus[1])
    assert all(printable(line) == line for line in index.describe()), "names are shown so that a terminal can take them"


def test_each_that_is_listed_is_refused_with_its_reason_or_has_exactly_its_pixels(
    corpus: tuple[Path, list[Kind]], index: Index
) -> None:
    parts = look_at_each(photograph, index.source, index.ids, chunk=16, per_process=1000)
    found = dict(zip(index.ids, itertools.chain.from_iterable(parts), strict=True))
    for kind in corpus[1]:
        if kind.outcome == QUARANTINED:
            assert found[kind.name] == Refusal(kind.reason), kind.name
        elif kind.outcome == USED:
            assert not isinstance(found[kind.name], Refusal), (kind.name, found[kind.name])
            np.testing.assert_array_equal(found[kind.name], kind.pixels, kind.name)


def test_without_a_wish_the_mix_is_refused_with_its_counts(corpus: tuple[Path, list[Kind]]) -> None:
    with pytest.raises(UserError, match=r"(?s)mixes kinds of .*16-bit gray: images/deep-big-endian\.tif, images/d"):
        open_index(sources_of(corpus[0]))


@pytest.fixture(scope="module")
def troubles(corpus: tuple[Path, list[Kind]]) -> list[dict[str, str]]:
    """What an audit of all of them says, line by line."""
    root, kinds = corpus
    assert run_audit(data=sources_of(root), out=root / "audit") == 0
    record = read_record(root / "audit" / MANIFEST)
    assert record.complete and record.found == len(kinds)
    assert record.used == sum(kind.outcome == USED for kind in kinds)
    return [json.loads(line) for line in (root / "audit" / TROUBLES).read_text().splitlines()]


def test_an_audit_names_each_that_is_not_used_with_its_reason(
    corpus: tuple[Path, list[Kind]], troubles: list[dict[str, str]]
) -> None:
    named = [(each["image"], each["reason"]) for each in troubles if each["finding"] in (UNREADABLE, FILE_LEFT_OUT)]
    expected = {
        kind.name: kind.reason.replace(ANOTHER, "another kind than most") for kind in corpus[1] if kind.outcome != USED
    } | {IN_TILES: TOO_LARGE}
    assert dict(named) == expected and len(named) == len(expected), "N of N, each once"


def test_an_audit_finds_what_is_odd_among_those_that_are_used(
    corpus: tuple[Path, list[Kind]], troubles: list[dict[str, str]]
) -> None:
    found = {name: {each["image"] for each in troubles if each["finding"] == name} for name in ODD}
    assert found == {name: {f"images/{image}" for image in images} for name, images in ODD.items()}
    assert {name for names in found.values() for name in names} <= {
        kind.name for kind in corpus[1] if kind.outcome == USED
    }


ODD = {
    CONSTANT: {"one-pixel.png"},
    EXTREME: {"very-wide.png", "very-high.png"},
    MISNAMED: {"png-named.jpg", "jpeg-named.png", "webp-named.jpeg"},
}


def test_an_audit_refuses_tables_without_images_by_name(tmp_path: Path) -> None:
    tables = refused_tables(tmp_path / "tables")
    for path, words in tables.items():
        with pytest.raises(UserError, match=rf"^{path} {words}"):
            run_audit(data=[path], out=tmp_path / "out")
    assert len(tables) == 6 and not (tmp_path / "out").exists()


def pretrain(source: Path | list[str] | None, out: Path, *settings: str, **options: Any) -> int:
    given: dict[str, Any] = {"preset": None, "config": None, "resume": False, "labelled": None, "tensorboard": False}
    own = [*SMALL, *settings] if source else list(settings)
    data = tuple(source) if isinstance(source, list) else str(source) if source else None
    return run_pretrain(data=data, out=out, settings=own, **given | options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_on_all_of_them_comes_to_its_end_and_accounts_for_each(
    corpus: tuple[Path, list[Kind]], tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root, kinds = corpus
    settings = (*AS_PHOTOGRAPHS, "data.max_bad_share=0.9", f"training.workers={workers}")
    assert pretrain(sources_of(root), tmp_path / "run", *settings) == 0
    small = {kind.name for kind in kinds if kind.pixels is not None and min(kind.pixels.shape[:2]) < PATCH}
    expected = {kind.name: kind.reason for kind in kinds if kind.outcome != USED}
    expected |= dict.fromkeys(small, f"smaller than a patch of {PATCH} x {PATCH}") | {IN_TILES: TOO_LARGE}
    assert len(small) == 3
    entries = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["sample_id"]: entry["reason"] for entry in entries} == expected
    assert len(entries) == len(expected), "each is listed once"
    quarantined = sum(kind.outcome == QUARANTINED and kind.name != IN_TILES for kind in kinds)
    counts = {
        "ending": "done",
        "found": len(kinds),
        "used": len(kinds) - len(expected),
        "left_out": len(expected) - quarantined,
        "quarantined": quarantined,
    }
    assert counts.items() <= read_lines(tmp_path / "run" / "log.jsonl")[-1].items()
    said = capsys.readouterr().out
    assert f"found {counts['found']} = used {counts['used']} + left out {counts['left_out']} + quarantined" in said
    assert "\x1b" not in said and "Traceback" not in said


def batches(folder: Path, num_workers: int) -> tuple[list[LoadedBatch], dict[str, str]]:
    """Two epochs of MaskedViews."""
    index = open_index(str(folder))
    sampler = Sampler(length=len(index), batch_size=8, seed=4)
    with Loader(
        index=index, sampler=sampler, views=VIEWS, seed=4, num_workers=num_workers, max_bad_share=0.2
    ) as loader:
        return list(loader.batches(0, sampler.steps(2))), loader.quarantine


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_change_nothing_but_the_samples_that_are_replaced(tmp_path: Path, num_workers: int) -> None:
    """3 of 60 have sound headers and damaged pixels."""
    for i in range(60):
        write(tmp_path / f"{i:02}.png", seed=i, size=(40, 50))
    whole, none_set_aside = batches(tmp_path, num_workers)
    damaged = {f"{i:02}.png" for i in (7, 31, 58)}
    for name in damaged:
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    replaced, set_aside = batches(tmp_path, num_workers)
    assert none_set_aside == {} and set_aside == dict.fromkeys(damaged, "truncated file")
    met = 0
    for one, other in zip(whole, replaced, strict=True):
        kept = np.array([sample_id not in damaged for sample_id in one.sample_ids])
        met += int((~kept).sum())
        assert not damaged & set(other.sample_ids)
        assert [a == b for a, b in zip(one.sample_ids, other.sample_ids, strict=True)] == kept.tolist()
        assert same(of(one.batch, kept), of(other.batch, kept))
        assert (one.step, one.epoch) == (other.step, other.epoch)
    assert met == 6, "each is asked for once in each epoch"


def of(batch: Any, rows: np.ndarray) -> Any:
    """These rows of every array."""
    if isinstance(batch, tuple):
        return type(batch)(*(of(part, rows) for part in batch))
    return None if batch is None else batch[rows]


def going_bad(monkeypatch: pytest.MonkeyPatch, changes: dict[int, list[tuple[Path, bytes | None]]]) -> None:
    """After the steps of these numbers, counted from 1 in this process: files get another content or vanish."""
    whole, done = CAE.after_step, []

    def after_step(self: Any, progress: float) -> None:
        whole(self, progress)
        done.append(progress)
        for path, content in changes.get(len(done), ()):
            path.unlink() if content is None else path.write_bytes(content)

    monkeypatch.setattr(CAE, "after_step", after_step)


def seen_last(folder: Path, seed: int, batch: int) -> list[Path]:
    """The images of the last batches of the second epoch that come in the first batches of the first one.

    Files that change in between are met again long after, also by workers that read ahead.
    """
    index = open_index(str(folder))
    sampler = Sampler(length=len(index), batch_size=batch, seed=seed)
    first = {position for step in (0, 1) for _, position in sampler.batch(step)}
    last = {position for step in (8, 9) for _, position in sampler.batch(step)}
    return [folder / index.ids[position] for position in sorted(first & last)]


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_go_bad_while_training_are_set_aside_and_a_resume_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    photos = tmp_path / "photos"
    for i in range(40):
        paint(photos / f"{i:02}.png", i)
    later = seen_last(photos, 0, 8)[:3]
    assert len(later) == 3
    kept = {path: path.read_bytes() for path in later}
    contents = (kept[later[0]][:90], b"now text", None)
    changes = {2: list(zip(later, contents, strict=True))}
    settings = (f"training.workers={workers}", "training.epochs=3", "data.max_bad_share=0.2", "training.seed=0")
    with monkeypatch.context() as patch:
        going_bad(patch, changes)
        assert pretrain(photos, tmp_path / "whole", *settings) == 0
    for path, content in kept.items():
        path.write_bytes(content)
    with monkeypatch.context() as patch:
        going_bad(patch, changes)
        interrupt(patch, CAE, 11)
        assert pretrain(photos, tmp_path / "resumed", *settings) == 130
    for path, content in kept.items():
        path.write_bytes(content)  # what was set aside stays aside, even where it has been mended
    assert pretrain(None, tmp_path / "resumed", resume=True) == 0
    whole, resumed = (load_weights(tmp_path / name)[0] for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    listed = [
        {
            entry["sample_id"]: (entry["reason"], entry["epoch"])
            for entry in read_lines(tmp_path / name / "quarantine.jsonl")
        }
        for name in ("whole", "resumed")
    ]
    reasons = ("truncated file", "not an image, or its header is damaged", "cannot be read (No such file or directory)")
    assert listed[0] == {path.name: (reason, 1) for path, reason in zip(later, reasons, strict=True)}
    assert {name: reason for name, (reason, _) in listed[1].items()} == {
        path.name: r for path, r in zip(later, reasons, strict=True)
    }
