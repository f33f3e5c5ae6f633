"""DALL-E's encoder against its published formulas written out again, and what is refused as its file."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from contextae.errors import UserError
from contextae.tokenizers.dalle import DalleEncoder, DalleTokenizer, read_dalle
from contextae.tokenizers.frozen import Tokenizer
from networks import largest

WIDTH, GROUPS, DEPTH, CODES = 12, 4, 2, 29


def shapes(*, width: int, groups: int, depth: int, channels: int, codes: int) -> dict[str, tuple[int, int, int]]:
    """(inputs, outputs, kernel) of every convolution of the published encoder."""
    found = {"blocks.input": (channels, width, 7)}
    inputs = width
    for group in range(1, groups + 1):
        outputs = width * 2 ** (group - 1)
        for block in range(1, depth + 1):
            name = f"blocks.group_{group}.block_{block}"
            if inputs != outputs:
                found[f"{name}.id_path"] = (inputs, outputs, 1)
            found[f"{name}.res_path.conv_1"] = (inputs, outputs // 4, 3)
            found[f"{name}.res_path.conv_2"] = (outputs // 4, outputs // 4, 3)
            found[f"{name}.res_path.conv_3"] = (outputs // 4, outputs // 4, 3)
            found[f"{name}.res_path.conv_4"] = (outputs // 4, outputs, 1)
            inputs = outputs
    return found | {"blocks.output.conv": (inputs, codes, 1)}


def published(*, groups: int = GROUPS, depth: int = DEPTH, channels: int = 3) -> dict[str, Tensor]:
    """Random tensors under the names of the published state dict, such that every branch and many codes count."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    convolutions = shapes(width=WIDTH, groups=groups, depth=depth, channels=channels, codes=CODES)
    for name, (inputs, outputs, kernel) in convolutions.items():
        scale = (groups * depth) ** 2 / 2 if name.endswith("conv_4") else 1.0
        deviation = scale * (2.5 / (inputs * kernel**2)) ** 0.5
        tensors[f"{name}.w"] = deviation * torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        tensors[f"{name}.b"] = 0.3 * scale * torch.randn(outputs, generator=generator)
    logits = reference(tensors, torch.rand(4, channels, 32, 48, generator=generator), groups=groups, depth=depth)
    tensors["blocks.output.conv.b"] -= logits.mean((0, 2, 3))
    return tensors


