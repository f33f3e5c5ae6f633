"""The images of a packed cache as a source. Ids are those of the source it was packed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contextae.data.facts import BadImage, ImageFacts
from contextae.data.index import printable
from contextae.data.names import as_array, mapped_bytes
from contextae.data.packed import PackedImages, open_packed
from contextae.data.packed_manifest import LOOKS, read_manifest, replaced
from contextae.data.sources.listing import Listing
from contextae.data.sources.origin import LOOK, Origin, changed_since
from contextae.data.sources.reopened import Reopened
from contextae.errors import UserError

GONE = "no longer in the packed cache"


class Packed(Reopened):
    """Opened again, by its path, in each process; one that was replaced meanwhile is refused."""

    def __init__(self, path: str, content: str) -> None:
        self.path, self.content = path, content
        self._start()

    def _start(self) -> None:
        super()._start()
        self._images: PackedImages | None = None

    def read(self, sample_id: str) -> bytes | np.ndarray:
        """A raw image as a view of the memory map, of which a crop reads no more than its rows; or a JPEG file."""
        images = self._images or self.images()
        return images.read(self._position(images, sample_id))

    def probe(self, sample_id: str) -> ImageFacts:
        images = self._images or self.images()
        return images.facts(self._position(images, sample_id))

    def has(self, sample_id: str) -> bool:
        return self.images().position(sample_id) is not None

    @property
    def arrays(self) -> bool:
        """Whether nothing is decoded: see `look_at_each`."""
        return self.images().manifest.kind == "raw"

    def facts(self) -> np.ndarray:
        """Rows of FACTS of all images at once, in the order of the listing."""
        return self.images().all_facts()

    def images(self) -> PackedImages:
        with self._lock:
            if self._images is None:
                folder = Path(self.path)
                manifest = read_manifest(folder)
                if manifest.content() != self.content:
                    raise UserError(replaced(folder))
                self._images = PackedImages(folder, manifest)
            return self._images

    @staticmethod
    def _position(images: PackedImages, sample_id: str) -> int:
        position = images.position(sample_id)
        if position is None:
            raise BadImage(GONE)
        return position


def list_packed(path: Path, title: str, *, accept_stale: bool = False) -> Listing:
    """The images of the cache at `path` (see packed.is_packed), and what its source held beside them.

    UserError where it is not whole, or where its source is there and its files differ from those that were packed in
    number, names, size or time. With `accept_stale` that is a note: the cache itself is what it was.
    """
    images = open_packed(path)
    about = images.manifest
    notes = [f"packed as {about.kind}, short side at most {about.short_side}"]
    if about.origin is not None:
        origin = Origin(**about.origin)
        looks = as_array(mapped_bytes(path / LOOKS), LOOK)
        if differs := changed_since(origin, looks):
            if not accept_stale:
                raise UserError(stale(path, origin, differs))
            notes.append(f"{printable(origin.path)}, which it was packed from, has changed since: {differs}")
    return Listing(
        source=Packed(str(path.absolute()), about.content()),
        title=title,
        ids=images.names,
        left_out=list(images.left_out()),
        notes=notes,
    )


def stale(path: Path, origin: Origin, differs: str) -> str:
    """The paragraph for a cache whose source has changed."""
    cache, source = printable(str(path)), printable(origin.path)
    return (
        f"The packed cache {cache} no longer holds what its source holds. It was packed from {source}, and {differs}. "
        f"Pack that again with `contextae pack {source} --out ANOTHER_FOLDER`, or, to go on with the images as they "
        f"were, `contextae pack --untie --out {cache}`."
    )
