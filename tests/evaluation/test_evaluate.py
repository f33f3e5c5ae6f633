"""The whole table on small images, and everything that is refused before minutes are spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contextae.errors import UserError
from contextae.evaluation.evaluate import RANDOM, THIS_ENCODER, evaluate
from contextae.evaluation.features import fingerprint
from contextae.evaluation.record import Evaluation
from contextae.evaluation.task import Task
from contextae.randomness import key
from evaluation.stand_in import DEVIATION, MEAN, StandIn, separable

CLASSES = ["red", "green", "blue"]


def random_encoder(seed: int) -> StandIn:
    torch.manual_seed(key("tests", seed))
    return StandIn()


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images that nothing classifies without mistakes."""
    images, labels = separable(n, seed=seed)
    noise = np.random.default_rng(seed).normal(0, 90, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8), labels


def run(**changed: Any) -> Evaluation:
    settings: dict[str, Any] = {
        "train": separable(150),
        "test": separable(60, seed=1),
        "classes": CLASSES,
        "mean": MEAN,
        "deviation": DEVIATION,
        "random_encoder": random_encoder,
        "protocols": ("knn", "ridge"),
        "seeds": 2,
    }
    return evaluate(changed.pop("encoder", None) or StandIn(), **{**settings, **changed})


def test_every_representation_under_every_protocol_that_can_read_it() -> None:
    told: list[str] = []
    encoder = StandIn()
    found = run(encoder=encoder, progress=lambda what, share: told.append(what))
    assert found.representations == (THIS_ENCODER, RANDOM, "raw pixels", "HOG with thumbnail", "k-means patches")
    assert {(entry.representation, entry.protocol) for entry in found.entries} == {
        (name, protocol) for name in found.representations for protocol in ("knn", "ridge")
    }
    for entry in found.entries:
        rows = 2 if entry.representation == RANDOM else 1
        assert entry.correct.shape == (rows, 60) and len(entry.chosen) == rows
        assert entry.accuracy == entry.correct.mean() and entry.interval[0] <= entry.accuracy <= entry.interval[1]
    assert len(found.differences) == 2 * 4
    assert found.chance == 1 / 3 and found.fingerprint == fingerprint(encoder)
    assert "random initialisation 2 of 2: features" in told and "raw pixels: kNN" in told
    assert found.details["raw pixels"] == "3 x 8 x 12 pixels, 288 values"
    assert set(found.feature_seconds) == set(found.representations) and found.notes == ()


def test_stopped_it_goes_on_with_what_was_read_out_and_another_evaluation_does_not_take_it(tmp_path: Path) -> None:
    given: dict[str, Any] = {"encoder": random_encoder(3), "train": noisy(90), "test": noisy(40, seed=1), "seeds": 1}
    whole = run(**given)

    def stop(what: str, share: float) -> None:
        if what == "HOG with thumbnail: ridge":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(**given, state=tmp_path, progress=stop)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7, "two protocols of this encoder, random weights and pixels, and kNN of HOG"
    files[0].write_bytes(files[0].read_bytes()[:-1])
    told: set[str] = set()
    again = run(**given, state=tmp_path, progress=lambda what, share: told.add(what))
    assert len([what for what in told if "kNN" in what or "ridge" in what]) == 4, "the damaged one and what was left"
    assert set(again.feature_seconds) < set(whole.feature_seconds) and again.details == whole.details
    for one, other in zip(whole.entries, again.entries, strict=True):
        np.testing.assert_array_equal(one.correct, other.correct)
        assert one.chosen == other.chosen and one.held_out_accuracy == other.held_out_accuracy
    told.clear()
    images, labels = noisy(90)
    run(**{**given, "train": (images, (labels + 1) % 3)}, state=tmp_path, progress=lambda what, share: told.add(what))
    assert {f"{row}: kNN" for row in (THIS_ENCODER, "raw pixels")} <= told, "its labels are others"


def test_what_a_protocol_cannot_read_is_known_the_second_time_as_well(tmp_path: Path) -> None:
    given: dict[str, Any] = {"encoder": random_encoder(3), "train": noisy(40), "test": noisy(20, seed=1), "seeds": 1}
    whole = run(**given, protocols=("attentive",), state=tmp_path)
    again = run(**given, protocols=("attentive",), state=tmp_path)
    read = [THIS_ENCODER, RANDOM]
    assert [each.representation for each in whole.entries] == [each.representation for each in again.entries] == read
    assert not again.feature_seconds, "nothing was left to make features for"


