"""`contextae convert`: published weights, tokenizers and classifiers in, the only reader of pickles; nothing is run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from contextae.encoder import Encoder
from contextae.errors import UserError, nearest
from contextae.interop.beit import TABLE, to_beit, write_beit
from contextae.interop.export import check_export, export
from contextae.interop.foreign import read_foreign
from contextae.interop.official import Read, read_state_dict
from contextae.interop.official_heads import RELEASED_HEADS
from contextae.interop.official_read import listed, unwrap
from contextae.pretrained import Transform, load_encoder, metadata_of
from contextae.training.disk import replace_file
from contextae.training.manifest import FORMAT
from contextae.training.saved import MARK, on_host
from contextae.verbs.output import check_output, writing
from contextae.verbs.published import described, normalisation, regressor_heads

GOALS = ("contextae", "timm", "beit", "tensors")
FOLDERS = ("timm", "beit")
DALLE, DALLE_KERNEL = "blocks.input.w", 7  # the encoder's first convolution; the decoder's has a kernel of 1
RECEIPT_IMAGES = 4


def run_convert(
    *,
    source: Path,
    out: Path,
    to: str = "contextae",
    image_size: str = "224",
    patch_size: str = "16",
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    allow_other_heads: bool = False,
    encoder_only: bool = False,
    drop_encoder_copy: bool = False,
    mean: str | None = None,
    deviation: str | None = None,
    target: str | None = None,
) -> None:
    """Reads `source`, says what was placed and what was left out and why, and writes `out`."""
    if to not in GOALS:
        raise UserError(f"--to is one of {', '.join(GOALS)}. Got {to!r}.{nearest(to, GOALS)}")
    _check_out(to, out)
    foreign = read_foreign(source)
    for note in foreign.notes:
        typer.echo(note)
    state = unwrap(foreign.state)
    if to == "tensors":
        _tensors(state, source, out)
        return
    if DALLE in state:
        _tokenizer(state, source, out, to)
        return
    sizes: dict[str, Any] = {
        "image_size": _pair(image_size, "--image-size"),
        "patch_size": _pair(patch_size, "--patch-size"),
        "num_heads": num_heads or _known_heads(state),
        "allow_other_heads": allow_other_heads,
    }
    shown = {"mean": _numbers(mean, "--mean"), "deviation": _numbers(deviation, "--deviation")}
    if to == "beit":
        _classifier(state, out, sizes, shown)
        return
    read = read_state_dict(
        state,
        **sizes,
        decoder_num_heads=decoder_num_heads,
        encoder_only=encoder_only or to == "timm",
        drop_encoder_copy=drop_encoder_copy,
    )
    for line in lines(read, source):
        typer.echo(line)
    if to == "timm":
        _timm(read.module, out, shown)
    else:
        _contextae(read, source, out, shown, target)


def lines(read: Read, source: Path) -> list[str]:
    """What was read: how many tensors, which were left out, with how many heads."""
    encoder = read.module if isinstance(read.module, Encoder) else read.module.encoder
    kind = "an encoder" if read.module is encoder else {"CAE": "CAE", "CAEv2": "CAE v2"}[type(read.module).__name__]
    said = [
        f"{source.name}: {kind} of width {encoder.width} and depth {encoder.depth}, named as {read.family}",
        f"{read.placed} tensors have their place (position tables checked, not stored)",
    ]
    for why, count in Counter(read.left_out.values()).items():
        names = listed(name for name, reason in read.left_out.items() if reason == why)
        said.append(f"{count} tensors left out: {names}: {why}")
    heads = f"{encoder.num_heads} attention heads in the encoder"
    if not isinstance(read.module, Encoder):
        heads += f", {regressor_heads(read.module)} in the regressor"
    return [*said, f"{heads} (as said or as published: tensors do not tell)", *read.notes]


def _contextae(
    read: Read, source: Path, out: Path, shown: Mapping[str, Sequence[float] | None], target: str | None
) -> None:
    """One safetensors file with the settings in its header; the encoder alone where settings cannot say the rest."""
    encoder = read.module if isinstance(read.module, Encoder) else read.module.encoder
    mean, deviation, said = normalisation(encoder.grid.channels, **shown)
    found = described(read.module, source=source.name, mean=mean, deviation=deviation, target=target)
    module = read.module if found.whole else encoder
    prefix = "encoder." if module is encoder else ""
    tensors = {prefix + name: value for name, value in module.state_dict().items()}
    origin = {"file": source.name, "sha256": _sha256(source), "names": read.family}
    header = {**metadata_of(found.experiment), "converted": json.dumps(origin), "format": "pt", MARK: str(FORMAT)}
    _write(out, tensors, header)
    again, _ = load_encoder(out)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in again.state_dict().items())
    typer.echo(said)
    if module is not read.module:
        typer.echo(
            "Regressor and decoder are built otherwise than settings can say (another MLP ratio or layer scale than "
            "the encoder's), so the encoder alone is written."
        )
    elif module is not encoder:
        wanted = found.experiment.method.target  # type: ignore[union-attr]
        typer.echo(f"Tokenizer or teacher are not in these files; the header names {wanted} (--target names another).")
    typer.echo(
        f"{len(tensors)} tensors -> {out}. Use it with `contextae evaluate {out}` or contextae.load({str(out)!r})."
    )


def _tensors(state: Mapping[str, Any], source: Path, out: Path) -> None:
    """Whatever network it is of, by the names of the file: for timm:NAME=FILE."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"There is no tensor in {source} by any name. Give a file of weights.")
    _write(out, tensors, {"format": "pt"})
    rest = [name for name in state if name not in tensors]
    left = f"; left out, for they are no tensors: {listed(rest)}" if rest else ""
    typer.echo(f"{source.name}: {len(tensors)} tensors by the names of the file, nothing looked at{left}")
    typer.echo(f"-> {out}. Whoever reads it checks the names: --init timm:NAME={out}, features:timm:NAME={out}.")


