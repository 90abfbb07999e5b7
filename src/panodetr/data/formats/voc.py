"""Pascal VOC: an XML an image, or for each image a map of classes and a map of objects.

An XML has boxes, and perhaps polygons, as Roboflow and LabelMe 3.0 write them.

Lists of each split's images may lie in `ImageSets`. A palette's places, or colours that
`labelmap.txt` names, are the classes; each other value in the map of objects is an object, whose
class is that of most of its pixels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from panodetr.data.formats import Faults
from panodetr.data.formats.shapes import (
    build,
    find_by_file,
    find_images,
    read_files,
    rotated,
    without_copies,
)
from panodetr.data.formats.sizes import Marked, Shape, Size, stated_size
from panodetr.data.masks import map_objects, opened
from panodetr.data.samples import ObjectTruth, Records
from panodetr.data.tree import Found, Tree, is_image, split_of, split_of_folder
from panodetr.errors import DataError

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"

VOID = (255, 0xE0E0C0)
"""Of a palette and of colours: the rim around objects, which is of none."""

_NAMES = ("class_names.txt", "labels.txt", "labelmap.txt")

_OWN_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Of Pascal VOC itself, whose places in palettes are from 1 to 20."""

_NAME = re.compile(rb"<object>\s*<name>([^<]*)")

_ROOT = re.compile(rb"<annotation[\s>]")

_ENCODING = re.compile(rb"""<\?xml[^>]*encoding=["']([\w-]+)""")

_COORDINATE = re.compile(r"[xy]\d*")
"""Of a point of a polygon: LabelMe's have "x" and "y", Roboflow's "x1", "y1", "x2" and so on."""

_ROTATED = ("cx", "cy", "w", "h", "angle")
"""Of a box of roLabelImg's: its centre, its sides and its angle in radians."""

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def find_voc_xml(tree: Tree) -> Found:
    """Find the XMLs by their splits; "" stands for none."""
    paths: list[PurePosixPath] = []
    for path in tree.files(".xml"):
        with suppress(DataError):  # it is none
            if _ROOT.search(tree.read(tree.root / path, keep=True)[:512]):
                paths.append(path)
    return without_copies(tree, _sort_by_split(tree, paths, "Main"))


def _sort_by_split(tree: Tree, paths: Iterable[PurePosixPath], folder: str) -> Found:
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
    """Read the objects of a split; boxes are counted from 1 where none is 0."""
    marked, labels, least = read_files(tree, found, split, faults, _parse)
    first = 1.0 if least >= 1 else 0.0
    for shape in (shape for one in marked for shape in one.shapes):
        if shape.box is not None:
            x0, y0, x1, y1 = shape.box
            shape.box = [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first]
    find_by_file(tree, marked, split, faults)
    place = marked[0].file.parent if marked else tree.root
    return build(marked, labels, faults, place)


