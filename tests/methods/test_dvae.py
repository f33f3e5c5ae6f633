"""Training of the d-VAE: its three parts by hand, the relaxed choice, and what moves besides the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from contextae.data.augment import Crop
from contextae.encoder import EncoderConfig
from contextae.methods.dvae import DVAEConfig, DVAETraining
from contextae.methods.views import PlainView, PlainViews
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.usage import measure_usage
from networks import largest, shake

MEAN, DEVIATION = (0.3, 0.6), (0.2, 0.1)  # of two channels
CODES = 13


def training(
    *,
    first: float = 0.9,
    last: float = 0.1,
    kl_weight: float = 0.7,
    usage_weight: float = 0.3,
) -> DVAETraining:
    torch.manual_seed(0)
    method = DVAETraining(
        dvae=DVAE(channels=2, num_codes=CODES, stride=4, width=12),
        first_temperature=first,
        last_temperature=last,
        kl_weight=kl_weight,
        usage_weight=usage_weight,
        mean=MEAN,
        deviation=DEVIATION,
    )
    shake(method)
    return method


def batch(size: int = 3) -> PlainView:
    """Normalised images of 3 x 5 codes."""
    generator = torch.Generator().manual_seed(4)
    return PlainView(torch.randn(size, 2, 12, 20, generator=generator), torch.arange(100, 100 + size))


def in_pixels(images: Tensor) -> Tensor:
    return images * torch.tensor(DEVIATION).reshape(-1, 1, 1) + torch.tensor(MEAN).reshape(-1, 1, 1)


# --- temperature


def test_the_temperature_falls_along_a_half_cosine() -> None:
    method = training(first=0.9, last=0.1)
    assert float(method.temperature) == pytest.approx(0.9)
    for progress, expected in ((0.0, 0.9), (0.25, 0.5 + 0.4 * math.sqrt(0.5)), (0.5, 0.5), (0.75, 0.5 - 0.4 * 0.70711)):
        method.after_step(progress)
        assert float(method.temperature) == pytest.approx(expected, rel=1e-5)
    method.after_step(1.0)
    assert float(method.temperature) == pytest.approx(0.1, rel=1e-5)


def test_the_temperature_moves_nowhere_else_and_is_part_of_the_state() -> None:
    method = training()
    method.after_step(0.4)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert set(before) == {"temperature", *(f"dvae.{name}" for name in method.dvae.state_dict())}
    for mode in (True, False):
        method.train(mode)(batch()).total.backward()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    other = training(first=0.5)
    other.load_state_dict(before)
    assert torch.equal(other.temperature, method.temperature) and float(other.temperature) != 0.5


def test_a_lower_temperature_makes_the_choice_harder() -> None:
    method, chosen = training(), []
    method.dvae.images = lambda weights: chosen.append(weights.detach()) or torch.zeros(3, 2, 12, 20)  # type: ignore[method-assign]
    for progress in (0.0, 1.0):
        method.after_step(progress)
        method(batch())
    assert all(torch.allclose(each.sum(1), torch.ones(3, 3, 5), atol=1e-5) for each in chosen)
    soft, hard = (each.amax(1).mean().item() for each in chosen)
    assert soft < 0.7 < 0.9 < hard
    assert torch.equal(chosen[0].argmax(1), chosen[1].argmax(1)), "with the same noise"


# --- noise


def test_noise_is_a_function_of_the_key_alone() -> None:
    like = torch.zeros(3, CODES, 3, 5)
    keys = torch.tensor([7, 2**62 - 1, 8])
    state = torch.get_rng_state()
    noise = DVAETraining._noise(keys, like)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(DVAETraining._noise(keys, like), noise)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(DVAETraining._noise(keys[order], like), noise[order]), "whatever the place in the batch"
    assert torch.equal(DVAETraining._noise(keys[1:2], like[:1]), noise[1:2]), "and whoever else is in it"
    assert all(largest(noise[i] - noise[j]) > 0.1 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_noise_is_gumbels() -> None:
    """Mean 0.5772, deviation pi / sqrt(6); adding it to logits draws codes with their own probabilities."""
    noise = DVAETraining._noise(torch.arange(40), torch.zeros(40, 3, 40, 40))
    assert torch.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    shares = torch.tensor([0.1, 0.3, 0.6])
    drawn = (shares.log().reshape(1, 3, 1, 1) + noise).argmax(1).flatten().bincount() / 64_000
    assert drawn.tolist() == pytest.approx(shares.tolist(), abs=0.01)


def test_a_sample_has_the_same_loss_at_another_place_of_the_batch() -> None:
    method, one = training(usage_weight=0.0), batch()
    order = torch.tensor([2, 0, 1])
    other = method(PlainView(one.images[order], one.key[order]))
    assert other.total.item() == pytest.approx(method(one).total.item(), rel=1e-5)
    exchanged = method(PlainView(one.images, one.key[order]))
    assert abs(exchanged.parts["reconstruction"] - other.parts["reconstruction"]) > 1e-4
    assert torch.equal(exchanged.parts["kl"], method(one).parts["kl"]), "which is about the choice before the noise"


# --- loss


def by_hand(method: DVAETraining, given: PlainView) -> dict[str, float]:
    """The parts in float64, place by place."""
    logits = method.dvae.logits(in_pixels(given.images)).double()
    noise = DVAETraining._noise(given.key, logits.float()).double()
    relaxed = ((logits + noise) / method.temperature.double()).softmax(1)
    decoded = method.dvae.images(relaxed.float()).double()
    # in units of the images' deviation, normalised images are what the decoder should give
    seen = (decoded - torch.tensor(MEAN).reshape(-1, 1, 1)) / torch.tensor(DEVIATION).reshape(-1, 1, 1)
    kl, mean_choice = 0.0, torch.zeros(CODES, dtype=torch.double)
    places = logits.permute(0, 2, 3, 1).reshape(-1, CODES)
    for place in places:
        share = place.exp() / place.exp().sum()
        kl += sum(float(p) * math.log(float(p) * CODES) for p in share) / len(places)
        mean_choice += share.detach() / len(places)
    usage = -sum(float(p) * math.log(float(p)) for p in mean_choice)
    return {"reconstruction": float((seen - given.images).square().mean()), "kl": kl, "usage": usage}


@torch.no_grad()
def test_the_parts_of_the_loss_and_their_weights() -> None:
    method, given = training(kl_weight=0.7, usage_weight=0.3), batch()
    method.after_step(0.3)
    loss, expected = method(given), by_hand(method, given)
    assert set(loss.parts) == set(expected)
    for name, value in expected.items():
        assert float(loss.parts[name]) == pytest.approx(value, rel=1e-4), name
    total = expected["reconstruction"] + 0.7 * expected["kl"] - 0.3 * expected["usage"]
    assert loss.total.item() == pytest.approx(total, rel=1e-4)
    assert expected["kl"] > 0.05 and expected["reconstruction"] > 0.5, "or the weights would not show"


def with_logits(method: DVAETraining, logits: Tensor) -> DVAETraining:
    method.dvae.logits = lambda images: logits  # type: ignore[method-assign]
    return method


def test_divergence_and_usage_are_in_nats() -> None:
    """Sure of one code: ln K from uniform. Each place sure of another: all used. Sure of nothing: no divergence."""
    sure = torch.full((3, CODES, 3, 5), -200.0)
    same, even = sure.clone(), torch.zeros(3, CODES, 3, 5)
    same[:, 5] = 200.0
    spread = sure.permute(0, 2, 3, 1).reshape(-1, CODES).clone()
    spread[torch.arange(45), torch.arange(45) % 9] = 200.0  # nine codes, five places each
    spread = spread.reshape(3, 3, 5, CODES).permute(0, 3, 1, 2)
    found = {
        name: with_logits(training(), logits)(batch()).parts
        for name, logits in (("same", same), ("spread", spread), ("even", even))
    }
    assert [float(found[name]["kl"]) for name in found] == pytest.approx([math.log(CODES)] * 2 + [0], abs=1e-5)
    assert [float(found[name]["usage"]) for name in found] == pytest.approx([0, math.log(9), math.log(CODES)], abs=1e-5)


def test_a_code_whose_share_underflows_to_zero_leaves_the_gradient_finite() -> None:
    """As after some thousand steps, when a code has not been chosen for long."""
    logits = torch.zeros(3, CODES, 3, 5)
    logits[:, 4] = -200.0
    logits.requires_grad_()
    with_logits(training(), logits)(batch()).total.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0


def test_usage_is_at_most_the_logarithm_of_the_number_of_codes() -> None:
    for seed in range(20):
        logits = 3 * torch.randn(3, CODES, 3, 5, generator=torch.Generator().manual_seed(seed))
        parts = with_logits(training(), logits)(batch()).parts
        assert 0 <= float(parts["usage"]) <= math.log(CODES) + 1e-6 and float(parts["kl"]) >= 0


def test_parts_are_detached_and_bfloat16_is_close() -> None:
    method, given = training(), batch()
    exact = method(given)
    assert exact.total.requires_grad and not any(part.requires_grad for part in exact.parts.values())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method(given)
    assert rounded.total.dtype == torch.float32 and not torch.equal(rounded.total, exact.total)
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.03)


def test_every_parameter_gets_a_gradient() -> None:
    method = training()
    method(batch()).total.backward()
    for name, weight in method.named_parameters():
        assert weight.requires_grad and weight.grad is not None and largest(weight.grad) > 1e-7, name


def test_gradients_reach_the_encoder_through_the_relaxed_choice() -> None:
    method = training(kl_weight=0.0, usage_weight=0.0)
    method(batch()).total.backward()
    assert largest(method.dvae.encoder[0].weight.grad) > 1e-4


# --- learning


def test_a_short_training_learns() -> None:
    """Twelve images of flat patches in six colours. Measured over three seeds: the error falls from 1.5 to 1.7 times
    the variance to 0.09 to 0.26 of it, 7 to 12 codes are in use, perplexity 4.0 to 7.5."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.2, 0.8], [0.8, 0.9], [0.5, 0.5], [0.1, 0.9]])
    which = torch.randint(len(colours), (12, 3, 5), generator=generator)
    pixels = colours[which].permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    method = DVAEConfig(num_codes=16, width=16).build(
        EncoderConfig(patch_size=(4, 4)), channels=2, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist())
    )
    images = (pixels - mean.reshape(-1, 1, 1)) / deviation.reshape(-1, 1, 1)
    before = measure_usage(method.dvae, pixels)
    optimizer = torch.optim.AdamW(method.parameters(), lr=4e-3, weight_decay=0.0)
    steps = 160
    for step in range(steps):
        keys = torch.arange(12) + 1000 * step
        optimizer.zero_grad()
        method(PlainView(images, keys)).total.backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
    after = measure_usage(method.dvae, pixels)
    assert after.error_over_variance < 0.4 < 1.2 < before.error_over_variance, (before, after)
    assert after.used >= 5 and after.perplexity > 3, after


