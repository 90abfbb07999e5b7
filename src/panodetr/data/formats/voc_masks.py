"""Pascal VOC's masks: for each image one picture of classes and one of objects.

A palette's places, or colours that `labelmap.txt` names, are the classes; each other value in the
picture of objects is an object, whose class is that of most of its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image

from panodetr.data.formats import Faults, read_text, things
from panodetr.data.formats.sizes import list_images
from panodetr.data.formats.voc_xml import read_lists
from panodetr.data.masks import mask_object, opened
from panodetr.data.samples import InstanceImage, ObjectTruth, Records
from panodetr.data.tree import split_of_folder
from panodetr.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from panodetr.data.tree import Tree

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"

VOID = (255, 0xE0E0C0)
"""Of a palette and of colours: the rim around objects, which is of none."""

_NAMES = ("class_names.txt", "labels.txt", "labelmap.txt")


class LazyObjects(Sequence[ObjectTruth]):
    """Objects that are read from pictures each time they are asked for."""

    def _read(self) -> list[ObjectTruth]:
        raise NotImplementedError

    def __len__(self) -> int:  # noqa: D105
        return len(self._read())

    def __iter__(self) -> Iterator[ObjectTruth]:  # noqa: D105
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> ObjectTruth: ...
    @overload
    def __getitem__(self, place: slice) -> list[ObjectTruth]: ...
    def __getitem__(self, place: int | slice) -> ObjectTruth | list[ObjectTruth]:  # noqa: D105
        return self._read()[place]


@dataclass(frozen=True)
class _Objects(LazyObjects):
    image_id: int
    objects: Path
    classes: Path
    size: tuple[int, int]
    ids: dict[int, int]  # the category of each value in the picture of classes

    def _read(self) -> list[ObjectTruth]:
        """Read the objects.

        Raises:
            DataError: a picture is missing, broken, or of another size.
        """
        objects, classes = _codes(self.objects, self.size), _codes(self.classes, self.size)
        found: list[ObjectTruth] = []
        for code in np.unique(objects).tolist():
            if code == 0 or code in VOID:
                continue
            mask = np.asfortranarray(objects == code)
            below, counts = np.unique(classes[mask], return_counts=True)
            known = {
                n: c for n, c in zip(below.tolist(), counts.tolist(), strict=True) if n in self.ids
            }
            if not known:
                raise DataError(
                    f"{self.objects} has an object of the value {code}, below which {self.classes} "
                    "shows no class that is named; name it, or draw it"
                )
            category = self.ids[max(known, key=known.__getitem__)]
            found.append(mask_object(mask, len(found) + 1, self.image_id, category))
        return found


def find_voc_masks(tree: Tree) -> dict[str, list[PurePosixPath]]:
    """Find the pictures of objects by their splits; "" stands for none."""
    lists = read_lists(tree, "Segmentation")
    found: dict[str, list[PurePosixPath]] = {}
    for path in tree.files(".png"):
        if path.parent.name == OBJECTS and path.parent.with_name(CLASSES) in tree.folders:
            splits = [split for split, stems in lists.items() if path.stem in stems]
            for split in splits or ["" if lists else split_of_folder(path.parent)]:
                found.setdefault(split, []).append(path)
    return found


def read_voc_masks(
    tree: Tree, found: dict[str, list[PurePosixPath]], split: str, faults: Faults
) -> Records:
    """List a split's images with their sizes; pictures are read when objects are asked for."""
    paths = found[split]
    classes = {path: path.parent.with_name(CLASSES) / path.name for path in paths}
    names = _names(tree, [tree.root / path for path in classes.values()], faults)
    images = tree.images.find_beside(
        [(tree.root / path, f"JPEGImages/{path.stem}.jpg") for path in paths], split
    )
    there = {
        path: image
        for path in paths
        for image in [images[tree.root / path].paths.get(f"JPEGImages/{path.stem}.jpg")]
        if image is not None and image.parent.name not in (OBJECTS, CLASSES)
    }
    listed = list_images([*there.values()], faults)
    ids = {code: number for number, code in enumerate(sorted(names), start=1)}
    samples = tuple(
        InstanceImage(
            image_id=one.image_id,
            path=image,
            size=one.size,
            as_stored=one.as_stored,
            objects=_Objects(
                one.image_id, tree.root / path, tree.root / classes[path], one.size, ids
            ),
        )
        for one, (path, image) in zip(listed, there.items(), strict=True)
        if one.size is not None
    )
    return Records(
        categories=things({ids[code]: name for code, name in names.items()}),
        samples=samples,
        has_masks=True,
        place=tree.root / paths[0].parent,
        absent=tuple(str(path) for path in paths if path not in there),
    )  # fmt: skip


def _codes(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    """Read a picture's places in its palette, or its colours as R * 65536 + G * 256 + B."""
    with opened(path, size) as picture:
        if picture.mode in ("P", "L", "1"):
            return np.asarray(picture).astype(np.int32)
        colors = np.asarray(picture.convert("RGB")).astype(np.int32)
        return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]


def _names(tree: Tree, pictures: list[Path], faults: Faults) -> dict[int, str]:
    """Give the names of the classes by their values in the pictures."""
    lists = [path for path in tree.files(".txt") if path.name in _NAMES]
    lines = [
        line.strip()
        for path in lists[:1]
        for line in read_text(tree.root / path).splitlines()
        if line.strip() and not line.startswith("#")
    ]
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
        seen = {code for path in pictures for code in np.unique(_codes_of(path)).tolist()}
        names = {code: str(code) for code in seen if code != 0 and code not in VOID}
        faults.note("class", "nothing names the classes; write class_names.txt, a name a line")
    return names


def _codes_of(path: Path) -> NDArray[np.int32]:
    try:
        with Image.open(path) as picture:
            size = (picture.height, picture.width)
        return _codes(path, size)
    except (OSError, DataError):
        return np.zeros((1, 1), np.int32)