def test_images_as_floats_of_0_to_255_are_the_same_images_and_stay_what_they_are() -> None:
    """Images of more than 8 bits come so."""
    train, test = noisy(60), noisy(30, seed=1)
    floats = [(images.astype(np.float32), labels) for images, labels in (train, test)]
    before = [images.copy() for images, _ in floats]
    of_bytes = run(encoder=random_encoder(3), train=train, test=test)
    of_floats = run(encoder=random_encoder(3), train=floats[0], test=floats[1])
    for one, other in zip(of_bytes.entries, of_floats.entries, strict=True):
        assert (one.representation, one.protocol) == (other.representation, other.protocol)
        np.testing.assert_array_equal(one.correct, other.correct)
    for images, (kept, _) in zip(before, floats, strict=True):
        np.testing.assert_array_equal(images, kept)


def test_differences_are_this_encoder_minus_the_baseline() -> None:
    found = run()
    for each in found.differences:
        ours = found.entry(THIS_ENCODER, each.protocol)
        theirs = found.entry(each.baseline, each.baseline_protocol or each.protocol)
        assert ours and theirs
        assert each.difference == pytest.approx(ours.accuracy - theirs.accuracy)
        assert each.interval[0] <= each.difference <= each.interval[1]


def test_the_hardest_baseline_is_the_most_accurate_one() -> None:
    images, labels = noisy(150)
    found = run(train=(images, labels), test=noisy(60, seed=1), protocols=("ridge",))
    free = [found.entry(name, "ridge") for name in found.representations[2:]]
    accuracies = [entry.accuracy for entry in free if entry]
    hardest, ours = found.hardest("ridge"), found.entry(THIS_ENCODER, "ridge")
    assert hardest and ours and len(set(accuracies)) > 1
    assert ours.accuracy - hardest.difference == pytest.approx(max(accuracies))


def test_without_another_protocol_tokens_have_no_training_free_rival() -> None:
    assert run(protocols=("attentive",), seeds=1, train=separable(40)).hardest("attentive") is None


def test_random_weights_differ_between_seeds() -> None:
    entry = run(train=noisy(60), test=noisy(40, seed=1), seeds=3, protocols=("ridge",)).entry(RANDOM, "ridge")
    assert entry and len({row.tobytes() for row in entry.correct}) == 3


def test_protocols_are_taken_once_and_in_the_given_order() -> None:
    assert run(protocols=("ridge", "knn", "ridge"), seeds=1).protocols == ("ridge", "knn")


def test_a_class_without_images_in_train_is_noted() -> None:
    images, labels = separable(60)
    found = run(train=(images[labels < 2], labels[labels < 2]), protocols=("ridge",), seeds=1)
    assert found.notes == ("20 test images are of 1 class(es) without an image in train: blue",)


IMAGES, LABELS = separable(30)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": (IMAGES, None)}, "compares predictions with labels, and train has none"),
        ({"test": (IMAGES, None)}, "compares predictions with labels, and test has none"),
        ({"train": (IMAGES, LABELS[:-1])}, r"train needs one label per image\. Got labels of shape \(29,\) for 30"),
        ({"test": (IMAGES, LABELS + 1)}, r"0 to 2\. Those of test go from 1 to 3"),
        ({"test": (IMAGES, LABELS - 1)}, r"0 to 2\. Those of test go from -1 to 1"),
        ({"classes": ["red"]}, r"at least two classes\. Got 1: red"),
        ({"train": (IMAGES[:0], LABELS[:0])}, r"needs images of train\. Got none"),
        ({"test": (IMAGES[:, :1], LABELS)}, r"3 x 8 x 12\. The images of test are uint8 and 1 x 8 x 12"),
        ({"train": (IMAGES[:, :, :, :8], LABELS)}, r"3 x 8 x 12\. The images of train are uint8 and 3 x 8 x 8"),
        ({"train": (IMAGES / 255, LABELS)}, r"The images of train are float64 and 3 x 8 x 12"),
        ({"protocols": ("liner",)}, r"'liner' is not a protocol of evaluation\. Did you mean 'linear'\?"),
        ({"protocols": ()}, r"at least one protocol\. Got none; there are: knn, linear"),
        ({"seeds": 0}, r"at least one seed\. Got seeds=0"),
        ({"train": (IMAGES, 0 * LABELS)}, "needs two classes and two images of one of them"),
    ],
)
def test_refusals(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**changed)


def test_encoders_whose_outputs_are_not_finite_are_refused() -> None:
    broken = StandIn()
    with torch.no_grad():
        broken.embed.weight[0, 0, 0, 0] = np.inf
    with pytest.raises(UserError, match="outputs must be finite numbers"):
        run(encoder=broken)


def test_intervals_over_few_test_images_are_said_to_be_too_narrow() -> None:
    images, labels = separable(30)

    def notes(count: int) -> tuple[str, ...]:
        return Task(images, labels, images[:count], labels[:count], ("a", "b", "c")).notes

    assert notes(30) == ()
    (note,) = notes(29)
    assert note.startswith("Intervals over as few as 29 test images are too narrow")