# --- settings


def test_the_config_builds_what_it_says() -> None:
    config = DVAEConfig(
        num_codes=19, width=24, first_temperature=0.8, last_temperature=0.2, kl_weight=0.4, usage_weight=0.05
    )
    method = config.build(EncoderConfig(patch_size=(8, 8)), channels=2, mean=MEAN, deviation=DEVIATION)
    dvae = method.dvae
    assert (dvae.channels, dvae.num_codes, dvae.stride, dvae.width) == (2, 19, 8, 24)
    assert (method.first_temperature, method.last_temperature) == (0.8, 0.2)
    assert (method.kl_weight, method.usage_weight) == (0.4, 0.05) and float(method.temperature) == pytest.approx(0.8)
    torch.testing.assert_close(method.mean.flatten(), torch.tensor(MEAN))
    torch.testing.assert_close(method.deviation.flatten(), torch.tensor(DEVIATION))
    crop = Crop(size=(16, 24))
    assert config.build_views(crop, (2, 3)) == PlainViews(crop=crop)
    config.check_grid((1, 1))


@pytest.mark.parametrize("patch_size", [(4, 8), (1, 1), (6, 6), (12, 12)])
def test_patches_that_cannot_be_codes_are_named(patch_size: tuple[int, int]) -> None:
    (problem,) = DVAEConfig().problems(EncoderConfig(patch_size=patch_size))
    assert problem == (
        "encoder.patch_size of a d-VAE is the pixels of a code: square, a power of two, 2 at least. Got "
        f"[{patch_size[0]}, {patch_size[1]}]"
    )


@pytest.mark.parametrize("patch_size", [(2, 2), (8, 8), (16, 16)])
def test_patches_that_can_be_codes_are_fine(patch_size: tuple[int, int]) -> None:
    assert DVAEConfig().problems(EncoderConfig(patch_size=patch_size)) == []
