"""Fine-tuning beside training from scratch: above chance where there is something to learn, resumable, and fair."""

from __future__ import annotations

import os
import signal
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.classifier import OUTCOME, Classifier, Training, at_middle, outcome
from contextae.evaluation.features import fingerprint
from contextae.evaluation.finetune import (
    FROM_SCRATCH,
    PUBLISHED,
    PUBLISHED_LARGE,
    SMALL,
    FinetuneSettings,
    metric_of,
    run,
    settings_for,
)
from contextae.evaluation.mixing import Mixing
from contextae.evaluation.record import THIS_ENCODER
from contextae.evaluation.results import Compared, Result
from contextae.evaluation.subset import Labels
from contextae.evaluation.supervised import Recipe, StoppedError, fit, positions_of_batch
from contextae.evaluation.trunk import Trunk
from contextae.grid import Grid
from evaluation.stand_in import DEVIATION, MEAN, separable
from networks import shake

GRID = Grid(image_size=(8, 12), patch_size=(4, 4), channels=3)
GENTLE = Mixing(flip=0.0, rand_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0)
SETTINGS = FinetuneSettings(
    batch_size=12, epochs=4, least_steps=24, most_steps=32, learning_rates=(0.05, 0.1), held_out=10, mixing=GENTLE
)
ONE_RATE = replace(SETTINGS, learning_rates=(0.1,))


def small_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(grid=GRID, width=16, depth=2, num_heads=2)


def tuned(
    *, train: Any = None, test: Any = None, encoder: Encoder | None = None, **changed: Any
) -> tuple[list[Result], list[Compared]]:
    options = {"settings": SETTINGS, "shares": (1.0,), "draws": 2, **changed}
    return run(
        encoder or small_encoder(7),
        train=train or separable(120),
        test=test or separable(90, seed=1),
        classes=("a", "b", "c"),
        mean=MEAN,
        deviation=DEVIATION,
        random_encoder=small_encoder,
        **options,
    )


def figures(results: list[Result]) -> list[tuple[str, str, float, tuple[float, float]]]:
    return [(each.row, each.metric, each.value, each.interval) for each in results]


def test_both_rows_learn_at_every_share_and_the_encoder_stays_as_it_is() -> None:
    encoder = small_encoder(7)
    before, told = fingerprint(encoder), set()
    results, compared = tuned(
        encoder=encoder, shares=(0.25, 1.0), progress=lambda what, share: told.add(what) or 0 <= share <= 1
    )
    assert fingerprint(encoder) == before and encoder.training
    assert [(each.row, each.metric, each.seeds) for each in results] == [
        (THIS_ENCODER, "accuracy, 25 % of labels", 2),
        (FROM_SCRATCH, "accuracy, 25 % of labels", 2),
        (THIS_ENCODER, "accuracy", 1),
        (FROM_SCRATCH, "accuracy", 1),
    ]
    for each in results:
        assert each.protocol == "finetune" and each.num_images == 90
        assert each.interval[0] <= each.value <= each.interval[1] and each.interval[0] > 1 / 3
        assert each.value == pytest.approx(np.mean(each.details["accuracy of each repeat"]))
    few, every = results[0].details, results[2].details
    assert (few["labels"], every["labels"]) == (30, 120)
    assert few["budget"].startswith("2 rates of 6 steps to choose, then 2 training(s) of 24 steps of 12 images")
    assert every["budget"].startswith("2 rates of 8 steps to choose, then 1 training(s) of 32 steps of 12 images")
    assert [each["learning rate"] for each in every["tried"]] == [0.05, 0.1]
    assert every["learning rate for 256 images"] in (0.05, 0.1)
    assert (every["layer decay"], results[3].details["layer decay"]) == (0.65, 1.0)
    assert "crops of a frame" in every["images"] and "RandAugment" not in every["images"]
    assert [each.metric for each in compared] == ["accuracy, 25 % of labels", "accuracy"]
    assert compared[1].difference == pytest.approx(results[2].value - results[3].value)
    assert "this encoder, 25 % of labels, choosing, 1 of 2: training" in told
    assert "from scratch, 100 % of labels, 1 of 1: training" in told


def test_at_chance_on_shuffled_labels() -> None:
    images, labels = separable(120)
    shuffled = np.empty_like(labels)
    for each in range(3):  # of every class as many images get each label, so that nothing is left to learn
        (places,) = np.nonzero(labels == each)
        shuffled[places] = np.arange(len(places)) % 3
    results, _ = tuned(train=(images, shuffled), test=separable(300, seed=1), settings=ONE_RATE)
    assert all(abs(each.value - 1 / 3) < 0.15 for each in results)


