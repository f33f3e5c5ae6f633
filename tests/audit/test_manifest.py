"""A manifest is honoured where it fits the images that are there, and refused where it does not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from audit.made_set import encoded, gray16, image
from contextae.audit.manifest import DUPLICATES, IN_LIST, MANIFEST, REASONS, TROUBLES, Manifest, read_record
from contextae.data.index import Index
from contextae.data.sources import open_index
from contextae.errors import UserError
from contextae.verbs.audit import run_audit

COUNT = 20
UNREADABLE, CONSTANT, COPY, NEAR = "03.png", "05.png", "07.png", "09.jpg"
OPEN = {"data.value_range": None, "data.mean": None, "data.deviation": None}


def fill(folder: Path) -> None:
    """20 images: one cut after its header, one constant, one equal to the first, one nearly so to the second."""
    folder.mkdir(parents=True)
    for i in range(COUNT):
        (folder / f"{i:02d}.png").write_bytes(encoded(image(i)))
    data = (folder / UNREADABLE).read_bytes()
    (folder / UNREADABLE).write_bytes(data[: len(data) // 2])
    (folder / CONSTANT).write_bytes(encoded(image(5).resize((1, 1)).resize((48, 40))))
    (folder / COPY).write_bytes((folder / "00.png").read_bytes())
    (folder / "09.png").unlink()
    (folder / NEAR).write_bytes(encoded(image(1), "JPEG", quality=80))
    (folder / "a note.txt").write_text("not an image")


def audited(folder: Path, **options: object) -> Path:
    out = folder.parent / f"audit of {folder.name}"
    run_audit(data=[str(folder)], out=out, **options)  # type: ignore[arg-type]
    return out / MANIFEST


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("manifest")
    fill(root / "set")
    (root / "other").mkdir()
    shutil.copy(root / "set" / "11.png", root / "other" / "x.png")
    (root / "other" / "y.jpg").write_bytes(encoded(image(12), "JPEG", quality=75))
    audited(root / "set", pictures=False, against=str(root / "other"))
    return root


@pytest.fixture
def made(_made: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change: `set`, `other`, `audit of set`."""
    for name in ("set", "other", "audit of set"):
        shutil.copytree(_made / name, tmp_path / name)
    return tmp_path


def names(index: Index) -> set[str]:
    return set(index.ids)


def applied(made: Path, *exclude: str) -> tuple[Index, list[str]]:
    return tuple(Manifest(made / "audit of set" / MANIFEST).apply(open_index(str(made / "set")), exclude))  # type: ignore[return-value]


def test_unreadable_images_are_always_left_out_and_others_by_name(made: Path) -> None:
    index = open_index(str(made / "set"))
    assert UNREADABLE in names(index), "its header is whole"
    images, notes = applied(made)
    assert names(images) == names(index) - {UNREADABLE} and notes == ["left out as unreadable by the audit: 1"]
    assert ("03.png", "truncated file") in images.left_out and images.found == index.found == COUNT + 1
    images, notes = applied(made, "constant", "exact-duplicates", "near-duplicates", "constant")
    assert names(images) == names(index) - {UNREADABLE, CONSTANT, COPY, NEAR}
    assert images.found == len(images) + len(images.left_out)
    reasons = {entry.path: entry.reason for entry in images.left_out}
    assert reasons[COPY] == "left out by the audit's manifest: equal to another image"
    chosen = ("constant", "exact-duplicates", "near-duplicates")
    assert notes[1:] == [f"left out by --exclude {name}: 1" for name in chosen]


def test_what_the_other_set_holds_is_left_out_by_name(made: Path) -> None:
    images, _ = applied(made, "exact-overlap", "near-overlap")
    assert {entry.path for entry in images.left_out} >= {"11.png", "12.png"}
    assert names(open_index(str(made / "set"))) - names(images) == {UNREADABLE, "11.png", "12.png"}


def test_every_finding_can_be_excluded_and_has_its_reason(made: Path) -> None:
    assert set(IN_LIST) == set(REASONS)
    assert len(applied(made, *IN_LIST)[0]) == COUNT - 6


