"""Mean and deviation of each channel, from a sample of the user's own images; ImageNet's are never assumed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from contextae.data.decode import BadImage, decode, quiet
from contextae.data.index import Index, printable
from contextae.errors import UserError
from contextae.randomness import permutation, stream

FLOOR = 1 / 255
"Below one gray level a channel is constant; dividing by less would turn its noise into signal."
PIXELS, AT_LEAST = 1_000_000_000, 64
"Of large images fewer are read, so that the sample takes seconds: at least 64, and no more than 10^9 pixels beyond."


def channel_statistics(
    index: Index, channels: int, *, limit: int = 2000, seed: int = 0, threads: int = 4
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of values in 0..1, over at most `limit` images drawn by `seed`.

    Each image counts the same, whatever its size, as each is seen at one size in training. Images that cannot be
    decoded are passed over here and met again, by name, in training; UserError where none can.
    """
    positions = sample(index, limit, seed)

    def moments(position: int) -> np.ndarray | str:
        """Means of the values and of their squares, 2 c."""
        try:
            image = decode(index.read(position), channels=channels)
        except BadImage as error:
            return error.reason
        counts = np.stack([np.bincount(image[:, :, c].ravel(), minlength=256) for c in range(channels)])
        values = np.arange(256) / 255
        return np.stack([counts @ values, counts @ values**2]) / counts[0].sum()

    with quiet(), ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(moments, positions))
    found = [result for result in results if not isinstance(result, str)]
    if not found:
        raise UserError(
            f"None of {len(positions):,} images drawn from {index.title} can be decoded, the first of them, "
            f"{printable(index.ids[positions[0]])}, for this reason: {results[0]}. Replace them."
        )
    mean, square = np.mean(found, axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, FLOOR**2))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def sample(index: Index, limit: int, seed: int) -> list[int]:
    """Positions drawn by `seed`, fewer where their pixels, by the headers, are very many."""
    drawn = np.array(permutation(len(index), stream(seed, "statistics"))[:limit])
    pixels = np.cumsum(index.facts["width"][drawn].astype(np.int64) * index.facts["height"][drawn])
    return [int(i) for i in drawn[: max(AT_LEAST, int((pixels <= PIXELS).sum()))]]
