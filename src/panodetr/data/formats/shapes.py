"""From shapes that were drawn on images to records: the code that all formats share.

A reader says which images there are and what is drawn on them. Here image files are found and their
sizes settled, shapes are repaired and cut at the border, and objects are numbered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

from panodetr.data.formats import Faults, number_images, slack, things
from panodetr.data.formats.sizes import (
    Marked,
    Shape,
    Size,
    choose_file,
    extent,
    note_repeated,
    read_headers,
    settle,
)
from panodetr.data.masks import check_run_lengths, count_pixels, mask_box
from panodetr.data.samples import InstanceImage, LazyObjects, ObjectTruth, Records, RunLengths
from panodetr.data.tree import Tree
from panodetr.images.read import SUFFIXES
from panodetr.results.types import Category

DECIMALS = 5
"""Of coordinates in pixels: a fraction of ten digits gives back what COCO wrote, to the last digit.

COCO's rule for filling polygons rounds to fifths of a pixel, of which COCO's numbers are often
halves: the slightest error would move the outline.
"""

CORNERS = 48
"""Of the polygon that stands for a circle."""

LEAST_AGREEMENT = 0.5
"""Overlap of a box and its mask, of their union: below it the box is wrong, and measured."""

LARGER = 0.9
"""How much of itself and its mask a box must cover to be that of an object in part hidden."""

MOST_DISAGREEING = 0.05
"""Part of a split's boxes that may be wrong: more are another form of box."""


@dataclass(kw_only=True)
class Tally:
    """What is counted of a split's objects, crowds left out.

    Attributes:
        faults: where faults and notes go.
        masks: objects with masks.
        boxes: objects without.
        bare: the place of the first one without.
        disagreeing: boxes that are not those of their masks.
        odd: the place of the first one.
        far: boxes without masks that reach far out of their images.
        corners: whether all of those without masks could be corners x0, y0, x1, y1.
        centres: whether all of them could have a corner where their centre is, or the reverse.
        fractions: whether all objects could be in parts of their images' sides.
        enlarged: images that are larger than stated, by one factor in both directions.
        beyond: whether an object of them is beyond the stated size.
    """

    faults: Faults = field(default_factory=lambda: Faults(collect=True))
    masks: int = 0
    boxes: int = 0
    bare: str = ""
    disagreeing: int = 0
    far: int = 0
    corners: bool = True
    centres: bool = True
    fractions: bool = True
    odd: str = ""
    enlarged: int = 0
    beyond: bool = False

    def see_box(self, box: Sequence[float], size: Size, *, centred: bool) -> None:
        """Count a box x, y, width, height without a mask: its form may be another than it seems.

        Args:
            box: in pixels.
            size: of its image.
            centred: whether its centre is written for x, y.
        """
        x, y, width, height = box
        above, before = (-slack(side) for side in size)
        down, across = size[0] - above, size[1] - before
        self.far += x + width > across or y + height > down or x < before or y < above
        left, top = (x + width / 2, y + height / 2) if centred else (x, y)
        self.corners &= left < width <= across and top < height <= down
        moved = 0.5 if centred else -0.5
        self.centres &= before <= x + moved * width <= across - width
        self.centres &= above <= y + moved * height <= down - height

    def has_masks(self, place: Path, images: int) -> bool:
        """Say whether objects are read with masks, and how many there are of the other sort.

        What speaks for another form of all objects is a fault, of which `place` is told; there are
        so many images.
        """
        faults, objects = self.faults, self.masks + self.boxes
        alone = self.boxes > 1 and not self.masks
        if self.disagreeing > 1 and self.disagreeing > MOST_DISAGREEING * objects:
            faults.add(
                "box outside",
                f"{self.disagreeing} of {objects} boxes disagree with their masks, first: "
                f"{self.odd}; are they corners x0, y0, x1, y1? expected x, y, width, height",
            )
        elif alone and self.corners and self.far > MOST_DISAGREEING * self.boxes:
            faults.add(
                "box outside",
                f"{self.far} of {self.boxes} boxes reach far out of their images as x, y, width, "
                f"height, and all fit as corners x0, y0, x1, y1, first: {self.bare}; write x, y "
                "(in YOLO, the centre's), width, height",
            )
        elif alone and self.centres and self.far > MOST_DISAGREEING * self.boxes:
            faults.add(
                "box outside",
                f"{self.far} of {self.boxes} boxes reach far out of their images, and none if each "
                f"is moved by half its sides, first: {self.bare}; write the upper left corner for "
                "x, y (in YOLO, the centre)",
            )
        elif objects > 1 and self.fractions:
            faults.add(
                "box outside",
                f"{place}: all {objects} objects lie within 1 pixel; are they in parts of the "
                "image's sides? expected pixels",
            )
        elif self.enlarged > MOST_DISAGREEING * images and not self.beyond:
            faults.add(
                "wrong size",
                f"{place}: {self.enlarged} of {images} images are larger than stated, by one "
                "factor in both directions, and no object tells whether they were enlarged or the "
                "size is wrong; give the images their stated size, or state theirs",
            )
        elif self.disagreeing:
            text = "{n} boxes disagree with their masks; the masks' own are taken"
            faults.note("repaired", text, self.odd, self.disagreeing)
        has_masks = self.masks > 0 and self.masks >= self.boxes
        if has_masks and self.boxes:
            text = f"{self.boxes} of {objects} objects have no mask, and are drawn as their boxes"
            faults.note("missing mask", text, self.bare)
        elif self.masks and self.boxes:
            text = "objects have masks, which are not read: most have a box only"
            faults.note("missing mask", f"{self.masks} of {objects} {text}")
        return has_masks