def _tokenizer(state: Mapping[str, Tensor], source: Path, out: Path, to: str) -> None:
    """DALL-E's encoder as it is, names and all: tokenizers/dalle.py reads it so."""
    if to != "contextae" or state[DALLE].shape[-1] != DALLE_KERNEL:
        what = "encoder, a tokenizer and no ViT" if to != "contextae" else "decoder, which pretraining never uses"
        raise UserError(
            f"{source} holds DALL-E's {what}. Give its encoder (encoder.pkl, or OpenMMLab's dalle_encoder.pth), and no "
            "--to."
        )
    _write(out, state, {"format": "pt"})
    typer.echo(f"{source.name}: DALL-E's encoder, a tokenizer; {len(state)} tensors by the names of the file")
    typer.echo(f"-> {out}. Predict its codes with `contextae pretrain DATA --set method.target=codes:{out}`.")


def _classifier(
    state: Mapping[str, Tensor], out: Path, sizes: Mapping[str, Any], shown: Mapping[str, Sequence[float] | None]
) -> None:
    """A folder for timm; it appears under its name only after timm has loaded it with equal outputs."""
    model = to_beit(state, **sizes)
    mean, deviation, said = normalisation(model.in_chans, **shown)
    unchecked = out.resolve().with_name(f".{out.resolve().name}.unchecked-{os.getpid()}")
    try:
        with writing(out):
            unchecked.mkdir(parents=True)
            difference = write_beit(model, unchecked, mean=mean, deviation=deviation)
            unchecked.rename(out.resolve())
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    typer.echo(f"A classifier of {model.num_classes} classes; {len(model.state_dict())} tensors have their place")
    typer.echo(said)
    typer.echo(f"timm has loaded it: its outputs differ by at most {difference:.1e}")
    typer.echo(f'-> {out}. Load it with timm.create_model("local-dir:{out}", pretrained=True)')


def _timm(encoder: Any, out: Path, shown: Mapping[str, Sequence[float] | None]) -> None:
    """The folder of `contextae export --to timm`, its receipt made of random images."""
    grid = encoder.grid
    mean, deviation, said = normalisation(grid.channels, **shown)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (RECEIPT_IMAGES, *grid.image_size, grid.channels), dtype=np.uint8)
    transform = Transform(size=grid.image_size, channels=grid.channels, mean=mean, deviation=deviation)
    with tempfile.TemporaryDirectory() as aside:
        files = [as_file(Path(aside) / str(i), each) for i, each in enumerate(pixels)]
        receipt = export(
            encoder, to="timm", out=out, mean=mean, deviation=deviation, files=files, images=transform(list(pixels))
        )
    typer.echo(said)
    typer.echo(f"timm has loaded it: its outputs differ by at most {receipt.largest_difference:.1e}")
    typer.echo(f'-> {out}. Load it with timm.create_model("local-dir:{out}", pretrained=True)')


def as_file(path: Path, pixels: np.ndarray) -> Path:
    """uint8 h w c as a file that keeps every value."""
    if pixels.shape[2] in (1, 3):
        path = path.with_suffix(".png")
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
        return path
    path = path.with_suffix(".npy")
    np.save(path, pixels)
    return path


def _write(out: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    with writing(out):
        replace_file(out, save(on_host(tensors), header))


def _check_out(to: str, out: Path) -> None:
    if to in FOLDERS:
        check_export("timm", out)
        return
    if out.suffix != ".safetensors":
        raise UserError(f"--out is the safetensors file to write. Got {out}; give it a name that ends in .safetensors.")
    check_output(out)


def _known_heads(state: Mapping[str, Tensor]) -> int:
    """Of a relative-position table, else what the release has for the width."""
    table = next((value for name, value in state.items() if name.endswith(TABLE)), None)
    if table is not None:
        return table.shape[-1]
    width = next((value.shape[-1] for name, value in state.items() if name.endswith("cls_token")), None)
    if width is not None and width not in RELEASED_HEADS:
        raise UserError(
            f"Heads are not in the tensors, and no published CAE is {width} wide (they are "
            f"{', '.join(map(str, RELEASED_HEADS))}). Give --num-heads."
        )
    return RELEASED_HEADS.get(width or 0, 12)


def _pair(text: str, name: str) -> tuple[int, int]:
    """One number, or height and width."""
    parts = text.lower().replace("x", ",").replace(" ", ",").split(",")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{name} is one number of pixels, or height and width as 224x192. Got {text!r}.")
    return int(parts[0]), int(parts[-1])


def _numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{name} is a list of numbers with commas, such as 0.485,0.456,0.406. Got {text!r}.") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
