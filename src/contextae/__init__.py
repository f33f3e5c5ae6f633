"""contextae: pretrain Vision Transformers on your own unlabelled images with a Context Autoencoder.

    method = contextae.cae(image_size=(32, 32), patch_size=(4, 4), width=128, depth=6, num_heads=4)
    loss = method(contextae.mask_images(images, masker, seed=0))
    encoder, transform = contextae.load("RUN")

Names are looked up when first used, so that importing the package imports neither torch nor timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "BlockMasker": "contextae.masking",
    "CAE": "contextae.methods.cae",
    "Decoder": "contextae.decoder",
    "Encoder": "contextae.encoder",
    "Experiment": "contextae.experiment",
    "Grid": "contextae.grid",
    "Loss": "contextae.methods.method",
    "Mask": "contextae.masking",
    "MaskedView": "contextae.methods.views",
    "Pixels": "contextae.targets",
    "RandomMasker": "contextae.masking",
    "Regressor": "contextae.regressor",
    "UserError": "contextae.errors",
    "cae": "contextae.plain",
    "evaluate": "contextae.verbs.evaluate",
    "load": "contextae.pretrained",
    "mask_images": "contextae.plain",
}

__all__ = [
    "CAE",
    "BlockMasker",
    "Decoder",
    "Encoder",
    "Experiment",
    "Grid",
    "Loss",
    "Mask",
    "MaskedView",
    "Pixels",
    "RandomMasker",
    "Regressor",
    "UserError",
    "__version__",
    "cae",
    "evaluate",
    "load",
    "mask_images",
]

if TYPE_CHECKING:
    from contextae.decoder import Decoder
    from contextae.encoder import Encoder
    from contextae.errors import UserError
    from contextae.experiment import Experiment
    from contextae.grid import Grid
    from contextae.masking import BlockMasker, Mask, RandomMasker
    from contextae.methods.cae import CAE
    from contextae.methods.method import Loss
    from contextae.methods.views import MaskedView
    from contextae.plain import cae, mask_images
    from contextae.pretrained import load
    from contextae.regressor import Regressor
    from contextae.targets import Pixels
    from contextae.verbs.evaluate import evaluate


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'contextae' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
