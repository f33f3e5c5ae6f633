"""What a method costs: matrix products counted by hand, and the published figures of CAE-B."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from contextae.encoder import EncoderConfig
from contextae.grid import Grid
from contextae.masking import Mask
from contextae.methods.cae import CAEConfig
from contextae.methods.method import Loss, Trainable
from contextae.methods.views import MaskedView
from contextae.presets import preset
from contextae.targets import Pixels
from contextae.training.cost import Cost, measure_cost
from contextae.verbs.show import cost_of

GRID = Grid(image_size=(10, 21), patch_size=(2, 3), channels=5)  # 35 patches of 30 values
MASKED, VISIBLE = 13, 22
TRUNK = EncoderConfig(patch_size=(2, 3), width=24, depth=3, num_heads=3, mlp_ratio=2.5, layer_scale=0.1)
CONFIG = CAEConfig(regressor_depth=2, decoder_depth=1, decoder_width=18, decoder_num_heads=2)


def meta_batch(grid: Grid, masked: int, images: int) -> MaskedView:
    with torch.device("meta"):
        counts = (grid.num_patches - masked, masked)
        mask = Mask(*(torch.zeros(images, n, dtype=torch.int64) for n in counts))
        shown = torch.zeros(images, grid.channels, *grid.image_size)
        return MaskedView(shown, mask, torch.zeros(images, dtype=torch.int64))


def small() -> Any:
    with torch.device("meta"):
        return CONFIG.build(TRUNK, image_size=GRID.image_size, channels=5, target=Pixels(grid=GRID))


@functools.cache
def cost_of_small(images: int = 4) -> Cost:
    return measure_cost(small(), meta_batch(GRID, MASKED, images), images)


# --- by hand: multiply-adds of every matrix product of one image


def block(tokens: int, width: int, ratio: float) -> int:
    """Queries, keys and values; scores and their weighted sum; the way out; two layers of the MLP."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * int(ratio * width)


def cross_block(masked: int, visible: int, width: int, ratio: float) -> int:
    """Queries and way out of masked tokens, keys and values of all of them."""
    both = masked + visible
    attention = 2 * masked * width**2 + 2 * both * width**2 + 2 * masked * both * width
    return attention + 2 * masked * width * int(ratio * width)


def encoder(patches: int, values: int, width: int, depth: int, ratio: float) -> int:
    return patches * values * width + depth * block(1 + patches, width, ratio)


def by_hand() -> dict[str, int]:
    return {
        "encoder": encoder(VISIBLE, 30, 24, 3, 2.5) + VISIBLE * 24 * 18,
        "regressor": 2 * cross_block(MASKED, VISIBLE, 18, 2.5),
        "decoder": block(MASKED, 18, 2.5) + MASKED * 18 * 30,
        "alignment": encoder(MASKED, 30, 24, 3, 2.5) + MASKED * 24 * 18,
    }


def test_forward_flops_are_those_of_the_matrix_products() -> None:
    assert cost_of_small().forward_flops == 2 * sum(by_hand().values())


def test_a_step_is_forward_and_twice_as_much_backward_but_for_what_gets_no_gradient() -> None:
    """The alignment branch is forward alone; nobody asks for the gradient of pixels or of the class token's output."""
    parts = by_hand()
    trained = sum(parts.values()) - parts["alignment"]
    pixels = VISIBLE * 30 * 24
    assert cost_of_small().step_flops == 2 * (sum(parts.values()) + 2 * trained - pixels)


def test_parameters_are_counted_once_and_apart_where_nothing_trains_them() -> None:
    method, cost = small(), cost_of_small()
    assert cost.parameters == sum(weight.numel() for weight in method.parameters())
    untrained = 2 * 18  # norm_k.bias of two blocks of the regressor
    assert cost.trained == cost.parameters - untrained
    attention, mlp, width = 4 * 24**2 + 3 * 24, 2 * 24 * 60 + 60 + 24, 24
    blocks = 3 * (attention + mlp + 4 * width + 2 * width)  # and two norms, two layer scales
    assert cost.encoder == 30 * 24 + 24 + 24 + blocks + 2 * 24