def test_a_start_that_knows_the_classes_is_better_than_none() -> None:
    """What fine-tuning is for: an encoder trained on many labels, fine-tuned on few."""
    encoder = small_encoder(7)
    images, labels = separable(300, seed=5)
    training = trained_by(SETTINGS, steps=80)
    model = training.start(encoder)
    mix = training.mix(images)

    def loss_of(step: int) -> Tensor:
        chosen = positions_of_batch(step, num_images=300, batch_size=16, seed=0)
        batch, wanted = mix(images[chosen], torch.from_numpy(labels)[torch.from_numpy(chosen)])
        return torch.nn.functional.cross_entropy(model(batch), wanted)

    fit(model, loss_of, training.recipe, encoder="trunk", seed=0, state=None)
    encoder.load_state_dict(model.trunk.encoder.state_dict())
    few = replace(ONE_RATE, least_steps=8, most_steps=8)
    _, (compared,) = tuned(encoder=encoder, shares=(0.05,), settings=few)
    assert compared.outside and compared.difference > 0.1
    assert (compared.row, compared.baseline, compared.protocol) == (THIS_ENCODER, FROM_SCRATCH, "finetune")


def test_two_runs_agree_and_another_seed_does_not() -> None:
    first, second, other = (
        figures(tuned(shares=(0.1,), draws=1, seed=seed, settings=replace(ONE_RATE, least_steps=6))[0])
        for seed in (0, 0, 1)
    )
    assert first == second != other


def test_a_stopped_run_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    stop_at, seen = 31, []
    options = {"shares": (0.1,), "draws": 1, "settings": replace(SETTINGS, least_steps=16, most_steps=16, choice=0.25)}

    def stopping(what: str, share: float) -> None:
        seen.append(what)
        if len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StoppedError):
        tuned(state=tmp_path, progress=stopping, **options)
    outcomes = list(tmp_path.rglob(OUTCOME))
    states = list(tmp_path.rglob("training.safetensors"))
    assert len(outcomes) == 4 and len(states) == 1, "of the encoder's row 4 + 4 + 16 steps, and 4 and 3 of the other's"
    seen.clear()
    results, compared = tuned(state=tmp_path, progress=stopping, **options)
    assert not [what for what in seen if what.startswith(THIS_ENCODER)] and len(seen) == 16
    whole, compared_whole = tuned(**options)
    assert figures(results) == figures(whole) and compared == compared_whole
    assert not list(tmp_path.rglob("training.safetensors")), "large states go when a training is done"
    assert all(each.seconds > 0 for each in results)
    outcomes[0].write_bytes(b"damaged")
    assert figures(tuned(state=tmp_path, **options)[0]) == figures(whole)


def test_one_label_per_class_leaves_nothing_to_choose_on() -> None:
    results, _ = tuned(shares=(0.01,), draws=1, settings=replace(SETTINGS, least_steps=2))
    assert results[0].details["labels"] == 3 and results[0].details["tried"] == []
    assert results[0].details["learning rate for 256 images"] == 0.1 == at_middle((0.05, 0.1))
    assert at_middle((3.0, 1.0, 2.0)) == 2


def test_the_rate_that_does_best_on_the_held_out_part_is_taken_and_one_that_diverges_is_not() -> None:
    # 1e-9 learns nothing, 1e30 diverges
    results, _ = tuned(settings=replace(SETTINGS, learning_rates=(1e-9, 0.1, 1e30), choice=1.0))
    for each in results:
        assert each.details["learning rate for 256 images"] == 0.1
        tried = each.details["tried"]
        assert tried[2]["held out"] == 0 and tried[2]["loss"] is None
        assert tried[1]["loss"] < tried[0]["loss"]
    with pytest.raises(UserError, match=r"Fine-tuning this encoder with 100 % of labels diverged at .* of 1e\+30"):
        tuned(settings=replace(SETTINGS, learning_rates=(1e30,)))


def test_test_labels_choose_nothing() -> None:
    images, labels = separable(60, seed=1)
    settings = replace(SETTINGS, least_steps=24, most_steps=24, learning_rates=(1e-9, 0.1))
    (ours, *_), (other, *_) = (
        tuned(test=(images, of_test), settings=settings)[0] for of_test in (labels, (labels + 1) % 3)
    )
    assert ours.details["tried"] == other.details["tried"] and ours.value != other.value


def trained_by(settings: FinetuneSettings, *, steps: int = 10) -> Training:
    return Training(
        recipe=Recipe(steps=steps, batch_size=16, lr=3e-3),
        mixing=settings.mixing,
        num_classes=3,
        mean=MEAN,
        deviation=DEVIATION,
        drop_path=0.1,
        relative_bias=True,
        head_scale=0.001,
        seed=0,
    )


