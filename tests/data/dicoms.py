"""DICOM files as pydicom writes them."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate


def dicom(
    array: np.ndarray,
    *,
    photometric: str = "MONOCHROME2",
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    bits: int = 0,
    frames: bool = False,
    planes: bool = False,
    data: bytes | None = None,
    without: tuple[str, ...] = (),
    **tags: object,
) -> bytes:
    """A file of (frames) h w (c). `bits` of each value are used, `data` stands for the pixels, `tags` for what was set,
    with `planes` one colour follows the other."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    shape = array.shape[1:] if frames else array.shape
    if frames:
        dataset.NumberOfFrames = len(array)
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = 3 if len(shape) == 3 else 1
    dataset.PhotometricInterpretation = photometric
    if len(shape) == 3:
        dataset.PlanarConfiguration = int(planes)
    dataset.BitsAllocated = 8 * array.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    stored = np.moveaxis(array, -1, -3) if planes else array
    order = "<" if syntax.is_little_endian else ">"
    dataset.PixelData = stored.astype(array.dtype.newbyteorder(order)).tobytes() if data is None else data
    dataset["PixelData"].VR = "OB" if array.dtype.itemsize == 1 else "OW"
    dataset["PixelData"].is_undefined_length = syntax.is_compressed and not syntax.is_deflated
    for name, value in tags.items():
        setattr(dataset, name, value)
    for name in without:
        delattr(dataset, name)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def compressed(array: np.ndarray, syntax: uid.UID, codes: bytes, **options: object) -> bytes:
    """The same, of the codes of one frame."""
    return dicom(array, syntax=syntax, data=encapsulate([codes]), **options)  # type: ignore[arg-type]


def run_length_encoded(array: np.ndarray, **options: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom(array, **options)))  # type: ignore[arg-type]
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom")
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()
