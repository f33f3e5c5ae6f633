"""torch: a program for any number of images, with the facts of its input inside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exports import SIZE, array_files, close, facts_for, odd_encoder, ours

from contextae.interop import torch_export as exported
from contextae.interop.input_facts import InputFacts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("torch")
    exported.write(odd_encoder(), facts_for(odd_encoder()), made)
    return made


def test_what_is_reloaded_from_files_is_the_encoder(folder: Path, tmp_path: Path) -> None:
    encoder, files = odd_encoder(), array_files(tmp_path)
    close(exported.reload(folder, files, []), *ours(encoder, files)[1:])


def test_any_number_of_images_but_no_other_size(folder: Path, tmp_path: Path) -> None:
    inside = {"contextae.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=inside)
    assert InputFacts.from_json(inside["contextae.json"]) == facts_for(odd_encoder())
    images, summary, latents = ours(odd_encoder(), array_files(tmp_path))
    for count in (1, 3, 5):
        found = program.module()(images[:count])
        torch.testing.assert_close(found[0], summary[:count], atol=1e-5, rtol=0)
        torch.testing.assert_close(found[1], latents[:count], atol=1e-5, rtol=0)
    with pytest.raises(AssertionError, match=r"images.size\(\)\[2\] == 10"):
        program.module()(torch.zeros(2, 5, *SIZE[::-1]))