def test_the_classifier_is_the_published_one() -> None:
    encoder = small_encoder()
    shake(encoder)
    torch.manual_seed(0)
    model = Classifier(Trunk(encoder, relative_bias=True), num_classes=50).eval()
    assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.1) and not model.head.bias.any()
    assert torch.equal(model.norm.weight, encoder.norm.weight) and torch.equal(model.norm.bias, encoder.norm.bias)
    images = torch.randn(2, 3, 8, 12)
    before_norm: list[Tensor] = []
    encoder.norm.register_forward_pre_hook(lambda _, given: before_norm.append(given[0]))
    encoder.eval().summary_and_latents(images)
    pooled = torch.nn.functional.layer_norm(
        before_norm[0][:, 1:].mean(1), (16,), encoder.norm.weight, encoder.norm.bias, eps=1e-6
    )
    assert torch.allclose(model(images), pooled @ model.head.weight.T, atol=1e-8)
    model(images).sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {"trunk.encoder.norm.weight", "trunk.encoder.norm.bias"}


def test_of_an_outcome_the_labels_asked_about_change_the_loss_alone() -> None:
    images, labels = separable(40)
    training, encoder = trained_by(SETTINGS, steps=3), small_encoder()
    every = torch.from_numpy(labels)
    one = outcome(training, encoder, images, every, images[:9], every[:9])
    other = outcome(training, encoder, images, every, images[:9], (every[:9] + 1) % 3)
    assert np.array_equal(one.predicted, other.predicted) and one.loss != other.loss


def test_budgets() -> None:
    assert (PUBLISHED.steps_of(1_281_167), PUBLISHED.batch_of(1_281_167)) == (31_279, 4_096)
    assert (SMALL.steps_of(500), SMALL.steps_of(2_000), SMALL.steps_of(50_000)) == (200, 625, 1_000)
    assert (SMALL.batch_of(20), SMALL.batch_of(2_000)) == (20, 64)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert settings_for(2_000, cuda, 24) is settings_for(10**6, cpu, 24) is SMALL
    assert settings_for(10**6, cuda, 23) is PUBLISHED and settings_for(10**6, cuda, 24) is PUBLISHED_LARGE
    assert PUBLISHED.learning_rates[1] * 4_096 / 256 == 8e-3 and PUBLISHED_LARGE.learning_rates[1] * 16 == 2e-3
    assert metric_of(Labels(share=1.0)) == "accuracy"


def test_refusals_come_before_any_training() -> None:
    with pytest.raises(UserError, match=r"at least one share of the labels, one draw and one seed\. Got shares=\(\)"):
        tuned(shares=())
    with pytest.raises(UserError, match="not a percentage"):
        tuned(shares=(1.0, 10.0))
    with pytest.raises(UserError, match="has none"):
        tuned(train=(separable(30)[0], None))
    with pytest.raises(UserError, match="load them at the encoder's size"):
        tuned(train=(np.zeros((4, 1, 8, 12), dtype=np.uint8), np.array([0, 1, 0, 1])))


def test_images_of_other_channels_say_what_is_not_done_to_them() -> None:
    grid = Grid(image_size=(8, 12), patch_size=(4, 4), channels=1)

    def encoder(seed: int) -> Encoder:
        torch.manual_seed(seed)
        return Encoder(grid=grid, width=16, depth=1, num_heads=2)

    images, labels = separable(60)
    gray = images.mean(axis=1, keepdims=True).astype(np.float32)
    results, _ = run(
        encoder(7),
        train=(gray, labels),
        test=(gray, labels),
        classes=("a", "b", "c"),
        mean=(0.5,),
        deviation=(0.25,),
        random_encoder=encoder,
        shares=(1.0,),
        settings=replace(PUBLISHED, batch_size=16, most_steps=4, learning_rates=(0.01,)),
    )
    assert "no RandAugment and erasing" in results[0].details["images"]
    assert "mixup 0.8, cutmix 1" in results[0].details["images"]


def test_it_trains_in_the_format_of_the_settings() -> None:
    (exact, *_), _ = tuned(draws=1)
    (rounded, *_), _ = tuned(draws=1, settings=replace(SETTINGS, precision="bfloat16"))
    losses = [[each["loss"] for each in result.details["tried"]] for result in (exact, rounded)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.2)


def test_what_is_kept_of_an_outcome_is_of_these_labels_asked_about(tmp_path: Path) -> None:
    images, labels = separable(40)
    training, encoder, every = trained_by(SETTINGS, steps=3), small_encoder(), torch.from_numpy(labels)

    def loss(asked: Tensor) -> float:
        return outcome(training, encoder, images, every, images[:9], asked, state=tmp_path).loss

    one, other = loss(every[:9]), loss((every[:9] + 1) % 3)
    assert one != other, "a rate is chosen by this loss"
    assert (loss(every[:9]), loss((every[:9] + 1) % 3)) == (one, other) and len(list(tmp_path.iterdir())) == 2


def test_images_are_not_copied_to_tell_trainings_apart(tmp_path: Path) -> None:
    images, labels = separable(30_000)
    training, encoder, every = trained_by(SETTINGS, steps=1), small_encoder(), torch.from_numpy(labels)
    tracemalloc.start()
    outcome(training, encoder, images, every, images[:9], every[:9], state=tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < images.nbytes / 2
