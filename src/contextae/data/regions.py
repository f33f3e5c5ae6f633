"""Parts of images that are too large to be decoded as a whole: only the tiles or strips of a TIFF that are needed, or
the rows of a .npy file."""

from __future__ import annotations

import math
from typing import BinaryIO

from contextae.data import deep
from contextae.data.decode import judged, wanted
from contextae.data.facts import BadImage, too_large
from contextae.data.resize import Box, Region
from contextae.data.tiff import tiff_layout

MARGIN = 3
"Pixels of the coarser grid that a kernel reaches beyond a box (resize.RADIUS)."


class Tiles:
    """A file of which parts are read, as `channels` of `dtype`; `shape` is h w c. BadImage where it has no parts."""

    def __init__(self, stream: BinaryIO, channels: int, dtype: str) -> None:
        with judged("damaged header"):
            stream.seek(0)
            head = stream.read(deep.MAGIC_BYTES)
            stream.seek(0)
            layout = tiff_layout(stream) if deep.is_tiff(head) else None
            layout = deep.numpy_layout(stream) if deep.is_numpy(head) else layout
        if layout is None or layout.read_box is None:
            raise BadImage(too_large())
        self.layout, self.channels, self.dtype = layout, channels, dtype
        self.shape = (layout.height, layout.width, channels)

    def part(self, box: Box, size: tuple[int, int]) -> Region:
        """The box with what a kernel needs around it, to be shown in `size` (height, width).

        What is broken elsewhere in the file is not noticed, and alpha is composited on the mean colour of this part.
        """
        lengths = zip(box[:2], box[2:], size[::-1], strict=True)
        margins = [MARGIN * max(1.0, (end - begin) / out) for begin, end, out in lengths]
        left, top = (max(0, math.floor(begin - margin)) for begin, margin in zip(box[:2], margins, strict=True))
        right = min(self.layout.width, math.ceil(box[2] + margins[0]))
        bottom = min(self.layout.height, math.ceil(box[3] + margins[1]))
        with judged("damaged pixels"):
            image = wanted(deep.pixels(self.layout, (top, left, bottom, right)), self.channels, self.dtype)
        return Region(image, (box[0] - left, box[1] - top, box[2] - left, box[3] - top))
