"""Settings of a run that could have made published weights, so that they can be used like a run's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.experiment import Experiment, parse
from contextae.interop.trunk import has_layer_scale, mlp_ratio
from contextae.methods.cae import CAE
from contextae.methods.cae_v2 import CAEv2, CAEv2Config
from contextae.regressor import RegressorBlock

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of the published CAE's images
TOKENIZER = "codes:tokenizer.safetensors"  # the file of the tokenizer is not part of the weights


class Described(NamedTuple):
    """The settings, and whether they describe the whole method or its encoder alone."""

    experiment: Experiment
    whole: bool


def normalisation(
    channels: int, mean: Sequence[float] | None, deviation: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and deviation per channel of values in 0..1, and a sentence about them; ImageNet's of 3 channels."""
    if mean is None and deviation is None and channels == 3:
        said = "those of ImageNet, as in the published recipes; --mean and --deviation set others"
        return *IMAGENET, f"Images are normalised by mean {IMAGENET[0]} and deviation {IMAGENET[1]}, {said}."
    if mean is None or deviation is None or not len(mean) == len(deviation) == channels:
        raise UserError(
            f"--mean and --deviation need one number for each of the {channels} channel(s), of values in 0..1, such "
            f"as --mean 0.5,0.5,0.5. Got {mean and list(mean)} and {deviation and list(deviation)}; give both."
        )
    return (
        tuple(mean),
        tuple(deviation),
        f"Images are normalised by mean {tuple(mean)} and deviation {tuple(deviation)}.",
    )


def described(
    module: CAE | CAEv2 | Encoder, *, source: str, mean: Sequence[float], deviation: Sequence[float], target: str | None
) -> Described:
    """Settings that build the same network; of its encoder alone where regressor and decoder differ from the trunk."""
    encoder = module if isinstance(module, Encoder) else module.encoder
    tree: dict[str, Any] = {
        "data": {
            "source": f"unknown: converted from {source}",
            "image_size": list(encoder.grid.image_size),
            "channels": encoder.grid.channels,
            "mean": list(mean),
            "deviation": list(deviation),
        },
        "encoder": {
            "patch_size": list(encoder.grid.patch_size),
            "width": encoder.width,
            "depth": encoder.depth,
            "num_heads": encoder.num_heads,
            "mlp_ratio": mlp_ratio(encoder),
            "layer_scale": 0.1 if has_layer_scale(encoder) else None,  # that there is one; its values are weights
        },
    }
    origin = "The settings read from these weights"
    if not isinstance(module, Encoder):
        whole = parse({**tree, "method": _method(module, target)}, origin=origin)
        if _builds(whole, module):
            return Described(whole, True)
    return Described(parse(tree, origin=origin), False)


def regressor_heads(module: CAE | CAEv2) -> int:
    """Attention heads of its regressor, and so of its decoder."""
    block = module.regressor.blocks[0]
    assert isinstance(block, RegressorBlock)
    return block.attn.num_heads


def _method(module: CAE | CAEv2, target: str | None) -> dict[str, Any]:
    width, depth = module.regressor.mask_query.shape[0], len(module.regressor.blocks)
    heads = regressor_heads(module)
    if isinstance(module, CAEv2):
        return {
            "name": "cae_v2",
            "regressor_depth": depth,
            "regressor_width": width,
            "regressor_num_heads": heads,
            "target": target or CAEv2Config.model_fields["target"].default,
        }
    return {
        "name": "cae",
        "regressor_depth": depth,
        "decoder_depth": len(module.decoder.blocks),
        "decoder_width": width,
        "decoder_num_heads": heads,
        "target": target or TOKENIZER,
    }


def _builds(experiment: Experiment, module: CAE | CAEv2) -> bool:
    """Whether these settings give tensors of the same names and shapes; tried without memory for them."""
    method, data = experiment.method, experiment.data
    with torch.device("meta"):
        built = method.build(  # type: ignore[call-arg]
            experiment.encoder,
            image_size=data.image_size,
            channels=module.encoder.grid.channels,
            target=module.target,
        )
    return {n: t.shape for n, t in built.state_dict().items()} == {n: t.shape for n, t in module.state_dict().items()}
