"""Where a set has its images, masks and classes, and which mask belongs to which image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from contextae.data.index import Index, printable
from contextae.data.sources.splits import SPLITS
from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import Line, read_classes
from contextae.evaluation.segmentation.masks import SUFFIXES, MaskFiles, Masks
from contextae.evaluation.segmentation.polygons import Pictured, Polygons, read_polygons

IMAGES, MASKS = "images", ("masks", "annotations", "labels", "stuffthingmaps")
ADE = "training"
"""How ADE20K calls its part to train on: its masks have 0 as void."""
LOSSY = (".jpg", ".jpeg", ".webp")
LAYOUT = (
    "It needs images/train and images/val (or test), and masks below masks/train and so on: index images (PNG) of the "
    "same names; or COCO files annotations/instances_train.json and so on."
)
EXAMPLES = 3


@dataclass(kw_only=True)
class Folders:
    """By part: a folder of images, and a folder of masks or the annotations of a file. `void` is the layout's own."""

    root: Path
    images: dict[str, Path]
    masks: dict[str, Path]
    pictured: dict[str, tuple[Path, dict[str, Pictured]]]
    lines: list[Line] | None
    void: int | None
    notes: list[str] = field(default_factory=list)

    def masks_of(self, part: str, index: Index) -> Masks:
        """The masks of the images of a part; UserError of images and masks that lack the other."""
        stems = _stems(index, self.images[part])
        behind = {stem_of(entry.path) for entry in index.left_out}
        if part in self.pictured:
            path, pictured = self.pictured[part]
            known = _known(pictured, flat=not any("/" in stem for stem in stems), path=path)
            _refuse_alone(stems, set(known), behind, self.images[part], path)
            return Polygons(path, {name: pictured[known[stem]] for stem, name in stems.items()})
        folder = self.masks[part]
        files = mask_files(folder)
        _refuse_alone(stems, set(files), behind, self.images[part], folder)
        return MaskFiles(folder, {name: files[stem] for stem, name in stems.items()})


def stem_of(name: str) -> str:
    """A path below its folder without the ending: what an image and its mask have in common."""
    return str(PurePosixPath(name).with_suffix("")) if name else name


def find_folders(root: Path, *, labels: Literal["auto", "masks", "polygons"]) -> Folders:
    """What a set has; UserError where it is not laid out as it must be."""
    title = printable(str(root))
    if not root.is_dir():
        raise UserError(f"{title} is no folder. {LAYOUT}")
    pictures = root / IMAGES
    if not pictures.is_dir():
        raise UserError(f"{title} has no folder {IMAGES}. {LAYOUT}")
    images = _parts(pictures) or {"train": pictures}
    single = images == {"train": pictures}
    masks: dict[str, Path] = {}
    for name in MASKS:
        folder = root / name
        found = ({"train": folder} if single else _parts(folder)) if folder.is_dir() else {}
        masks = {part: path for part, path in found.items() if _any_mask(path)}
        if masks:
            break
    if labels == "masks" and not masks:
        raise UserError(f"{title} has no masks in {', '.join(MASKS[:-1])} or {MASKS[-1]}. {LAYOUT}")
    files = _files(root, images) if labels == "polygons" or (labels == "auto" and not masks) else {}
    if not masks and not files:
        lossy = next((path for name in MASKS for path in _all_files(root / name) if path.suffix.lower() in LOSSY), None)
        if lossy:
            raise UserError(
                f"{printable(str(lossy))} is a JPEG or WebP file, which does not keep the numbers of a mask. Write "
                "masks as PNG."
            )
        raise UserError(f"{title} has images and neither masks nor polygons. {LAYOUT}")
    notes = []
    labelled: dict[str, Path] = dict(files or masks)
    for part in [part for part in images if part not in labelled]:
        notes.append(f"{part} has images and no masks, and is not used")
        del images[part]
    for part in labelled:
        if part not in images:
            raise UserError(f"{printable(str(labelled[part]))} has no images: {title}/{IMAGES} lacks {part}. {LAYOUT}")
    if files:
        read = {part: read_polygons(path) for part, path in files.items()}
        lists = [lines for _, lines in read.values()]
        if any(lines != lists[0] for lines in lists):
            raise UserError(f"The COCO files of {title} list different categories. Give all of them the same list.")
        pictured = {part: (files[part], found) for part, (found, _) in read.items()}
        return Folders(root=root, images=images, masks={}, pictured=pictured, lines=lists[0], void=None, notes=notes)
    ade = any(path.name.lower() == ADE for path in images.values())
    lines = read_classes(root, first=1 if ade else 0)
    void = 0 if ade else None
    return Folders(root=root, images=images, masks=masks, pictured={}, lines=lines, void=void, notes=notes)


