"""Another encoder for the table of an evaluation."""

from __future__ import annotations

from collections.abc import Callable

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
    for line in [f"Beside it: {source}", *(f"  {each}" for each in fill_encoder(other, read))]:
        say(line)
    return other.to(next(encoder.parameters()).device).eval()
