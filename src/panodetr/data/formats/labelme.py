"""labelme's format: beside each image, or elsewhere, a JSON of the shapes that were drawn on it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from panodetr.data.formats import Faults
from panodetr.data.formats.coco import Coordinate
from panodetr.data.formats.shapes import (
    build,
    ellipse,
    find_by_file,
    read_files,
    rectangle,
    without_copies,
)
from panodetr.data.formats.sizes import Marked, Shape, Size, stated_size
from panodetr.data.masks import encode_pixels
from panodetr.data.samples import Records, RunLengths
from panodetr.data.tree import Found, Tree, sort_by_split, split_of_folder
from panodetr.errors import DataError
from panodetr.files import write_bytes
from panodetr.validation import decode_json

IGNORED = ("__ignore__", "_background_", "")
"""Labels that labelme's own tools read as none, and none."""


_POLYGONS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")


class _Shape(msgspec.Struct):
    written: str | int = msgspec.field(name="label")
    points: list[tuple[Coordinate, Coordinate]]
    shape_type: str | None = None
    group_id: int | str | None = None
    mask: str | None = None

    @property
    def label(self) -> str:
        return str(self.written)


class _Embedded(msgspec.Struct):
    imageData: str | None = None


class _File(msgspec.Struct):
    shapes: list[_Shape]
    imagePath: str | None = None
    imageHeight: float | None = None
    imageWidth: float | None = None


def find_labelme(tree: Tree) -> Found:
    """Find the JSONs by their splits; "" stands for none."""
    keys = {path: tree.keys_in(tree.root / path) for path in tree.files(".json")}
    paths = [p for p, k in keys.items() if "shapes" in k and k & {"imagePath", "points"}]
    found = sort_by_split(paths, lambda path: split_of_folder(path.parent))
    return without_copies(tree, found)


def read_labelme(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the shapes of a split."""
    marked, labels, _ = read_files(tree, found, split, faults, _parse)
    find_by_file(tree, marked, split, faults)
    for one in marked:
        if one.path is None:
            with faults.catching("broken file", one.file):
                one.path = _write_image(tree.read(one.file), one.file, faults)
    return build(marked, labels, faults, tree.root)


def _parse(contents: bytes, path: Path, faults: Faults) -> Iterator[Marked]:
    file = decode_json(contents, _File, str(path), DataError, strict=False)
    size = stated_size(file.imageHeight, file.imageWidth)
    shapes = _join(file, path, size, faults)
    name = file.imagePath or ""
    yield Marked(named=name, place=str(path), file=path, size=size, shapes=shapes)


def _write_image(contents: bytes, path: Path, faults: Faults) -> Path | None:
    """Write the image that a JSON holds to the user's cache; None where it holds none."""
    try:
        text = msgspec.json.decode(contents, type=_Embedded).imageData
        image = base64.b64decode(text or "")
    except (msgspec.DecodeError, ValueError) as error:
        raise DataError(f"{path}: its imageData is broken: {error}") from error
    if not image:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = cache / "panodetr" / hashlib.sha256(image).hexdigest()[:16] / f"{path.stem}.png"
    if not file.is_file():
        write_bytes(file, image)
    text = "{n} images are in their JSONs alone, and are written to the cache"
    faults.note("repaired", text, str(file))
    return file


def _join(file: _File, path: Path, size: Size | None, faults: Faults) -> list[Shape]:
    """Give the objects of a file; shapes of one label and group are one."""
    found: dict[object, Shape] = {}
    for number, shape in enumerate(file.shapes):
        place = f"{path}: shapes[{number}]"
        if shape.label in IGNORED:
            said = f"are labelled {shape.label}" if shape.label else "have no label"
            text = f"{{n}} shapes {said}, and are left out"
            faults.note("left out", text, place)
            continue
        one = _read_shape(shape, place, size)
        if one is None:
            kind = shape.shape_type or "polygon"
            text = f"{{n}} shapes of the type {kind} enclose nothing, and are left out"
            faults.note("left out", text, place)
            continue
        key = number if shape.group_id is None else (shape.group_id, shape.label)
        if key in found and found[key].mask is None:
            found[key].rings += one.rings
        else:
            found[key] = one
    return list(found.values())


def _read_shape(shape: _Shape, place: str, size: Size | None) -> Shape | None:
    """Read one shape; None where it encloses nothing."""
    kind, points = shape.shape_type or "polygon", shape.points
    if kind == "mask" and shape.mask and points:
        if size is None:
            raise DataError(f"{place} is a mask; expected imageHeight and imageWidth with it")
        return Shape(shape.label, place, mask=_read_mask(shape.mask, points[0], size, place))
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        ring = ellipse(x, y, radius, radius)
    elif kind == "rectangle" and len(points) in (2, 4):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        ring = rectangle((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
    elif kind in _POLYGONS and len(points) >= 3:
        ring = [value for point in points for value in point]
    else:
        return None
    return Shape(shape.label, place, rings=[ring])


def _read_mask(text: str, corner: tuple[float, float], size: Size, place: str) -> RunLengths:
    """Read a mask that is drawn as a PNG of its own, at a place in the image (H, W)."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
            drawn = np.asarray(picture.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, binascii.Error) as error:
        raise DataError(f"{place} has a mask that is no PNG: {error}") from error
    whole = np.zeros(size, np.bool_, order="F")
    left, top = max(0, round(corner[0])), max(0, round(corner[1]))
    part = whole[top : top + drawn.shape[0], left : left + drawn.shape[1]]
    part[:] = drawn[: part.shape[0], : part.shape[1]]
    return encode_pixels(whole)
