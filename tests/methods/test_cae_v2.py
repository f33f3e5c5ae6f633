"""The paper's claims about CAE v2 as invariants. Where bits must agree, `equal`; where sums are reordered, 1e-5."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from contextae.encoder import EncoderConfig
from contextae.grid import Grid, patchify, unpatchify
from contextae.masking import Mask
from contextae.methods.cae_v2 import CAEv2, CAEv2Config
from contextae.methods.method import Trace
from contextae.methods.views import MaskedView
from contextae.targets import Features
from contextae.tokenizers.teacher import Teacher, open_teacher
from networks import GRIDS, IMAGE, ColourTeacher, largest, masked_batch, reordered, shuffles, small_cae_v2

WIDTHS = pytest.mark.parametrize("regressor_width", [None, 26], ids=["same width", "projected"])
EVERY_GRID = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
VISIBLE, MASKED = slice(1, 23), slice(23, 36)  # of 36 tokens: the class token, 22 visible patches, 13 masked ones


class UnrelatedTeacher:
    """As wide as CLIP's, and without a word about the images: noise that is the same for everyone."""

    width, image_size, name, trained_on = 512, (10, 21), "noise", None

    def to(self, device: torch.device) -> UnrelatedTeacher:
        return self

    def features(self, images: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(len(images), 1 + math.prod(grid), 512, generator=torch.Generator().manual_seed(3))


def with_other_pixels(batch: MaskedView, indices: torch.Tensor) -> MaskedView:
    """The batch with other values in the patches that `indices` name."""
    patches = patchify(batch.images, IMAGE)
    index = indices.unsqueeze(-1).expand(-1, -1, IMAGE.patch_values)
    return batch._replace(images=unpatchify(patches.scatter(1, index, 2 + torch.randn(index.shape)), IMAGE))


def taught(batch: MaskedView) -> torch.Tensor:
    """What the teacher of `small_cae_v2` says of the images: of the whole one, then of every patch."""
    return ColourTeacher().features(batch.images * 0.25 + 0.5, IMAGE.size)


def one_minus_cosine(prediction: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of each token, written out: both sides to unit length, one minus their product."""
    unit = [x.double() / x.double().square().sum(-1, keepdim=True).sqrt() for x in (prediction, wanted)]
    return 1 - (unit[0] * unit[1]).sum(-1)


def gradients(method: CAEv2, total: torch.Tensor) -> dict[str, torch.Tensor | None]:
    trained = [(name, weight) for name, weight in method.named_parameters() if weight.requires_grad]
    names, weights = zip(*trained, strict=True)
    return dict(zip(names, torch.autograd.grad(total, weights, allow_unused=True), strict=True))


@WIDTHS
def test_shapes_of_the_equations(regressor_width: int | None) -> None:
    z = small_cae_v2(decoder_width=regressor_width).equations(masked_batch())
    width = regressor_width or 22
    assert [tuple(part.shape) for part in z] == [(3, 22, width), (3, 13, width), (3, 36, 15), (3, 36, 15)]


def test_the_loss_is_the_mean_over_all_tokens_so_that_parts_weigh_by_their_number() -> None:
    method, batch = small_cae_v2(), masked_batch()
    loss, z = method(batch), method.equations(batch)
    by_token = one_minus_cosine(z.prediction, z.wanted).detach()
    assert by_token.shape == (3, 36)
    assert loss.total.item() == pytest.approx(by_token.sum().item() / (3 * 36), rel=1e-5)
    means = {"summary": by_token[:, 0], "visible": by_token[:, VISIBLE], "masked": by_token[:, MASKED]}
    assert set(loss.parts) == {"reconstruction", *means}
    assert torch.equal(loss.parts["reconstruction"], loss.total.detach())
    for name, each in means.items():
        assert float(loss.parts[name]) == pytest.approx(each.mean().item(), rel=1e-5), name
    weighed = sum(n * float(loss.parts[name]) for name, n in (("summary", 1), ("visible", 22), ("masked", 13))) / 36
    assert loss.total.item() == pytest.approx(weighed, rel=1e-5)
    evenly = sum(float(loss.parts[name]) for name in means) / 3
    halves = (float(loss.parts["visible"]) + float(loss.parts["masked"])) / 2
    assert min(abs(weighed - evenly), abs(weighed - halves)) > 1e-3, "or other weights would pass as well"


def test_only_the_direction_of_what_the_teacher_says_counts() -> None:
    method, batch = small_cae_v2(), masked_batch()
    z = method.equations(batch)
    scaled = z.wanted * torch.linspace(0.1, 9, 36).reshape(1, 36, 1)
    torch.testing.assert_close(method.target.loss(z.prediction, scaled), method(batch).total)


def in_order(z: torch.Tensor, all_tokens: torch.Tensor, *parts: torch.Tensor) -> bool:
    """Whether rows of `z` are the class token's, then those of the patches that each of `parts` names."""
    rows = [torch.cat([all_tokens[b, :1], *(all_tokens[b, 1 + part[b]] for part in parts)]) for b in range(len(z))]
    return torch.equal(z, torch.stack(rows))


def test_tokens_are_in_the_order_class_token_visible_masked() -> None:
    """On both sides: what is predicted stands where that is wanted which is of the same patch."""
    method, batch = small_cae_v2(), masked_batch()
    z, (visible, masked) = method.equations(batch), batch.mask
    assert in_order(z.wanted, taught(batch), visible, masked)
    assert not in_order(z.wanted, taught(batch), masked, visible), "or a swap would go unnoticed"
    tokens = method.encoder.encode(method.encoder.embed(patchify(batch.images, IMAGE), visible), batch.key)
    own = method.head(method.norm(torch.cat([tokens, method.regressor.regress(tokens[:, 1:], batch.mask)], 1)))
    torch.testing.assert_close(z.prediction, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(z.prediction[:, VISIBLE], method.head(method.norm(z.visible)), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.prediction[:, MASKED], method.head(method.norm(z.predicted)), atol=1e-5, rtol=0)


@WIDTHS
def test_masked_pixels_change_what_is_wanted_and_nothing_else(regressor_width: int | None) -> None:
    method, batch = small_cae_v2(decoder_width=regressor_width), masked_batch()
    before, after = (method.equations(b) for b in (batch, with_other_pixels(batch, batch.mask.masked)))
    for name in ("visible", "predicted", "prediction"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    changed = (after.wanted != before.wanted).any(-1)
    assert changed[:, 0].all() and changed[:, MASKED].all(), "the teacher sees the whole image"
    assert not changed[:, VISIBLE].any()


def test_visible_pixels_change_what_is_predicted_and_what_is_wanted_of_them() -> None:
    method, batch = small_cae_v2(), masked_batch()
    before, after = (method.equations(b) for b in (batch, with_other_pixels(batch, batch.mask.visible)))
    assert ((after.prediction - before.prediction).abs().amax(-1) > 1e-4).all()
    changed = (after.wanted != before.wanted).any(-1)
    assert changed[:, 0].all() and changed[:, VISIBLE].all() and not changed[:, MASKED].any()


def test_the_teacher_sees_the_second_view_where_there_is_one() -> None:
    method, batch = small_cae_v2(), masked_batch()
    other = masked_batch(seed=5).images
    z, shown = method.equations(batch._replace(second=other)), taught(batch._replace(images=other))
    assert in_order(z.wanted, shown, batch.mask.visible, batch.mask.masked)
    assert torch.equal(z.prediction, method.equations(batch).prediction)


def test_class_token_and_visible_patches_have_a_loss_of_their_own() -> None:
    """With the regressor cut off, both still teach the encoder, and a token's loss moves with its own prediction."""
    method, batch = small_cae_v2(), masked_batch()
    z = method.equations(batch)
    by_token = torch.autograd.grad(method.target.loss(z.prediction, z.wanted), z.prediction)[0]
    assert (by_token.abs().amax(-1) > 1e-5).all()
    cut = method.regressor.blocks[-1].register_forward_hook(lambda _module, _inputs, out: out.detach())
    for span in (slice(0, 1), VISIBLE):
        z = method.equations(batch)
        found = gradients(method, method.target.loss(z.prediction[:, span], z.wanted[:, span]))
        for name, gradient in found.items():
            if name.startswith(("encoder.", "norm.", "head.")):
                assert gradient is not None and largest(gradient) > 1e-6, name
            else:
                assert gradient is None, name
    cut.remove()


def test_the_class_tokens_output_stays_out_of_the_regressor() -> None:
    method, batch = small_cae_v2(), masked_batch()
    before = method.equations(batch)

    def replaced(_module: object, _inputs: object, out: torch.Tensor) -> torch.Tensor:
        return torch.cat([1e3 + out[:, :1].flip(-1), out[:, 1:]], dim=1)

    with method.encoder.norm.register_forward_hook(replaced):
        after = method.equations(batch)
    assert torch.equal(after.predicted, before.predicted)
    assert torch.equal(after.prediction[:, 1:], before.prediction[:, 1:])
    assert largest(after.prediction[:, 0] - before.prediction[:, 0]) > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_starts_at_about_one(seed: int) -> None:
    """Directions in 512 dimensions that know nothing of each other are at right angles: all four parts."""
    torch.manual_seed(seed)
    trunk = EncoderConfig(patch_size=(2, 3), width=48, depth=2, num_heads=3)
    target = Features(width=512, grid=IMAGE, teacher=UnrelatedTeacher(), mean=[0.5] * 5, deviation=[0.25] * 5)
    method = CAEv2Config(regressor_depth=2).build(trunk, image_size=(10, 21), channels=5, target=target)
    loss = method(masked_batch(size=5, seed=seed))
    assert loss.total.item() == pytest.approx(1, abs=0.02)
    assert all(part.item() == pytest.approx(1, abs=0.06) for part in loss.parts.values()), loss.parts


def test_visible_tokens_pass_both_norms_and_masked_ones_the_last_alone() -> None:
    method, batch = small_cae_v2(), masked_batch()
    seen: dict[str, int] = {}
    for name, norm in (("encoder", method.encoder.norm), ("own", method.norm), ("regressor", method.regressor.norm)):
        norm.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.shape[1]))
    z = method.equations(batch)
    assert seen == {"encoder": 23, "own": 36}
    x = method.encoder.embed(patchify(batch.images, IMAGE), batch.mask.visible)
    x = torch.cat([method.encoder.class_token.expand(3, 1, -1), x], dim=1)
    for block in method.encoder.blocks:
        x = block(x, batch.key)
    for norm in (method.encoder.norm, method.norm):
        x = F.layer_norm(x, (22,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(z.prediction[:, :23], method.head(x), atol=1e-5, rtol=0)


def test_the_regressors_norm_is_kept_unused_and_untrained() -> None:
    method, batch = small_cae_v2(), masked_batch()
    before = method(batch).total
    before.backward()
    assert {"regressor.norm.weight", "regressor.norm.bias"} <= set(method.state_dict())
    for weight in method.regressor.norm.parameters():
        assert not weight.requires_grad and weight.grad is None
        torch.nn.init.constant_(weight, float("nan"))
    assert torch.equal(method(batch).total, before)


def test_the_projection_is_for_the_class_token_as_well() -> None:
    method, batch = small_cae_v2(decoder_width=26), masked_batch()
    linear, norm = method.projection
    assert (linear.in_features, linear.out_features) == (22, 26) and norm.eps == method.norm.eps == 1e-6
    tokens = method.encoder.encode(method.encoder.embed(patchify(batch.images, IMAGE), batch.mask.visible), batch.key)
    projected = F.layer_norm(linear(tokens), (26,), norm.weight, norm.bias, 1e-6)
    z = method.equations(batch)
    torch.testing.assert_close(z.visible, projected[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(z.prediction[:, :23], method.head(method.norm(projected)), atol=1e-5, rtol=0)
    of_summary = gradients(method, method.target.loss(z.prediction[:, :1], z.wanted[:, :1]))
    assert largest(of_summary["projection.0.weight"]) > 1e-6
    assert isinstance(small_cae_v2().projection, torch.nn.Identity)


def real_teacher() -> Teacher:
    return open_teacher("timm:test_vit=random", image_size=(16, 32))


def test_no_gradient_reaches_the_teacher_and_none_the_images_through_it() -> None:
    grid = Grid(image_size=(16, 32), patch_size=(8, 8))  # 2 x 4 patches
    method, batch = small_cae_v2(grid), masked_batch(grid)
    teacher = real_teacher()
    facts = {"mean": [0.5] * 3, "deviation": [0.25] * 3}
    method.target = Features(width=teacher.width, grid=grid, teacher=teacher, **facts)
    method.head = torch.nn.Linear(22, teacher.width)
    images = batch.images.requires_grad_()
    method(batch._replace(images=images)).total.backward()
    assert not any(weight.requires_grad or weight.grad is not None for weight in teacher._network.parameters())
    assert images.grad is not None
    by_patch = patchify(images.grad, grid).abs().amax(-1)
    assert (by_patch.gather(1, batch.mask.masked) == 0).all(), "masked pixels reach the loss through the teacher alone"
    assert (by_patch.gather(1, batch.mask.visible) > 0).all()


def test_the_teacher_is_no_part_of_the_method() -> None:
    method = small_cae_v2()
    method.target.teacher = real_teacher()
    assert set(method.state_dict()) == {name for name, _ in method.named_parameters()}
    assert {name.partition(".")[0] for name in method.state_dict()} == {"encoder", "regressor", "norm", "head"}
    method.train()
    assert not any(module.training for module in method.target.teacher._network.modules())


@EVERY_GRID
def test_permuting_the_masked_patches_permutes_all_that_is_about_them(grid: Grid) -> None:
    method, batch = small_cae_v2(grid), masked_batch(grid)
    order = shuffles(*batch.mask.masked.shape)
    shuffled = batch._replace(mask=Mask(batch.mask.visible, reordered(batch.mask.masked, order)))
    before, after = method.equations(batch), method.equations(shuffled)
    first = 1 + batch.mask.visible.shape[1]
    assert torch.equal(after.visible, before.visible)
    torch.testing.assert_close(after.predicted, reordered(before.predicted, order), atol=1e-5, rtol=0)
    for name in ("prediction", "wanted"):
        one, other = getattr(before, name), getattr(after, name)
        torch.testing.assert_close(other[:, :first], one[:, :first], atol=1e-5, rtol=0, msg=name)
        torch.testing.assert_close(other[:, first:], reordered(one[:, first:], order), atol=1e-5, rtol=0, msg=name)
    assert method(shuffled).total.item() == pytest.approx(method(batch).total.item(), rel=1e-5)


@WIDTHS
def test_its_trace_holds_latents_and_what_the_encoder_says_of_masked_patches(regressor_width: int | None) -> None:
    method, batch = small_cae_v2(decoder_width=regressor_width), masked_batch()
    z, trace = method.equations(batch), method.trace(batch)
    assert isinstance(trace, Trace)
    assert torch.equal(trace.visible, z.visible)
    assert torch.equal(trace.predicted, method.norm(z.predicted))
    latents = method.projection(method.encoder(patchify(batch.images, IMAGE), batch.mask.masked))
    torch.testing.assert_close(trace.aligned_to, latents, atol=1e-5, rtol=0)
    assert not trace.aligned_to.requires_grad


def test_the_config_builds_what_it_says() -> None:
    trunk = EncoderConfig(
        patch_size=(2, 3), width=20, depth=3, num_heads=5, mlp_ratio=2.5, layer_scale=0.2, drop_path=0.3
    )
    target = Features(width=15, grid=IMAGE, teacher=ColourTeacher(), mean=[0.5] * 5, deviation=[0.25] * 5)
    config = CAEv2Config(regressor_depth=3, regressor_width=18, regressor_num_heads=3)
    method = config.build(trunk, image_size=(10, 21), channels=5, target=target)
    block = method.regressor.blocks[-1]
    assert (len(method.regressor.blocks), block.attn.num_heads, block.attn.proj.in_features) == (3, 3, 18)
    assert block.mlp.fc1.out_features == 45 and block.drop_path1.rate == 0.3 and (block.ls1.gamma == 0.2).all()
    assert method.encoder.blocks[-1].drop_path2.rate == 0.3 and method.head.out_features == 15
    same = CAEv2Config().build(trunk, image_size=(10, 21), channels=5, target=target)
    assert same.regressor.mask_query.shape == (20,) and same.regressor.blocks[0].attn.num_heads == 5
    assert len(same.regressor.blocks) == 4


@pytest.mark.parametrize("way", ["xavier", "beit"])
def test_the_initialisation_is_the_trunks_everywhere(way: str) -> None:
    trunk = EncoderConfig(patch_size=(2, 3), width=48, depth=2, num_heads=3, initialisation=way)
    target = Features(width=64, grid=IMAGE)
    config = CAEv2Config(regressor_depth=2, regressor_width=60)
    method = config.build(trunk, image_size=(10, 21), channels=5, target=target)
    for name in ("head", "projection.0", "regressor.blocks.1.mlp.fc1", "encoder.blocks.1.mlp.fc1"):
        weight = method.get_submodule(name).weight
        bound = 0.02 if way == "beit" else (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < largest(weight) <= bound, name


def test_settings_that_do_not_fit_are_named() -> None:
    trunk = EncoderConfig(width=24, num_heads=6)
    (heads,) = CAEv2Config(regressor_width=20).problems(trunk)
    assert heads == "method.regressor_num_heads must divide method.regressor_width. Got 6 and 20"
    (target,) = CAEv2Config(target="pixels").problems(trunk)
    assert target == "method.target of cae_v2 is a teacher, features:TEACHER. Got 'pixels'"
    assert CAEv2Config(regressor_width=20, regressor_num_heads=5).problems(trunk) == []
    assert CAEv2Config().problems(trunk) == []
