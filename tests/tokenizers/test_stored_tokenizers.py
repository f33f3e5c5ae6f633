"""Tokenizers as files: what comes back is what went in, kept files of past formats load, and every refusal.

`python tests/tokenizers/test_stored_tokenizers.py` writes the fixtures of the present format anew. Once a format has
been released its fixtures stay: a new format adds its own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dalle import CODES, published
from torch import Tensor

from contextae.errors import UserError
from contextae.tokenizers.dalle import DalleTokenizer
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.frozen import Tokenizer
from contextae.tokenizers.kmeans import PatchCodebook
from contextae.tokenizers.stored import FORMAT, LARGEST, NAME, open_tokenizer, save_tokenizer, sha256_of, tokenizer_file
from networks import shake

FIXTURES = Path(__file__).parent / "fixtures"
# Codes of `pictures` by the kept files, row by row, as they were when each was written.
RECORDED = {
    "dvae-format1": [[4, 0, 4, 4, 0, 4, 3, 3, 4, 0, 4, 1, 3, 4, 0], [0, 4, 4, 0, 0, 0, 0, 3, 3, 0, 0, 3, 4, 4, 0]],
    "kmeans-format1": [
        [2, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9],
        [10, 6, 0, 4, 9, 9, 10, 6, 0, 4, 0, 9, 10, 10, 0],
    ],
}


def pictures(channels: int, height: int, width: int) -> Tensor:
    """Two images from whole numbers, the same on every machine."""
    values = (torch.arange(2 * channels * height * width) * 7919 % 1009).float() / 1008
    return values.reshape(2, channels, height, width)


def small_dvae() -> DVAE:
    torch.manual_seed(0)
    dvae = DVAE(channels=3, num_codes=7, stride=2, width=8)
    shake(dvae)
    return dvae.eval()


def small_codebook(patch_size: tuple[int, int] = (2, 3)) -> PatchCodebook:
    codebook = PatchCodebook(channels=5, patch_size=patch_size, num_codes=11)
    codebook.patches.copy_(torch.rand(codebook.patches.shape, generator=torch.Generator().manual_seed(1)))
    return codebook


MADE = {"dvae": small_dvae, "kmeans": small_codebook}
EITHER = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


def with_header(path: Path, header: Any) -> Path:
    """A whole file whose header has been replaced."""
    tensors = load_file(path)
    save_file(tensors, path, {"contextae": header if isinstance(header, str) else json.dumps(header)})
    return path


# --- there and back


@EITHER
@pytest.mark.parametrize("by", ["folder", "file", "another name"])
def test_what_comes_back_is_what_went_in(made: Any, by: str, tmp_path: Path) -> None:
    tokenizer = made()
    path = save_tokenizer(tokenizer, tmp_path)
    assert path == tmp_path / NAME and [each.name for each in tmp_path.iterdir()] == [NAME]
    if by == "another name":
        path = path.rename(tmp_path / "codes")
    back = open_tokenizer(tmp_path if by == "folder" else path)
    assert type(back) is type(tokenizer) and isinstance(back, Tokenizer)
    assert (back.num_codes, back.channels) == (tokenizer.num_codes, tokenizer.channels)
    assert back.input_size((3, 5)) == tokenizer.input_size((3, 5))
    assert set(back.state_dict()) == set(tokenizer.state_dict())
    assert all(torch.equal(value, tokenizer.state_dict()[name]) for name, value in back.state_dict().items())
    images = pictures(tokenizer.channels, *tokenizer.input_size((3, 5)))
    codes = back.codes(images)
    assert torch.equal(codes, tokenizer.codes(images)) and len(codes.unique()) > 3
    assert torch.equal(back.decode(codes, (3, 5)), tokenizer.decode(codes, (3, 5)))


@pytest.mark.parametrize("patch_size", [(2, 3), (3, 2), (1, 7), (4, 4)])
def test_patches_that_are_not_square_keep_their_shape(patch_size: tuple[int, int], tmp_path: Path) -> None:
    save_tokenizer(small_codebook(patch_size), tmp_path)
    back = open_tokenizer(tmp_path)
    assert isinstance(back, PatchCodebook)
    assert back.patch_size == patch_size and back.input_size((2, 5)) == (2 * patch_size[0], 5 * patch_size[1])


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_stride_of_a_dvae_comes_back(stride: int, tmp_path: Path) -> None:
    save_tokenizer(DVAE(channels=1, num_codes=9, stride=stride, width=12), tmp_path)
    back = open_tokenizer(tmp_path)
    assert isinstance(back, DVAE)
    assert (back.stride, back.width, back.num_codes, back.channels) == (stride, 12, 9, 1)


@EITHER
def test_it_comes_back_frozen_and_independent_of_its_file(made: Any, tmp_path: Path) -> None:
    path = save_tokenizer(made().train(), tmp_path)
    back = open_tokenizer(tmp_path)
    assert not back.training and not any(weight.requires_grad for weight in back.parameters())
    images = pictures(back.channels, *back.input_size((3, 5)))
    before = back.codes(images)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(back.codes(images), before)


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    save_tokenizer(small_codebook(), tmp_path)
    save_tokenizer(small_dvae(), tmp_path)
    assert isinstance(open_tokenizer(tmp_path), DVAE)
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


@EITHER
def test_the_hash_is_that_of_the_file(made: Any, tmp_path: Path) -> None:
    path = save_tokenizer(made(), tmp_path)
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of(path) == sha256_of(tmp_path) == wanted
    assert tokenizer_file(tmp_path) == tokenizer_file(path) == path
    save_tokenizer(made(), tmp_path)
    assert sha256_of(path) == wanted, "the same tokenizer is the same file"


@pytest.mark.parametrize("names", ["published", "ours"])
def test_dalles_encoder_is_known_by_its_tensors(names: str, tmp_path: Path) -> None:
    long = {"w": "weight", "b": "bias"}
    tensors = published()
    if names == "ours":
        tensors = {f"{name[:-1]}{long[name[-1]]}": tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "encoder.safetensors")
    back = open_tokenizer(tmp_path / "encoder.safetensors")
    assert isinstance(back, DalleTokenizer) and back.num_codes == CODES
    (tmp_path / "encoder.safetensors").rename(tmp_path / NAME)
    assert isinstance(open_tokenizer(tmp_path), DalleTokenizer)


def test_what_is_wrong_with_dalles_encoder_is_said_in_its_own_words(tmp_path: Path) -> None:
    tensors = published()
    del tensors["blocks.group_2.block_1.res_path.conv_3.b"]
    save_file(tensors, tmp_path / "encoder.safetensors")
    with pytest.raises(UserError, match=r"missing: blocks\.group_2\.block_1\.res_path\.conv_3\.bias\)\. DALL-E's enc"):
        open_tokenizer(tmp_path / "encoder.safetensors")


# --- kept files of past formats


@pytest.mark.parametrize("name", RECORDED)
def test_a_kept_file_gives_the_codes_it_gave(name: str) -> None:
    path = FIXTURES / f"{name}.safetensors"
    assert path.stat().st_size < 20_000
    tokenizer = open_tokenizer(path)
    codes = tokenizer.codes(pictures(tokenizer.channels, *tokenizer.input_size((3, 5))))
    assert codes.tolist() == RECORDED[name]


def test_every_kind_has_a_kept_file_of_every_format() -> None:
    wanted = {f"{kind}-format{version}" for kind in MADE for version in range(1, FORMAT + 1)}
    assert set(RECORDED) == wanted == {path.stem for path in FIXTURES.glob("*.safetensors")}


# --- refusals


def test_where_there_is_no_tokenizer_it_says_so(tmp_path: Path) -> None:
    said = r"There is no tokenizer at {}\. Give the folder that `contextae fit-tokenizer` wrote"
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("long" * 200)):
        for opened in (open_tokenizer, tokenizer_file, sha256_of):
            with pytest.raises(UserError, match=said.format(path)):
                opened(path)
    (tmp_path / f"{NAME}.partial").write_bytes(b"half")
    with pytest.raises(UserError, match=r"a fit that was interrupted goes on with --resume\.$"):
        open_tokenizer(tmp_path)


@EITHER
def test_an_unknown_kind_and_another_format_are_refused(made: Any, tmp_path: Path) -> None:
    path = save_tokenizer(made(), tmp_path)
    with_header(path, {"format": FORMAT, "kind": "vq", "beta": 3})
    with pytest.raises(UserError, match=r"is a tokenizer of kind 'vq' in format 1; this .* reads dvae, kmeans in form"):
        open_tokenizer(path)
    with_header(path, {"format": FORMAT + 1, "kind": "dvae", "strides": [2]})
    with pytest.raises(UserError, match=r"of kind 'dvae' in format 2; .* in format 1\. Use the version that wrote it"):
        open_tokenizer(path)


@pytest.mark.parametrize(
    "header",
    [
        "no json",
        "[1, 2]",
        "3",
        "null",
        {"kind": "dvae", "stride": 2, "width": 8, "channels": 3, "num_codes": 7},
        {"format": 1, "stride": 2, "width": 8, "channels": 3, "num_codes": 7},
        {"format": 1, "kind": "dvae", "stride": 2, "channels": 3, "num_codes": 7},
        {"format": 1, "kind": "dvae", "stride": 2, "width": 8, "channels": 3, "num_codes": 7, "depth": 1},
        {"format": 1, "kind": ["dvae"]},
    ],
    ids=str,
)
def test_a_header_that_does_not_describe_a_tokenizer_is_refused(header: Any, tmp_path: Path) -> None:
    path = with_header(save_tokenizer(small_dvae(), tmp_path), header)
    with pytest.raises(UserError, match=r"is no tokenizer: its header does not say which kind it is\. Make one with"):
        open_tokenizer(path)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors is no tokenizer: .* or give DALL-E's encoder as"):
        open_tokenizer(tmp_path / "x.safetensors")


@EITHER
def test_a_damaged_file_is_refused(made: Any, tmp_path: Path) -> None:
    path = save_tokenizer(made(), tmp_path)
    whole = path.read_bytes()
    for part in (whole[:-20], whole[:100], whole[:3], b"", b"\0" * 64):
        path.write_bytes(part)
        with pytest.raises(UserError, match=r"is not a readable safetensors file: .*\. Take a whole copy of it\.$"):
            open_tokenizer(path)


def test_pickles_are_not_opened_and_convert_is_named(tmp_path: Path) -> None:
    for name in ("encoder.pkl", "dalle_encoder.pth", NAME):
        torch.save(published(), tmp_path / name)
        match = r"was not opened\. Make a safe file of it first: contextae convert \S+ --out \w+\.safetensors$"
        with pytest.raises(UserError, match=match):
            open_tokenizer(tmp_path / name)


@EITHER
def test_tensors_that_are_missing_unknown_or_of_another_shape_are_refused_by_name(made: Any, tmp_path: Path) -> None:
    path = save_tokenizer(made(), tmp_path)
    tensors = load_file(path)
    facts = {"contextae": header_of(path)}
    name = min(tensors)
    without = {each: value for each, value in tensors.items() if each != name}
    for wrong, said in (
        ({**without, "other": torch.zeros(1)}, f"{', '.join(sorted((name, 'other')))} are"),
        (without, f"{name} is"),
        ({**tensors, "other": torch.zeros(1)}, "other is"),
        ({**tensors, name: tensors[name][:-1].clone()}, f"{name} is"),
    ):
        save_file(wrong, path, facts)
        with pytest.raises(UserError, match=rf"its header describes: {said} missing, unknown or of another shape"):
            open_tokenizer(path)


DVAE_HEADER = {"format": 1, "kind": "dvae", "stride": 2, "width": 8, "channels": 3, "num_codes": 7}
KMEANS_HEADER = {"format": 1, "kind": "kmeans", "patch_size": [2, 3], "channels": 5, "num_codes": 11}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"num_codes": 10**9}, "num_codes is 1000000000"),
        ({"num_codes": 10**40}, "num_codes is 1000"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"num_codes": True}, "num_codes is True"),
        ({"num_codes": "7"}, "num_codes is '7'"),
        ({"width": 0}, "width is 0"),
        ({"width": -8, "channels": 3.0}, "width is -8 and channels is 3.0"),
        ({"channels": None}, "channels is None"),
        ({"stride": 3}, "stride is 3"),
        ({"stride": 1}, "stride is 1"),
        ({"stride": 2**70}, "stride is 1180"),
        ({"stride": [2, 2]}, r"stride is \(2, 2\)"),
    ],
    ids=str,
)
def test_numbers_that_no_dvae_has_are_refused_by_name(facts: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = with_header(save_tokenizer(small_dvae(), tmp_path), DVAE_HEADER | facts)
    with pytest.raises(UserError, match=rf"whole and at least 1, .* In {path}, {said}.*\. Take a whole copy of it, or"):
        open_tokenizer(path)


@pytest.mark.parametrize("patch_size", [[-2, 3], [2], [2, 3, 1], 2, "23", [2, 3.0], [2, 10**9], {}], ids=str)
def test_patches_of_no_such_size_are_refused(patch_size: Any, tmp_path: Path) -> None:
    path = with_header(save_tokenizer(small_codebook(), tmp_path), KMEANS_HEADER | {"patch_size": patch_size})
    with pytest.raises(UserError, match=rf"In {path}, patch_size is .*\. Take a whole copy of it, or fit it anew\.$"):
        open_tokenizer(path)


def test_the_largest_numbers_take_no_memory_before_the_tensors_are_compared(tmp_path: Path) -> None:
    large = {name: LARGEST[name] for name in ("num_codes", "width", "channels", "stride")}
    path = with_header(save_tokenizer(small_dvae(), tmp_path), DVAE_HEADER | large)
    with pytest.raises(UserError, match="are missing, unknown or of another shape"):
        open_tokenizer(path)
    large = {"num_codes": LARGEST["num_codes"], "patch_size": [LARGEST["patch_size"]] * 2, "channels": 2**12}
    path = with_header(save_tokenizer(small_codebook(), tmp_path), KMEANS_HEADER | large)
    with pytest.raises(UserError, match="patches is missing, unknown or of another shape"):
        open_tokenizer(path)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_the_file_may_be_read_by_whom_the_user_allows(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = save_tokenizer(small_codebook(), tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_disk_that_is_full_leaves_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = save_tokenizer(small_dvae(), tmp_path).read_bytes()

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_tokenizer(small_codebook(), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [NAME] and (tmp_path / NAME).read_bytes() == kept


def header_of(path: Path) -> str:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]["contextae"]


def record() -> None:
    """Of the present format, and their codes to be written above; a code must not hang on a rounding error."""
    for kind, made in MADE.items():
        tokenizer = made()
        name = f"{kind}-format{FORMAT}"
        save_tokenizer(tokenizer, FIXTURES).rename(FIXTURES / f"{name}.safetensors")
        images = pictures(tokenizer.channels, *tokenizer.input_size((3, 5)))
        codes = tokenizer.codes(images)
        for _ in range(50):
            assert torch.equal(tokenizer.codes(images + 2e-4 * torch.randn_like(images)), codes)
        sys.stdout.write(f'    "{name}": {codes.tolist()},\n')


if __name__ == "__main__":
    torch.set_num_threads(1)
    record()
