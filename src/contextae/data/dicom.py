"""DICOM, through pydicom: `pip install "contextae[dicom]"`."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from contextae.data.deep import Layout
from contextae.data.facts import BadImage, Unsupported


def dicom_layout(stream: BinaryIO) -> Layout:
    """Of a DICOM file: stored values, neither rescaled nor windowed; the first of several frames.

    MONOCHROME1, where the smallest value is white, is turned so that the largest one is.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise Unsupported('DICOM, which needs pip install "contextae[dicom]"') from None
    try:
        dataset = pydicom.dcmread(stream)
    except InvalidDicomError as error:
        raise BadImage("not an image, or its header is damaged") from error
    if "Rows" not in dataset or "PixelData" not in dataset:
        raise BadImage("a DICOM file without pixels")
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    channels = int(dataset.get("SamplesPerPixel", 1))
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB") or channels != (3 if photometric == "RGB" else 1):
        raise Unsupported(f"DICOM of {photometric}, not supported")
    bits, signed = int(dataset.BitsStored), bool(dataset.get("PixelRepresentation", 0))
    dtype = np.dtype(f"{'i' if signed else 'u'}{int(dataset.BitsAllocated) // 8}")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)

    def read() -> np.ndarray:
        array = dataset.pixel_array
        array = array[0] if frames > 1 else array
        if photometric == "MONOCHROME1":
            array = -1 - array if signed else (2**bits - 1) - array
        return array[:, :, None] if array.ndim == 2 else array

    return Layout(
        int(dataset.Rows),
        int(dataset.Columns),
        channels,
        0,
        dtype,
        frames > 1,
        read,
        format="DICOM",
        photographic=True,
    )