def test_an_image_is_left_out_once_for_the_first_reason(made: Path) -> None:
    """03.png is made a duplicate as well."""
    path, other = made / "audit of set" / MANIFEST, made / "audit of set" / DUPLICATES
    line = {
        "finding": "near-duplicates",
        "by": "name",
        "image": "00.png",
        "others": [UNREADABLE, "12.png"],
        "bits": [1, 1],
    }
    other.write_bytes(other.read_bytes() + json.dumps(line).encode() + b"\n")
    lists = json.loads(path.read_text())["lists"]
    lists[DUPLICATES]["sha256"] = hashlib.sha256(other.read_bytes()).hexdigest()
    change(path, lists=lists)
    images, notes = applied(made, "near-overlap", "near-duplicates")
    assert notes[1:] == ["left out by --exclude near-overlap: 1", "left out by --exclude near-duplicates: 1"]
    reasons = [entry.reason for entry in images.left_out if entry.path in (UNREADABLE, "12.png")]
    assert reasons == ["truncated file", "left out by the audit's manifest: nearly the same as an image of another set"]


def test_names_are_not_needed(made: Path) -> None:
    shutil.rmtree(made / "audit of set")
    path = audited(made / "set", pictures=False, paths=False)
    index = open_index(str(made / "set"))
    images = Manifest(path).apply(index, ["exact-duplicates"]).images
    assert names(images) == names(index) - {UNREADABLE, COPY}


def test_statistics_go_where_the_experiment_leaves_them_open(made: Path) -> None:
    manifest, index = Manifest(made / "audit of set"), open_index(str(made / "set"))
    (kind,) = manifest.record.kinds
    values = manifest.settings(index, OPEN)
    assert values == {"data.value_range": [0.0, 255.0], "data.mean": kind.mean, "data.deviation": kind.deviation}
    assert manifest.settings(index, {**OPEN, "data.mean": (0.5,) * 3}).keys() == {"data.value_range", "data.deviation"}
    assert manifest.settings(index, dict.fromkeys(OPEN, (0.0, 1.0))) == {}


def test_a_given_range_rescales_the_others(made: Path) -> None:
    manifest, index = Manifest(made / "audit of set"), open_index(str(made / "set"))
    (kind,) = manifest.record.kinds
    values = manifest.settings(index, {**OPEN, "data.value_range": (51.0, 153.0)})
    assert set(values) == {"data.mean", "data.deviation"}
    np.testing.assert_allclose(values["data.mean"], (np.array(kind.mean) * 255 - 51) / 102, rtol=1e-5)
    np.testing.assert_allclose(values["data.deviation"], np.array(kind.deviation) * 2.5, rtol=1e-5)


def test_what_is_bad_may_be_deleted_after_the_audit(made: Path) -> None:
    (made / "set" / UNREADABLE).unlink()
    (made / "set" / "a note.txt").unlink()
    images, notes = applied(made, "exact-duplicates")
    assert len(images) == COUNT - 2 and notes == ["left out by --exclude exact-duplicates: 1"]


def test_images_that_are_gone_are_refused(made: Path) -> None:
    (made / "set" / "13.png").unlink()
    with pytest.raises(UserError, match=r"is of 19 images, and .*set holds 18 .* At least 1 of them are gone"):
        applied(made)


def test_images_that_are_new_are_refused(made: Path) -> None:
    (made / "set" / "new.png").write_bytes(encoded(image(99)))
    with pytest.raises(UserError, match=r"holds 20 .* At least 1 were not there then, or could not be read\. Audit"):
        applied(made)


def test_other_names_are_refused(made: Path) -> None:
    (made / "set" / "13.png").rename(made / "set" / "13b.png")
    with pytest.raises(UserError, match="They have other names now, or this is another source"):
        applied(made)


def test_changed_files_are_refused(made: Path) -> None:
    (made / "set" / "13.png").write_bytes(encoded(image(99)))
    with pytest.raises(UserError, match="other sizes in bytes: they have changed since the audit, or this is another"):
        applied(made)


def test_another_kind_than_was_audited_is_refused(made: Path) -> None:
    index = open_index(str(made / "set"), channels=1)
    with pytest.raises(UserError, match=r"no statistics of images of 1 channel\(s\) of uint8; it has those of 3"):
        Manifest(made / "audit of set").apply(index)


def test_statistics_are_those_of_the_kind_that_is_asked_for(made: Path) -> None:
    for i in range(3):
        (made / "set" / f"deep{i}.png").write_bytes(gray16(i))
    shutil.rmtree(made / "audit of set")
    manifest = Manifest(audited(made / "set", pictures=False))
    index = open_index(str(made / "set"), dtype="uint16")
    assert manifest.apply(index).images is index and len(index) == 3
    assert manifest.settings(index, OPEN)["data.value_range"] == [0.0, 65535.0]
    assert len(manifest.settings(index, OPEN)["data.mean"]) == 1