@dataclass(kw_only=True)
class Rules:
    """How the shapes of a split become objects: what holds for all of them.

    Attributes:
        ids: the category id of each label; shapes of others are left out.
        crowds_are_objects: whether crowds are read as objects.
        renumbered: whether objects get new ids.
        draws_boxes: whether objects without a mask have their box as one.
        fractions: whether numbers are fractions of an image's sides, not pixels, and a box is
            written with its centre.
    """

    ids: Mapping[int | str, int]
    crowds_are_objects: bool = False
    renumbered: bool = False
    draws_boxes: bool = False
    fractions: bool = False

    def truth(
        self, shape: Shape, image_id: int, size: Size, number: int, tally: Tally
    ) -> ObjectTruth | None:
        """Write a shape as COCO would, repaired; None where nothing of it is in the image."""
        faults, place = tally.faults, shape.place
        mask: list[list[float]] | RunLengths | None = shape.mask or shape.rings or None
        box, measured = shape.box, _measure(mask, size)
        solid = measured if measured and measured[2] > 0 and measured[3] > 0 else None
        if box is None:
            box = measured if shape.area is None else solid
        elif mask is not None and not solid and box[2] * box[3]:
            mask = None
            text = "{n} masks have no pixel; their objects are read as boxes"
            faults.note("no pixels", text, place)
        elif solid and not shape.is_crowd and _disagree(box, solid):
            tally.disagreeing += 1
            tally.odd = tally.odd or f"{place} has the box {', '.join(map(str, box))}"
            box = solid
        if box is None:
            text = "{n} objects have neither a box nor a mask, and are left out"
            faults.note("empty box", text, place)
            return None
        if mask is None:
            tally.see_box(box, size, centred=self.fractions)
        x, y, width, height = box
        tally.fractions &= 0 < min(width, height) < 1 >= max(x + width, y + height)
        fitting = faults.fit_box(box, size, place)
        category_id = self.ids.get(shape.label)
        if fitting is None or category_id is None:
            return None
        if mask is None:
            area = shape.area or fitting[2] * fitting[3]
        elif shape.area is None and len(shape.rings) == 1:
            area = ring_area(shape.rings[0])
        else:
            area = shape.area or float(count_pixels(mask, size))
        truth = ObjectTruth(
            id=number if shape.number is None or self.renumbered else shape.number,
            image_id=image_id,
            category_id=category_id,
            bbox=fitting,
            area=area,
            iscrowd=int(shape.is_crowd and not self.crowds_are_objects),
        )
        if mask is None and self.draws_boxes:
            mask = [rectangle(fitting)]
        if mask is not None:
            truth["segmentation"] = mask
        if not shape.is_crowd:
            tally.masks += mask is not None
            tally.boxes += mask is None
            tally.bare = tally.bare or (place if mask is None else "")
        return truth


