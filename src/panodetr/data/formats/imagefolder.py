"""Hugging Face's imagefolder: `metadata.jsonl` beside the images, a line per image, with boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from panodetr.data.formats import Faults, read_text
from panodetr.data.formats.coco import Box, Text
from panodetr.data.formats.shapes import Marked, Shape, build, find_images, number_labels
from panodetr.data.formats.sizes import Listed, stated_size
from panodetr.data.samples import Records
from panodetr.data.tree import Tree, split_of_file
from panodetr.errors import DataError
from panodetr.validation import decode_json

_Label: TypeAlias = Annotated[int, msgspec.Meta(ge=0)] | str


class _Objects(msgspec.Struct):
    bbox: list[Box]
    categories: list[_Label] | None = None
    category: list[_Label] | None = None
    label: list[_Label] | None = None
    labels: list[_Label] | None = None

    def names(self) -> list[_Label]:
        """Give the class of each box, however the list is called."""
        given = (self.categories, self.category, self.label, self.labels)
        return next((names for names in given if names is not None), [0] * len(self.bbox))


class _Line(msgspec.Struct):
    file_name: Text
    objects: _Objects
    height: float | None = None
    width: float | None = None


Found: TypeAlias = dict[str, Path]


def find_imagefolder(tree: Tree) -> Found:
    """Find the files that list objects, by their splits; "" stands for none."""
    return {
        split_of_file(path): tree.root / path
        for path in tree.files(".jsonl")
        if {"objects", "file_name"} <= tree.keys_in(path)
    }


def read_imagefolder(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the boxes of a split; classes that are numbers are called by their numbers."""
    path = found[split]
    lines = _read(path, faults)
    marked: list[Marked] = []
    for place, line in lines:
        boxes = zip(line.objects.bbox, line.objects.names(), strict=False)
        shapes = [
            Shape(str(label), f"{place} object {number}", box=list(box))
            for number, (box, label) in enumerate(boxes)
        ]
        image = Listed(named=line.file_name, size=stated_size(line.height, line.width))
        marked.append(Marked(image=image, place=place, shapes=shapes))
    find_images(tree, [(path, one) for one in marked], split, faults)
    quiet = Faults(collect=True)
    labels = {
        label
        for other in found.values()
        for _, line in (lines if other == path else _read(other, quiet))
        for label in line.objects.names()
    }
    if all(isinstance(label, int) for label in labels):
        numbers = {n: str(n) for n in range(max((int(n) for n in labels), default=0) + 1)}
        faults.note("class", "nothing names the classes, which are called by their numbers")
        return build(marked, numbers, {str(n): n for n in numbers}, faults, path)
    return build(marked, *number_labels(map(str, labels)), faults, path)


def _read(path: Path, faults: Faults) -> list[tuple[str, _Line]]:
    lines: list[tuple[str, _Line]] = []
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        place = f"{path}:{number}"
        with faults.catching("broken entry", place):
            if text.strip():
                line = decode_json(text.encode(), _Line, place, DataError, strict=False)
                lines.append((place, line))
    return lines
