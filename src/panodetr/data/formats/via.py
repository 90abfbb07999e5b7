"""The VGG Image Annotator, versions 1 and 2: JSONs of images and of what is drawn on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec

from panodetr.data.formats import Faults, refuse_second
from panodetr.data.formats.shapes import build, ellipse, find_images, rectangle
from panodetr.data.formats.sizes import Marked, Shape
from panodetr.data.samples import Records
from panodetr.data.tree import ANNOTATIONS_DEPTH, Tree, split_of_file
from panodetr.errors import DataError
from panodetr.validation import decode_json

UNSET = "not_defined"
"""What VIA writes for the attributes of its example where nobody chose."""


class _Region(msgspec.Struct):
    shape_attributes: dict[str, Any]
    region_attributes: dict[str, Any] | None = None


class _Image(msgspec.Struct):
    filename: str
    regions: list[_Region] | dict[str, _Region]

    def all_regions(self) -> list[_Region]:
        """List the regions, however they are written."""
        return self.regions if isinstance(self.regions, list) else [*self.regions.values()]


class _Project(msgspec.Struct):
    images: dict[str, msgspec.Raw] = msgspec.field(name="_via_img_metadata")


_Entries: TypeAlias = dict[str, msgspec.Raw]

Found: TypeAlias = dict[str, list[Path]]


def find_via(tree: Tree) -> Found:
    """Find the JSONs by their splits; "" stands for none."""
    found: Found = {}
    for path in tree.files(".json", depth=ANNOTATIONS_DEPTH):
        whole = tree.root / path
        if {"filename", "regions"} <= tree.keys_in(whole) and tree.once(_entries, whole):
            found.setdefault(split_of_file(path), []).append(whole)
    return found


def _entries(tree: Tree, path: Path) -> _Entries:
    """Give the entries of a file's images; none where it is something else."""
    contents = tree.read(path)
    with suppress(DataError):
        if "_via_img_metadata" in tree.keys_in(path):
            return decode_json(contents, _Project, str(path), DataError).images
        return decode_json(contents, _Entries, str(path), DataError)
    return {}


def read_via(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the regions of a split.

    Raises:
        DataError: two files of it annotate one image in different ways, or one alone has labels.
    """
    files: dict[str, Path] = {}
    entries: _Entries = {}
    for path in found[split]:
        for key, raw in tree.once(_entries, path).items():
            if _decoded(entries.setdefault(key, raw)) != _decoded(raw):
                refuse_second(files[key], path, split)
            files.setdefault(key, path)
    every = {p: tree.once(_regions, p) for paths in found.values() for p in paths}
    attributes = _find_attributes(every, faults)
    labelled = {p: {_label(r, attributes[p]) for r in regions} for p, regions in every.items()}
    labels = {label for inner in labelled.values() for label in inner if label}
    usual = next(iter(labels), "") if len(labels) < 2 else None
    silent = [path for path in found[split] if not any(labelled[path])]
    if 0 < len(silent) < len(found[split]):
        refuse_second(next(p for p in found[split] if p not in silent), silent[0], split)
    if not labels:
        faults.note("class", "no region has a label; all are of one class")
    for path in silent if len(labels) == 1 else ():
        text = f"{{n}} files have no label on any region, read as {usual!r}, the only class"
        faults.note("class", text, str(path))
    marked: list[Marked] = []
    for key, raw in entries.items():
        path = files[key]
        place = f"{path}: {key!r}"
        with faults.catching("broken entry", place):
            image = decode_json(raw, _Image, place, DataError, strict=False)
            shapes: list[Shape] = []
            for number, region in enumerate(image.all_regions()):
                where = f"{place} region {number}"
                label = _label(region, attributes[path])
                if label is None and path in silent:
                    label = usual  # "" is named by `class_name`
                with faults.catching("broken entry", place):
                    ring = _outline(region.shape_attributes, where)
                    if label is None:
                        text = "{n} regions have no label, and are left out"
                        faults.note("left out", text, where)
                    elif ring is None:
                        faults.note("left out", "{n} points and lines are left out", where)
                    else:
                        shapes.append(Shape(label, where, rings=[ring]))
            marked.append(Marked(named=image.filename, place=place, file=path, shapes=shapes))
    find_images(tree, marked, split, faults, frozenset(found) - {split})
    return build(marked, labels or {""}, faults, found[split][0], stored=True)


def _decoded(raw: msgspec.Raw) -> object:
    """Give an entry so that copies are equal: that of a project, and of what it exports."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(raw)
    return bytes(raw)


def _regions(tree: Tree, path: Path) -> list[_Region]:
    """Read all regions of a file that are whole."""
    regions: list[_Region] = []
    for raw in tree.once(_entries, path).values():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # said where that split is read
            regions += msgspec.json.decode(raw, type=_Image, strict=False).all_regions()
    return regions


def _find_attributes(every: Mapping[Path, Sequence[_Region]], faults: Faults) -> dict[Path, str]:
    """Find the attribute that holds the labels in each file: that of most regions, where it can."""
    counts = {
        path: Counter(key for r in regions for key in r.region_attributes or () if _label(r, key))
        for path, regions in every.items()
    }
    total = sum(counts.values(), Counter[str]())

    def rank(key: str) -> tuple[int, bool]:
        return total[key], key in ("name", "label", "class")

    chosen = {path: max(inner, key=rank, default="") for path, inner in counts.items()}
    others = {key for path, inner in counts.items() for key in inner if key != chosen[path]}
    if others:
        taken = " or ".join(repr(key) for key in sorted(set(chosen.values()) - {""}))
        text = f"the attribute {taken} is taken for the class; others are not read"
        faults.note("class", text, ", ".join(sorted(others)))
    return chosen


def _label(region: _Region, attribute: str) -> str | None:
    """Give a region's label; that of a set of check boxes is the one that is checked."""
    given = region.region_attributes or {}
    value = None if UNSET in given.values() else given.get(attribute)
    if isinstance(value, dict):
        chosen = [key for key, checked in cast("dict[str, Any]", value).items() if checked]
        return chosen[0] if len(chosen) == 1 else None
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def _outline(shape: dict[str, Any], place: str) -> list[float] | None:
    """Give the polygon of a region; None where it encloses nothing."""
    try:
        match shape.get("name"):
            case "polygon" | "polyline":
                xs, ys = map(float, shape["all_points_x"]), map(float, shape["all_points_y"])
                ring = [value for point in zip(xs, ys, strict=True) for value in point]
                return ring if len(ring) >= 6 else None
            case "rect":
                return rectangle([float(shape[key]) for key in ("x", "y", "width", "height")])
            case "circle":
                return ellipse(float(shape["cx"]), float(shape["cy"]), *2 * [float(shape["r"])])
            case "ellipse":
                x, y, across, down = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
                return ellipse(x, y, across, down, float(shape.get("theta") or 0))
            case _:
                return None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place} is no whole {shape.get('name')} ({error}); draw it again"
        ) from error
