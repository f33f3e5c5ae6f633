"""Pickles read as inert records: whole modules without their code, and nothing in a file is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contextae.errors import UserError
from contextae.interop import inert_tensors
from contextae.interop.inert import read_inert

FORMATS = {"zip": True, "old": False}


class Part(nn.Module):
    """A parameter, a buffer, one that is not saved, and a tensor that is no parameter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(3, 5, generator=made), requires_grad=False)
        self.b = None
        self.register_buffer("seen", torch.arange(4) + seed)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.gain, self.loose = 1 / 64, torch.ones(1)
        self.kinds = {"a", "b"}


class Whole(nn.Module):
    """Parts by name, one of them empty, one twice, and a view of another's storage."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential()
        self.blocks.add_module("input", Part(1))
        self.blocks.add_module("group_1", nn.Sequential())
        self.blocks.group_1.add_module("block_1", Part(2))
        self.blocks.group_1.add_module("id_path", nn.Identity())
        self.nothing = None
        self.register_module("none", None)
        self.again = self.blocks.input
        self.turned = nn.Parameter(self.blocks.input.w.detach().T)
        self.halved = nn.Parameter(torch.randn(7, 2).bfloat16())


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Whole]]:
    """Classes of a package that is importable while files are written and gone when they are read."""
    package = types.ModuleType("foreign_package")
    package.__file__ = __file__
    for kind in (Part, Whole):
        monkeypatch.setattr(kind, "__module__", "foreign_package")
        setattr(package, kind.__name__, kind)
    sys.modules["foreign_package"] = package
    yield Whole
    sys.modules.pop("foreign_package", None)


def saved(value: Any, path: Path, kind: str) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[kind])
    sys.modules.pop("foreign_package", None)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pickled_module_gives_its_state_dict(foreign: type[Whole], tmp_path: Path, kind: str) -> None:
    module = foreign()
    wanted = module.state_dict()
    read = read_inert(saved(module, tmp_path / "encoder.pkl", kind))
    assert read.kind == "foreign_package.Whole"
    assert read.state.keys() == wanted.keys() and "blocks.group_1.block_1.w" in wanted and "again.seen" in wanted
    for name, value in wanted.items():
        assert read.state[name].dtype == value.dtype and torch.equal(read.state[name], value), name
    assert "foreign_package" not in sys.modules and "foreign_package.Part" in read.imports


@pytest.mark.parametrize("kind", FORMATS)
def test_a_checkpoint_with_strange_things_beside_its_tensors(foreign: type[Whole], tmp_path: Path, kind: str) -> None:
    module = foreign()
    file = {"meta": {"who": foreign, "when": [module]}, "state_dict": module.state_dict(), "epoch": 3}
    read = read_inert(saved(file, tmp_path / "last.pth", kind))
    assert read.state.keys() == module.state_dict().keys()


def test_a_module_below_model(foreign: type[Whole], tmp_path: Path) -> None:
    module = foreign()
    read = read_inert(saved({"model": nn.DataParallel(module)}, tmp_path / "last.pth", "zip"))
    assert read.state.keys() == {f"module.{name}" for name in module.state_dict()}


def test_a_list_of_pairs_as_python_2_pickles_them(tmp_path: Path) -> None:
    """REDUCE of OrderedDict with its items as an argument, and of set."""
    stream = b"\x80\x02ccollections\nOrderedDict\n]](X\x01\x00\x00\x00aK\x03ea\x85R."
    assert pickletools.dis(stream, io.StringIO()) is None
    (tmp_path / "a.pkl").write_bytes(stream)
    assert read_inert(tmp_path / "a.pkl").state == {"a": 3}


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int, foreign: type[Whole]) -> None:
    file = tmp_path / "a.pth"
    torch.save({"model": nn.Linear(2, 3)}, file, pickle_protocol=max(2, protocol))
    assert read_inert(file).state.keys() == {"weight", "bias"}
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1, "b": [2, {3}]}, protocol=protocol))
    assert read_inert(tmp_path / "plain.pkl").state["a"] == 1


class Names(list):  # type: ignore[type-arg]
    """A list of its own kind, which is pickled item by item."""


@pytest.mark.parametrize("protocol", range(6))
def test_lists_and_dicts_of_other_kinds_are_passed_over(tmp_path: Path, protocol: int) -> None:
    strange = {"names": Names(["a", "b"]), "one": Names([1]), "counts": collections.Counter("aab")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"w": 1}, "extra": strange}, protocol=protocol))
    assert read_inert(tmp_path / "a.pkl").state == {"w": 1}


class Bomb:
    """Runs something when it is unpickled, unless nothing is."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("kind", [*FORMATS, "pickle", "pickle 0"])
