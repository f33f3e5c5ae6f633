"""Pictures of a training: contact sheets of reconstructions, and curves. Images are de-normalised before drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine

from contextae.methods.method import Pictures

CHANNELS_SHOWN = {1: [0, 0, 0], 2: [1, 0, 1]}
WINDOW = (0.5, 99.5)
HIDDEN = 0.5  # gray where a view holds nothing
VIEWS = ("input", "visible patches", "decoded patches", "decoded + visible", "latent distance")
MOST_ROWS = 12


def to_pixels(
    images: np.ndarray, mean: Sequence[float] | np.ndarray, deviation: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Normalised b c h w (NaN: nothing there) to b h w 3 in 0..1, clipped.

    Three channels are colours, and of more the first three are taken for them; of two the first is green and the second
    magenta, as in microscopy; one is gray.
    """
    shape = (1, -1, 1, 1)
    pixels = images * np.reshape(deviation, shape) + np.reshape(mean, shape)
    pixels = np.where(np.isnan(pixels), HIDDEN, pixels).clip(0, 1).transpose(0, 2, 3, 1)
    return pixels[..., CHANNELS_SHOWN.get(pixels.shape[-1], [0, 1, 2])]


def window(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of normalised b c h w the mean and deviation with which `to_pixels` shows all but the darkest and brightest
    half per cent of each channel: what instruments record fills little of its range."""
    low, high = np.nanpercentile(images, WINDOW, axis=(0, 2, 3))
    width = np.where(high > low, high - low, 1.0)
    return -low / width, 1 / width


def contact_sheet(
    pictures: Pictures,
    *,
    grid_size: tuple[int, int],
    mean: Sequence[float] | np.ndarray,
    deviation: Sequence[float] | np.ndarray,
    names: Sequence[str],
    out: Path | IO[bytes],
    note: str = "",
    windowed: bool = False,
) -> None:
    """One row an image with the five `VIEWS`, saved as PNG. One colour scale for the distances of all rows.

    `windowed` shows what lies in the `window` of the inputs, instead of 0 to 1, and says so.
    """
    if windowed:
        mean, deviation = window(pictures[0].float().cpu().numpy())
        note = " ".join([note, "Shown between the 0.5th and the 99.5th percentile of the inputs."]).strip()
    views = [to_pixels(view.float().cpu().numpy(), mean, deviation) for view in pictures[:4]]
    distance = pictures.distance.float().cpu().numpy().reshape(-1, *grid_size)
    rows, (height, width) = len(names), views[0].shape[1:3]
    cell = 1.9
    figure = Figure(
        figsize=(len(VIEWS) * cell + 0.6, rows * 0.93 * cell * height / width + 0.5),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01),
    )
    axes = figure.subplots(rows, len(VIEWS), squeeze=False)
    top = float(np.nanmax(distance)) if np.isfinite(distance).any() else 1.0
    for row in range(rows):
        for column, view in enumerate(views):
            axes[row, column].imshow(view[row], interpolation="nearest")
        heat = axes[row, 4].imshow(
            distance[row], cmap="magma", vmin=0, vmax=top, aspect=height / grid_size[0] * grid_size[1] / width
        )
        axes[row, 4].set_facecolor("0.5")
        axes[row, 0].set_ylabel(_short(names[row]), fontsize=6)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for column, title in enumerate(VIEWS):
        axes[0, column].set_title(title, fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=7, color="0.3")
    figure.colorbar(heat, ax=axes[:, 4], fraction=0.06, label="MSE, predicted to aligned-to")
    figure.savefig(out, format="png", dpi=130)


def curves(lines: Sequence[dict[str, float]], out: Path) -> None:
    """Losses and learning rate over images seen, from the lines of log.jsonl."""
    steps = [line["step"] for line in lines]
    names = [name for name in ("loss", "reconstruction", "alignment") if name in lines[-1]]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in names:
        left.plot(steps, [line[name] for line in lines], label=name, linewidth=1)
    left.set(xlabel="step", ylabel="loss")
    left.legend(frameon=False)
    right.plot(steps, [line["lr"] for line in lines], color="0.3", linewidth=1)
    right.set(xlabel="step", ylabel="learning rate")
    figure.savefig(out, dpi=130)


def _short(name: str, most: int = 26) -> str:
    """A name that fits beside a row and cannot be taken for mathematics or control characters by the renderer; what its
    font has no picture of is a question mark."""
    font = get_font(findfont(FontProperties()))
    known = (c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in name)
    plain = "".join(known).replace("$", r"\$")
    return plain if len(plain) <= most else "..." + plain[3 - most :]


def tokenizer_sheet(images: np.ndarray, decoded: np.ndarray, out: Path | IO[bytes]) -> None:
    """Images above, below them what their codes decode to; both b c h w in 0..1, saved as PNG."""
    height, width = images.shape[2:]
    figure = Figure(figsize=(1.4 * len(images) + 0.4, 2 * 1.4 * height / width + 0.3), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for row, (title, views) in enumerate((("image", images), ("decoded codes", decoded))):
        pixels = to_pixels(views, [0.0], [1.0])
        for column, axis in enumerate(axes[row]):
            axis.imshow(pixels[column], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row, 0].set_ylabel(title, fontsize=8)
    figure.savefig(out, format="png", dpi=130)


def neighbour_sheet(
    rows: Sequence[tuple[np.ndarray, str, Sequence[tuple[np.ndarray, str]]]],
    out: Path,
    *,
    value_range: tuple[float, float] = (0.0, 255.0),
) -> None:
    """Each row an image h w c with its name, then others with a word each, saved as PNG."""
    columns = 1 + max(len(others) for _, _, others in rows)
    figure = Figure(figsize=(1.15 * columns, 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    low, high = value_range
    for line, (picture, name, others) in zip(axes, rows, strict=True):
        for axis, (each, word) in zip(line, [(picture, _short(name, 20)), *others], strict=False):
            shown = (each.transpose(2, 0, 1)[None].astype(np.float32) - low) / (high - low)
            axis.imshow(to_pixels(shown, [0.0], [1.0])[0], interpolation="nearest")
            axis.set_title(word, fontsize=6, pad=2)
        for spine in line[0].spines.values():
            spine.set(edgecolor="tab:blue", linewidth=2)
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
        for axis in line[1 + len(others) :]:
            axis.set_visible(False)
    figure.savefig(out, format="png", dpi=130)
