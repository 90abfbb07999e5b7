"""COCO's instance format: images, and a JSON with a box and perhaps a mask for each object.

`panodetr.data.formats.coco` says how these are found. Every annotation is checked by itself when
the data set is opened. After that an image keeps the text of its annotations, which takes a fifth
of the memory of Python's numbers, and decodes it when somebody asks for its objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, TypeAlias, cast

import msgspec

from panodetr.data.formats import OUTSIDE, Faults, things
from panodetr.data.formats.coco import (
    DECODE_ERRORS,
    Box,
    Coordinate,
    Document,
    Id,
    Join,
    Layout,
    OfImage,
    decode_joined,
    read_categories,
    read_document,
    read_images,
)
from panodetr.data.formats.shapes import Rules, Tally, finish, rotated
from panodetr.data.formats.sizes import Marked, Shape, Size
from panodetr.data.samples import ObjectTruth, Records, RunLengths
from panodetr.errors import DataError
from panodetr.validation import decode_json

_Numbers: TypeAlias = list[Coordinate]


class _Mask(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class _Key(OfImage):
    id: Id | float | None = None


class _Object(_Key, kw_only=True):
    category_id: Id
    bbox: Box | None = None
    area: Annotated[float, msgspec.Meta(ge=0, le=1e18)] | None = None
    iscrowd: bool | None = None
    segmentation: list[_Numbers | Coordinate] | _Mask | None = None
    attributes: Any = None

    def is_brushed(self) -> bool:
        """Whether it is a mask of CVAT's brush, which is written as a crowd and is one object."""
        given: object = self.attributes
        is_crowd = bool(self.iscrowd) and isinstance(self.segmentation, _Mask)
        return is_crowd and isinstance(given, dict) and "occluded" in given

    def box(self) -> Sequence[float] | None:
        """Give the box, or the one around it where CVAT has it rotated by some degrees."""
        given = self.attributes
        turn = cast("dict[str, Any]", given).get("rotation") if isinstance(given, dict) else None
        if self.bbox is None or self.segmentation or type(turn) not in (int, float) or not turn:
            return self.bbox
        x, y, width, height = self.bbox
        ring = rotated(x + width / 2, y + height / 2, width, height, math.radians(turn))
        (x0, x1), (y0, y1) = ((min(ring[i::2]), max(ring[i::2])) for i in (0, 1))
        return [x0, y0, x1 - x0, y1 - y0]

    def polygons(self) -> list[list[float]]:
        """Give the polygons; one may be a flat list, of numbers or of pairs."""
        given = self.segmentation
        if not isinstance(given, list):
            return []
        lists: list[list[float]] = [ring for ring in given if isinstance(ring, list)]
        if given and not lists:
            lists = [[number for number in given if not isinstance(number, list)]]
        elif len(lists) > 2 and all(len(ring) == 2 for ring in lists):
            lists = [[number for point in lists for number in point]]
        return lists

    def shape(self, place: str = "") -> Shape:
        """Give the object as any format's, without polygons that enclose nothing."""
        mask = self.segmentation if isinstance(self.segmentation, _Mask) else None
        return Shape(
            self.category_id,
            place,
            box=self.box(),
            rings=[ring for ring in self.polygons() if len(ring) >= 6],
            mask=mask and RunLengths(size=list(mask.size), counts=mask.counts),
            number=self.id if isinstance(self.id, int) else None,
            area=self.area or 0.0,
            is_crowd=bool(self.iscrowd) and not self.is_brushed(),
        )


def read_instances(layout: Layout, faults: Faults, document: Document | None = None) -> Records:
    """Read and check a JSON; the images may be elsewhere.

    Args:
        layout: where the parts lie.
        faults: what raises the first fault or collects all. Images that have a fault of their own
            are left out.
        document: the JSON, where it has been read already.

    Raises:
        DataError: the file is missing or broken, or it contradicts itself.
    """
    document = document or read_document(layout.tree, layout.annotations)
    entries, categories = read_categories(document, layout, faults)
    images, join = read_images(document, layout, faults)
    rules = Rules(ids=categories.known)
    marked = _mark(document, layout, images, join, categories, rules, faults)
    classes = things({number: entry.name for number, entry in entries.items()})
    return finish(marked, classes, rules, faults, layout.annotations)


def _mark(
    document: Document, layout: Layout, images: Mapping[int, Marked], join: Join,
    categories: Join, rules: Rules, faults: Faults,
) -> Iterator[Marked]:  # fmt: skip
    """Check the annotations image by image, and keep their texts."""
    place, every = f"{layout.annotations}: annotations", document.annotations
    decoder = msgspec.json.Decoder(_Object, strict=False)
    for image_id, numbers in _sort(document, place, join, images, rules, faults).items():
        image = images[image_id]
        texts: list[msgspec.Raw] = []
        for number in numbers:
            written = raw = every[number]
            try:
                try:
                    entry = decoder.decode(raw)
                except DECODE_ERRORS:
                    raw = _mend(written)
                    entry = decoder.decode(raw)
                    text = "{n} objects are written in another form than COCO's; read all the same"
                    faults.note("repaired", text, f"{place}[{number}]")
            except DECODE_ERRORS:
                with faults.catching("broken entry", image_id):
                    decode_json(written, _Object, f"{place}[{number}]", DataError, strict=False)
                continue
            if image_id in faults.bad:
                continue
            if _is_plain(entry, image, categories):
                image.plain += 1
                texts.append(raw)
                continue
            here = f"{place}[{number}] (annotation {entry.id} of image {image_id})"
            if shape := _look(entry, image, here, categories, faults):
                image.shapes.append(shape)
                texts.append(raw)
        image.read = partial(_decode, b"[" + b",".join(map(bytes, texts)) + b"]", rules)
        image.count = len(texts)
        yield image
        image.shapes = []  # texts are kept


