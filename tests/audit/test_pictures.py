"""Which images are shown, and that each picture is of its image, of any depth and number of channels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.made_set import encoded, gray16, image
from audit.troubled import listing
from contextae.audit.findings import find
from contextae.audit.pictures import COUPLES, EXAMPLES, GROUPS, SAMPLE, SIDE, choose_shown, draw, picture
from contextae.audit.stopping import Stopping
from contextae.audit.survey import Survey, survey
from contextae.data.sources.find import list_source
from contextae.data.sources.folder import Files


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def looked_at(folder: Path) -> Survey:
    return survey(list_source(str(folder)), stopping=Stopping(), progress=lambda *_: None)


def test_each_picture_is_of_its_image() -> None:
    seen = survey(listing(30, {7: "gone"}), stopping=Stopping(), progress=lambda *_: None)
    drawn = draw(seen, {3, 7, 29, 11}, Stopping())
    assert sorted(drawn) == [3, 11, 29], "7 cannot be read"
    for position, data in drawn.items():
        assert np.array_equal(np.asarray(opened(data)), np.asarray(image(position)))


def test_pictures_are_small_and_tiny_images_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(encoded(image(1, (400, 200))))
    large = opened(picture(Files(str(tmp_path)), "large.png"))
    assert (large.format, large.size) == ("JPEG", (SIDE // 2, SIDE))
    (tmp_path / "tiny.png").write_bytes(encoded(image(1, (20, 31))))
    assert (opened(picture(Files(str(tmp_path)), "tiny.png")).format) == "PNG"


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_is_deeper_is_stretched_and_shown_in_colours(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(0).integers(1000, 1100, (30, 40, channels)).astype(np.uint16)
    np.save(tmp_path / "deep.npy", values)
    shown = np.asarray(opened(picture(Files(str(tmp_path)), "deep.npy")))
    assert shown.shape == (30, 40, 3) and shown.min() < 10 and shown.max() > 245
    equal = {1: (0, 1), 2: (0, 2)}.get(channels)
    if equal:
        assert np.array_equal(shown[:, :, equal[0]], shown[:, :, equal[1]])


def test_what_is_shown(tmp_path: Path) -> None:
    """A group of four, many pairs; a broken one and one of another kind are not among the sample."""
    folder = tmp_path / "set"
    for i in range(SAMPLE + GROUPS + 3):
        for part in ("a", "b", "c", "d") if i == 5 else ("a", "b") if i < GROUPS + 2 else ("a",):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / f"{i:02d}.png").write_bytes(encoded(image(i)))
    (folder / "a" / "broken.png").write_bytes(b"")
    (folder / "a" / "deep.png").write_bytes(gray16(1))
    for i in range(EXAMPLES + 2):
        (folder / "d" / f"flat{i}.png").write_bytes(encoded(Image.new("RGB", (48, 40), (i * 9, 0, 0))))
    found = find(looked_at(folder), looked_at(folder / "b"))
    shown = choose_shown(found)
    assert len(shown.sample) == SAMPLE and set(shown.sample) <= set(found.used.tolist())
    groups = shown.groups["exact-duplicates"]
    assert len(groups) == GROUPS and len(groups[0].others) == 3 and found.survey.ids[groups[0].kept] == "a/05.png"
    assert len(shown.examples["constant"]) == EXAMPLES and set(shown.examples) == {"constant"}
    assert len(shown.couples["exact-overlap"]) == COUPLES and "near-overlap" not in shown.couples
    assert set(shown.sample) | {groups[1].kept} | set(shown.examples["constant"]) <= shown.here()
    assert shown.there() == {each.other for each in shown.couples["exact-overlap"]}