def build(
    marked: Sequence[Marked], classes: dict[int, str] | set[str] | list[str], faults: Faults,
    place: Path, *, stored: bool = False, fractions: bool = False,
) -> Records:  # fmt: skip
    """Make records of images that have no ids yet.

    Args:
        marked: the images; those without a file are counted.
        classes: the categories' names by their ids; or names that are numbered in the alphabet's
            order, from 1. Labels are either.
        faults: where faults go; images that are in `faults.bad` by their place or path are left
            out.
        place: of the annotations.
        stored: whether the format's tools show images as they are stored.
        fractions: as in `Rules`.
    """
    there = [one for one in marked if one.path is not None]
    numbers = number_images([one.path for one in there if one.path is not None])
    for one, number in zip(there, numbers, strict=True):
        one.image_id = number
    note_repeated(there, faults)
    read_headers(there, faults, stored=stored)
    if isinstance(classes, set | list):
        classes = dict(enumerate(sorted(set(classes)), start=1))
    ids: dict[int | str, int] = {name: number for number, name in classes.items()}
    rules = Rules(ids=ids | {number: number for number in classes}, fractions=fractions)
    records = finish(there, things(classes), rules, faults, place)
    gone = [one for one in marked if one.path is None and one.place not in faults.bad]
    return replace(records, absent=tuple(f"{one.named} of {one.place}" for one in gone))


def finish(
    marked: Iterable[Marked], categories: tuple[Category, ...], rules: Rules, faults: Faults,
    place: Path,
) -> Records:  # fmt: skip
    """Make records of images whose headers have been read; those in `faults.bad` are left out.

    `rules` is completed by what holds for all objects together.
    """
    tally = Tally(faults=faults)
    images: list[InstanceImage] = []
    without: list[ObjectTruth] = []
    swapped: dict[int, bool] = {}  # images whose sides are, and whether their objects fit
    faulty: list[Path] = []
    first, crowds = 1, True  # the next object's number; whether all objects are crowds with masks
    for one in marked:
        shapes, start = one.shapes, first
        first += len(shapes) + one.plain  # of unreadable images, too: the others keep their ids
        crowds &= not one.plain
        if one.differs and one.size is not None and one.header is not None:
            down, across = extent(shapes)
            expected = (
                f"{one.size[1]}x{one.size[0]}, as {one.place} says, whose objects reach to "
                f"{across:g}, {down:g}; annotate it at its own size"
            )
            height, width = (side + slack(side) for side in one.header)
            if shapes and _is_enlarged(one.size, one.header):
                tally.enlarged += 1
                tally.beyond |= down > one.size[0] + 1 or across > one.size[1] + 1
            fits = down <= height and across <= width
            if one.header == one.size[::-1]:
                swapped[one.image_id] = fits
            settle(one, fits, expected, faults)
        for shape in shapes:
            crowds &= shape.is_crowd and shape.mask is not None
            if shape.mask is not None and one.size is not None:
                with faults.catching("broken entry", one.image_id):
                    counts = shape.mask["counts"]
                    check_run_lengths(shape.mask["size"], counts, one.size, shape.place)
        if one.is_bad(faults) or (one.size is None and one.path is not None):
            faulty += [one.path] if one.path else []
            continue
        tally.masks += one.plain
        tally.fractions &= not one.plain
        truths: list[ObjectTruth] = []
        for number, shape in enumerate(shapes if one.size else (), start):
            assert one.size is not None
            given = _in_pixels(shape, one.size) if rules.fractions else shape
            if truth := rules.truth(given, one.image_id, one.size, number, tally):
                truths.append(truth)
        size = one.size or (1, 1)
        objects: Sequence[ObjectTruth] = tuple(truths)
        if one.read is None:
            without += [truth for truth in truths if "segmentation" not in truth]
        else:
            objects = LazyObjects(partial(one.read, one.image_id, size, start), one.count)
        images.append(
            InstanceImage(
                image_id=one.image_id,
                path=one.path or Path(one.named),
                size=size,
                objects=objects,
                as_stored=one.as_stored,
                key=one.key,
                id_map=one.id_map,
            )
        )
    for one in images if not all(swapped.values()) else ():
        if swapped.get(one.image_id):
            text = "has its sides swapped as other images do, whose objects don't fit; turn it"
            faults.add("wrong size", f"{one.path} {text}", one.image_id)
    images = [one for one in images if one.image_id not in faults.bad]
    if crowds and first > 1 and not tally.masks + tally.boxes:
        rules.crowds_are_objects = True
        tally.masks = first - 1
        text = "all {n} objects are crowds, as CVAT's brush writes them; read as objects"
        faults.note("repaired", text, count=tally.masks)
    rules.draws_boxes = tally.has_masks(place, len(images))
    for truth in without if rules.draws_boxes else ():
        truth["segmentation"] = [rectangle(truth["bbox"])]
    return Records(
        categories=categories,
        samples=tuple(images),
        has_masks=rules.draws_boxes,
        place=place,
        faulty=tuple(faulty),
    )