def _mend(raw: msgspec.Raw) -> msgspec.Raw:
    """Write as COCO does a box of named numbers, polygons of points, and run lengths in a list."""
    given = msgspec.json.decode(raw, type=dict[str, Any])
    box, mask = given.get("bbox"), given.get("segmentation")
    if isinstance(box, dict):
        box = [box.get(key) for key in ("x", "y", "width", "height")]
    if isinstance(mask, list):
        parts = cast("list[Any]", mask)
        is_rle = len(parts) == 1 and isinstance(parts[0], dict) and "counts" in parts[0]
        mask = parts[0] if is_rle else list(map(_flatten, parts))
    given |= {"bbox": box or None, "segmentation": mask or None}
    if given.get("iscrowd") in (0, 1):  # as 1.0
        given["iscrowd"] = int(given["iscrowd"])
    return msgspec.Raw(msgspec.json.encode(given))


def _flatten(part: Any) -> Any:
    """Give the numbers of points, however deep they are."""
    if isinstance(part, dict):
        return [part.get("x"), part.get("y")]
    if isinstance(part, list):
        inner = map(_flatten, part)
        return [number for one in inner for number in (one if isinstance(one, list) else [one])]
    return part


def _sort(
    document: Document, place: str, join: Join, images: Mapping[int, Marked], rules: Rules,
    faults: Faults,
) -> dict[int, list[int]]:  # fmt: skip
    """Give the annotations of each image by their places in the list, repeated ones once."""
    found: dict[int, list[int]] = {image_id: [] for image_id in images}
    seen: dict[int | str | float | None, int] = {}  # the place of the first one of each id
    texts = document.annotations
    for number, key, image_id in decode_joined(document, _Key, place, join, faults):
        if not isinstance(key.id, int):
            rules.renumbered = True
        if key.id in seen:
            named = f"{place}[{number}] (annotation {key.id} of image {image_id})"
            if bytes(texts[seen[key.id]]) == bytes(texts[number]):
                text = "{n} annotations are written twice, and read once"
                faults.note("duplicate id", text, named)
                continue
            text = "{n} annotations repeat the id of another; all objects are numbered anew"
            faults.note("duplicate id", text, f"{named} repeats annotation id {key.id}")
            rules.renumbered = True
        elif key.id is not None:
            seen[key.id] = number
        found[image_id].append(number)
    return found


def _is_plain(entry: _Object, image: Marked, categories: Join) -> bool:
    """Whether an object is one polygon with its box, within its image: nearly all are."""
    rings, box, size = entry.segmentation, entry.bbox, image.size
    if (
        type(rings) is not list
        or len(rings) != 1
        or type(ring := rings[0]) is not list
        or len(ring) < 6
        or len(ring) & 1
        or box is None
        or entry.iscrowd
        or size is None
        or (image.header is not None and image.header != size)
        or entry.category_id not in categories.known
    ):
        return False
    x, y, width, height = box
    if x + width <= 1 and y + height <= 1:  # which may be parts of the image's sides
        return False
    xs, ys = ring[::2], ring[1::2]
    across, down = width / 8, height / 8
    return (
        -across < min(xs) - x < across
        and -across < max(xs) - x - width < across
        and -down < min(ys) - y < down
        and -down < max(ys) - y - height < down
        and x >= -OUTSIDE
        and y >= -OUTSIDE
        and x + width <= size[1] + OUTSIDE
        and y + height <= size[0] + OUTSIDE
    )


def _look(
    entry: _Object, image: Marked, place: str, categories: Join, faults: Faults
) -> Shape | None:
    """Check what a type cannot say of an object; None if it is faulty."""
    if entry.category_id not in categories.known:
        if not categories.refused:
            text = f"{place} has category {entry.category_id}, which categories doesn't list"
            faults.add("unknown category", text, image.image_id)
        return None
    shape, polygons = entry.shape(place), entry.polygons()
    if shape.box is not entry.bbox:
        faults.note("repaired", "{n} boxes are rotated; read as those around them", place)
    if entry.is_brushed():
        text = "{n} crowds are masks of CVAT's brush, and are read as objects"
        faults.note("repaired", text, place)
    for ring in shape.rings:
        if len(ring) % 2:
            text = f"{place} has an invalid polygon of {len(ring)} numbers; expected x0, y0, x1, …"
            faults.add("broken entry", text, image.image_id)
            return None
    if image.size is not None and len(shape.rings) < len(polygons):
        text = "{n} polygons of fewer than three points are left out"
        faults.note("repaired", text, place, len(polygons) - len(shape.rings))
    return shape


def _decode(text: bytes, rules: Rules, image_id: int, size: Size, first: int) -> list[ObjectTruth]:
    """Read an image's objects from their text."""
    entries = msgspec.json.decode(text, type=list[_Object], strict=False)
    quiet = Tally()
    truths = (
        rules.truth(entry.shape(), image_id, size, number, quiet)
        for number, entry in enumerate(entries, start=first)
    )
    return [truth for truth in truths if truth is not None]
