"""Runs that honour what an audit of their images found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import SMALL, interrupt, paint

from contextae.audit.manifest import Manifest
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.methods.cae import CAE
from contextae.training.log import read_lines
from contextae.training.run_folder import RunFolder
from contextae.verbs.audit import run_audit
from contextae.verbs.fit_tokenizer import run_fit_tokenizer

Run = Callable[..., int]
UNREADABLE, COPY, LEAKED = "dogs/08.png", "cats/41.png", "cats/07.png"


@pytest.fixture
def audit(photographs: Path, tmp_path: Path) -> Path:
    """Of 41 images: one cut after its header, one equal to another, one in the other set as well."""
    data = (photographs / UNREADABLE).read_bytes()
    (photographs / UNREADABLE).write_bytes(data[: len(data) // 2])
    shutil.copy(photographs / "cats/01.png", photographs / COPY)
    paint(tmp_path / "test" / "x.png", 7)
    assert run_audit(data=[str(photographs)], out=tmp_path / "audit", against=str(tmp_path / "test")) == 0
    return tmp_path / "audit"


def names(run: Path) -> set[str]:
    return set(RunFolder(run).read_images().ids)


def left_out(run: Path) -> set[str]:
    return {line["sample_id"] for line in read_lines(run / "quarantine.jsonl")}


def test_a_run_goes_without_what_the_audit_found_and_takes_its_statistics(
    pretrain: Run, photographs: Path, audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert pretrain(photographs, manifest=audit, exclude=("exact-duplicates", "exact-overlap")) == 0
    said = capsys.readouterr().out
    assert "found 41 = used 38 + left out 3 + quarantined 0" in said
    assert "left out as unreadable by the audit: 1" in said and "left out by --exclude exact-overlap: 1" in said
    assert left_out(run) == {UNREADABLE, COPY, LEAKED} and not names(run) & {UNREADABLE, COPY, LEAKED}
    data = Experiment.read(run / "experiment.yaml").data
    (kind,) = Manifest(audit).record.kinds
    assert (list(data.mean or ()), list(data.deviation or ())) == (kind.mean, kind.deviation)
    assert data.manifest == str(audit) and data.exclude == ("exact-duplicates", "exact-overlap")


def test_the_experiment_again_goes_without_the_same_images(
    pretrain: Run, photographs: Path, audit: Path, tmp_path: Path
) -> None:
    assert pretrain(photographs, manifest=audit / "manifest.json", exclude=("exact-duplicates",)) == 0
    recorded = tmp_path / "run" / "experiment.yaml"
    assert pretrain(None, tmp_path / "again", config=recorded) == 0
    assert names(tmp_path / "again") == names(tmp_path / "run") and COPY not in names(tmp_path / "again")
    without = ("data.manifest=null", "data.exclude=[]")
    assert pretrain(None, tmp_path / "without", *without, "data.max_bad_share=0.5", config=recorded) == 0
    assert names(tmp_path / "without") - names(tmp_path / "run") == {COPY, UNREADABLE}
    (photographs / "cats" / "43.png").write_bytes((photographs / "cats" / "01.png").read_bytes())
    with pytest.raises(UserError, match="At least 1 were not there then"):
        pretrain(None, tmp_path / "other", config=recorded)
    assert not (tmp_path / "other" / "experiment.yaml").exists()


def test_a_run_goes_on_with_its_images_whatever_becomes_of_the_audit(
    pretrain: Run, photographs: Path, audit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"manifest": audit, "exclude": ("exact-duplicates",)}
    interrupt(monkeypatch, CAE, 2)
    assert pretrain(photographs, **options) == 130
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"data\.exclude: \['exact-duplicates'\] in the run, \['near-duplicates'\] now"):
        pretrain(photographs, resume=True, manifest=audit, exclude=("near-duplicates",))
    with pytest.raises(UserError, match=r"data\.manifest: .*audit in the run, .*elsewhere now"):
        pretrain(None, resume=True, manifest=tmp_path / "elsewhere")
    shutil.rmtree(audit)
    assert pretrain(photographs, resume=True) == 0
    assert pretrain(photographs, resume=True, **options) == 0
    assert COPY not in names(tmp_path / "run") and len(names(tmp_path / "run")) == 39


@pytest.mark.parametrize(
    ("settings", "options", "rule"),
    [
        ((), {"exclude": ("exact-duplicates",)}, r"data\.exclude takes findings of an audit.*no manifest"),
        ((), {"manifest": "audit", "exclude": ("duplicates",)}, r"--exclude takes the name of a finding.*'duplicates'"),
        (("data.exclude=[constant]",), {"manifest": "audit", "exclude": ("constant",)}, r"Got both for data\.exclude"),
        (("data.exclude=constant",), {"manifest": "audit"}, r"data\.exclude: "),
        ((), {"manifest": "nowhere"}, r"--manifest is the manifest\.json of an audit, or its folder.*No such file"),
        ((), {"manifest": "test"}, r"--manifest is the manifest\.json of an audit, or its folder.*No such file"),
    ],
)
def test_what_says_nothing_of_these_images_is_refused(
    pretrain: Run,
    photographs: Path,
    audit: Path,
    tmp_path: Path,
    settings: tuple[str, ...],
    options: dict[str, object],
    rule: str,
) -> None:
    given = {**options, "manifest": tmp_path / str(options["manifest"])} if "manifest" in options else options
    with pytest.raises(UserError, match=f"(?s){rule}"):
        pretrain(photographs, None, *settings, **given)
    assert not (tmp_path / "run" / "experiment.yaml").exists()


@pytest.mark.parametrize("kind", ["kmeans", "dvae"])
def test_a_tokenizer_is_fitted_without_them_too(
    photographs: Path, audit: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    geometry = [each for each in SMALL if each.startswith(("data.", "encoder."))]
    settings = [*geometry, *(["training.epochs=1", "training.batch_size=8"] if kind == "dvae" else [])]
    done = run_fit_tokenizer(
        data=str(photographs),
        out=tmp_path / "tokenizer",
        kind=kind,
        codes=8,
        preset=None,
        settings=settings,
        config=None,
        resume=False,
        manifest=audit,
        exclude=("exact-overlap",),
    )
    said = capsys.readouterr().out
    assert done == 0 and "left out by --exclude exact-overlap: 1" in said
    assert ("k-means looks at 39 of 39 images" if kind == "kmeans" else "found 41 = used 39 + left out 2") in said