def test_an_unknown_exclusion_is_refused_with_the_nearest(made: Path) -> None:
    with pytest.raises(UserError, match=r"Got 'exact-duplicate'\. Did you mean 'exact-duplicates'"):
        applied(made, "exact-duplicate")


def test_overlap_without_another_set_is_refused(made: Path) -> None:
    shutil.rmtree(made / "audit of set")
    audited(made / "set", pictures=False)
    with pytest.raises(UserError, match="knows of no other set, so nothing can be excluded as near-overlap"):
        applied(made, "near-overlap")


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_overlap_with_a_part_of_another_set_is_refused(made: Path) -> None:
    path = made / "audit of set" / MANIFEST
    change(path, against={**json.loads(path.read_text())["against"], "complete": False})
    with pytest.raises(UserError, match=r"knows only a part of .*other, where its audit was stopped"):
        applied(made, "exact-overlap")
    assert len(applied(made, "exact-duplicates")[0]) == COUNT - 2


def test_an_audit_that_was_stopped_is_refused(made: Path) -> None:
    change(made / "audit of set" / MANIFEST, complete=False, seen=7)
    with pytest.raises(UserError, match="is of an audit that was stopped after 7 images"):
        applied(made)


def test_nothing_left_is_refused(made: Path) -> None:
    index = open_index(str(made / "set"))
    manifest = Manifest(made / "audit of set")
    path = made / "audit of set" / DUPLICATES
    path.write_text(
        json.dumps({"finding": "exact-duplicates", "by": "name", "image": "x", "others": list(index.ids), "bits": []})
    )
    lists = dict(manifest.record.lists)
    lists[DUPLICATES] = lists[DUPLICATES].model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    manifest.record = manifest.record.model_copy(update={"lists": lists})
    with pytest.raises(UserError, match=r"nothing of .*set is left\. Exclude less"):
        manifest.apply(index, ["exact-duplicates"])


def test_an_edited_list_is_refused(made: Path) -> None:
    with (made / "audit of set" / TROUBLES).open("a") as stream:
        stream.write(json.dumps({"finding": "unreadable", "by": "name", "image": "13.png", "reason": "x"}) + "\n")
    with pytest.raises(UserError, match=r"troubles\.jsonl was damaged or edited"):
        applied(made)


def test_a_list_that_is_gone_is_refused(made: Path) -> None:
    (made / "audit of set" / DUPLICATES).unlink()
    with pytest.raises(UserError, match=r"duplicates\.jsonl, which belongs to .* cannot be read: No such file"):
        applied(made, "exact-duplicates")


def test_what_is_no_manifest_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--manifest is the manifest\.json of an audit, or its folder.*No such file"):
        Manifest(tmp_path / "absent")
    for text in ("{}", "[1]", "not JSON", "[" * 100_000):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(UserError, match="is not the manifest of an audit, or was edited"):
            Manifest(tmp_path)
    path = made / "audit of set" / MANIFEST
    change(path, used="many")
    with pytest.raises(UserError, match=r"or was edited\. used: Input should be a valid integer"):
        read_record(path)
    change(path, format=2)
    with pytest.raises(UserError, match="has format version 2, and this version of contextae reads 1"):
        read_record(path)


def test_a_record_survives_writing_and_reading(made: Path) -> None:
    record = read_record(made / "audit of set" / MANIFEST)
    assert type(record).model_validate_json(record.model_dump_json()) == record
    with pytest.raises(ValueError, match="frozen"):
        record.used = 3  # type: ignore[misc]
    assert record.finding("no such finding") == 0


def test_odd_names_survive(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    broken = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    odd = ["a\nb.png", broken, "\u202egnp.png", "<img src=x onerror=alert(1)>.png", "\U0001f600.png"]
    for name in odd:
        (folder / name).write_bytes(encoded(image(3)))
    (folder / "z\udcff.png").write_bytes(b"broken")
    path = audited(folder)
    index = open_index(str(folder))
    images = Manifest(path).apply(index, ["exact-duplicates"]).images
    assert (
        list(images.ids) == [sorted(odd, key=lambda name: name.encode("utf-8", "surrogateescape"))[0]]
        or len(images) == 1
    )
    assert {entry.path for entry in images.left_out} | set(images.ids) == {*odd, "z\udcff.png"}


def test_labels_and_facts_go_with_the_images(made: Path) -> None:
    index = open_index(str(made / "set"))
    index = dataclasses.replace(index, labels=np.arange(len(index)))
    images = Manifest(made / "audit of set").apply(index).images
    assert images.labels is not None and [index.ids[label] for label in images.labels] == list(images.ids)
