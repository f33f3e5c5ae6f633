"""The frozen encoder under every protocol, beside random weights and baselines that need no training at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from contextae.errors import UserError
from contextae.evaluation.baselines import BASELINES, Baseline, Computed
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.computing import computed
from contextae.evaluation.features import FrozenEncoder, Precision, fingerprint
from contextae.evaluation.kept import Kept, KeptAnswers
from contextae.evaluation.metrics import interval, mean_per_class_accuracy, paired_interval
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.protocols import PROTOCOLS, Answer, EvaluationProtocol, select
from contextae.evaluation.record import RANDOM, THIS_ENCODER, Entry, Evaluation
from contextae.evaluation.results import Compared
from contextae.evaluation.task import LabelledImages, Task, check_images

__all__ = ["RANDOM", "THIS_ENCODER", "Evaluation", "evaluate"]

DEFAULT_PROTOCOLS = ("knn", "linear", "attentive")


def evaluate(
    encoder: FrozenEncoder,
    *,
    train: LabelledImages,
    test: LabelledImages,
    classes: Sequence[str],
    mean: Sequence[float],
    deviation: Sequence[float],
    random_encoder: Callable[[int], FrozenEncoder],
    beside: Mapping[str, FrozenEncoder] | None = None,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    seeds: int = 3,
    seed: int = 0,
    batch_size: int = 128,
    precision: Precision = "float32",
    cache: FeatureCache | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Accuracies on test of this encoder, of `seeds` random initialisations and of every training-free baseline.

    `train` and `test` are uint8 images [n c h w] of the encoder's size and their classes as positions in `classes`.
    `random_encoder(s)` gives the same network with random weights; `beside` has other trained networks for images of
    the same size, by name. Everything is chosen on a held-out part of train, for each representation alike; the labels
    of test are compared with finished predictions and used for nothing else.
    With a `cache` features that were made before are not made again, and with `state`, a folder, what was read out of
    them in an earlier call that was stopped is not read out again. The encoder runs where its weights lie and is left
    as it was found; read-outs run on the CPU.
    """
    started = time.monotonic()
    chosen = select(protocols)
    if seeds < 1:
        raise UserError(f"The baseline of random weights needs at least one seed. Got seeds={seeds}; 3 are usual.")
    task = Task.of(
        encoder,
        train=train,
        test=test,
        classes=classes,
    )
    labels = torch.from_numpy(task.train_labels)
    kept = KeptAnswers.within(state, task, mean=[*mean], deviation=[*deviation], seed=seed, precision=precision)
    rows: dict[str, list[dict[str, tuple[Answer, float]]]] = {}
    details: dict[str, str] = {}
    feature_seconds: dict[str, float] = {}

    def read_out(row: str, told: str, of: str, features: Callable[[Progress | None], Computed]) -> None:
        made, answers = None, {}
        for name, protocol in chosen.items():
            known = kept.get(of, name, protocol.version)
            if known is None:
                begun = time.monotonic()
                if made is None:
                    made = features(part_of(progress, told))
                    feature_seconds[row] = feature_seconds.get(row, 0.0) + time.monotonic() - begun
                    begun = time.monotonic()
                answer = None
                if not (protocol.reads_tokens and made.train.tokens is None):
                    answer = protocol.run(
                        made.train,
                        labels,
                        made.test,
                        num_classes=len(task.classes),
                        seed=seed,
                        progress=part_of(progress, told),
                    )
                known = Kept(answer, made.detail, time.monotonic() - begun)
                kept.put(known, of, name, protocol.version)
            details[row] = known.detail
            if known.answer is not None:
                answers[name] = (known.answer, known.seconds)
        rows.setdefault(row, []).append(answers)

    def of_encoder(network: FrozenEncoder) -> Callable[[Progress | None], Computed]:
        return lambda told: computed(
            network,
            task,
            mean=mean,
            deviation=deviation,
            with_tokens=any(protocol.reads_tokens for protocol in chosen.values()),
            batch_size=batch_size,
            device=_home(encoder),
            precision=precision,
            cache=cache,
            progress=told,
        )

    def of_baseline(baseline: Baseline) -> Callable[[Progress | None], Computed]:
        return lambda told: baseline(task.train_images, task.test_images, seed=seed, progress=told)

    read_out(THIS_ENCODER, THIS_ENCODER, fingerprint(encoder), of_encoder(encoder))
    for each in range(seeds):
        network = random_encoder(each)
        check_images(network, task.train_images, "train")
        read_out(RANDOM, f"{RANDOM} {each + 1} of {seeds}", fingerprint(network), of_encoder(network))
    for name, other in (beside or {}).items():
        check_images(other, task.train_images, "train")
        read_out(name, name, fingerprint(other), of_encoder(other))
    for name, baseline in BASELINES.items():
        read_out(name, name, name, of_baseline(baseline))

    entries = {
        (row, name): _entry(row, name, chosen[name], [answers[name] for answers in seeds_of_row], task, seed)
        for row, seeds_of_row in rows.items()
        for name in seeds_of_row[0]
    }
    return Evaluation(
        classes=task.classes,
        num_train=len(task.train_labels),
        num_test=len(task.test_labels),
        image_size=encoder.grid.image_size,
        channels=encoder.grid.channels,
        protocols=tuple(chosen),
        seeds=seeds,
        seed=seed,
        chance=task.chance,
        fingerprint=fingerprint(encoder),
        details=details,
        entries=tuple(entries.values()),
        differences=tuple(_differences(entries, tuple(chosen), seed)),
        notes=task.notes,
        feature_seconds=feature_seconds,
        seconds=time.monotonic() - started,
        beside=tuple(beside or ()),
    )


def _entry(
    row: str, name: str, protocol: EvaluationProtocol, answers: list[tuple[Answer, float]], task: Task, seed: int
) -> Entry:
    """One cell of the table; here finished predictions meet the labels of test."""
    correct = np.stack([answer.predicted == task.test_labels for answer, _ in answers])
    return Entry(
        representation=row,
        protocol=name,
        version=protocol.version,
        correct=correct,
        accuracy=float(correct.mean()),
        interval=interval(correct, seed),
        mean_per_class=float(
            np.mean([mean_per_class_accuracy(answer.predicted, task.test_labels) for answer, _ in answers])
        ),
        held_out_accuracy=float(np.mean([answer.held_out for answer, _ in answers])),
        chosen=tuple(answer.chosen for answer, _ in answers),
        seconds=sum(seconds for _, seconds in answers),
    )


def _differences(entries: dict[tuple[str, str], Entry], protocols: tuple[str, ...], seed: int) -> Iterator[Compared]:
    """To every baseline under the same protocol; where a protocol reads no baseline but random weights, under all."""
    for protocol in protocols:
        ours = entries[THIS_ENCODER, protocol]
        for (row, name), theirs in entries.items():
            comparable = name == protocol or (row in BASELINES and PROTOCOLS[protocol].reads_tokens)
            if row != THIS_ENCODER and comparable:
                yield Compared(
                    protocol=protocol,
                    row=THIS_ENCODER,
                    baseline=row,
                    baseline_protocol=name if name != protocol else "",
                    metric="accuracy",
                    difference=ours.accuracy - theirs.accuracy,
                    interval=paired_interval(ours.correct, theirs.correct, seed),
                )


def _home(encoder: FrozenEncoder) -> torch.device:
    return next(encoder.parameters()).device
