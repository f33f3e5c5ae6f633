"""Which protocols go together, and settings of what is trained from the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from contextae.errors import UserError
from contextae.evaluation.detection.settings import small
from contextae.evaluation.segmentation.upernet import SMALL
from contextae.training.precision import Resolved
from contextae.verbs import tasks
from contextae.verbs.tasks import KINDS, TRAINED, Job, changed, kind_of
from networks import small_cae


def test_every_protocol_has_its_kind_of_labels() -> None:
    assert kind_of(("knn", "finetune", "fewshot")) == "images with classes"
    assert kind_of(("segmentation-linear", "segmentation-upernet")) == "images with masks"
    assert kind_of(("detection",)) == "images with boxes"
    assert len({name for names in KINDS.values() for name in names}) == sum(map(len, KINDS.values()))


@pytest.mark.parametrize(
    ("protocols", "rule"),
    [
        ((), "Got none; evaluate once for each kind"),
        (("knn", "detection"), "Got knn, detection; evaluate once for each kind"),
        (("segmentation-linar",), "'segmentation-linar' is not a protocol.*Did you mean 'segmentation-linear'"),
    ],
)
def test_what_does_not_go_together_is_refused(protocols: tuple[str, ...], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        kind_of(protocols)


def test_settings_are_changed_by_name_and_checked() -> None:
    assert changed(SMALL, []) == SMALL
    assert changed(SMALL, ["steps=7", "layer_decay=5e-1"]) == replace(SMALL, steps=7, layer_decay=0.5)
    assert changed(small(), ["steps=9"]).steps == 9
    for line, rule in (
        ("stesp=7", r"written NAME=VALUE, of .*Got 'stesp=7'\. Did you mean 'steps'"),
        ("steps", "written NAME=VALUE"),
        ("version=9", "written NAME=VALUE"),
        ("steps=many", r"--set steps: .*valid integer.*Got 'many'"),
    ):
        with pytest.raises(UserError, match=rule):
            changed(SMALL, [line])


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_what_trains_is_trained_in_the_format_that_is_fast_here_unless_it_is_set(
    fast: Literal["float32", "bfloat16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "resolve", lambda precision, device: Resolved(fast, "as it were measured"))
    encoder = small_cae().encoder
    given: dict[str, Any] = dict.fromkeys(("origin", "data", "protocols", "seeds", "state", "pictures"))
    given |= {"masks": "labels", "beside": (), "progress": None, "say": print, "warn": print, "encoder": encoder}
    assert TRAINED == ("finetune", "segmentation-upernet", "detection")
    for protocol in TRAINED:
        assert Job(settings=(), **given)._settings(protocol, 10).precision == fast
        for asked in ("float32", "bfloat16"):
            assert Job(settings=(f"precision={asked}",), **given)._settings(protocol, 10).precision == asked
    assert Job(settings=(), **given)._settings("segmentation-linear", 10).precision == "float32"