@pytest.mark.parametrize("wrapped", ["alone", "beside weights"])
def test_a_file_that_would_run_a_program_is_explained_and_never_run(tmp_path: Path, kind: str, wrapped: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "model.pth"
    bomb = Bomb(os.system, f"touch {mark}")
    value = bomb if wrapped == "alone" else {"model": {"w": torch.ones(2)} if kind in FORMATS else {}, "extra": bomb}
    if kind in FORMATS:
        torch.save(value, path, _use_new_zipfile_serialization=FORMATS[kind])
    else:
        path.write_bytes(pickle.dumps(value, protocol=0 if kind == "pickle 0" else 4))
    with pytest.raises(UserError, match=r"model.pth asks to run posix.system when it is opened.*Nothing in it was run"):
        read_inert(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(bomb))  # noqa: S301 the test's own bomb does go off where a pickle is really opened
    assert mark.exists()


@pytest.mark.parametrize(
    ("call", "name"),
    [(eval, "builtins.eval"), (subprocess.check_call, "subprocess.check_call"), (getattr, "builtins.getattr")],
)
def test_other_ways_to_run_one(tmp_path: Path, call: Any, name: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(Bomb(call, "1", "2")))
    with pytest.raises(UserError, match=f"asks to run {name}"):
        read_inert(path)


def test_a_harmless_function_is_not_called_either(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pkl", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"a": Bomb(Path.touch, mark), "b": Bomb(Path.mkdir, mark)}))
    read_inert(path)
    assert not mark.exists()


def test_setting_attributes_reaches_no_class_of_ours(tmp_path: Path) -> None:
    """BUILD on a class instead of on an instance."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02ctorch\nTensor\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(UserError, match="is no whole pickled file of tensors"):
        read_inert(tmp_path / "a.pkl")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_off(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": nn.Linear(20, 30).state_dict()}, path, _use_new_zipfile_serialization=FORMATS[kind])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"a.pth is no whole pickled file of tensors: it (ends too early|is a zip ar)"):
        read_inert(path)


def test_a_byte_that_is_wrong_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cut off or damaged .*CRC"):
        read_inert(path)


def archive(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def storage(count: int, kind: str = "FloatStorage", key: str = "0", view: bytes = b"") -> bytes:
    """The pickle of a persistent reference to a storage."""
    return b"(X\x07\x00\x00\x00storagectorch\n" + f"{kind}\n".encode() + b"X\x01\x00\x00\x00" + key.encode() + (
        b"X\x03\x00\x00\x00cpu" + b"J" + count.to_bytes(4, "little", signed=True) + view + b"tQ"
    )  # fmt: skip


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, **given: Any) -> bytes:
    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    parts = [b"(" + b"".join(map(number, each)) + b"t" for each in (size, stride)]
    reference = storage(given.pop("count", 6), **given)
    built = b"ctorch._utils\n_rebuild_tensor\n(" + reference + number(offset) + b"".join(parts) + b"tR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + built + b"s."


def test_a_tensor_by_hand(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    path = archive(tmp_path / "a.pth", {"x/data.pkl": tensor((2, 2), (3, 1), 1), "x/data/0": values.numpy().tobytes()})
    assert torch.equal(read_inert(path).state["w"], torch.tensor([[1.0, 2.0], [4.0, 5.0]]))
    path = archive(tmp_path / "b.pth", {"x/data.pkl": tensor((0, 2), (1, 1), count=0), "x/data/0": b""})
    assert read_inert(path).state["w"].shape == (0, 2)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor((2, 4), (3, 1)), r"shape \(2, 4\) does not lie in its 6 values"),
        (tensor((7,), (0,)), "does not lie in its 6 values"),
        (tensor((2,), (1,), 5), "does not lie in its 6 values"),
        (tensor((2,), (-1,), 5), r"a tensor of shape \(2,\) and stride \(-1,\)"),
        (tensor((2, 2), (1,)), r"and stride \(1,\)"),
        (tensor((2,), (1,), count=7), "storage 0 has 24 bytes instead of 28"),
        (tensor((2,), (1,), kind="QInt8Storage"), "a tensor of QInt8Storage, which is none of DoubleStorage"),
        (tensor((2,), (1,), view=b"X\x01\x00\x00\x00a"), "a storage within a storage"),
        (tensor((2,), (1,), key="7"), "There is no item named 'x/data/7'"),
        (b"\x80\x02K\x01Q.", "an unknown kind of reference"),
        (b"\x80\x02K\x01.", "it holds int, in which no tensors by name can be found"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "it holds numpy.ndarray, in which"),
    ],
)
def test_what_does_not_lie_in_its_file(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = archive(tmp_path / "a.pth", {"x/data.pkl": pickled, "x/data/0": bytes(24)})
    with pytest.raises(UserError, match=message):
        read_inert(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme": b""}, "a zip archive without data.pkl"),
        ({"x/data.pkl": b"\x80\x02}.", "x/constants.pkl": b""}, "a TorchScript archive, which holds a program"),
        ({"x/data.pkl": b"\x80\x02}.", "x/byteorder": b"big"}, "written on a big-endian machine"),
    ],
)
def test_other_archives(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_inert(archive(tmp_path / "a.pth", members))


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", {"x/data.pkl": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="a compressed zip archive"):
        read_inert(path)


def test_an_old_file_whose_storage_has_another_length(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(5.0)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: -5 * 4 - 8] + (2**60).to_bytes(8, "little") + data[-5 * 4 :])
    with pytest.raises(UserError, match=f"storage .* has {2**60} values instead of 5"):
        read_inert(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x02", b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_what_is_no_pickle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UserError, match=r"is no whole pickled file of tensors: .+ Copy it again from where it came"):
        read_inert(tmp_path / "a.pth")


def test_a_folder_and_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_inert(tmp_path)


def test_modules_within_each_other_without_end(foreign: type[Whole], tmp_path: Path) -> None:
    module = foreign()
    module.again = nn.Sequential()
    module.again._modules["0"] = module
    with pytest.raises(UserError, match="lie within each other without end"):
        read_inert(saved(module, tmp_path / "a.pth", "zip"))


def test_more_modules_than_a_network_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty levels that each hold the next one twice are 2 to the 40 modules."""
    module: nn.Module = nn.Identity()
    for _ in range(40):
        module = nn.Sequential(module, module)
    monkeypatch.setattr(inert_tensors, "MOST", 1000)
    torch.save(module, tmp_path / "a.pth")
    with pytest.raises(UserError, match="more than 1,000 modules"):
        read_inert(tmp_path / "a.pth")


def test_a_subclass_of_tensor_and_a_parameter_with_state(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.arange(3.0))
    weight.note = "kept by torch"
    buffer = nn.Buffer(torch.arange(4.0))
    torch.save({"a": weight, "b": buffer}, tmp_path / "a.pth")
    read = read_inert(tmp_path / "a.pth").state
    assert torch.equal(read["a"], weight) and torch.equal(read["b"], buffer)
