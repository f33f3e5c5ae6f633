"""Reads the tensors of a pickled file without running anything in it.

A whole pickled network (DALL-E's encoder.pkl, say) can be read so where its code is not installed, and a file that asks
for `os.system` leaves a record of that wish. Formats: the zip archive of torch.save since 1.6 and its older single file
[torch/serialization.py]. Storages are read after everything is unpickled.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from contextae.errors import UserError
from contextae.interop.inert_records import DTYPES, Inert, Stored
from contextae.interop.inert_tensors import Content, Tensors

MAGIC = 0x1950A86A20F9469CFC6C  # opens a file of torch.save before 1.6
ATTACKS = (
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "shutil",
    "socket",
    "runpy",
    "importlib",
    "pty",
    "commands",
    "code",
)
BUILTINS = ("builtins", "__builtin__")
FATAL = ("eval", "exec", "execfile", "compile", "open", "__import__", "getattr", "setattr", "globals", "input", "apply")
BROKEN = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError, OverflowError,
    RecursionError, TypeError, UnicodeDecodeError, ValueError, zipfile.BadZipFile, NotImplementedError, OSError,
)  # fmt: skip


class Pickled(NamedTuple):
    """Tensors by name, what the pickle would have imported, and the class of the pickled object, if it was one."""

    state: dict[str, Any]
    imports: list[str]
    kind: str


def read_inert(path: Path) -> Pickled:
    """The state dict that lies in a pickled file: of a pickled module, or below model, module or state_dict.

    Refused with a reason: a file that is damaged, one that asks for a program to be run, and one without tensors.
    """
    try:
        with path.open("rb") as file:
            found, unpickler, content = _zip(file) if file.read(4) == b"PK\x03\x04" else _old(file)
            asked = [name for name in unpickler.wishes if _attacks(name)]
            if asked:
                raise UserError(
                    f"{path} asks to run {asked[0]} when it is opened, which no file of weights needs; pickles can "
                    "carry programs, and this one does. Nothing in it was run. Delete it and get the weights elsewhere."
                )
            state = dict(Tensors(content).states(found))
    except BROKEN as error:
        raise UserError(
            f"{path} is no whole pickled file of tensors: {_said(error)}. Nothing in it was run. Copy it again from "
            "where it came, or save its tensors as safetensors there."
        ) from None
    return Pickled(state, sorted(unpickler.wishes), getattr(found, "origin", type(found).__name__))


def _zip(file: BinaryIO) -> tuple[Any, Inert, Content]:
    archive = zipfile.ZipFile(file)
    members = {each.filename: each for each in archive.infolist()}
    root = next((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), None)
    if root is None:
        raise ValueError("it is a zip archive without data.pkl, which torch.save would have written")
    prefix = root.removesuffix("data.pkl")
    if prefix + "constants.pkl" in members:
        raise ValueError("it is a TorchScript archive, which holds a program; its module's state dict can be read")
    if f"{prefix}byteorder" in members and archive.read(f"{prefix}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    if any(each.compress_type != zipfile.ZIP_STORED for each in members.values()):
        raise ValueError("it is a compressed zip archive, which torch.save does not write")
    unpickler = Inert(io.BytesIO(archive.read(root)))

    def content(stored: Stored) -> bytes:
        data = archive.read(f"{prefix}data/{stored.key}")
        wanted = stored.length * DTYPES[stored.kind].itemsize
        if len(data) != wanted:
            raise ValueError(f"storage {stored.key} has {len(data)} bytes instead of {wanted}")
        return data

    return unpickler.load(), unpickler, content


def _old(file: BinaryIO) -> tuple[Any, Inert, Content]:
    """Magic number, version, machine, object, keys of storages; then each storage, its length before it."""
    file.seek(0)
    unpickler = Inert(file)
    found = unpickler.load()
    if found != MAGIC:
        return found, unpickler, lambda stored: b""  # a plain pickle; it has no storages
    for _ in range(2):
        Inert(file).load()
    unpickler = Inert(file)
    found, places = unpickler.load(), {}
    for key in Inert(file).load():
        stored = unpickler.storages[str(key)]
        before = file.read(8)
        if len(before) < 8:
            raise EOFError
        count = int.from_bytes(before, "little", signed=True)
        if count != stored.length:
            raise ValueError(f"storage {key} has {count} values instead of {stored.length}")
        places[stored.key] = file.tell()
        file.seek(count * DTYPES[stored.kind].itemsize, io.SEEK_CUR)

    def content(stored: Stored) -> bytes:
        file.seek(places[stored.key])
        wanted = stored.length * DTYPES[stored.kind].itemsize
        data = file.read(wanted)
        if len(data) != wanted:
            raise EOFError
        return data

    return found, unpickler, content


def _attacks(origin: str) -> bool:
    module, _, name = origin.rpartition(".")
    return module.partition(".")[0] in ATTACKS or (module in BUILTINS and name in FATAL)


def _said(error: Exception) -> str:
    if isinstance(error, EOFError) or "truncated" in str(error):
        return "it ends too early"
    if isinstance(error, zipfile.BadZipFile):
        return f"it is a zip archive that is cut off or damaged ({error})"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
