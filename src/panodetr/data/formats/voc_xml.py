"""Pascal VOC's boxes: an XML an image, and perhaps lists of each split's images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from xml.etree import ElementTree as ET

from panodetr.data.formats import Faults, read_text
from panodetr.data.formats.shapes import Marked, Shape, build, find_images, number_labels
from panodetr.data.formats.sizes import Listed, stated_size
from panodetr.data.samples import Records
from panodetr.data.tree import Tree, split_of, split_of_folder
from panodetr.errors import DataError

Found: TypeAlias = dict[str, list[PurePosixPath]]

_EDGES = ("xmin", "ymin", "xmax", "ymax")

LARGEST = 16 * 2**20
"""Bytes of an XML that is read."""


@dataclass
class _File:
    """What an XML says: the image's name and size, and objects as label and x0, y0, x1, y1."""

    path: Path
    image: str
    height: float
    width: float
    objects: list[tuple[str, list[float]]] = field(default_factory=list[tuple[str, list[float]]])


def find_voc_xml(tree: Tree) -> Found:
    """Find the XMLs by their splits; "" stands for none."""
    paths = [path for path in tree.files(".xml") if b"<annotation" in tree.read_bytes(path, 512)]
    return sort_by_split(tree, paths, "Main")


def sort_by_split(tree: Tree, paths: Iterable[PurePosixPath], folder: str) -> Found:
    """Sort files by their splits: by the lists in a folder of ImageSets, or else by folders.

    A list whose name is no split's is of none. Files that no list names are of none, too.
    """
    lists: dict[str, set[str]] = {}
    for path in tree.files(".txt"):
        if path.parent.parts[-2:] == ("ImageSets", folder):
            split = split_of(path.stem)
            if split or path.stem in ("default", "trainval"):  # others: which have one class
                lines = [line.split() for line in read_text(tree.root / path).splitlines()]
                stems = {PurePosixPath(line[0]).stem for line in lines if line}
                lists.setdefault(split.name if split else "", set()).update(stems)
    if "train" in lists or "val" in lists:
        lists.pop("", None)  # all of them
    found: Found = {}
    for path in paths:
        splits = [split for split, stems in lists.items() if path.stem in stems]
        for split in splits or ["" if lists else split_of_folder(path.parent)]:
            found.setdefault(split, []).append(path)
    return found


def read_voc_xml(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the boxes of a split; coordinates are counted from 1 where none is 0."""
    files: dict[PurePosixPath, _File] = {}
    for path in dict.fromkeys(path for paths in found.values() for path in paths):
        try:
            files[path] = _parse(tree.root / path)
        except DataError as error:
            if path in found[split]:
                faults.add("broken file", str(error), path)
    here = [files[path] for path in found[split] if path in files]
    starts = [min(box[:2]) for file in files.values() for _, box in file.objects]
    first = 1.0 if min(starts, default=1.0) >= 1 else 0.0
    marked: list[tuple[Path, Marked]] = []
    for file in here:
        shapes = [
            Shape(
                label,
                f"{file.path}: object {number}",
                box=[x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first],
            )
            for number, (label, (x0, y0, x1, y1)) in enumerate(file.objects)
        ]
        image = Listed(named=file.image, size=stated_size(file.height, file.width))
        marked.append((file.path, Marked(image=image, place=str(file.path), shapes=shapes)))
    find_images(tree, marked, split, faults)
    by_stem = [(path, one) for path, one in marked if one.image.path is None]
    for path, one in by_stem:
        one.image.named = f"{path.stem}.jpg"
    find_images(tree, by_stem, split, Faults(collect=True))
    labels = {label for file in files.values() for label, _ in file.objects}
    place = here[0].path.parent if here else tree.root
    return build([one for _, one in marked], *number_labels(labels), faults, place)


def _parse(path: Path) -> _File:
    """Read an XML.

    Raises:
        DataError: it is broken, or lacks numbers.
    """
    try:
        if os.path.getsize(path) > LARGEST:
            raise DataError(f"{path} is larger than {LARGEST} bytes; expected an image's boxes")
        root = ET.fromstring(read_text(path).encode())
        height, width = (float(root.findtext(f"size/{s}") or 0) for s in ("height", "width"))
        file = _File(path, root.findtext("filename") or f"{path.stem}.jpg", height, width)
        for entry in root.iter("object"):
            box = [float(entry.findtext(f"bndbox/{edge}") or "") for edge in _EDGES]
            file.objects.append(((entry.findtext("name") or "").strip() or "object", box))
    except DataError:
        raise
    except (ET.ParseError, ValueError, OSError) as error:
        raise DataError(f"{path} is no XML of VOC's boxes ({error}); write it again") from error
    return file
