"""Another encoder for the table of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from contextae.encoder import Encoder, EncoderConfig
from contextae.interop.start import encoder_settings, fill_encoder
from contextae.pretrained import Origin
from contextae.verbs.init import absolute_init, read_source


def encoder_beside(source: str, encoder: Encoder, origin: Origin, say: Callable[[str], None]) -> Encoder:
    """Other weights, of a timm network, a run or a file, for the same images; what is adapted is said."""
    read = read_source(absolute_init(source))
    settings = {name.removeprefix("encoder."): value for name, value in encoder_settings(read).items()}
    config = EncoderConfig(**settings, patch_size=origin.experiment.encoder.patch_size)
    other = config.build(image_size=origin.experiment.data.image_size, channels=origin.channels)
    lines = fill_encoder(other, read)
    if read.mean is None or read.deviation is None or len(read.mean) != origin.channels:
        lines.append(
            "its mean and deviation are not known for these channels: it is given images as this run's encoder is"
        )
    else:
        seen = origin.transform
        if (tuple(read.mean), tuple(read.deviation)) != (tuple(seen.mean), tuple(seen.deviation)):
            expect(other, read.mean, read.deviation, instead_of=(seen.mean, seen.deviation))
            lines.append("images are normalised by its own mean and deviation")
    for line in [f"Beside it: {source}", *(f"  {each}" for each in lines)]:
        say(line)
    return other.to(next(encoder.parameters()).device).eval()


@torch.no_grad()
def expect(
    encoder: Encoder,
    mean: Sequence[float],
    deviation: Sequence[float],
    *,
    instead_of: tuple[Sequence[float], Sequence[float]],
) -> None:
    """Lets it take images normalised by other numbers than its own mean and deviation, by its patch embedding.

    Where z was normalised by m and s, what it expects is (z s + m - mean) / deviation.
    """
    own, own_spread = (torch.tensor(list(each), dtype=torch.float64) for each in (mean, deviation))
    m, s = (torch.tensor(list(each), dtype=torch.float64) for each in instead_of)
    embedding = encoder.patch_embed
    weight = embedding.weight.double().reshape(len(embedding.weight), len(m), -1)  # values by channel, row, column
    shift = (weight * ((m - own) / own_spread)[:, None]).sum((1, 2))
    embedding.weight.copy_((weight * (s / own_spread)[:, None]).reshape(embedding.weight.shape))
    embedding.bias.copy_(embedding.bias.double() + shift)
