"""Hugging Face's imagefolder: `metadata.jsonl` beside the images, a line per image, with boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec

from panodetr.data.formats import Faults, read_text
from panodetr.data.formats.coco import Box, Text
from panodetr.data.formats.shapes import Marked, Shape, build, find_images, number_labels
from panodetr.data.formats.sizes import Listed, stated_size
from panodetr.data.samples import Records
from panodetr.data.tree import Tree, split_of_file
from panodetr.errors import DataError
from panodetr.validation import check, decode_json

_Label: TypeAlias = Annotated[int, msgspec.Meta(ge=0)] | str


_CLASSES = ("categories", "category", "category_id", "labels", "label", "class_labels", "classes")
"""What the list of the objects' classes may be called."""

_OTHERS = frozenset(("bbox", "id", "area", "iscrowd", "image_id", "segmentation", "keypoints"))
"""Lists that say other things of objects."""


class _Line(msgspec.Struct):
    file_name: Text
    objects: dict[str, Any] | None = None
    height: float | None = None
    width: float | None = None
    found: list[tuple[Box, _Label]] = []

    def pair(self, place: str) -> None:
        """Give each box its class.

        Raises:
            DataError: there are no boxes, or not as many classes.
        """
        given = self.objects or {"bbox": []}
        boxes = check(given.get("bbox"), list[Box], f"{place}: bbox", DataError, strict=False)
        key = next((key for key in _CLASSES if key in given), None)
        labels = check(given.get(key or "", [0] * len(boxes)), list[_Label], place, DataError)
        unknown = sorted(given.keys() - _OTHERS)
        if (key is None and unknown) or len(labels) != len(boxes):
            raise DataError(
                f"{place} has {len(boxes)} boxes and {len(labels)} classes, with the lists "
                f"{', '.join(given)}; expected a list categories with a class a box"
            )
        self.found = list(zip(boxes, labels, strict=True))


Found: TypeAlias = dict[str, list[Path]]


def find_imagefolder(tree: Tree) -> Found:
    """Find the files that list objects, by their splits; "" stands for none."""
    found: Found = {}
    for path in tree.files(".jsonl"):
        if {"objects", "file_name"} <= tree.keys_in(path):
            found.setdefault(split_of_file(path), []).append(tree.root / path)
    return found


def read_imagefolder(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the boxes of a split; classes that are numbers are called by their numbers."""
    marked: list[tuple[Path, Marked]] = []
    labels: set[_Label] = set()
    for path in (path for paths in found.values() for path in paths):
        is_this = path in found[split]
        for place, line in _read(path, faults if is_this else Faults(collect=True)):
            labels.update(label for _, label in line.found)
            shapes = [
                Shape(str(label), f"{place} object {number}", box=list(box))
                for number, (box, label) in enumerate(line.found)
            ]
            image = Listed(named=line.file_name, size=stated_size(line.height, line.width))
            if is_this:
                marked.append((path, Marked(image=image, place=place, shapes=shapes)))
    find_images(tree, marked, split, faults)
    images, path = [one for _, one in marked], found[split][0]
    if all(isinstance(label, int) for label in labels):
        numbers = {n: str(n) for n in range(max((int(n) for n in labels), default=0) + 1)}
        faults.note("class", "nothing names the classes, which are called by their numbers")
        return build(images, numbers, {str(n): n for n in numbers}, faults, path)
    return build(images, *number_labels(map(str, labels)), faults, path)


def _read(path: Path, faults: Faults) -> list[tuple[str, _Line]]:
    lines: list[tuple[str, _Line]] = []
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        place = f"{path}:{number}"
        with faults.catching("broken entry", place):
            if text.strip():
                line = decode_json(text.encode(), _Line, place, DataError, strict=False)
                line.pair(place)
                lines.append((place, line))
    return lines
