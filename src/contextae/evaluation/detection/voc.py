"""Pascal VOC's XML: a file for each image, with its size and a box and a name for each object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from contextae.data.index import printable
from contextae.data.sources.regular import read_regular
from contextae.errors import UserError, nearest
from contextae.evaluation.detection.objects import AnnotatedImage, DetectionData, Objects, checked_box


class NotAllowedError(ValueError):
    """What no label needs and what can do harm: a document type, and with it entities."""


def read_voc(
    labels: Sequence[Path], images: Path, *, title: str, classes: Sequence[str] | None = None
) -> DetectionData:
    """One image for each XML file, in their order; their files lie in the folder `images`, or beside the XML.

    Classes are the given ones, or all names that occur, sorted. Boxes are from the first to the last pixel, counted
    from 1. Objects marked as difficult are, as in VOC, neither trained on nor counted; they are crowds here, so that
    several detections in one are not counted either.
    """
    documents = [_read(path) for path in labels]
    named = [_named(root, path) for root, path in zip(documents, labels, strict=True)]
    known = list(classes) if classes is not None else sorted({name for names in named for name in names})
    if not labels:
        raise UserError(f"{title} holds no XML files. Give the folder of the labels, with one for each image.")
    if not known:
        raise UserError(
            f"None of the {len(labels):,} files of {title} holds an object, so there is nothing to look for."
        )
    found, met = [], dict[str, Path]()
    for root, names, path in zip(documents, named, labels, strict=True):
        image = _image(root, names, path, images, known)
        if image.name in met:
            raise UserError(
                f"Every image has one file of labels. {printable(str(met[image.name]))} and {printable(str(path))} are "
                f"both of {printable(image.name)}; join them."
            )
        met[image.name] = path
        found.append(image)
    unshaped = sum(len(image.objects) for image in found)
    return DetectionData(title=title, classes=tuple(known), images=tuple(found), unshaped=unshaped)


def _read(path: Path) -> Element:
    """Without document types: entities can make a few bytes fill the memory, or read other files."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: builder.start(name, attributes)
    parser.EndElementHandler = lambda name: builder.end(name)
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise NotAllowedError("it declares a document type, which may hold entities and is not read")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_regular(path), True)
        root = builder.close()
    except OSError as error:
        raise UserError(f"The labels {printable(str(path))} cannot be read: {error.strerror}.") from None
    except (expat.ExpatError, ValueError, AssertionError) as error:
        raise UserError(
            f"The labels {printable(str(path))} are not sound XML: {error}. Give a file as Pascal VOC has it."
        ) from None
    if root.tag != "annotation":
        raise UserError(
            f"Labels as Pascal VOC has them are one element annotation. {printable(str(path))} begins with "
            f"{printable(root.tag)!r}; give the folder of the annotations."
        )
    return root


def _named(root: Element, path: Path) -> list[str]:
    names = [(each.findtext("name") or "").strip() for each in root.iter("object")]
    if "" in names:
        raise UserError(f"Every object needs a name. The labels {printable(str(path))} have one without; name it.")
    return names


def _image(root: Element, names: Sequence[str], path: Path, images: Path, classes: Sequence[str]) -> AnnotatedImage:
    whose = printable(str(path))
    height, width = (_number(root, f"size/{part}", whose) for part in ("height", "width"))
    if min(height, width) < 1 or height != int(height) or width != int(width):
        raise UserError(f"{whose} needs a size of whole pixels above 0. Got {width:g} x {height:g} (width x height).")
    boxes, crowd, positions = [], [], []
    for entry, name in zip(root.iter("object"), names, strict=True):
        if name not in classes:
            raise UserError(
                f"{whose} has an object {printable(name)!r}, which is none of the {len(classes)} classes: "
                f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}.{nearest(name, classes)}"
            )
        left, top, right, bottom = (
            _number(entry, f"bndbox/{part}", whose) for part in ("xmin", "ymin", "xmax", "ymax")
        )
        left, top = left - 1, top - 1
        boxes.append(
            checked_box((left, top, right - left, bottom - top), int(height), int(width), f"{name} in {whose}")
        )
        crowd.append((entry.findtext("difficult") or "0").strip() not in ("0", ""))
        positions.append(classes.index(name))
    made = np.array(boxes, np.float64).reshape(-1, 4)
    objects = Objects(
        boxes=made,
        classes=np.array(positions, np.int64),
        crowd=np.array(crowd, bool),
        area=made[:, 2] * made[:, 3],
    )
    file_name, where = _file(root, path, images)
    return AnnotatedImage(name=file_name, path=where, height=int(height), width=int(width), objects=objects)


def _file(root: Element, path: Path, images: Path) -> tuple[str, Path]:
    """Name and place of the image: in the folder, or beside its labels."""
    name = (root.findtext("filename") or "").strip()
    if not name or Path(name).name != name or name in (".", ".."):
        raise UserError(
            f"{printable(str(path))} needs the filename of its image, without folders. Got {printable(name)!r}."
        )
    beside = path.parent / name
    return name, beside if not (images / name).exists() and beside.exists() else images / name


def _number(root: Element, path: str, whose: str) -> float:
    text = (root.findtext(path) or "").strip()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{whose} needs a number at {path}. Got {printable(text)!r}; mend the file as Pascal VOC has it."
        )
    return number