def without_copies(
    tree: Tree, found: dict[str, list[PurePosixPath]]
) -> dict[str, list[PurePosixPath]]:
    """Leave out the files of no split where all are copies of files of splits."""
    unsplit = found.get("", [])
    paths = [path for split, inner in found.items() if split for path in inner] if unsplit else []
    texts = {tree.read(tree.root / path, keep=True) for path in paths}
    if all(tree.read(tree.root / path, keep=True) in texts for path in unsplit):
        found.pop("", None)
    return found


def read_files(
    tree: Tree, found: Mapping[str, Sequence[PurePosixPath]], split: str, faults: Faults,
    read: Callable[[bytes, Path, Faults], Iterable[Marked]],
) -> tuple[list[Marked], set[str], float]:  # fmt: skip
    """Read the annotation files of a split; those of others are looked into, for their labels.

    Args:
        tree: the data set's files.
        found: the annotation files of each split.
        split: which.
        faults: where faults and notes go.
        read: reads the images of a file, given its contents; what it raises is a fault.

    Returns:
        The split's images, and of all splits the labels and the least number of a box.
    """
    marked: list[Marked] = []
    these = set(found[split])
    seen: dict[PurePosixPath, tuple[set[str], float]] = tree.found.setdefault((read, "seen"), {})
    for path in dict.fromkeys(path for paths in found.values() for path in paths):
        if path in seen and path not in these:
            continue
        heard = faults if path in these else Faults(collect=True)
        with heard.catching("broken file", path):
            contents = tree.read(tree.root / path, keep=path not in these)
            images = list(read(contents, tree.root / path, heard))
            shapes = [shape for one in images for shape in one.shapes]
            least = min((min(shape.box) for shape in shapes if shape.box), default=math.inf)
            seen[path] = {str(shape.label) for shape in shapes}, least
            marked += images if path in these else ()
    labels = {label for inner, _ in seen.values() for label in inner}
    return marked, labels, min((least for _, least in seen.values()), default=math.inf)


def find_images(
    tree: Tree, marked: Sequence[Marked], split: str, faults: Faults,
    others: frozenset[str] = frozenset(),
) -> None:  # fmt: skip
    """Find the files of images that have none yet; a name that may mean several is a fault.

    Args:
        tree: the data set's files.
        marked: the images, each with the annotation file that names it.
        split: of the annotation files.
        faults: where faults go.
        others: the splits of other annotation files.
    """
    by_folder: dict[Path, list[Marked]] = {}
    for one in marked:
        by_folder.setdefault(one.file.parent, []).append(one)
    for folder, inner in by_folder.items():
        names = [one.named for one in inner]
        found = tree.images.find(names, folder, split=split, others=others)
        for one in inner:
            one.path = choose_file(found, one.named, one.place, faults, one.place)


