"""The losses of 20 steps per method, recorded once: a refactor leaves them as they are.

`python tests/golden/test_golden.py` records them anew, which belongs into a commit that says why they changed.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contextae.encoder import EncoderConfig
from contextae.experiment import METHODS, Experiment
from contextae.methods.cae import CAEConfig
from contextae.methods.cae_v2 import CAEv2Config
from contextae.methods.mae import MAEConfig
from contextae.randomness import stream
from contextae.settings import CropConfig, DataConfig

STEPS = 20
CONFIGS = {
    "cae": CAEConfig(regressor_depth=2, decoder_depth=1, mask_ratio=0.4),
    "cae_v2": CAEv2Config(
        regressor_depth=2, mask_ratio=0.4, target="features:timm:test_efficientnet=random", target_size=(32, 40)
    ),
    "mae": MAEConfig(decoder_depth=2, decoder_width=20, decoder_num_heads=2),
}

# In float32 another order of summation (vector width, BLAS, fused kernels) moves these losses by about 1e-6 of
# themselves: a run in float64 is 7e-7 away. The tolerance leaves room for a thousand times that on other machines and
# versions; the smallest of the planted changes below moves a loss by 1.3 %.
TOLERANCE = 2e-3
PLANTED: dict[str, dict[str, Any]] = {
    "alignment weight 1.9": {"method.alignment_weight": 1.9},
    "learning rate 5 % higher": {"optimizer.lr_per_256_images": 1.05e-3},
    "one more patch masked": {"method.mask_ratio": 0.43},
    "another layer scale": {"encoder.layer_scale": 0.12},
    "stochastic depth off": {"encoder.drop_path": 0.0},
    "raw pixels": {"method.normalise_target": False},
}


def experiment_of(name: str) -> Experiment:
    """35 patches, 14 of them masked, stochastic depth on; images of the network's own size are not resampled."""
    return Experiment(
        data=DataConfig(source="random", image_size=(20, 28)),
        crop=CropConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        encoder=EncoderConfig(patch_size=(4, 4), width=24, depth=3, num_heads=2, drop_path=0.2),
        method=CONFIGS[name],
    ).with_values({"optimizer.lr_per_256_images": 1e-3, "data.mean": [0.5] * 3, "data.deviation": [0.25] * 3})


def collated(views: list[Any]) -> Any:
    """Views with a leading batch axis, as tensors; pixels about -2 to 2."""
    if views[0] is None:
        return None
    if isinstance(views[0], tuple):
        return type(views[0])(*(collated(list(part)) for part in zip(*views, strict=True)))
    stacked = torch.from_numpy(np.stack(views))
    return (stacked.float() / 255 - 0.5) / 0.25 if stacked.dtype == torch.uint8 else stacked


def losses(experiment: Experiment, *, dtype: torch.dtype = torch.float32) -> list[dict[str, float]]:
    """Total and parts of each step: 6 smooth random images with new masks every step, AdamW."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images = coarse // 2 + rng.integers(0, 128, coarse.shape, dtype=np.uint8)
    views = experiment.build_views()
    torch.manual_seed(0)
    method = experiment.build_method(3).to(dtype)
    optimizer = torch.optim.AdamW(method.parameters(), lr=experiment.optimizer.lr_per_256_images)
    steps = []
    for step in range(STEPS):
        batch = collated([views(image, stream(0, "view", step, i)) for i, image in enumerate(images)])
        second = None if batch.second is None else batch.second.to(dtype)
        loss = method(batch._replace(images=batch.images.to(dtype), second=second))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        steps.append({"total": loss.total.item(), **{key: part.item() for key, part in loss.parts.items()}})
    return steps


def recorded(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def furthest(steps: list[dict[str, float]], golden: list[dict[str, float]]) -> float:
    """The largest relative deviation of any number of any step."""
    assert len(steps) == len(golden) and all(set(a) == set(b) for a, b in zip(steps, golden, strict=True))
    return max(abs(a[key] / b[key] - 1) for a, b in zip(steps, golden, strict=True) for key in b)


def test_every_method_has_its_curve() -> None:
    assert set(CONFIGS) == set(METHODS)
    assert {path.stem for path in Path(__file__).parent.glob("*.json")} == set(METHODS)


@pytest.mark.parametrize("name", CONFIGS)
def test_twenty_steps_are_the_recorded_ones(name: str) -> None:
    golden = recorded(name)
    deviation = furthest(losses(experiment_of(name)), golden["losses"])
    assert deviation < TOLERANCE, f"{deviation:.2g} from what {golden['made_by']} recorded"


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_change_would_be_noticed(planted: str) -> None:
    changed = experiment_of("cae").with_values(PLANTED[planted])
    assert furthest(losses(changed), recorded("cae")["losses"]) > 2 * TOLERANCE


def test_the_order_of_summation_would_not() -> None:
    assert furthest(losses(experiment_of("cae"), dtype=torch.float64), recorded("cae")["losses"]) < TOLERANCE / 100


def record(name: str) -> None:
    made_by = {package: version(package) for package in ("contextae", "torch", "timm", "numpy", "pillow")}
    made_by |= {"python": platform.python_version(), "machine": platform.machine()}
    text = json.dumps({"made_by": made_by, "losses": losses(experiment_of(name))}, indent=1)
    (Path(__file__).parent / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in CONFIGS:
        record(each)
