"""Parts of images that are too large to be decoded as a whole: only the tiles or strips of a TIFF that are needed, or
the rows of a .npy file."""

from __future__ import annotations

import math
from typing import BinaryIO

from contextae.data import deep
from contextae.data.facts import BadImage, too_large
from contextae.data.resize import Box, Region
from contextae.data.tiff import tiff_layout

MARGIN = 3
"Pixels of the coarser grid that a kernel reaches beyond a box (resize.RADIUS)."


class Window:
    """A large image in a stream, of which parts are read; BadImage where it cannot be read by parts."""

    def __init__(self, stream: BinaryIO) -> None:
        stream.seek(0)
        head = stream.read(deep.MAGIC_BYTES)
        stream.seek(0)
        self.stream = stream
        if deep.is_tiff(head):
            self.layout = tiff_layout(stream)
        elif deep.is_numpy(head):
            self.layout = deep.numpy_layout(stream)
        else:
            raise BadImage(too_large())
        if self.layout.read_box is None:
            raise BadImage(too_large())
        self.height, self.width = self.layout.height, self.layout.width

    def part(self, box: Box, size: tuple[int, int]) -> Region:
        """The box with what a kernel needs around it, to be shown in `size` (height, width)."""
        margins = [
            MARGIN * max(1.0, (end - begin) / out) for begin, end, out in zip(box[:2], box[2:], size[::-1], strict=True)
        ]
        left, top = (max(0, math.floor(begin - margin)) for begin, margin in zip(box[:2], margins, strict=True))
        right = min(self.width, math.ceil(box[2] + margins[0]))
        bottom = min(self.height, math.ceil(box[3] + margins[1]))
        image = deep.pixels(self.layout, (top, left, bottom, right))
        return Region(image, (box[0] - left, box[1] - top, box[2] - left, box[3] - top))
