"""The format of the VGG Image Annotator, versions 1 and 2: one JSON for all images of a folder."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec

from panodetr.data.formats import Faults, refuse_second
from panodetr.data.formats.shapes import (
    build,
    ellipse,
    find_images,
    number_labels,
    rectangle,
)
from panodetr.data.formats.sizes import Marked, Shape
from panodetr.data.samples import Records
from panodetr.data.tree import ANNOTATIONS_DEPTH, Tree, split_of_file
from panodetr.errors import DataError
from panodetr.validation import decode_json

UNNAMED = "object"
"""The class where no region of the data set has a label."""


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


Found: TypeAlias = dict[str, list[tuple[Path, dict[str, msgspec.Raw]]]]


def find_via(tree: Tree) -> Found:
    """Find the JSONs by their splits; "" stands for none."""
    found: Found = {}
    for path in tree.files(".json", depth=ANNOTATIONS_DEPTH):
        keys = tree.keys_in(whole := tree.root / path)
        if not {"filename", "regions"} <= keys:
            continue
        try:
            if "_via_img_metadata" in keys:
                images = decode_json(tree.read(whole), _Project, str(path), DataError).images
            else:
                form = dict[str, msgspec.Raw]
                images = decode_json(tree.read(whole), form, str(path), DataError)
        except DataError:
            continue
        found.setdefault(split_of_file(path), []).append((whole, images))
    return found


def read_via(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the regions of a split.

    Raises:
        DataError: several files are of it.
    """
    (path, entries), *more = found[split]
    if any(_decoded(other) != _decoded(entries) for _, other in more):
        refuse_second(path, more[0][0], split)
    attribute, labels = _labels(found, faults)
    marked: list[Marked] = []
    for key, raw in entries.items():
        place = f"{path}: {key!r}"
        with faults.catching("broken entry", place):
            image = decode_json(raw, _Image, place, DataError, strict=False)
            shapes: list[Shape] = []
            for number, region in enumerate(image.all_regions()):
                where = f"{place} region {number}"
                label = _label(region, attribute) if labels else UNNAMED
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
    if not labels:
        faults.note("class", f"no region has a label; the class is called {UNNAMED!r}")
    classes, ids = number_labels(labels or {UNNAMED})
    return build(marked, classes, ids, faults, path, stored=True)


def _decoded(entries: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """Give the entries of a file so that copies are equal: a project, and what it exports."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {key: msgspec.json.decode(raw) for key, raw in entries.items()}
    return {}


def _labels(found: Found, faults: Faults) -> tuple[str, set[str]]:
    """Find the attribute that holds the label of most regions, and all labels of all splits."""
    regions: list[_Region] = []
    for files in found.values():
        for _, entries in files:
            for raw in entries.values():
                try:
                    regions += msgspec.json.decode(raw, type=_Image, strict=False).all_regions()
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
    counts = Counter(key for r in regions for key in r.region_attributes or () if _label(r, key))
    best = max(counts, key=lambda key: (counts[key], key in ("name", "label", "class")), default="")
    others = sorted(counts.keys() - {best})
    if others:
        text = f"the attribute {best!r} is taken for the class; others are not read"
        faults.note("class", text, ", ".join(others))
    return best, {label for region in regions if (label := _label(region, best))}


def _label(region: _Region, attribute: str) -> str | None:
    """Give a region's label; that of a set of check boxes is the one that is checked."""
    value = (region.region_attributes or {}).get(attribute)
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
