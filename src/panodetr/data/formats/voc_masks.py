"""Pascal VOC's masks: for each image a map of classes and a map of objects.

A palette's places, or colours that `labelmap.txt` names, are the classes; each other value in the
map of objects is an object, whose class is that of most of its pixels.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from panodetr.data.formats import Faults
from panodetr.data.formats.shapes import build, find_images
from panodetr.data.formats.sizes import Marked, Size
from panodetr.data.formats.voc_xml import sort_by_split
from panodetr.data.masks import mask_object, opened
from panodetr.data.samples import ObjectTruth, Records
from panodetr.data.tree import Tree
from panodetr.errors import DataError

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"

VOID = (255, 0xE0E0C0)
"""Of a palette and of colours: the rim around objects, which is of none."""

_NAMES = ("class_names.txt", "labels.txt", "labelmap.txt")


def find_voc_masks(tree: Tree) -> dict[str, list[PurePosixPath]]:
    """Find the maps of objects by their splits; "" stands for none."""
    pictures = [
        path
        for path in tree.files(".png")
        if path.parent.name.startswith(OBJECTS) and _classes_of(path).parent in tree.folders
    ]
    return sort_by_split(tree, pictures, "Segmentation")


def read_voc_masks(
    tree: Tree, found: dict[str, list[PurePosixPath]], split: str, faults: Faults
) -> Records:
    """List a split's images with their sizes; maps are read when objects are asked for."""
    paths = [tree.root / path for path in found[split]]
    classes = [tree.root / _classes_of(path) for path in found[split]]
    names = _names(tree, classes, faults)
    ids = {code: number for number, code in enumerate(sorted(names), start=1)}
    marked = [
        Marked(
            named=f"JPEGImages/{path.stem}.jpg",
            place=str(path),
            file=path,
            plain=1,
            read=partial(_read_objects, path, below, ids),
        )
        for path, below in zip(paths, classes, strict=True)
    ]
    find_images(tree, marked, split, Faults(collect=True))
    for one in marked:
        if one.path and one.path.parent.name.startswith((OBJECTS, CLASSES)):
            one.path = None
    by_id = {ids[code]: name for code, name in names.items()}
    return build(marked, by_id, {}, faults, paths[0].parent)


def _classes_of(path: PurePosixPath) -> PurePosixPath:
    """Give the map of classes of a map of objects: an older labelme writes both with "PNG"."""
    return path.parent.with_name(path.parent.name.replace(OBJECTS, CLASSES)) / path.name


def _read_objects(
    path: Path, below: Path, ids: dict[int, int], image_id: int, size: Size, _: int
) -> list[ObjectTruth]:
    """Read the objects of an image, given the category of each value in the map of classes."""
    objects, classes = _codes(path, size), _codes(below, size)
    found: list[ObjectTruth] = []
    for code in np.unique(objects).tolist():
        if code == 0 or code in VOID:
            continue
        mask = np.asfortranarray(objects == code)
        values, counts = np.unique(classes[mask], return_counts=True)
        known = [
            (count, -value)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
            if value in ids
        ]
        if not known:
            raise DataError(
                f"{path} has an object of value {code}, and {below} has no named class at its "
                "pixels; name the class, or draw it"
            )
        found.append(mask_object(mask, len(found) + 1, image_id, ids[-max(known)[1]]))
    return found


def _codes(path: Path, size: Size | None) -> NDArray[np.int32]:
    """Read a map's places in its palette, or its colours as R * 65536 + G * 256 + B."""
    with opened(path, size) as picture:
        if picture.mode in ("P", "L", "1"):
            return np.asarray(picture).astype(np.int32)
        colors = np.asarray(picture.convert("RGB")).astype(np.int32)
        return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]


def _names(tree: Tree, pictures: list[Path], faults: Faults) -> dict[int, str]:
    """Give the names of the classes by their values in the maps."""
    lists = [path for path in tree.files(".txt") if path.name in _NAMES]
    lines = [line for path in lists[:1] for line in tree.lines(tree.root / path)]
    lines = [line for line in lines if not line.startswith("#")]
    colored = [line.split(":") for line in lines if line.count(":") >= 1]
    names: dict[int, str] = {}
    if colored:
        for name, color, *_ in colored:
            parts = [int(part) for part in color.split(",") if part.strip().isdecimal()]
            if len(parts) == 3 and any(parts):
                names[parts[0] << 16 | parts[1] << 8 | parts[2]] = name
        return names
    first = -1 if lines[:1] == ["__ignore__"] else 0
    names = {number: name for number, name in enumerate(lines, start=first) if number > 0}
    if not names:
        seen: set[int] = set()
        for path in pictures:
            with suppress(DataError):  # said where its objects are read
                seen.update(np.unique(_codes(path, None)).tolist())
        names = {code: str(code) for code in seen if code != 0 and code not in VOID}
        faults.note("class", "nothing names the classes; write class_names.txt, a name a line")
    return names
