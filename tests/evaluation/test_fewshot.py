"""Few labels in closed form: leaving one out is exact, draws are of every class, and worse than more labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.features import fingerprint
from contextae.evaluation.fewshot import FewShotSettings, fit, run
from contextae.evaluation.leave_one_out import Solved
from contextae.evaluation.record import RANDOM, THIS_ENCODER
from contextae.evaluation.ridge import solve
from contextae.evaluation.standardise import Standardisation
from contextae.evaluation.subset import Labels
from contextae.grid import Grid
from evaluation.stand_in import DEVIATION, MEAN, separable
from evaluation.test_linear import problem

GRID = Grid(image_size=(8, 12), patch_size=(4, 4), channels=3)


def small_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(grid=GRID, width=16, depth=1, num_heads=2)


def evaluated(train: tuple, test: tuple, **changed: object) -> tuple[list, list]:
    return run(
        small_encoder(7),
        train=train,
        test=test,
        classes=("a", "b", "c"),
        mean=MEAN,
        deviation=DEVIATION,
        random_encoder=small_encoder,
        **{"settings": FewShotSettings(per_class=(1, 5), shares=(0.5,), draws=3), "seeds": 2, **changed},
    )


@pytest.mark.parametrize(("n", "d"), [(40, 7), (20, 30)])
def test_leaving_one_out_is_what_it_says(n: int, d: int) -> None:
    features, labels = problem(n, d)
    features = Standardisation.of(features)(features)
    l2 = 0.3
    found = Solved(features, labels, num_classes=4).left_out(l2)
    wanted = F.one_hot(labels, 4).double()
    for left in range(0, n, 7):
        others = torch.arange(n) != left
        x = torch.cat([features[others].double(), torch.ones(n - 1, 1, dtype=torch.float64)], dim=1)
        penalty = torch.diag(torch.tensor([n * l2] * d + [0.0], dtype=torch.float64))  # none on the bias
        weight = torch.linalg.solve(x.T @ x + penalty, x.T @ wanted[others])
        alone = features[left].double() @ weight[:-1] + weight[-1]
        assert torch.allclose(found[left].double(), alone, atol=1e-3)


def test_weights_are_those_of_ridge() -> None:
    features, labels = problem(60, 9)
    features = Standardisation.of(features)(features)
    weight, bias = Solved(features, labels, num_classes=4).weight_and_bias(0.1)
    wanted, wanted_bias = solve(features, labels, num_classes=4, l2=[0.1])[0.1]
    assert torch.allclose(weight, wanted, atol=1e-5) and torch.allclose(bias, wanted_bias)


def test_what_is_chosen() -> None:
    features, labels = problem(300, 15)
    settings = FewShotSettings(l2=(1e5, 0.1))
    found = fit({"noise": torch.randn(300, 3), "telling": features}, labels, num_classes=4, settings=settings)
    assert (found.features, found.l2) == ("telling", 0.1) and found.left_out is not None and found.left_out > 0.5
    one = torch.tensor([int(torch.nonzero(labels == each)[0]) for each in range(4)])
    vectors = {"class token": features[one] * 0, "mean of latents": features[one]}
    found = fit(vectors, labels[one], num_classes=4)
    assert (found.features, found.l2, found.left_out) == ("mean of latents", 10.0, None)
    assert torch.equal(found.predict(vectors), labels[one])


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        (Labels(per_class=3), [3, 3, 2]),
        (Labels(share=0.1), [4, 1, 1]),
        (Labels(share=1.0), [40, 7, 2]),
    ],
)
def test_draws_are_of_every_class(labels: Labels, counts: list[int]) -> None:
    every = torch.tensor([0] * 40 + [1] * 7 + [2] * 2)[torch.randperm(49)]
    drawn = labels.draw(every, seed=1, draw=2)
    assert every[drawn].bincount().tolist() == counts and drawn.tolist() == sorted(set(drawn.tolist()))
    assert torch.equal(drawn, labels.draw(every, seed=1, draw=2))
    if not labels.all:
        assert not torch.equal(drawn, labels.draw(every, seed=1, draw=3))
        assert not torch.equal(drawn, labels.draw(every, seed=2, draw=2))


def test_labels_in_words_and_refused() -> None:
    assert [str(each) for each in FewShotSettings().labels] == [
        "1 per class",
        "5 per class",
        "10 per class",
        "1 % of labels",
        "10 % of labels",
    ]
    with pytest.raises(UserError, match=r"A share of the labels must be .* Got 10; it is a share, not a percentage"):
        Labels(share=10.0)
    with pytest.raises(UserError, match=r"Labels per class must be at least 1\. Got 0"):
        Labels(per_class=0)
    with pytest.raises(ValueError, match="one of both"):
        Labels()


def test_rows_of_evaluate_above_chance_and_better_with_more_labels(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    train, test = separable(90), separable(120, seed=1)
    results, compared = evaluated(train, test, cache=cache)
    encoder = small_encoder(7)
    assert fingerprint(encoder) == fingerprint(small_encoder(7))
    values = {(each.row, each.metric): each for each in results}
    assert len(results) == 5 * 3 and len(compared) == 4 * 3
    ours = [values[THIS_ENCODER, f"accuracy, {each}"] for each in ("1 per class", "5 per class", "50 % of labels")]
    assert [each.seeds for each in ours] == [3, 3, 3] and values[RANDOM, "accuracy, 1 per class"].seeds == 6
    assert [each.details["labels"] for each in ours] == [3, 15, 45]
    assert ours[2].value > 0.6 > 1 / 3 and ours[0].value < ours[2].value
    for each in results:
        assert each.interval[0] <= each.value <= each.interval[1] and each.num_images == 120
        assert each.value == pytest.approx(np.mean(each.details["accuracy of each repeat"]))
    assert len(list(tmp_path.iterdir())) == 6, "features of two parts, once for each of three networks"
    again, compared_again = evaluated(train, test, cache=cache)
    assert [each.value for each in again] == [each.value for each in results] and compared_again == compared


def test_at_chance_on_shuffled_labels() -> None:
    images, labels = separable(90)
    shuffled = np.random.default_rng(5).permutation(labels)
    results, _ = evaluated((images, shuffled), separable(300, seed=1))
    (ours,) = (each for each in results if (each.row, each.metric) == (THIS_ENCODER, "accuracy, 50 % of labels"))
    assert ours.interval[0] < 1 / 3 + 0.05 and ours.value < 0.48


def test_refusals() -> None:
    train, test = separable(30), separable(30, seed=1)
    with pytest.raises(UserError, match=r"at least one number of labels, one draw and one seed .* seeds=0"):
        evaluated(train, test, seeds=0)
    with pytest.raises(UserError, match="has none"):
        evaluated((train[0], None), test)
