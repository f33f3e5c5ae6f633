"""Does the label-free score know the better checkpoint? Its rank correlation with a linear probe over one run.

    python benchmarks/label_free.py RUN DATA [--fit 10000] [--held-out 2000]

For every checkpoint that RUN keeps (train with --set training.keep_checkpoints=100): the score in its manifest, which
chose the best one without labels, and the accuracy of linear probing, fitted and chosen on a part of DATA's train and
read on another part of train. The test split stays closed. Prints a table and Spearman's rank correlation with the
probability of one at least as far from 0 between unrelated rankings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from scipy.stats import spearmanr

from contextae.data.images import load_images
from contextae.data.sources import open_labelled
from contextae.evaluation import linear
from contextae.evaluation.features import extract
from contextae.pretrained import load_encoder
from contextae.randomness import permutation, stream
from contextae.training.manifest import read_manifest
from contextae.training.stored import stored_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--fit", type=int, default=10_000)
    parser.add_argument("--held-out", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _, origin = load_encoder(arguments.run)
    train = open_labelled(arguments.data, channels=origin.channels).train
    order = permutation(len(train), stream(0, "label-free"))
    held_out = min(arguments.held_out, len(order) // 4)
    parts = []
    for positions in (order[held_out:][: arguments.fit], order[:held_out]):
        part = train.subset(sorted(positions))
        loaded = load_images(part, origin.experiment.data.image_size, channels=origin.channels)
        assert part.labels is not None  # open_labelled gives no index without
        parts.append((loaded.images, torch.from_numpy(part.labels[loaded.positions]).long()))
    print(
        f"{arguments.run}: linear probes fitted on {len(parts[0][0]):,} images of train, read on {len(parts[1][0]):,}"
    )
    scores, accuracies = [], []
    for step, folder in stored_steps(arguments.run / "checkpoints").items():
        score = read_manifest(folder).score
        if score is None:
            continue
        encoder, _ = load_encoder(arguments.run, checkpoint=str(step))
        fit, read = (
            extract(encoder, images, mean=origin.transform.mean, deviation=origin.transform.deviation).vectors
            for images, _ in parts
        )
        probe = linear.fit(fit, parts[0][1], num_classes=int(parts[0][1].max()) + 1)
        accuracies.append(100 * (probe.predict(read) == parts[1][1]).float().mean().item())
        scores.append(score)
        print(f"step {step:7,d}  score {score:8.4f}  linear {accuracies[-1]:5.1f} % ({probe.features})", flush=True)
    found = spearmanr(scores, accuracies)
    best = max(range(len(scores)), key=scores.__getitem__)
    print(
        f"Spearman's rank correlation {found.statistic:+.2f} over {len(scores)} checkpoints (p = {found.pvalue:.3f}); "
        f"the one chosen without labels has {accuracies[best]:.1f} %, the best {max(accuracies):.1f} %"
    )


if __name__ == "__main__":
    main()
