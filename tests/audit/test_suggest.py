"""What is suggested: a command that can be copied, and sentences for what was found."""

from __future__ import annotations

import shlex

from contextae.audit.record import Against, AuditRecord, Finding, Kind, Recipe, Speed
from contextae.audit.suggest import suggest

RECIPE = Recipe(
    image_size=(40, 48), patch_size=(4, 4), batch_size=64, epochs=100, width=128, depth=6, reason="few images"
)


def kind(channels: int = 3, dtype: str = "uint8", count: int = 100, photograph: bool = True) -> Kind:
    return Kind(
        photograph=photograph,
        channels=channels,
        dtype=dtype,
        count=count,
        value_range=(0, 255),
        mean=[0.5] * channels,
        deviation=[0.2] * channels,
        names_sha256="",
        sizes_sha256="",
    )


def record(*kinds: Kind, unsupported: bool = False, **findings: int) -> AuditRecord:
    return AuditRecord(
        versions={},
        source="/photos",
        title="photos",
        complete=True,
        found=100,
        seen=100,
        used=100,
        left_out=[],
        kinds=list(kinds) or [kind()],
        unsupported=unsupported,
        formats={"PNG": 100},
        traits=[],
        findings=[
            Finding(name=name.replace("_", "-"), words="", count=count, examples=[]) for name, count in findings.items()
        ],
        near_complete=True,
        sizes=None,
        speed=Speed(images_per_second=812.3, read_milliseconds=1, decode_milliseconds=1, seconds=1),
        notes=[],
    )


def test_a_clean_set_needs_the_manifest_alone() -> None:
    found = suggest(record(), RECIPE, data=["my photos"], manifest="audit/manifest.json")
    assert shlex.split(found.command) == [
        *("contextae", "pretrain", "my photos", "--manifest", "audit/manifest.json", "--out", "RUN"),
    ]
    (note,) = found.notes
    assert note == "One processor core reads and decodes about 812 of these images a second, before they are cropped."
    assert (found.image_size, found.patch_size, found.batch_size, found.width) == ((40, 48), (4, 4), 64, 128)


def test_duplicates_and_overlap_are_excluded_and_said() -> None:
    found = suggest(record(exact_duplicates=1, near_overlap=3), RECIPE, data=["a", "b=2"], manifest="m")
    assert found.command.endswith("a b=2 --manifest m --exclude exact-duplicates --exclude near-overlap --out RUN")
    assert found.notes[0] == "Equal to another one: 1 image, left out by the command."
    assert "nothing it is used to measure was seen" in found.notes[1]


def test_what_is_rare_is_not_worth_a_word_and_what_is_frequent_is() -> None:
    few = suggest(record(near_duplicates=1, constant=1), RECIPE, data=["a"], manifest="m")
    assert len(few.notes) == 1 and "--exclude" not in few.command
    many = suggest(record(near_duplicates=2, constant=50), RECIPE, data=["a"], manifest="m")
    assert many.notes[:2] == [
        "Nearly the same as another one: 2 images; --exclude near-duplicates leaves them out.",
        "Constant: 50 images; --exclude constant leaves them out.",
    ]
    assert "--exclude" not in many.command


def test_mixed_kinds_are_named_in_the_command() -> None:
    mixed = record(kind(1, "uint16", 90, photograph=False), kind(count=10))
    found = suggest(mixed, RECIPE, data=["a"], manifest="m")
    assert "--set data.channels=1 --set data.dtype=uint16" in found.command
    assert "most frequent one, 1 channel(s) of uint16, of which there are 90" in found.notes[0]
    unread = suggest(record(unsupported=True), RECIPE, data=["a"], manifest="m")
    assert "--set data.channels=3 --set data.dtype=uint8" in unread.command


def test_kinds_that_no_setting_tells_apart_are_to_be_moved() -> None:
    mixed = record(kind(count=90), kind(count=10, photograph=False))
    found = suggest(mixed, RECIPE, data=["a"], manifest="m")
    assert "No setting tells these apart" in found.notes[0] and found.command == "", "pretrain would refuse it"
    told = suggest(record(kind(count=90), kind(5), kind(5, "uint16")), RECIPE, data=["a"], manifest="m")
    assert "--set data.channels=3 --set data.dtype=uint8" in told.command


def test_after_a_stop_no_command_is_given_that_would_be_refused() -> None:
    stopped = record(exact_duplicates=1).model_copy(update={"complete": False})
    assert suggest(stopped, RECIPE, data=["a"], manifest="m").command == ""
    against = {"title": "b", "found": 9, "used": 3, "exact": 1, "near": 2, "other_exact": 1, "other_near": 2}
    for complete in (True, False):
        met = {"against": Against(**against, complete=complete)}
        seen = record(exact_duplicates=1, exact_overlap=1, near_overlap=2).model_copy(update=met)
        found = suggest(seen, RECIPE, data=["a"], manifest="m")
        assert "--exclude exact-duplicates" in found.command
        assert ("overlap" in found.command) == complete == any("other set" in note for note in found.notes)
