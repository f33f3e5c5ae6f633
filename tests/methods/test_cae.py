"""The paper's claims about CAE as invariants. Where bits must agree, `equal`; where sums are reordered, 1e-5."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contextae.alignment import StopGradient
from contextae.decoder import Decoder
from contextae.encoder import Encoder, EncoderConfig
from contextae.errors import UserError
from contextae.grid import Grid, patchify, unpatchify
from contextae.masking import BlockMasker, Mask, RandomMasker
from contextae.methods.cae import CAE, CAEConfig
from contextae.methods.method import Loss, Method, Trace
from contextae.methods.views import MaskedView
from contextae.regressor import Regressor
from contextae.targets import Pixels
from networks import GRIDS, IMAGE, image_grid, largest, masked_batch, reordered, shuffles, small_cae

WIDTHS = pytest.mark.parametrize("decoder_width", [None, 26], ids=["same width", "projected"])


def with_other_pixels(batch: MaskedView, grid: Grid, indices: torch.Tensor) -> MaskedView:
    """The batch with other values in the patches that `indices` name."""
    patches = patchify(batch.images, grid)
    index = indices.unsqueeze(-1).expand(-1, -1, grid.patch_values)
    changed = patches.scatter(1, index, 2 + torch.randn(index.shape))
    return batch._replace(images=unpatchify(changed, grid))


def gradients(method: CAE, total: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = [(name, weight) for name, weight in method.named_parameters() if weight.requires_grad]
    names, weights = zip(*trained, strict=True)
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return {name: torch.zeros(1) if g is None else g for name, g in zip(names, found, strict=True)}


@WIDTHS
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_masked_pixels_reach_the_alignment_and_the_target_alone(channels: int, decoder_width: int | None) -> None:
    grid = image_grid(channels)
    method, batch = small_cae(grid, decoder_width=decoder_width), masked_batch(grid)
    before, after = (method.equations(b) for b in (batch, with_other_pixels(batch, grid, batch.mask.masked)))
    assert torch.equal(after.visible, before.visible)
    assert torch.equal(after.predicted, before.predicted)
    assert torch.equal(after.prediction, before.prediction)
    assert ((after.aligned_to - before.aligned_to).abs().amax((1, 2)) > 1e-3).all()
    assert (after.wanted != before.wanted).any(-1).all()


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_visible_pixels_reach_neither_alignment_nor_target(grid: Grid) -> None:
    method, batch = small_cae(grid), masked_batch(grid)
    before, after = (method.equations(b) for b in (batch, with_other_pixels(batch, grid, batch.mask.visible)))
    assert torch.equal(after.aligned_to, before.aligned_to)
    assert torch.equal(after.wanted, before.wanted)
    for name in ("visible", "predicted", "prediction"):
        assert largest(getattr(after, name) - getattr(before, name)) > 1e-4, name


def test_shapes_of_the_equations() -> None:
    z = small_cae(decoder_width=26).equations(masked_batch())
    assert [tuple(part.shape) for part in z] == [(3, 22, 26), (3, 13, 26), (3, 13, 26), (3, 13, 30), (3, 13, 30)]


def loss_by_hand(method: CAE, batch: MaskedView, *, stop: bool) -> torch.Tensor:
    """The loss from the parts in float64, where the latents to align with are a constant or are not."""
    patches, mask = patchify(batch.images, method.encoder.grid), batch.mask
    predicted = method.regressor(method.projection(method.encoder(patches, mask.visible)), mask)
    aligned_to = method.projection(method.encoder(patches, mask.masked))
    if stop:
        aligned_to = torch.from_numpy(aligned_to.detach().numpy().copy())
    prediction = method.decoder(predicted, mask.masked)
    values = method.target.value(unpatchify(patches, method.encoder.grid))
    wanted = torch.stack([values[b, mask.masked[b]] for b in range(len(patches))])
    return (prediction - wanted).square().mean() + 2.0 * (predicted - aligned_to).square().mean()


@WIDTHS
def test_no_gradient_flows_into_the_alignment_target(decoder_width: int | None) -> None:
    method, batch = small_cae(decoder_width=decoder_width), masked_batch()
    ours = gradients(method, method(batch).total)
    twin = deepcopy(method).double()
    exact = batch._replace(images=batch.images.double())
    stopped, leaking = (gradients(twin, loss_by_hand(twin, exact, stop=stop)) for stop in (True, False))
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient.double(), stopped[name], atol=2e-6, rtol=1e-4, msg=name)
    assert largest(leaking["encoder.patch_embed.weight"] - stopped["encoder.patch_embed.weight"]) > 1e-4
    if decoder_width:
        assert largest(leaking["projection.0.weight"] - stopped["projection.0.weight"]) > 1e-4


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_permuting_the_masked_patches_permutes_all_that_is_about_them(grid: Grid) -> None:
    method, batch = small_cae(grid), masked_batch(grid)
    order = shuffles(*batch.mask.masked.shape)
    shuffled = batch._replace(mask=Mask(batch.mask.visible, reordered(batch.mask.masked, order)))
    before, after = method.equations(batch), method.equations(shuffled)
    assert torch.equal(after.visible, before.visible)
    assert torch.equal(after.wanted, reordered(before.wanted, order))
    for name in ("predicted", "aligned_to", "prediction"):
        expected = reordered(getattr(before, name), order)
        torch.testing.assert_close(getattr(after, name), expected, atol=1e-5, rtol=0, msg=name)
    assert method(shuffled).total.item() == pytest.approx(method(batch).total.item(), rel=1e-5)


def test_permuting_the_visible_patches_permutes_their_latents_and_changes_nothing_else() -> None:
    method, batch = small_cae(), masked_batch()
    order = shuffles(*batch.mask.visible.shape)
    shuffled = batch._replace(mask=Mask(reordered(batch.mask.visible, order), batch.mask.masked))
    before, after = method.equations(batch), method.equations(shuffled)
    torch.testing.assert_close(after.visible, reordered(before.visible, order), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.predicted, before.predicted, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.prediction, before.prediction, atol=1e-5, rtol=0)


@WIDTHS
def test_gradients_reach_the_encoder_through_the_regressor_alone(decoder_width: int | None) -> None:
    for weight in (0.0, 2.0):
        method, batch = small_cae(decoder_width=decoder_width, alignment_weight=weight), masked_batch()
        whole = gradients(method, method(batch).total)
        assert all(largest(g) > 0 for name, g in whole.items() if name.startswith("encoder."))
        cut = method.regressor.register_forward_hook(lambda _module, _inputs, out: out.detach().requires_grad_())
        severed = gradients(method, method(batch).total)
        cut.remove()
        reached = {name for name, g in severed.items() if largest(g) > 0}
        assert reached and all(name.startswith("decoder.") for name in reached)


def test_without_alignment_the_total_is_the_reconstruction() -> None:
    method, batch = small_cae(alignment_weight=0.0), masked_batch()
    loss = method(batch)
    assert torch.equal(loss.total.detach(), loss.parts["reconstruction"])
    assert float(loss.parts["alignment"]) > 0.1
    alone = gradients(method, loss.total)
    z = method.equations(batch)
    for name, gradient in gradients(method, F.mse_loss(z.prediction, z.wanted)).items():
        assert torch.equal(gradient, alone[name]), name


def test_the_total_weighs_unweighted_parts() -> None:
    method, batch = small_cae(alignment_weight=1.5), masked_batch()
    loss, z = method(batch), method.equations(batch)
    assert set(loss.parts) == {"reconstruction", "alignment"}
    assert float(loss.parts["reconstruction"]) == pytest.approx(F.mse_loss(z.prediction, z.wanted).item())
    assert float(loss.parts["alignment"]) == pytest.approx(F.mse_loss(z.predicted, z.aligned_to).item())
    expected = loss.parts["reconstruction"] + 1.5 * loss.parts["alignment"]
    assert loss.total.item() == pytest.approx(expected.item())
    assert loss.total.requires_grad and not any(part.requires_grad for part in loss.parts.values())
    method.reconstruction_weight = 0.0
    assert method(batch).total.item() == pytest.approx(1.5 * float(loss.parts["alignment"]))


def test_the_class_tokens_output_goes_no_further_than_the_encoder() -> None:
    """Anything may stand in its place behind the last norm; it only acts as a key and value inside."""
    method, batch = small_cae(), masked_batch()
    before = method.equations(batch)
    scale = torch.ones(1, requires_grad=True)

    def replaced(_module: nn.Module, _inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return torch.cat([1e3 * scale.expand_as(out[:, :1]), out[:, 1:]], dim=1)

    hook = method.encoder.norm.register_forward_hook(replaced)
    after = method.equations(batch)
    assert all(torch.equal(getattr(after, name), getattr(before, name)) for name in before._fields)
    assert torch.autograd.grad(method(batch).total, scale, allow_unused=True)[0] in (None, 0)
    hook.remove()
    assert largest(gradients(method, method(batch).total)["encoder.class_token"]) > 1e-6


@WIDTHS
def test_there_is_no_second_copy_of_the_encoder(decoder_width: int | None) -> None:
    method = small_cae(decoder_width=decoder_width)
    parts = (method.encoder, method.regressor, method.decoder, method.projection)
    count = sum(weight.numel() for part in parts for weight in part.parameters())
    assert sum(weight.numel() for weight in method.parameters()) == count
    assert sum(isinstance(module, Encoder) for module in method.modules()) == 1
    assert {name for name, _ in method.named_buffers()} == {
        f"{p}.positions" for p in ("encoder", "regressor", "decoder")
    }
    assert set(method.state_dict()) == {name for name, _ in method.named_parameters()}


def test_parameters_of_the_published_base_network() -> None:
    """Released CAE-B with 8,192 codes, in millions: encoder 85.8, regressor 28.4, decoder 34.7, trainable 148.7.

    Their encoder counts its frozen position table, class token included; ours is no weight.
    """
    grid, shared = Grid(image_size=(224, 224), patch_size=(16, 16)), {"width": 768, "num_heads": 12}
    with torch.device("meta"):
        encoder = Encoder(grid=grid, depth=12, **shared)  # type: ignore[arg-type]
        regressor = Regressor(grid=grid, depth=4, **shared)  # type: ignore[arg-type]
        decoder = Decoder(grid=grid, depth=4, outputs=8192, **shared)  # type: ignore[arg-type]
    counts = [sum(weight.numel() for weight in part.parameters()) / 1e6 for part in (encoder, regressor, decoder)]
    assert sum(counts) == pytest.approx(148.7, abs=0.05)
    counts[0] += 197 * 768 / 1e6
    assert counts == pytest.approx([85.8, 28.4, 34.7], abs=0.05)


def test_the_alignment_starts_at_about_two() -> None:
    """Both sides end in a norm, so unrelated latents are 2 apart; measured 2.01 to 2.16 over five seeds."""
    for seed in range(2):
        torch.manual_seed(seed)
        method = CAEConfig(regressor_depth=4, decoder_depth=1).build(
            EncoderConfig(patch_size=(4, 4), width=192, depth=6, num_heads=3),
            image_size=(28, 20),
            channels=3,
            target=Pixels(grid=Grid(image_size=(28, 20), patch_size=(4, 4), channels=3)),
        )
        batch = masked_batch(method.encoder.grid, num_masked=16, seed=seed)
        assert float(method(batch).parts["alignment"]) == pytest.approx(2.0, rel=0.1)


def test_the_projection_is_one_linear_layer_and_norm_for_both_sides() -> None:
    method, batch = small_cae(decoder_width=26), masked_batch()
    linear, norm = method.projection
    assert (linear.in_features, linear.out_features) == (22, 26) and norm.eps == 1e-6
    patches = patchify(batch.images, IMAGE)
    z = method.equations(batch)
    for latents, indices in ((z.visible, batch.mask.visible), (z.aligned_to, batch.mask.masked)):
        expected = F.layer_norm(linear(method.encoder(patches, indices)), (26,), norm.weight, norm.bias, 1e-6)
        torch.testing.assert_close(latents, expected, atol=1e-5, rtol=0)
    assert isinstance(small_cae().projection, nn.Identity)


def test_what_is_wanted_is_the_value_of_the_masked_patches() -> None:
    method, batch = small_cae(), masked_batch()
    wanted, values = method.equations(batch).wanted, Pixels(grid=IMAGE).value(batch.images)
    for b in range(3):
        assert torch.equal(wanted[b], values[b, batch.mask.masked[b]])


def test_trace_holds_the_latents_of_the_equations() -> None:
    method, batch = small_cae(), masked_batch()
    z, trace = method.equations(batch), method.trace(batch)
    assert isinstance(trace, Trace)
    assert all(torch.equal(getattr(trace, name), getattr(z, name)) for name in trace._fields)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_pictures_put_every_patch_at_its_place(grid: Grid) -> None:
    method, batch = small_cae(grid), masked_batch(grid)
    with torch.no_grad():
        pictures, z = method.pictures(batch), method.equations(batch)
    patches = patchify(batch.images, grid)
    visible, decoded, pasted = (patchify(view, grid) for view in pictures[1:4])
    assert torch.equal(pictures.images, batch.images)
    wanted = method.target.to_patches(z.prediction, batch.mask.masked, batch.images, None)
    for b in range(3):
        v, m = batch.mask.visible[b], batch.mask.masked[b]
        assert torch.equal(visible[b, v], patches[b, v]) and visible[b, m].isnan().all()
        assert torch.equal(decoded[b, m], wanted[b]) and decoded[b, v].isnan().all()
        assert torch.equal(pasted[b, v], patches[b, v]) and torch.equal(pasted[b, m], wanted[b])
        error = (z.predicted[b] - z.aligned_to[b]).square().mean(-1)
        assert torch.equal(pictures.distance[b, m], error) and pictures.distance[b, v].isnan().all()


def test_a_method_that_decodes_nothing_has_no_pictures() -> None:
    class Contrastive(Method):
        def forward(self, batch: object) -> Loss:
            raise NotImplementedError

        def trace(self, batch: object) -> Trace:
            raise NotImplementedError

    with pytest.raises(
        UserError, match=r"^Contrastive has no decoder, so there is nothing to reconstruct. Use weights"
    ):
        Contrastive().pictures(None)
    assert Contrastive().after_step(0.5) is None


def test_the_config_builds_what_it_says() -> None:
    trunk = EncoderConfig(
        patch_size=(2, 3), width=20, depth=3, num_heads=5, mlp_ratio=2.5, layer_scale=0.2, drop_path=0.3
    )
    config = CAEConfig(
        regressor_depth=3,
        decoder_depth=2,
        decoder_width=18,
        decoder_num_heads=3,
        alignment_weight=1.25,
        reconstruction_weight=0.5,
    )
    method = config.build(trunk, image_size=(10, 21), channels=5, target=Pixels(grid=IMAGE, normalise=False))
    assert (len(method.regressor.blocks), len(method.decoder.blocks)) == (3, 2)
    assert (method.alignment_weight, method.reconstruction_weight) == (1.25, 0.5)
    assert isinstance(method.alignment, StopGradient) and isinstance(method.target, Pixels)
    assert not method.target.normalise and method.decoder.head.out_features == 30
    for part in (method.regressor, method.decoder):
        block = part.blocks[-1]
        assert (block.attn.num_heads, block.attn.proj.in_features, block.mlp.fc1.out_features) == (3, 18, 45)
        assert block.drop_path1.rate == 0.3 and (block.ls1.gamma == 0.2).all()
    narrow = CAEConfig().build(trunk, image_size=(10, 21), channels=5, target=Pixels(grid=IMAGE))
    assert narrow.regressor.mask_query.shape == (20,) and narrow.decoder.blocks[0].attn.num_heads == 5
    assert narrow.target.normalise and narrow.alignment_weight == 2.0


@pytest.mark.parametrize("way", ["xavier", "beit"])
def test_the_initialisation_is_the_trunks_everywhere(way: str) -> None:
    trunk = EncoderConfig(patch_size=(2, 3), width=48, depth=2, num_heads=3, initialisation=way)
    config = CAEConfig(regressor_depth=2, decoder_depth=1, decoder_width=60)
    method = config.build(trunk, image_size=(10, 21), channels=5, target=Pixels(grid=IMAGE))
    parts = ("projection.0", "regressor.blocks.1.mlp.fc1", "decoder.blocks.0.mlp.fc1", "encoder.blocks.1.mlp.fc1")
    for name in parts:
        weight = method.get_submodule(name).weight
        bound = 0.02 if way == "beit" else (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < largest(weight) <= bound, name


def test_the_config_draws_the_masks_it_says() -> None:
    assert CAEConfig().build_masker((14, 14)) == BlockMasker(size=(14, 14), num_masked=98, min_block=16)
    assert CAEConfig(mask_ratio=0.4).build_masker((5, 7)) == BlockMasker(size=(5, 7), num_masked=14, min_block=3)
    assert CAEConfig(min_block=7).build_masker((14, 14)) == BlockMasker(size=(14, 14), num_masked=98, min_block=7)
    random = CAEConfig(masker="random", mask_ratio=0.75).build_masker((5, 7))
    assert random == RandomMasker(size=(5, 7), num_masked=26)


def test_a_grid_of_one_patch_cannot_be_masked() -> None:
    with pytest.raises(UserError, match=r"A mask needs at least two patches"):
        CAEConfig().build_masker((1, 1))
