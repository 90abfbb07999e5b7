"""Pascal VOC's boxes: an XML an image, and perhaps lists of each split's images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from xml.etree import ElementTree as ET

from panodetr.data.formats import Faults
from panodetr.data.formats.shapes import (
    build,
    find_by_file,
    number_labels,
    read_files,
)
from panodetr.data.formats.sizes import Marked, Shape, stated_size
from panodetr.data.samples import Records
from panodetr.data.tree import Tree, is_image, split_of, split_of_folder
from panodetr.errors import DataError

Found: TypeAlias = dict[str, list[PurePosixPath]]

_ROOT = re.compile(rb"<annotation[\s>]")

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def find_voc_xml(tree: Tree) -> Found:
    """Find the XMLs by their splits; "" stands for none."""
    paths: list[PurePosixPath] = []
    for path in tree.files(".xml"):
        with suppress(DataError):  # it is none
            if _ROOT.search(tree.read(tree.root / path, keep=True)[:512]):
                paths.append(path)
    return sort_by_split(tree, paths, "Main")


def sort_by_split(tree: Tree, paths: Iterable[PurePosixPath], folder: str) -> Found:
    """Sort files by their splits: by the lists in a folder of ImageSets, or else by folders.

    A list whose name is no split's is of none. Files that no list names are of none, too.
    """
    files = {path: path.stem for path in paths}
    known = set(files.values())
    lists: dict[str, set[str]] = {}
    for path in tree.files(".txt"):
        if path.parent.parts[-2:] == ("ImageSets", folder):
            split = split_of(path.stem)
            if split or path.stem in ("default", "trainval"):  # others: which have one class
                lines = tree.lines(tree.root / path)
                stems = set(map(_stem, lines))  # names may have spaces, or a number after them
                stems |= {
                    _stem(line.rsplit(None, 1)[0]) for line in lines if _stem(line) not in known
                }
                lists.setdefault(split.name if split else "", set()).update(stems)
    if "train" in lists or "val" in lists:
        lists.pop("", None)  # all of them
    found: Found = {}
    for path, stem in files.items():
        splits = [split for split, stems in lists.items() if stem in stems]
        for split in splits or ["" if lists else split_of_folder(path.parent)]:
            found.setdefault(split, []).append(path)
    return found


def _stem(name: str) -> str:
    """Give a name in a list without folders and an image's ending; other dots are of the name."""
    name = PurePosixPath(name).name
    return os.path.splitext(name)[0] if is_image(name) else name


def read_voc_xml(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the boxes of a split; coordinates are counted from 1 where none is 0."""
    marked, labels, least = read_files(tree, found, split, faults, _parse)
    first = 1.0 if least >= 1 else 0.0
    for shape in (shape for one in marked for shape in one.shapes):
        x0, y0, x1, y1 = shape.box or (0, 0, 0, 0)
        shape.box = [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first]
    find_by_file(tree, marked, split, faults)
    place = marked[0].file.parent if marked else tree.root
    return build(marked, *number_labels(labels), faults, place)


def _parse(contents: bytes, path: Path, faults: Faults) -> Iterator[Marked]:
    """Read an XML, its boxes as corners x0, y0, x1, y1."""
    try:
        is_wide = b"utf-16" in contents[:100].lower()  # it was: as text it has no encoding
        root = ET.fromstring(contents.decode() if is_wide else contents)
        height, width = (float(root.findtext(f"size/{s}") or 0) for s in ("height", "width"))
        named = root.findtext("filename") or f"{path.stem}.jpg"
        size = stated_size(height, width)
        one = Marked(named=named, place=str(path), file=path, size=size)
        for number, entry in enumerate(root.iter("object")):
            place = f"{path}: object {number}"
            corners = [float(entry.findtext(f"bndbox/{edge}") or f"no {edge}") for edge in _EDGES]
            (x0, x1), (y0, y1) = sorted(corners[::2]), sorted(corners[1::2])
            if [x0, y0, x1, y1] != corners:
                text = "{n} boxes have their corners in another order; read all the same"
                faults.note("repaired", text, place)
            label = (entry.findtext("name") or "").strip() or "object"
            one.shapes.append(Shape(label, place, box=[x0, y0, x1, y1]))
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path} is no XML of VOC's boxes ({error}); write it again") from error
    if polygons := sum(1 for _ in root.iter("polygon")):
        text = "{n} objects have polygons, which are not read: export COCO for masks"
        faults.note("missing mask", text, str(path), polygons)
    yield one
