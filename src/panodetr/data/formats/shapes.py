"""From shapes that were drawn on images to records: what all formats share but COCO's own.

A reader says which image each annotation file is for and which shapes it holds. Here sizes are
settled, boxes cut at the border, and objects numbered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import TYPE_CHECKING

from panodetr.data.formats import Faults, number_images, things
from panodetr.data.formats.sizes import Listed, read_headers, settle
from panodetr.data.masks import count_pixels, mask_box
from panodetr.data.samples import InstanceImage, ObjectTruth, Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from panodetr.data.formats.sizes import Size
    from panodetr.data.samples import RunLengths
    from panodetr.data.tree import Found

DECIMALS = 5
"""Of coordinates in pixels: a fraction of ten digits gives back what COCO wrote, to the last digit.

COCO's rule for filling polygons rounds to fifths of a pixel, of which COCO's numbers are often
halves: the slightest error would move the outline.
"""

CORNERS = 48
"""Of the polygon that stands for a circle."""


@dataclass(slots=True)
class Shape:
    """One object: a class, and a box x, y, width, height, polygons, or run lengths."""

    label: int | str
    place: str
    box: Sequence[float] | None = None
    rings: list[list[float]] = field(default_factory=list[list[float]])
    mask: RunLengths | None = None


@dataclass(kw_only=True)
class Marked:
    """One image with its shapes.

    Attributes:
        path: of its file; None where it is not there.
        place: of its annotations, for messages.
        size: as the annotations say, if they do.
        shapes: in the annotations' order.
        fractions: whether numbers are parts of the image's width and height, not pixels.
        named: what the image is called, where that is not there.
    """

    path: Path | None
    place: str
    size: Size | None = None
    shapes: list[Shape]
    fractions: bool = False
    named: str = ""


def build(
    marked: Sequence[Marked], classes: Mapping[int, str], ids: Mapping[int | str, int],
    faults: Faults, place: Path, *, stored: bool = False,
) -> Records:  # fmt: skip
    """Make records of images and their shapes.

    Args:
        marked: the images; those in `faults.bad` by their paths are left out.
        classes: the categories' names by their ids.
        ids: the category id of each label; shapes of others are left out.
        faults: where faults go.
        place: of the annotations.
        stored: whether the format's tools show images as they are stored.
    """
    there = [one for one in marked if one.path is not None]
    numbers = iter(number_images([one.path for one in there if one.path is not None]))
    listed = {
        id(one): Listed(
            image_id=next(numbers),
            path=one.path,
            named=one.place,
            size=one.size,
        )
        for one in there
    }
    read_headers(list(listed.values()), faults, stored=stored)
    first = 1
    images: list[InstanceImage] = []
    tally = _Tally()
    for one in there:
        image = listed[id(one)]
        numbered = count(first)
        first += len(one.shapes)  # also where the image cannot be read: the others keep their ids
        if image.differs and not one.fractions:
            settle(image, _extent(one.shapes), faults, one.place)
        elif image.header is not None:
            image.size = image.header
        if one.path in faults.bad or image.image_id in faults.bad or image.size is None:
            continue
        truths = [
            truth
            for shape in one.shapes
            if shape.label in ids
            and (truth := _to_truth(shape, ids[shape.label], next(numbered), image, one, faults))
        ]
        tally.add(truths, one.shapes)
        assert one.path is not None
        images.append(
            InstanceImage(
                image_id=image.image_id,
                path=one.path,
                size=image.size,
                objects=tuple(truths),
                as_stored=image.as_stored,
            )
        )
    has_masks = tally.has_masks(faults)
    for truth in (truth for image in images for truth in image.objects):
        if has_masks and "segmentation" not in truth:
            truth["segmentation"] = [rectangle(truth["bbox"])]
    return Records(
        categories=things(classes),
        samples=tuple(images),
        has_masks=has_masks,
        place=place,
        absent=tuple(one.named or f"the image of {one.place}" for one in marked if not one.path),
    )


def number_labels(labels: Iterable[str]) -> tuple[dict[int, str], dict[int | str, int]]:
    """Number the labels of a format that lists no classes, in the alphabet's order, from 1."""
    names = sorted(set(labels))
    return dict(enumerate(names, start=1)), {name: n for n, name in enumerate(names, start=1)}


def find_images(found: Found, name: str, place: str, faults: Faults) -> Path | None:
    """Give the image that a name means; a name that may mean several is a fault of one of them."""
    if name in found.several:
        one, other, *_ = found.several[name]
        faults.add("duplicate id", f"{place} names {name}, which may be {one} or {other}", one)
    return found.paths.get(name)


def ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0) -> list[float]:
    """Give an ellipse as a polygon of the same area: centre, half axes, and angle in radians."""
    grow = math.sqrt(2 * math.pi / (CORNERS * math.sin(2 * math.pi / CORNERS)))
    ring: list[float] = []
    for corner in range(CORNERS):
        angle = 2 * math.pi * corner / CORNERS
        u, v = across * grow * math.cos(angle), down * grow * math.sin(angle)
        ring.append(x + u * math.cos(turn) - v * math.sin(turn))
        ring.append(y + u * math.sin(turn) + v * math.cos(turn))
    return ring


def rectangle(box: Sequence[float]) -> list[float]:
    """Give a box x, y, width, height as a polygon."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def ring_area(ring: Sequence[float]) -> float:
    """Give the area that a polygon encloses."""
    points = list(zip(ring[::2], ring[1::2], strict=True))
    corners = pairwise([*points, points[0]])
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in corners)) / 2


def _extent(shapes: Iterable[Shape]) -> tuple[float, float]:
    """Give the largest y and x of shapes."""
    across, down = [0.0], [0.0]
    for shape in shapes:
        if shape.box is not None:
            across.append(shape.box[0] + shape.box[2])
            down.append(shape.box[1] + shape.box[3])
        across += [max(ring[::2]) for ring in shape.rings]
        down += [max(ring[1::2]) for ring in shape.rings]
        if shape.mask is not None:
            down.append(shape.mask["size"][0])
            across.append(shape.mask["size"][1])
    return max(down), max(across)


def _to_truth(
    shape: Shape, category_id: int, number: int, image: Listed, one: Marked, faults: Faults
) -> ObjectTruth | None:
    """Write a shape as COCO would; None where nothing of it is in the image."""
    assert image.size is not None
    height, width = image.size
    rings, box = shape.rings, shape.box
    if one.fractions:
        sides = (width, height)
        rings = [[round(v * sides[i % 2], DECIMALS) for i, v in enumerate(r)] for r in rings]
        box = box and [round(v * sides[i % 2], DECIMALS) for i, v in enumerate(box)]
    rings = [ring for ring in rings if len(ring) >= 6]
    mask: list[list[float]] | RunLengths | None = shape.mask or rings or None
    if shape.mask is not None:
        box = mask_box(shape.mask, image.size)
    elif rings:
        xs, ys = [v for ring in rings for v in ring[::2]], [v for r in rings for v in r[1::2]]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    fitting = None if box is None else faults.fit_box(box, image.size, shape.place)
    if fitting is None:
        return None
    area = fitting[2] * fitting[3]
    if mask is not None:
        area = ring_area(rings[0]) if len(rings) == 1 else float(count_pixels(mask, image.size))
    truth = ObjectTruth(
        id=number,
        image_id=image.image_id,
        category_id=category_id,
        bbox=fitting,
        area=area,
        iscrowd=0,
    )
    if mask is not None:
        truth["segmentation"] = mask
    return truth


@dataclass
class _Tally:
    """Counts objects with masks and without."""

    masks: int = 0
    boxes: int = 0
    first: str = ""

    def add(self, truths: Sequence[ObjectTruth], shapes: Sequence[Shape]) -> None:
        self.masks += sum("segmentation" in truth for truth in truths)
        bare = [truth for truth in truths if "segmentation" not in truth]
        self.boxes += len(bare)
        if bare and not self.first:
            self.first = next((s.place for s in shapes if not s.rings and s.mask is None), "")

    def has_masks(self, faults: Faults) -> bool:
        note_mixture(self.masks, self.boxes, self.first, faults)
        return self.masks > 0 and self.masks >= self.boxes


def note_mixture(masks: int, boxes: int, first: str, faults: Faults) -> None:
    """Say what becomes of objects without masks among others with masks."""
    objects = masks + boxes
    if masks and boxes and masks >= boxes:
        text = f"{boxes} of {objects} objects have no mask, and are drawn as their boxes"
        faults.note("missing mask", text, first)
    elif masks and boxes:
        text = f"{masks} of {objects} objects have masks, which are not read: most have a box only"
        faults.note("missing mask", text)


def require_classes(
    names: Mapping[int, str], used: Iterable[int], place: str, faults: Faults
) -> dict[int, str]:
    """Give the classes without repeated names that no object has.

    Raises:
        DataError: two classes of one name have objects, and faults are not collected.
    """
    in_use = set(used)
    kept: dict[int, str] = {}
    by_name: dict[str, int] = {}
    for number in sorted(names, key=lambda n: (n not in in_use, n)):
        name = names[number]
        other = by_name.setdefault(name, number)
        if other == number:
            kept[number] = name
        elif number in in_use:
            faults.add(
                "duplicate id",
                f"{place} repeats the name {name!r}: {other} and {number} both have objects; "
                "give them two names",
            )
        else:
            text = "{n} classes repeat the name of another and have no objects: left out"
            faults.note("class", text, f"{name!r}, {number}")
    return dict(sorted(kept.items()))
