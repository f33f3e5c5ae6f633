"""MAE against transformers' ViTMAEForPreTraining with equal weights: latents, predictions, loss, gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from contextae.encoder import Encoder
from contextae.grid import Grid, patchify
from contextae.masking import Mask
from contextae.methods.mae import MAE, MAEDecoder
from contextae.methods.views import MaskedView
from contextae.targets import Pixels
from networks import largest, shake

GRID = Grid(image_size=(20, 20), patch_size=(4, 4), channels=3)
WIDTH, NARROW, DEPTH, VISIBLE = 24, 20, 2, 10


def published() -> ViTMAEForPreTraining:
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=2,
            intermediate_size=4 * WIDTH,
            image_size=20,
            patch_size=4,
            num_channels=3,
            decoder_hidden_size=NARROW,
            decoder_num_hidden_layers=DEPTH + 1,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=4 * NARROW,
            mask_ratio=1 - VISIBLE / GRID.num_patches,
            norm_pix_loss=True,
            layer_norm_eps=1e-6,
        )
    )


def ours() -> MAE:
    torch.manual_seed(0)
    method = MAE(
        encoder=Encoder(grid=GRID, width=WIDTH, depth=DEPTH, num_heads=2, layer_scale=None),
        decoder=MAEDecoder(
            grid=GRID, encoder_width=WIDTH, width=NARROW, depth=DEPTH + 1, num_heads=4, outputs=GRID.patch_values
        ),
        target=Pixels(grid=GRID),
    )
    shake(method)
    return method


def values_in_their_order() -> Tensor:
    """Where each of our values of a patch (patchify's order) stands in theirs: row, column, channel."""
    row, column, channel = torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(3), indexing="ij")
    image = torch.zeros(1, 3, 20, 20, dtype=torch.long)
    image[0, channel, row, column] = torch.arange(48).reshape(4, 4, 3)
    return patchify(image, GRID)[0, 0]


ORDER = values_in_their_order()


def pairs(method: MAE, theirs: ViTMAEForPreTraining) -> Iterator[tuple[nn.Parameter, Tensor, str]]:
    """Each of our weights, what it is among theirs, and a name; positions and key biases are not trained."""

    def blocks(own: nn.ModuleList, layers: nn.ModuleList, place: str) -> Iterator[tuple[nn.Parameter, Tensor, str]]:
        for i, (block, layer) in enumerate(zip(own, layers, strict=True)):
            attention = layer.attention
            parts = [attention.q_proj, attention.k_proj, attention.v_proj]
            yield block.attn.qkv.weight, torch.cat([part.weight for part in parts]), f"{place}.{i}.qkv"
            yield block.attn.q_bias, attention.q_proj.bias, f"{place}.{i}.q_bias"
            yield block.attn.v_bias, attention.v_proj.bias, f"{place}.{i}.v_bias"
            for name, our, their in (
                ("proj", block.attn.proj, attention.o_proj),
                ("norm1", block.norm1, layer.layernorm_before),
                ("norm2", block.norm2, layer.layernorm_after),
                ("fc1", block.mlp.fc1, layer.mlp.fc1),
                ("fc2", block.mlp.fc2, layer.mlp.fc2),
            ):
                yield our.weight, their.weight, f"{place}.{i}.{name}.weight"
                yield our.bias, their.bias, f"{place}.{i}.{name}.bias"

    encoder, vit, decoder, other = method.encoder, theirs.vit, method.decoder, theirs.decoder
    convolution = vit.embeddings.patch_embeddings.projection
    kernel = convolution.weight.permute(0, 2, 3, 1).flatten(1)[:, ORDER]  # our values of a patch
    yield encoder.patch_embed.weight, kernel, "patch_embed.weight"
    yield encoder.patch_embed.bias, convolution.bias, "patch_embed.bias"
    yield encoder.class_token, vit.embeddings.cls_token[0, 0], "class_token"
    yield from blocks(encoder.blocks, vit.layers, "encoder")
    yield from blocks(decoder.blocks, other.decoder_layers, "decoder")
    yield decoder.mask_token, other.mask_token[0, 0], "mask_token"
    for name, our, their in (
        ("norm", encoder.norm, vit.layernorm),
        ("embed", decoder.embed, other.decoder_embed),
        ("decoder norm", decoder.norm, other.decoder_norm),
    ):
        yield our.weight, their.weight, f"{name}.weight"
        yield our.bias, their.bias, f"{name}.bias"
    yield decoder.head.weight, other.decoder_pred.weight[ORDER], "head.weight"
    yield decoder.head.bias, other.decoder_pred.bias[ORDER], "head.bias"


@pytest.fixture
def both() -> tuple[MAE, ViTMAEForPreTraining]:
    """Ours with their weights; they have noise on every weight, and our table of positions."""
    method, theirs = ours(), published().eval()
    shake(theirs, seed=2)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("k_proj.bias"):
                weight.zero_()
        for table, positions in (
            (theirs.vit.embeddings.position_embeddings, method.encoder.positions),
            (theirs.decoder.decoder_pos_embed, method.decoder.positions),
        ):
            table.zero_()
            table[0, 1:] = positions
        for own, their, name in pairs(method, theirs):
            assert own.shape == their.shape, name
            own.copy_(their)
    return method, theirs


def batch() -> tuple[MaskedView, Tensor]:
    """Images whose masks are what noise makes of it there: the smallest stay visible."""
    generator = torch.Generator().manual_seed(3)
    images, noise = torch.randn(3, 3, 20, 20, generator=generator), torch.rand(3, 25, generator=generator)
    order = noise.argsort(dim=1)
    mask = Mask(visible=order[:, :VISIBLE].sort().values, masked=order[:, VISIBLE:].sort().values)
    return MaskedView(images, mask, torch.arange(3)), noise


def test_latents_predictions_and_loss_are_theirs(both: tuple[MAE, ViTMAEForPreTraining]) -> None:
    (method, theirs), (view, noise) = both, batch()
    with torch.no_grad():
        z, loss = method.equations(view), method(view).total
        found = theirs(view.images, noise=noise)
        latents = theirs.vit(view.images, noise=noise)
    order = noise.argsort(dim=1)[:, :VISIBLE]  # theirs are in the order of the noise
    ranks = order.argsort(dim=1)
    their_latents = latents.last_hidden_state[:, 1:].gather(1, ranks.unsqueeze(-1).expand(-1, -1, WIDTH))
    assert largest(z.tokens[:, :1] - latents.last_hidden_state[:, :1]) < 1e-5
    assert largest(z.tokens[:, 1:] - their_latents) < 1e-5
    their_prediction = found.logits[:, :, ORDER].gather(1, view.mask.masked.unsqueeze(-1).expand(-1, -1, 48))
    assert largest(z.prediction - their_prediction) < 1e-5
    assert loss.item() == pytest.approx(found.loss.item(), abs=1e-5)


def test_gradients_are_theirs(both: tuple[MAE, ViTMAEForPreTraining]) -> None:
    (method, theirs), (view, noise) = both, batch()
    method(view).total.backward()
    theirs(view.images, noise=noise).loss.backward()
    gradients = {id(own): own.grad for own in method.parameters()}
    with torch.no_grad():
        for weight in theirs.parameters():  # their weights become their gradients, in our order
            weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        named = list(pairs(method, theirs))
    assert {id(own) for own, _, _ in named} == set(gradients)
    for own, their, name in named:
        assert largest(gradients[id(own)] - their) < 1e-5, name