def _parse(contents: bytes, path: Path, faults: Faults) -> Iterator[Marked]:
    """Read an XML, its boxes as corners x0, y0, x1, y1."""
    try:
        said = _ENCODING.match(contents)
        encoding = said[1].decode() if said and b"16" not in said[1] else "utf-8"  # 16: it was
        root = ET.fromstring(contents.decode(encoding))  # as text it has no encoding
        sides = (("size/height", "imagesize/nrows"), ("size/width", "imagesize/ncols"))
        height, width = (float(_text(root, *names) or 0) for names in sides)
        named = root.findtext("filename") or f"{path.stem}.jpg"
        size = stated_size(height, width)
        one = Marked(named=named, place=str(path), file=path, size=size)
        beyond = "roboflow" in (root.findtext("source/database") or "")  # adds 1 to each number
        for number, entry in enumerate(root.iter("object")):
            place = f"{path}: object {number}"
            label = (entry.findtext("name") or "").strip() or "object"
            ring = [float(e.text or "") for e in entry.iter() if _COORDINATE.fullmatch(e.tag)]
            shape = Shape(label, place, rings=[ring] if len(ring) >= 6 else [])
            if (turned := entry.find("robndbox")) is not None:
                written = [float(turned.findtext(part) or f"no {part}") for part in _ROTATED]
                ring = rotated(*written)
                faults.note("repaired", "{n} boxes are rotated; read as those around them", place)
                shape.box = [f(ring[i::2]) for f in (min, max) for i in (0, 1)]
                one.shapes.append(shape)
                continue
            edges = [_text(entry, f"bndbox/{edge}", f"segm/box/{edge}") for edge in _EDGES]
            if any(edges) or not shape.rings:
                corners = [float(t or f"no {e}") for t, e in zip(edges, _EDGES, strict=True)]
                (x0, x1), (y0, y1) = sorted(corners[::2]), sorted(corners[1::2])
                shape.box = [x0, y0, x1 - beyond, y1 - beyond]
                if [x0, y0, x1, y1] != corners:
                    text = "{n} boxes have their corners in another order; read all the same"
                    faults.note("repaired", text, place)
            if entry.find("segm/mask") is not None:
                text = "{n} objects have masks in other files, which are not read: export COCO"
                faults.note("missing mask", text, place)
            if entry.findtext("deleted") != "1":
                one.shapes.append(shape)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} is no XML of VOC's objects ({error}); write it again") from error
    yield one


def _text(entry: ET.Element, *names: str) -> str | None:
    """Give the text of the first of some elements that is there."""
    return next((text for name in names if (text := entry.findtext(name))), None)


def find_voc_masks(tree: Tree) -> Found:
    """Find the maps of objects by their splits; "" stands for none."""
    pictures = [
        path
        for path in tree.files(".png")
        if path.parent.name.startswith(OBJECTS) and _classes_of(path).parent in tree.folders
    ]
    return _sort_by_split(tree, pictures, "Segmentation")


def read_voc_masks(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """List a split's images with their sizes; maps are read when objects are asked for."""
    paths = [tree.root / path for path in found[split]]
    classes = [tree.root / _classes_of(path) for path in found[split]]
    every = dict.fromkeys(tree.root / _classes_of(p) for inner in found.values() for p in inner)
    names = _names(tree, list(every), faults)
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
    return build(marked, by_id, faults, paths[0].parent)


def _classes_of(path: PurePosixPath) -> PurePosixPath:
    """Give the map of classes of a map of objects: an older labelme writes both with "PNG"."""
    return path.parent.with_name(path.parent.name.replace(OBJECTS, CLASSES)) / path.name


def _read_objects(
    path: Path, below: Path, ids: dict[int, int], image_id: int, size: Size, _: int
) -> list[ObjectTruth]:
    """Read the objects of an image, given the category of each value in the map of classes."""
    objects, classes = _codes(path, size), _codes(below, size)
    categories: dict[int, int] = {}
    for code in np.unique(objects).tolist():
        if code == 0 or code in VOID:
            continue
        values, counts = np.unique(classes[objects == code], return_counts=True)
        pixels = zip(counts.tolist(), values.tolist(), strict=True)
        known = [(count, -value) for count, value in pixels if value in ids]
        if not known:
            raise DataError(
                f"{path} has an object of value {code}, and {below} has no named class at its "
                "pixels; name the class, or draw it"
            )
        categories[code] = ids[-max(known)[1]]
    return map_objects(objects, categories, image_id)


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
        stems = {path.stem for path in pictures}
        xmls = (tree.root / path for path in tree.files(".xml") if path.stem in stems)
        labels = {
            name.decode("utf-8", "replace")
            for path in xmls
            for name in _NAME.findall(tree.read(path))
        }
        own = dict(enumerate(_OWN_CLASSES, start=1))
        if labels and labels <= {*_OWN_CLASSES} and names.keys() <= own.keys():
            names = own
            faults.note("class", "names of classes are those of Pascal VOC, as in the XMLs")
        else:
            faults.note("class", "nothing names the classes; write class_names.txt, a name a line")
    return names