def test_memory_of_weights_gradients_and_moments_in_float32() -> None:
    cost = Cost(parameters=1000, trained=900, encoder=0, forward_flops=0, step_flops=0, activation_bytes=0)
    assert cost.state_bytes == 4 * (1000 + 900 + 2 * 900)
    assert cost.checkpoint_bytes == 4 * (1000 + 2 * 900)


def test_activations_grow_linearly_with_the_images() -> None:
    """What every image shares, masks of positions and such, is small beside them and spread over a batch."""
    totals = {n: n * cost_of_small(n).activation_bytes for n in (2, 5, 8)}
    one = (totals[8] - totals[2]) / 6
    assert (totals[5] - totals[2]) / 3 == pytest.approx(one, rel=1e-3)
    assert 0.95 < cost_of_small(8).activation_bytes / one < 1.05
    assert cost_of_small(2).forward_flops == cost_of_small(5).forward_flops
    assert cost_of_small(2).step_flops == cost_of_small(5).step_flops


class Linear(Trainable):
    """y = (x W).relu() summed: what its backward pass needs can be counted on one hand."""

    def __init__(self, *, frozen: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(7, 11, device="meta"))
        self.frozen = torch.nn.Parameter(torch.zeros(3, device="meta"), requires_grad=not frozen)

    def forward(self, batch: Any) -> Loss:
        total = (batch @ self.weight).relu().sum() + self.frozen.sum()
        return Loss(total, {})


def test_activations_are_what_the_backward_pass_keeps_without_the_weights() -> None:
    cost = measure_cost(Linear(frozen=True), torch.zeros(5, 7, device="meta"), 5)
    assert cost == Cost(
        parameters=80,
        trained=77,
        encoder=0,
        forward_flops=2 * 7 * 11,
        step_flops=2 * 2 * 7 * 11,  # the input needs no gradient
        activation_bytes=4 * (7 + 11),  # the input, and where the ReLU was open
    )


def test_activations_are_those_of_a_real_training_step() -> None:
    """Of tensors with values: bytes that autograd keeps alive, each storage once, weights left out."""
    method = CONFIG.build(TRUNK, image_size=GRID.image_size, channels=5, target=Pixels(grid=GRID))
    masks = [torch.randperm(35) for _ in range(4)]
    mask = Mask(torch.stack([m[:VISIBLE] for m in masks]), torch.stack([m[VISIBLE:] for m in masks]))
    batch = MaskedView(torch.randn(4, 5, 10, 21), mask, torch.arange(4))
    own = {weight.untyped_storage().data_ptr() for weight in method.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method(batch).total.backward()
    assert cost_of_small().activation_bytes == pytest.approx(sum(kept.values()) / 4, rel=0.02)


def test_cae_base_costs_what_was_estimated_of_it() -> None:
    """The fact sheet, 1.3, in 10^9 multiply-adds with 98 of 196 masked: E 8.6, E' 8.6, R 3.4, D 3.5 with its head of
    8,192 codes; 148.7 million trained parameters. With pixels, the preset's own target, the head alone differs."""
    cost, _ = cost_of(preset("cae_base", "DATA").with_settings(["method.target=codes:DALLE"]))
    assert cost.forward_flops / 2e9 == pytest.approx(8.6 + 8.6 + 3.4 + 3.5, rel=0.003)
    assert cost.trained / 1e6 == pytest.approx(148.7, abs=0.05)
    assert cost.encoder / 1e6 == pytest.approx(85.8 - 0.15, abs=0.05), "without the table of positions"
    by_part = {
        "E": encoder(98, 768, 768, 12, 4),
        "R": 4 * cross_block(98, 98, 768, 4),
        "D": 4 * block(98, 768, 4) + 98 * 768 * 8192,
    }
    assert [round(macs / 1e9, 1) for macs in by_part.values()] == [8.6, 3.4, 3.5]
    assert cost.forward_flops == 2 * (2 * by_part["E"] + by_part["R"] + by_part["D"])
    assert 2.2 < cost.step_flops / cost.forward_flops < 2.4, "below 3, because the alignment branch is forward alone"
    pixels, _ = cost_of(preset("cae_base", "DATA"))
    assert cost.forward_flops - pixels.forward_flops == 2 * 98 * 768 * (8192 - 768)
    assert cost.trained - pixels.trained == 769 * (8192 - 768)
