"""InputFacts: what is written is what is read, and every number of it has its effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from exports import array_files, facts_for, odd_encoder
from PIL import Image

from contextae.errors import UserError
from contextae.interop.input_facts import InputFacts, input_facts
from contextae.pretrained import Transform


def test_json_and_back(tmp_path: Path) -> None:
    facts = facts_for(odd_encoder())
    (tmp_path / "contextae.json").write_text(facts.to_json())
    assert InputFacts.read(tmp_path) == facts == InputFacts.from_json(facts.to_json())
    assert (facts.height, facts.width, facts.bit_depth, facts.value_range) == (10, 21, 8, (0.0, 1.0))
    assert [facts_for(odd_encoder(c)).channel_order for c in (1, 3)] == ["gray", "RGB"]
    assert facts.channel_order == "as in the images it was trained on"


@pytest.mark.parametrize("channels", [1, 3])
def test_files_become_what_our_transform_makes_of_them(channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 29, 4)).astype(np.uint8)
    files = [tmp_path / "alpha.png", tmp_path / "colour.jpg", tmp_path / "gray.png"]
    for path, image in zip(files, (pixels, pixels[:, :, :3], pixels[:, :, 0]), strict=True):
        Image.fromarray(image).save(path)
    facts = facts_for(odd_encoder(channels))
    transform = Transform(size=(10, 21), channels=channels, mean=facts.mean, deviation=facts.deviation)
    torch.testing.assert_close(
        torch.from_numpy(facts.normalised(facts.pixels(files))), transform(files), atol=1e-6, rtol=0
    )


def test_depth_and_range_of_the_values_count(tmp_path: Path) -> None:
    facts = facts_for(odd_encoder())
    pixels = facts.pixels(array_files(tmp_path))
    mean, deviation = (np.array(each, np.float32).reshape(1, -1, 1, 1) for each in (facts.mean, facts.deviation))
    plain = pixels.astype(np.float32)
    deep = replace(facts, stored_range=(-50.0, 4095.0)).normalised(pixels)
    np.testing.assert_allclose(deep, ((plain + 50) / 4145 - mean) / deviation, rtol=1e-4, atol=1e-5)
    signed = replace(facts, value_range=(-1.0, 1.0)).normalised(pixels)
    np.testing.assert_allclose(signed, (plain / 127.5 - 1 - mean) / deviation, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_pixels_are_those_of_the_run(tmp_path: Path, dtype: str) -> None:
    """From a TIFF and from a .npy of the same values, as the run's own transform reads them."""
    values = np.random.default_rng(0).uniform(0, 4000, (17, 29, 2)).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "a.tif", values.transpose(2, 0, 1), metadata={"axes": "CYX"}, photometric="minisblack")
    facts = input_facts(
        image_size=(10, 21), channels=2, mean=(0.1, 0.3), deviation=(0.2, 0.1), dtype=dtype, stored_range=(-5.0, 4095.0)
    )
    assert InputFacts.from_json(facts.to_json()) == facts and facts.bit_depth == {"uint16": 16, "float32": 32}[dtype]
    transform = Transform(
        size=(10, 21), channels=2, mean=(0.1, 0.3), deviation=(0.2, 0.1), dtype=dtype, value_range=(-5.0, 4095.0)
    )
    pixels = facts.pixels([tmp_path / "a.npy", tmp_path / "a.tif"])
    assert pixels.dtype == dtype and (pixels[0] == pixels[1]).all()
    expected = transform([tmp_path / "a.npy", tmp_path / "a.tif"])
    torch.testing.assert_close(torch.from_numpy(facts.normalised(pixels)), expected, atol=1e-5, rtol=0)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"Only encoders of images .* This one is for \(39,\)"):
        input_facts(image_size=(39,), channels=2, mean=(0.5, 0.5), deviation=(0.2, 0.2))
    with pytest.raises(UserError, match=r"one number for each of the 2 channel\(s\)\. Got 1 and 2"):
        input_facts(image_size=(3, 4), channels=2, mean=(0.5,), deviation=(0.2, 0.2))
