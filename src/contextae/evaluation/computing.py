"""What a frozen network makes of both parts of a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from contextae.evaluation.baselines import Computed
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.features import FrozenEncoder, Precision, extract
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.representation import Representation
from contextae.evaluation.task import Task


def computed(
    network: FrozenEncoder,
    task: Task,
    *,
    mean: Sequence[float],
    deviation: Sequence[float],
    batch_size: int,
    device: torch.device,
    precision: Precision,
    cache: FeatureCache | None,
    progress: Progress | None,
    with_tokens: bool = False,
) -> Computed:
    """Summaries and mean latents, and where asked for all tokens, of train and of test."""
    total = len(task.train_images) + len(task.test_images)
    parts, done = [], 0
    for images in (task.train_images, task.test_images):
        features = extract(
            network,
            images,
            mean=mean,
            deviation=deviation,
            with_tokens=with_tokens,
            batch_size=batch_size,
            device=device,
            precision=precision,
            cache=cache,
            progress=part_of(progress, "", done / total, (done + len(images)) / total),
        )
        done += len(images)
        parts.append(Representation(vectors=features.vectors, tokens=features.tokens, num_heads=network.num_heads))
    return Computed(parts[0], parts[1], f"{' or '.join(parts[0].vectors)}, {network.width:,} values")
