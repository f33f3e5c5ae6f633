"""Headers of all images, read by processes that may die."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import looks
import numpy as np
import pytest
from PIL import Image
from small_index import WATCHED, Retried, name, small_index

from contextae.data.each import STANDBY, look_at_each
from contextae.data.facts import ImageFacts, Refusal
from contextae.data.index import FACTS
from contextae.data.names import Names
from contextae.data.probing import probe_all
from contextae.data.sources.folder import Files
from data.pictures import encoded, write


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    STANDBY.close()


@dataclass(frozen=True)
class Headers(Retried):
    """Sound headers, except for the trouble that some images have."""

    def probe(self, sample_id: str) -> ImageFacts:
        height, width, channels = self.read(sample_id).shape
        return ImageFacts(width, height, channels, "array", "RGB", num_bytes=7)


def test_rows_are_what_the_headers_say(tmp_path: Path) -> None:
    for i in range(300):
        write(tmp_path / f"{i}.png", seed=i, size=(2 + i % 7, 3), mode="L" if i % 2 else "RGB")
    source, ids = Files(str(tmp_path)), Names(f"{i}.png" for i in range(300))
    calls: list[tuple[int, int]] = []
    facts, bad = probe_all(source, ids, lambda done, total: calls.append((done, total)))
    assert bad == {} and facts.dtype == FACTS
    for row, sample_id in zip(facts, ids, strict=True):
        fact = source.probe(sample_id)
        assert row.item() == tuple(
            value.encode() if isinstance(value, str) else value for value in map(fact._asdict().get, FACTS.names)
        )
    assert calls == [(128, 300), (256, 300), (300, 300)]


def test_refusals_are_by_position_and_sound_ones_are_marked(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(encoded(kind="JPEG")[:20])
    Image.new("LAB", (3, 2)).save(tmp_path / "c.tif")
    facts, bad = probe_all(Files(str(tmp_path)), ["a.png", "b.jpg", "c.tif", "d.png"], None)
    assert bad == {
        1: Refusal("not an image, or its header is damaged"),
        2: Refusal("LAB pixels in TIFF, not supported", sound=True),
        3: Refusal("cannot be read (No such file or directory)"),
    }
    assert len(facts) == 4 and (facts[1:] == np.zeros(3, FACTS)).all() and facts["width"][0] == 19


def test_nothing_to_probe() -> None:
    facts, bad = probe_all(Headers(), [], None)
    assert (len(facts), facts.dtype, bad) == (0, FACTS, {})


@pytest.mark.parametrize("count", [9, 1100])
def test_a_header_that_ends_its_process_costs_that_image_alone(count: int) -> None:
    deadly = [1, 2, count - 1]
    source = Headers({name(i): "segfault" for i in deadly} | {name(5): "hang"})
    ids = small_index(count).ids
    facts, bad = probe_all(source, ids, None, timeout=0.5)
    ended = Refusal("the process that read it ended with signal 11")
    assert bad == dict.fromkeys(deadly, ended) | {5: Refusal("the process that read it gave no answer for 0.5 s")}
    assert (facts["width"] == np.where(np.isin(np.arange(count), [*deadly, 5]), 0, 17)).all()


def test_the_processes_import_nothing_that_is_slow(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    source = Files(str(tmp_path))
    probe_all(source, ["a.png"], None)
    ((imported,),) = look_at_each(looks.imported, source, ["a.png"], chunk=1, per_process=1)
    assert imported == {module: module == "contextae" for module in WATCHED}