def find_by_file(tree: Tree, marked: Sequence[Marked], split: str, faults: Faults) -> None:
    """Find images by their names, or else by those of their annotation files.

    What is there under both is counted: the stated name holds.
    """
    find_images(tree, marked, split, faults)
    for one in marked:
        path = one.path
        if path is not None and path.stem != one.file.stem:
            beside = tree.names_in(path.parent)
            if own := next(
                (n for s in sorted(SUFFIXES) if (n := beside.get(f"{one.file.stem}{s}"))), None
            ):
                text = (
                    "{n} annotation files name another image than that of their own name; read so"
                )
                example = f"{one.file} names {path.name}, and {own} is there"
                faults.note("duplicate id", text, example)
    lost = [one for one in marked if one.path is None]
    names = [one.named for one in lost]
    for one in lost:
        one.named = f"{one.file.stem}.jpg"
    find_images(tree, lost, split, Faults(collect=True))
    for one, name in zip(lost, names, strict=True):
        if one.path is None:
            one.named = name
        elif Path(name).stem != one.file.stem:
            text = "{n} images have another name than stated, that of their annotation file"
            faults.note("repaired", text, f"{one.file} names {name!r}; {one.path} is taken")


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


def rotated(x: float, y: float, width: float, height: float, angle: float) -> list[float]:
    """Give a box around a centre as a polygon, turned by an angle in radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    across, down = (width * cosine, width * sine), (-height * sine, height * cosine)
    corners = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    points = (
        (x + u * across[0] + v * down[0], y + u * across[1] + v * down[1]) for u, v in corners
    )
    return [number for point in points for number in point]


def ring_area(ring: Sequence[float]) -> float:
    """Give the area that a polygon encloses."""
    points = list(zip(ring[::2], ring[1::2], strict=True))
    corners = pairwise([*points, points[0]])
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in corners)) / 2


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
        if other == number or number in in_use:
            kept[number] = name
        if other != number and number in in_use:
            faults.add(
                "duplicate id",
                f"{place} repeats the name {name!r}: {other} and {number} both have objects; "
                "give them one id, or two names",
            )
        elif other != number:
            text = "{n} classes repeat the name of another and have no objects: left out"
            faults.note("class", text, f"{name!r}, id {number}")
    return dict(sorted(kept.items()))


def _in_pixels(shape: Shape, size: Size) -> Shape:
    """Give a shape in fractions of an image's sides in pixels."""
    sides = (size[1], size[0])
    rings = [[round(v * sides[i % 2], DECIMALS) for i, v in enumerate(r)] for r in shape.rings]
    box = shape.box and [round(v * sides[i % 2], DECIMALS) for i, v in enumerate(shape.box)]
    return Shape(shape.label, shape.place, box, rings)


def _measure(mask: list[list[float]] | RunLengths | None, size: Size) -> list[float] | None:
    """Give the box of a mask; None where there is none."""
    if not isinstance(mask, list):
        return mask and mask_box(mask, size)
    (left, right), (top, bottom) = (
        (min(min(ring[i::2]) for ring in mask), max(max(ring[i::2]) for ring in mask))
        for i in (0, 1)
    )
    return [left, top, right - left, bottom - top]


def _is_enlarged(stated: Size, size: Size) -> bool:
    """Whether a size (H, W) is a stated one that was multiplied, but for rounding."""
    across = stated[1] * size[0] / stated[0]
    return size[0] > stated[0] + slack(stated[0]) and abs(size[1] - across) <= slack(across)


def _agreement(one: Sequence[float], other: Sequence[float]) -> float:
    """Give the overlap of two boxes x, y, width, height, of their union."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0.0) * max(down, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def _disagree(box: Sequence[float], measured: Sequence[float]) -> bool:
    """Whether a box cannot be that of a mask; of an object in part hidden it may be larger."""
    if _agreement(box, measured) >= LEAST_AGREEMENT:
        return False
    x, y, right, bottom = box
    corners = [x, y, right - x, bottom - y]
    as_corners = _agreement(corners, measured) if corners[2] > 0 and corners[3] > 0 else 0.0
    if as_corners >= LEAST_AGREEMENT:
        return True
    whole = [min(x, measured[0]), min(y, measured[1])]
    whole += [max(x + right, measured[0] + measured[2]) - whole[0]]
    whole += [max(y + bottom, measured[1] + measured[3]) - whole[1]]
    return _agreement(box, whole) < LARGER
