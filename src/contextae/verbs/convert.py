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

from contextae.disk import replace_file
from contextae.encoder import Encoder
from contextae.errors import UserError, nearest
from contextae.interop.beit import TABLE, to_beit, write_beit
from contextae.interop.export import check_export, export
from contextae.interop.foreign import read_foreign
from contextae.interop.official import Read, read_state_dict
from contextae.interop.official_heads import RELEASED_HEADS
from contextae.interop.official_read import listed, unwrap
from contextae.methods.cae import CAE
from contextae.pretrained import Transform, load_encoder, metadata_of
from contextae.targets import HOG, Pixels
from contextae.training.manifest import FORMAT
from contextae.training.saved import MARK, on_host
from contextae.verbs.output import check_output, writing
from contextae.verbs.published import described, normalisation, regressor_heads

GOALS = ("contextae", "timm", "beit", "tensors")
FOLDERS = ("timm", "beit")
DALLE, DALLE_KERNEL = "blocks.input.w", 7  # the encoder's first convolution; the decoder's has a kernel of 1
RECEIPT_IMAGES = 4
IMAGE_SIZE, PATCH_SIZE = "224", "16"  # of the published weights
SHAPES = ("--image-size", "--patch-size", "--num-heads", "--allow-other-heads", "--mean", "--deviation")
OF_THE_ENCODER = (*SHAPES, "--encoder-only", "--drop-encoder-copy")
USED = {"tensors": (), "beit": SHAPES, "timm": OF_THE_ENCODER, "encoder": OF_THE_ENCODER}  # not there: all are


def run_convert(
    *,
    source: Path,
    out: Path,
    to: str = "contextae",
    image_size: str = IMAGE_SIZE,
    patch_size: str = PATCH_SIZE,
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
    given = {
        "--image-size": image_size != IMAGE_SIZE,
        "--patch-size": patch_size != PATCH_SIZE,
        "--num-heads": num_heads is not None,
        "--allow-other-heads": allow_other_heads,
        "--mean": mean is not None,
        "--deviation": deviation is not None,
        "--encoder-only": encoder_only,
        "--drop-encoder-copy": drop_encoder_copy,
        "--decoder-num-heads": decoder_num_heads is not None,
        "--target": target is not None,
    }
    options = [name for name, is_given in given.items() if is_given]
    _refuse_unused(options, f"--to {to}", USED.get(to, options))
    if encoder_only:
        _refuse_unused(options, "--encoder-only", USED["encoder"])
    _check_out(to, out, source)
    foreign = read_foreign(source)
    for note in foreign.notes:
        typer.echo(note)
    state = unwrap(foreign.state)
    if to == "tensors":
        _tensors(state, source, out)
        return
    if DALLE in state:
        _refuse_unused(options, "DALL-E's file, a tokenizer,", ())
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
    if isinstance(read.module, Encoder):
        _refuse_unused(options, "An encoder alone", USED["encoder"])
    _check_target(read.module, target)
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


def _refuse_unused(options: Sequence[str], what: str, used: Sequence[str]) -> None:
    """An option that would change nothing is a misunderstanding."""
    unused = [name for name in options if name not in used]
    if unused:
        raise UserError(f"{what} has no use for {', '.join(unused)}. Leave {'it' if len(unused) == 1 else 'them'} out.")


def _check_target(module: Any, target: str | None) -> None:
    """Targets that need no file are of a known width, which the decoder must have."""
    known: dict[str | None, Any] = {"pixels": Pixels, "hog": HOG}
    if not isinstance(module, CAE) or target not in known:
        return
    wanted = known[target](grid=module.encoder.grid).width
    if wanted != module.target.width:
        raise UserError(
            f"--target is what the decoder was trained to predict. It gives {module.target.width} values for a patch, "
            f"and {target} would be {wanted}; give codes:TOKENIZER, as the published weights have it."
        )


def _check_out(to: str, out: Path, source: Path) -> None:
    if to in FOLDERS:
        check_export("timm", out)
        return
    if out.suffix != ".safetensors":
        raise UserError(f"--out is the safetensors file to write. Got {out}; give it a name that ends in .safetensors.")
    check_output(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out must not be the file to convert, which it would replace. Got {out}; name another file.")
    if out.exists():
        raise UserError(f"--out is a new file, and nothing is overwritten. There is one at {out}; name another.")


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
