"""The pictures of a run's page: of which images, and by which weights."""

from __future__ import annotations

import io

import torch

from contextae.audit.naming import Naming
from contextae.data.images import load_images
from contextae.data.index import Index
from contextae.data.sources import continued_index, open_index
from contextae.errors import UserError
from contextae.pretrained import load_encoder, load_method
from contextae.report.figures import tokenizer_sheet
from contextae.report.maps import look
from contextae.report.run_pictures import RunPictures, attention_rows, component_rows, png_uri, shown_pixels
from contextae.tokenizers.dvae import DVAE
from contextae.tokenizers.stored import NAME as TOKENIZER
from contextae.tokenizers.stored import open_tokenizer
from contextae.verbs.reconstruct import draw_images, draw_sheet, reconstructed, windowed
from contextae.verbs.report_run import Run

IMAGES, SEED = 6, 0  # shown of each run; of the draw and of the masks, the same in every report


def pictures_of(run: Run, data: str | None, *, paths: bool) -> tuple[RunPictures | None, str]:
    """Everything that is drawn of a run, of its own images or of `data`; None and the reason where that cannot be."""
    try:
        return _pictures(run, data, paths=paths), ""
    except UserError as error:
        return None, (
            f"There are no pictures: {error}" if paths else "There are no pictures: images or weights are missing."
        )


def _index(run: Run, data: str | None) -> Index:
    """The images to draw from: those of the run, or of `data`."""
    own = run.experiment.data
    assert isinstance(own.channels, int)  # settled at the start
    if data is not None:
        return open_index(data, channels=own.channels, dtype=own.stored_as)
    try:
        return continued_index(own.source, run.stored, channels=own.channels, dtype=own.stored_as)
    except UserError as error:
        raise UserError(f"{error} Or name other images with --data.") from None


def _pictures(run: Run, data: str | None, *, paths: bool) -> RunPictures:
    if run.is_tokenizer:
        return _codes(run, _index(run, data))
    if run.chosen is None:
        raise UserError(run.no_weights)
    index = _index(run, data)
    checkpoint = str(run.chosen.step)
    notes: list[str] = []
    method = None
    try:
        method, origin = load_method(run.folder.path, checkpoint=checkpoint)
        encoder = method.encoder
    except UserError as error:  # a tokenizer or teacher that is gone: the encoder needs none
        encoder, origin = load_encoder(run.folder.path, checkpoint=checkpoint)
        notes.append(f"There are no reconstructions: {error}" if paths else "There are no reconstructions.")
    found = draw_images(index, count=IMAGES, seed=SEED)
    naming = Naming(index.ids, paths)
    notes += [f"{naming.words(position)} is left out: {reason}." for position, reason in found.left_out]
    names = [naming.words(position) for position in found.positions]
    images = origin.transform(found.pixels)
    looked = look(encoder, images)
    pixels = shown_pixels(
        images, mean=origin.transform.mean, deviation=origin.transform.deviation, windowed=windowed(origin)
    )
    sheet = None
    if method is not None:
        try:
            ids = [index.ids[position] for position in found.positions]
            pictures = reconstructed(method, origin, ids, found.pixels, seed=SEED)
            drawn = io.BytesIO()
            draw_sheet(pictures, origin, names, drawn)
            sheet = png_uri(drawn.getvalue())
        except UserError as error:  # a method that decodes nothing
            notes.append(str(error))
    components, shares = component_rows(looked, pixels, names)
    return RunPictures(
        step=f"step {run.chosen.step:,}" + (", the best by the label-free score" if run.chosen.name == "best" else ""),
        sheet=sheet,
        attention=attention_rows(looked, pixels, names),
        components=components,
        shares=shares,
        notes=notes,
        windowed=windowed(origin),
        channels=origin.channels,
    )


def _codes(run: Run, index: Index) -> RunPictures:
    """What the codes of a finished tokenizer decode to."""
    if not (run.folder.path / TOKENIZER).is_file():
        raise UserError("The training of this tokenizer has not come to its end, which writes the tokenizer's file.")
    tokenizer = open_tokenizer(run.folder.path)
    assert isinstance(tokenizer, DVAE)  # k-means is no run
    found = draw_images(index, count=IMAGES, seed=SEED)
    some = index.subset(found.positions)
    data = run.experiment.data
    images = torch.from_numpy(load_images(some, data.image_size, value_range=data.scaled_from).images).float() / 255
    decoded = tokenizer.decode(tokenizer.codes(images), run.experiment.grid_size)
    drawn = io.BytesIO()
    tokenizer_sheet(images.numpy(), decoded.numpy(), drawn)
    return RunPictures(
        step="the finished tokenizer",
        sheet=png_uri(drawn.getvalue()),
        attention=[],
        components=[],
        shares=[],
        notes=[],
        channels=index.channels,
    )