def reference(tensors: dict[str, Tensor], images: Tensor, *, groups: int = GROUPS, depth: int = DEPTH) -> Tensor:
    """Logits by plain functional calls, from the description of openai/DALL-E's encoder."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"{name}.w"]
        return F.conv2d(x, weight, tensors[f"{name}.b"], padding=(weight.shape[-1] - 1) // 2)

    x = conv("blocks.input", 0.8 * images + 0.1)
    for group in range(1, groups + 1):
        for block in range(1, depth + 1):
            name = f"blocks.group_{group}.block_{block}"
            branch = x
            for i in (1, 2, 3, 4):
                branch = conv(f"{name}.res_path.conv_{i}", branch.relu())
            straight = conv(f"{name}.id_path", x) if f"{name}.id_path.w" in tensors else x
            x = straight + branch / (groups * depth) ** 2
        if group < groups:
            x = F.max_pool2d(x, 2)
    return conv("blocks.output.conv", x.relu())


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


@pytest.fixture
def tokenizer(tmp_path: Path) -> DalleTokenizer:
    return read_dalle(saved(tmp_path / "encoder.safetensors", published()))


@pytest.mark.parametrize(("groups", "depth", "channels"), [(4, 2, 3), (3, 1, 5)])
def test_equals_the_published_formulas(tmp_path: Path, groups: int, depth: int, channels: int) -> None:
    tensors = published(groups=groups, depth=depth, channels=channels)
    tokenizer = read_dalle(saved(tmp_path / "encoder.safetensors", tensors))
    images = torch.rand(2, channels, 32, 48)
    logits = reference(tensors, images, groups=groups, depth=depth)
    assert largest(tokenizer._encoder(0.8 * images + 0.1) - logits) < 1e-4 * largest(logits)
    assert tokenizer.stride == 2 ** (groups - 1) and tokenizer.num_codes == CODES and tokenizer.channels == channels
    codes = tokenizer.codes(images)
    assert codes.shape == (2, (32 // tokenizer.stride) * (48 // tokenizer.stride)) and codes.dtype == torch.int64
    rows = [
        [logits[b, :, i, j].argmax() for i in range(logits.shape[2]) for j in range(logits.shape[3])] for b in (0, 1)
    ]
    assert torch.equal(codes, torch.tensor(rows))
    assert len(codes.unique()) > 3, "or equality would say little"


def test_the_published_encoder_has_8192_codes_of_8_pixels_and_54_million_weights() -> None:
    with torch.device("meta"):
        encoder = DalleEncoder()
    assert (encoder.num_codes, encoder.stride, encoder.channels) == (8192, 8, 3)
    assert encoder.blocks.output.conv.weight.shape == (8192, 2048, 1, 1)
    convolutions = shapes(width=256, groups=4, depth=2, channels=3, codes=8192).values()
    count = sum(weight.numel() for weight in encoder.parameters())
    assert count == sum(outputs * (inputs * kernel**2 + 1) for inputs, outputs, kernel in convolutions)
    assert round(count / 1e6) == 54


def test_a_view_of_half_the_size_gives_one_code_per_patch_of_16_pixels(tokenizer: DalleTokenizer) -> None:
    images = torch.rand(2, 3, 48, 80)  # 3 x 5 patches of 16
    assert tokenizer.input_size((3, 5)) == (24, 40)
    half = F.interpolate(images, tokenizer.input_size((3, 5)), mode="bicubic", antialias=True).clamp(0, 1)
    assert tokenizer.codes(half).shape == (2, 15)


def test_a_change_in_one_corner_changes_the_logits_there_most(tokenizer: DalleTokenizer) -> None:
    images = torch.rand(1, 3, 64, 96)
    changed = images.clone()
    changed[..., -8:, :8] = 1 - changed[..., -8:, :8]
    by_place = (tokenizer._encoder(changed) - tokenizer._encoder(images)).abs().amax(1).flatten()
    assert int(by_place.argmax()) in (7 * 12, 7 * 12 + 1, 6 * 12, 6 * 12 + 1)


def test_names_with_weight_and_bias_and_half_precision_are_read(tmp_path: Path, tokenizer: DalleTokenizer) -> None:
    long = {"w": "weight", "b": "bias"}
    renamed = {f"{name[:-1]}{long[name[-1]]}": tensor for name, tensor in published().items()}
    images = torch.rand(2, 3, 16, 40)
    same = read_dalle(saved(tmp_path / "long.safetensors", renamed))
    assert torch.equal(same.codes(images), tokenizer.codes(images))
    halves = read_dalle(saved(tmp_path / "half.safetensors", {name: each.half() for name, each in published().items()}))
    assert {weight.dtype for weight in halves._encoder.parameters()} == {torch.float32}


def test_it_is_frozen_and_no_part_of_a_method(tokenizer: DalleTokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    method = nn.Linear(2, 3)
    method.tokenizer = tokenizer
    assert set(method.state_dict()) == {"weight", "bias"}
    method.train()
    assert not any(module.training for module in tokenizer._encoder.modules())
    assert not any(weight.requires_grad for weight in tokenizer._encoder.parameters())
    assert not tokenizer._encoder(torch.rand(1, 3, 8, 8)).requires_grad
    assert tokenizer.to("cpu") is tokenizer


def test_codes_are_those_of_float32_under_autocast(tokenizer: DalleTokenizer) -> None:
    images = torch.rand(3, 3, 64, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.codes(images), tokenizer.codes(images.double()))
        codes = tokenizer.codes(images)
    assert torch.equal(codes, tokenizer.codes(images))
    rounded = tokenizer._encoder.bfloat16()((0.8 * images + 0.1).bfloat16()).argmax(1).flatten(1)
    assert not torch.equal(codes, rounded), "or the test would say nothing"


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "encoder.safetensors", published())
    assert read_dalle(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_it_cannot_tokenize_are_refused(tokenizer: DalleTokenizer) -> None:
    with pytest.raises(UserError, match=r"takes images of 3 channels\. Got 1; set data.channels to 3"):
        tokenizer.codes(torch.rand(2, 1, 16, 24))
    with pytest.raises(UserError, match=r"must be multiples of 8\. Got 16 x 28; choose another image size"):
        tokenizer.codes(torch.rand(2, 3, 16, 28))
    with pytest.raises(UserError, match=r"Got 12 x 32"):
        tokenizer.codes(torch.rand(2, 3, 12, 32))


def test_keys_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    missing, unknown, shape = published(), published(), published()
    del missing["blocks.group_2.block_1.res_path.conv_3.b"]
    unknown["decoder.w"] = torch.zeros(3)
    shape["blocks.group_3.block_1.id_path.w"] = torch.zeros(5, 24, 1, 1)
    with pytest.raises(UserError, match=r"missing: blocks\.group_2\.block_1\.res_path\.conv_3\.bias\)\. DALL-E's enc"):
        read_dalle(saved(tmp_path / "a.safetensors", missing))
    with pytest.raises(UserError, match=r"a\.safetensors|b\.safetensors are not .* \(unknown: decoder\.weight\)"):
        read_dalle(saved(tmp_path / "b.safetensors", unknown))
    with pytest.raises(
        UserError, match=r"another shape: blocks\S+id_path\.weight is 5 x 24 x 1 x 1 instead of 48 x 24"
    ):
        read_dalle(saved(tmp_path / "c.safetensors", shape))


def test_tensors_of_something_else_are_refused(tmp_path: Path) -> None:
    decoder = published() | {"blocks.input.w": torch.zeros(WIDTH, CODES, 1, 1)}
    with pytest.raises(UserError, match=r"does not hold DALL-E's encoder: .* the decoder is not used"):
        read_dalle(saved(tmp_path / "decoder.safetensors", decoder))
    with pytest.raises(UserError, match=r"\(blocks\.group_1\.block_1\), .* Got head\.bias, head\.weight\. Give"):
        read_dalle(saved(tmp_path / "x.safetensors", {"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}))
    with pytest.raises(UserError, match=r"Got no tensor at all"):
        read_dalle(saved(tmp_path / "empty.safetensors", {}))


@pytest.mark.parametrize(
    "other",
    [
        {"blocks.group_40.block_1.x": torch.zeros(1)},  # a network of 2 ** 39 times the width, if it were believed
        {"blocks.group_5.block_1.x": torch.zeros(1)},
        {"blocks.group_2.block_3.x": torch.zeros(1)},
        {"blocks.group_0.block_1.x": torch.zeros(1)},
        {"blocks.input.w": torch.zeros(0, 3, 7, 7)},
        {"blocks.input.w": torch.zeros(12, 0, 7, 7)},
        {"blocks.input.w": torch.zeros(())},
        {"blocks.output.conv.w": torch.zeros(0, 96, 1, 1)},
        {"blocks.output.conv.w": torch.zeros(())},
    ],
    ids=lambda other: "".join(f"{name} {tuple(tensor.shape)}" for name, tensor in other.items()),
)
def test_sizes_that_no_encoder_has_are_refused_before_one_is_built(
    other: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DalleEncoder, "__init__", None)
    with pytest.raises(
        UserError, match=r"does not hold .*\), 8 at most and each as long as the others, and the convol"
    ):
        read_dalle(saved(tmp_path / "x.safetensors", published() | other))


def test_pickles_are_not_opened_and_convert_is_named(tmp_path: Path) -> None:
    for name in ("encoder.pkl", "dalle_encoder.pth", "named.safetensors"):
        torch.save(published(), tmp_path / name)
        match = r"can run any program when it is opened.* contextae convert \S+ --to tensors --out \w+\.safetensors$"
        with pytest.raises(UserError, match=match):
            read_dalle(tmp_path / name)


def test_a_safetensors_file_whose_length_starts_like_a_pickle_is_read(tmp_path: Path) -> None:
    starts = set()
    for extra in range(0, 256, 8):  # the header is padded to eighths, its length stands in front
        save_file(published(), tmp_path / "encoder.safetensors", {"words": "w" * extra})
        read_dalle(tmp_path / "encoder.safetensors")
        starts.add((tmp_path / "encoder.safetensors").read_bytes()[:1])
    assert b"\x80" in starts
    (tmp_path / "encoder.safetensors").write_bytes(pickle.dumps({"blocks.input.w": 1.5}, protocol=2))
    with pytest.raises(UserError, match=r"is a pickle or an archive of one"):
        read_dalle(tmp_path / "encoder.safetensors")


def test_files_that_are_not_there_or_damaged_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "encoder.safetensors", published())
    with pytest.raises(UserError, match=r"no weights file at .* Did you mean 'encoder\.safetensors'\?"):
        read_dalle(tmp_path / "encodr.safetensors")
    with pytest.raises(UserError, match=r"no weights file at .*absent"):
        read_dalle(tmp_path / "absent" / "x.safetensors")
    with pytest.raises(UserError, match=r"no weights file at "):
        read_dalle(path / "inside.safetensors")
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        read_dalle(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"no readable safetensors file: .* Copy it again"):
        read_dalle(path)
