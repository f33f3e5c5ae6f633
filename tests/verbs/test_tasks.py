"""Which protocols go together, and settings of what is trained from the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from contextae.errors import UserError
from contextae.evaluation import finetune
from contextae.evaluation.detection.settings import small
from contextae.evaluation.fewshot import FewShotSettings
from contextae.evaluation.segmentation.upernet import SMALL
from contextae.training.precision import Resolved
from contextae.verbs import tasks
from contextae.verbs.changed import changed
from contextae.verbs.tasks import KINDS, TRAINED, Job, kind_of
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


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("batch_size=0", r"batch_size must be at least 1\. Got 0\. Choose another value"),
        ("most_steps=0", r"most_steps must be at least 1\. Got 0"),
        ("learning_rates=[]", r"learning_rates must be one number or more, each above 0\. Got \(\)"),
        ("learning_rates=1e-3,-1", r"learning_rates must be .* above 0\. Got \(0\.001, -1\.0\)"),
        ("choice=.nan", r"choice must be above 0 and at most 1\. Got nan"),
        ("layer_decay_from_scratch=0", r"layer_decay_from_scratch must be above 0 and at most 1\. Got 0"),
        ("betas=2,3", r"betas must be .* at least 0 and below 1\. Got \(2\.0, 3\.0\)"),
        ("drop_path=3", r"drop_path must be at least 0 and below 1\. Got 3"),
        ("weight_decay=-1", r"weight_decay must be at least 0\. Got -1"),
        ("mixing={mixup: -1}", r"mixup must be at least 0\. Got -1"),
        ("mixing={crop_scale: [0.5, 0.2]}", r"crop_scale is the smallest share of the area, then the largest"),
        ("mixing={rand_augment: 40}", r"rand_augment is a magnitude from 0 to 30, or null.* Got 40"),
        ("mixing={mixpu: 1}", r"mixing is made of .*Got 'mixpu'\. Did you mean 'mixup'"),
    ],
)
def test_a_value_that_no_fine_tuning_can_have_is_said_before_anything_is_read(line: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        changed(finetune.SMALL, [line])


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("l2=[]", r"l2 must be one number or more, each above 0\. Got \(\)"),
        ("l2=0,-1", r"l2 must be .* above 0\. Got \(0\.0, -1\.0\)"),
        ("per_class=0", r"per_class must be .* at least 1\. Got \(0,\)"),
        ("shares=10", r"shares must be .* above 0 and at most 1\. Got \(10\.0,\)"),
        ("draws=0", r"draws must be at least 1\. Got 0"),
    ],
)
def test_a_value_that_few_labels_cannot_have_is_said_before_anything_is_read(line: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        changed(FewShotSettings(), [line])


def test_a_list_of_one_is_written_as_that_one_and_what_is_not_named_of_a_mixture_stays() -> None:
    assert changed(finetune.SMALL, ["learning_rates=1e-3"]) == replace(finetune.SMALL, learning_rates=(0.001,))
    mixed = changed(finetune.SMALL, ["mixing={mixup: 0.5}"])
    assert mixed.mixing == replace(finetune.SMALL.mixing, mixup=0.5)