def mask_files(folder: Path) -> dict[str, str]:
    """Paths below the folder by their stems."""
    found: dict[str, str] = {}
    for path in _all_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in SUFFIXES:
            continue
        if (other := found.setdefault(stem_of(name), name)) != name:
            raise UserError(
                f"{printable(str(folder))} has two masks of one image, {printable(other)} and {printable(name)}. Keep "
                "one of them."
            )
    return found


def _parts(folder: Path) -> dict[str, Path]:
    """Folders of parts, in the order train, val, test; a year behind the name does not matter (train2017)."""
    found: dict[str, Path] = {}
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        part = SPLITS.get(re.sub(r"[\d_-]+$", "", path.name.lower()))
        if part and part in found:
            raise UserError(
                f"{printable(str(folder))} has two folders for {part}: {printable(found[part].name)} and "
                f"{printable(path.name)}. Keep one of them."
            )
        if part:
            found[part] = path
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def _files(root: Path, parts: Iterable[str]) -> dict[str, Path]:
    """COCO files of instances by part."""
    found: dict[str, Path] = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        part = SPLITS.get(re.sub(r"[\d_-]+$", "", path.stem.removeprefix("instances_").lower()))
        if part not in set(parts):
            continue
        if part in found:
            raise UserError(
                f"{printable(str(root))} has two files of instances for {part}: {printable(found[part].name)} and "
                f"{printable(path.name)}. Keep one of them."
            )
        found[part] = path
    return found


def _all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _any_mask(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def _stems(index: Index, folder: Path) -> dict[str, str]:
    """Ids by their stems."""
    stems: dict[str, str] = {}
    for name in index.ids:
        if (other := stems.setdefault(stem_of(name), name)) != name:
            raise UserError(
                f"{printable(str(folder))} has two images of one name, {printable(other)} and {printable(name)}, and "
                "a mask is found by the name of its image. Rename or remove one."
            )
    return stems


def _known(pictured: Iterable[str], *, flat: bool, path: Path) -> dict[str, str]:
    """Names in a COCO file by what images have in common with them: in a folder without folders, the last part."""
    known: dict[str, str] = {}
    for name in pictured:
        stem = PurePosixPath(name).name if flat else name
        if (other := known.setdefault(stem, name)) != name:
            raise UserError(
                f"{printable(str(path))} has two images of one name, {printable(other)} and {printable(name)}, and its "
                "images lie in one folder. Put them into folders as the file has them, or rename one."
            )
    return known


def _refuse_alone(stems: Iterable[str], masks: set[str], left_out: set[str], images: Path, place: Path) -> None:
    """Names every image needs a mask for, and every mask an image."""
    known = set(stems)
    lacking, spare = sorted(known - masks), sorted(masks - known - left_out)
    told = "An image and its mask have the same name, but for the ending; mend the names, or remove what is alone."
    if lacking:
        others = f" Of {len(spare):,} there, such as {_some(spare)}, there is no image." if spare else ""
        raise UserError(
            f"{len(lacking):,} of {len(known):,} images of {printable(str(images))} have no mask in "
            f"{printable(str(place))}: {_some(lacking)}.{others} {told}"
        )
    if spare:
        raise UserError(
            f"{len(spare):,} of {len(masks):,} masks of {printable(str(place))} have no image in "
            f"{printable(str(images))}: {_some(spare)}. {told}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(map(printable, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")
