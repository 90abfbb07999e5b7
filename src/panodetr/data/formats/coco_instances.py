"""COCO's instance format: images, and a JSON with a box and perhaps a mask for each object.

`panodetr.data.formats.coco` says how these are found. Every annotation is checked by itself when
the data set is opened. After that an image keeps the text of its annotations, which takes a fifth
of the memory of Python's numbers, and decodes it when somebody asks for its objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias, overload

import msgspec

from panodetr.data.formats import OUTSIDE, Faults, cut_box
from panodetr.data.formats.coco import (
    Box,
    CategoryEntry,
    Coordinate,
    Document,
    Id,
    Join,
    Layout,
    decode_entries,
    read_categories,
    read_document,
    read_images,
    require_layout,
)
from panodetr.data.formats.shapes import note_mixture, rectangle
from panodetr.data.formats.sizes import settle
from panodetr.data.masks import check_run_lengths, count_pixels, mask_box
from panodetr.data.samples import InstanceCategory, InstanceImage, ObjectTruth, RunLengths
from panodetr.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.data.formats.sizes import Listed, Size

LEAST_AGREEMENT = 0.5
"""Overlap of a box and its mask, of their union: below it the box is wrong, and measured."""

LARGER = 0.9
"""How much of itself and its mask a box must cover to be that of an object in part hidden."""

MOST_DISAGREEING = 0.05
"""Part of a split's boxes that may be wrong: more are another form of box."""

_Numbers: TypeAlias = list[Coordinate]


class _Mask(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class _Object(msgspec.Struct):
    image_id: Id
    category_id: Id
    id: Id | float | None = None
    bbox: Box | None = None
    area: Annotated[float, msgspec.Meta(ge=0, le=1e18)] | None = None
    iscrowd: bool | None = None
    segmentation: list[_Numbers | Coordinate] | _Mask | None = None

    def rings(self) -> list[list[float]]:
        """Give the polygons that enclose something; a flat list of numbers is one."""
        if not isinstance(self.segmentation, list):
            return []
        given = self.segmentation
        lists: list[list[float]] = [ring for ring in given if isinstance(ring, list)]
        if given and not lists:
            lists = [[number for number in given if not isinstance(number, list)]]
        return [ring for ring in lists if len(ring) >= 6]


class _Reading:
    """How the objects of a JSON are read: what holds for all of them."""

    def __init__(self, categories: Join, *, crowds_are_objects: bool = False) -> None:
        self.categories = categories
        self.crowds_are_objects = crowds_are_objects
        self.numbered = False  # ids are texts, or repeated: objects get new ones
        self.draws_boxes = False  # most objects have masks, and the others their boxes as such

    def truth(self, entry: _Object, image_id: int, size: Size, number: int) -> ObjectTruth | None:
        """Give an object as COCO writes it, repaired; None where nothing of it is in the image."""
        mask, given, _ = _repair(entry, size)
        bbox = None if given is None else cut_box(given, size)
        category_id = self.categories.find(entry.category_id)
        if bbox is None or category_id is None:
            return None
        area = entry.area
        if not area:
            area = float(count_pixels(mask, size)) if mask else bbox[2] * bbox[3]
        truth = ObjectTruth(
            id=entry.id if isinstance(entry.id, int) and not self.numbered else number,
            image_id=image_id,
            category_id=category_id,
            bbox=list(bbox),
            area=area,
            iscrowd=int(bool(entry.iscrowd) and not self.crowds_are_objects),
        )
        if mask is None and self.draws_boxes:
            mask = [rectangle(bbox)]
        if mask is not None:
            truth["segmentation"] = mask
        return truth


def _repair(
    entry: _Object, size: Size
) -> tuple[list[list[float]] | RunLengths | None, Sequence[float] | None, str]:
    """Give an object's mask and box, and what had to be repaired: "mask", "box" or nothing."""
    mask: list[list[float]] | RunLengths | None = entry.rings() or None
    if isinstance(entry.segmentation, _Mask):
        mask = RunLengths(size=list(entry.segmentation.size), counts=entry.segmentation.counts)
    measured = _measure(mask, size)
    if entry.bbox is None:
        return mask, measured, ""
    if mask is not None and measured is None and entry.bbox[2] * entry.bbox[3]:
        return None, entry.bbox, "mask"
    if measured and not entry.iscrowd and _disagree(entry.bbox, measured):
        return mask, measured, "box"
    return mask, entry.bbox, ""


def _measure(mask: list[list[float]] | RunLengths | None, size: Size) -> list[float] | None:
    """Give the box of a mask; None where there is none, or it has no pixel."""
    if mask is None:
        return None
    if not isinstance(mask, list):
        box = mask_box(mask, size)
        return box if box[2] and box[3] else None
    left = min(min(ring[::2]) for ring in mask)
    top = min(min(ring[1::2]) for ring in mask)
    right = max(max(ring[::2]) for ring in mask)
    bottom = max(max(ring[1::2]) for ring in mask)
    return [left, top, right - left, bottom - top] if right > left and bottom > top else None


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


class _StoredObjects(Sequence[ObjectTruth]):
    """The objects of one image as the JSON writes them: checked, and decoded on demand."""

    def __init__(
        self, entries: Sequence[msgspec.Raw], reading: _Reading, listed: Listed, first: int
    ) -> None:
        self._text = b"[" + b",".join(map(bytes, entries)) + b"]"
        self._count = len(entries)
        self._reading = reading
        self._image_id = listed.image_id
        self._size = listed.size or (1, 1)
        self._first = first

    def __len__(self) -> int:
        return self._count

    def _decode(self) -> list[ObjectTruth]:
        found = msgspec.json.decode(self._text, type=list[_Object], strict=False)
        truths = (
            self._reading.truth(entry, self._image_id, self._size, number)
            for number, entry in enumerate(found, start=self._first)
        )
        return [truth for truth in truths if truth is not None]

    def __iter__(self) -> Iterator[ObjectTruth]:
        return iter(self._decode())

    @overload
    def __getitem__(self, place: int) -> ObjectTruth: ...
    @overload
    def __getitem__(self, place: slice) -> list[ObjectTruth]: ...
    def __getitem__(self, place: int | slice) -> ObjectTruth | list[ObjectTruth]:
        return self._decode()[place]


@dataclass(frozen=True, kw_only=True)
class InstanceData:
    """One split of a data set.

    Attributes:
        folder: where its annotations lie.
        categories: by rising id.
        images: in the order of the annotations.
        has_masks: whether most objects have a mask; crowds don't count.
    """

    folder: Path
    categories: tuple[InstanceCategory, ...]
    images: tuple[InstanceImage, ...]
    has_masks: bool

    @classmethod
    def open(cls, folder: Path, split: str) -> InstanceData:
        """Read and check a split's JSON, and that its images are there.

        Raises:
            DataError: a file is missing, the JSON is broken, or it contradicts itself.
        """
        data = cls.read(require_layout(folder, split, "instances"))
        for image in data.images:
            if not image.path.is_file():
                raise DataError(f"{image.path} is missing; it is image {image.image_id}")
        return data

    @classmethod
    def read(
        cls, layout: Layout, *, document: Document | None = None, faults: Faults | None = None
    ) -> InstanceData:
        """Read and check a JSON; the images may be elsewhere.

        Args:
            layout: where the parts lie.
            document: the JSON, where it has been read already.
            faults: what collects faults; None raises the first one. Images that have a fault of
                their own are left out.

        Raises:
            DataError: the file is missing or broken, or it contradicts itself.
        """
        faults = faults or Faults()
        document = document or read_document(layout.annotations)
        entries, categories = read_categories(document, CategoryEntry, layout, faults)
        listed, images = read_images(document, layout, faults)
        reader = _ObjectReader(layout, listed, images, _Reading(categories), faults)
        reader.read(document)
        stored: list[InstanceImage] = []
        number = 1
        for image_id, image in listed.items():
            texts = reader.texts.pop(image_id)
            if image_id in faults.bad or (image.path is not None and image.size is None):
                continue
            stored.append(
                InstanceImage(
                    image_id=image_id,
                    path=image.path or layout.images / image.named,
                    size=image.size or (1, 1),
                    objects=_StoredObjects(texts, reader.reading, image, number),
                    as_stored=image.as_stored,
                    key=image.key,
                )
            )
            number += len(texts)
        return cls(
            folder=layout.annotations.parent,
            categories=tuple(InstanceCategory(id=entry.id, name=entry.name) for entry in entries),
            images=tuple(stored),
            has_masks=reader.has_masks(),
        )


class _ObjectReader:
    """Checks the objects of a JSON, and keeps their texts by image."""

    def __init__(
        self,
        layout: Layout,
        listed: dict[int, Listed],
        images: Join,
        reading: _Reading,
        faults: Faults,
    ) -> None:
        self.texts: dict[int, list[msgspec.Raw]] = {image_id: [] for image_id in listed}
        self.reading = reading
        self._layout = layout
        self._listed = listed
        self._images = images
        self._faults = faults
        self._masks = self._boxes = self._disagreeing = 0
        self._bare = self._odd = ""  # the first object without a mask, and with a wrong box
        self._seen: dict[int | str | float, int] = {}
        self._crowds_only = True

    def read(self, document: Document) -> None:
        """Check all objects.

        Raises:
            DataError: one is faulty, and faults are not collected.
        """
        place = f"{self._layout.annotations}: annotations"
        waiting: dict[int, list[tuple[str, _Object]]] = {}  # the image's size is in doubt
        for here, entry, raw in decode_entries(document.annotations, _Object, place, self._faults):
            if isinstance(entry, DataError):
                self._faults.add("broken entry", str(entry), self._image_of(raw, here))
                continue
            image_id = self._images.find(entry.image_id)
            if image_id is None:
                self._note_unknown(entry, here)
                continue
            if image_id in self._faults.bad:
                continue
            image = self._listed[image_id]
            is_new = self._is_new(entry, raw)
            if is_new and self._is_plain(entry, image):
                self._masks += 1
                self.texts[image_id].append(raw)
                continue
            named = f"{here} (annotation {entry.id} of image {image_id})"
            if not is_new and not self._take_repeated(entry, raw, named):
                continue
            self._crowds_only &= bool(entry.iscrowd) and isinstance(entry.segmentation, _Mask)
            if image.differs:
                waiting.setdefault(image_id, []).append((named, entry))
            elif not self._check(entry, image, named):
                continue
            self.texts[image_id].append(raw)
        for image_id, entries in waiting.items():
            self._settle(self._listed[image_id], entries)
        for image in self._listed.values():
            if image.differs:
                settle(image, (0, 0), self._faults, str(self._layout.annotations))
        if self._crowds_only and self._masks == self._boxes == 0 and any(self.texts.values()):
            self.reading.crowds_are_objects = True
            self._masks = sum(map(len, self.texts.values()))
            text = "all {n} objects are crowds, as CVAT's brush writes them; read as objects"
            self._faults.note("repaired", text, count=self._masks)

    def has_masks(self) -> bool:
        """Say whether objects are read with masks, and how many there are of the other sort."""
        objects = self._masks + self._boxes
        has_masks = self._masks > 0 and self._masks >= self._boxes
        if self._disagreeing > 1 and self._disagreeing > MOST_DISAGREEING * objects:
            self._faults.add(
                "box outside",
                f"{self._disagreeing} of {objects} boxes disagree with their masks, first: "
                f"{self._odd}; are they corners x0, y0, x1, y1? expected x, y, width, height",
            )
        elif self._disagreeing:
            text = "{n} boxes disagree with their masks; the masks' own are taken"
            self._faults.note("repaired", text, self._odd, self._disagreeing)
        note_mixture(self._masks, self._boxes, self._bare, self._faults)
        self.reading.draws_boxes = has_masks
        return has_masks

    def _image_of(self, raw: msgspec.Raw, place: str) -> int | str:
        """Give the image of an object that is faulty, or else the object's place."""
        try:
            given = msgspec.json.decode(raw, type=_OfImage, strict=False).image_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return place
        found = self._images.find(given)
        return place if found is None else found

    def _note_unknown(self, entry: _Object, here: str) -> None:
        if not self._images.refused:
            text = "{n} objects are of images that the JSON doesn't list, and are left out"
            self._faults.note("unknown image", text, f"{here} is for image {entry.image_id}")

    def _is_new(self, entry: _Object, raw: msgspec.Raw) -> bool:
        """Whether no object had this id before; where an id is no number, all get new ones."""
        if not isinstance(entry.id, int):
            self.reading.numbered = True
        if entry.id is None:
            return True
        if entry.id in self._seen:
            return False
        self._seen[entry.id] = hash(bytes(raw))
        return True

    def _take_repeated(self, entry: _Object, raw: msgspec.Raw, named: str) -> bool:
        """Whether an object is another one than that of the same id; then all get new ids."""
        assert entry.id is not None
        if self._seen[entry.id] == hash(bytes(raw)):
            text = "{n} annotations are written twice, and read once"
            self._faults.note("duplicate id", text, named)
            return False
        text = "{n} annotations repeat the id of another; all objects are numbered anew"
        self._faults.note("duplicate id", text, f"{named} repeats annotation id {entry.id}")
        self.reading.numbered = True
        return True

    def _is_plain(self, entry: _Object, image: Listed) -> bool:
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
            or self.reading.categories.find(entry.category_id) is None
        ):
            return False
        x, y, width, height = box
        xs, ys = ring[::2], ring[1::2]
        across, down = width / 8, height / 8
        self._crowds_only = False
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

    def _check(self, entry: _Object, image: Listed, named: str) -> bool:
        """Check an object that is read at its image's size, and count it; False if it is faulty."""
        faults, size = self._faults, image.size
        if self.reading.categories.find(entry.category_id) is None:
            if not self.reading.categories.refused:
                faults.add(
                    "unknown category",
                    f"{named} has category {entry.category_id}, which categories doesn't list",
                    image.image_id,
                )
            return False
        rings = entry.rings()
        try:
            _check_mask(entry.segmentation, rings, size, named)
        except DataError as error:
            faults.add("broken entry", str(error), image.image_id)
            return False
        if size is None:  # it is not there, and nobody says how large it is
            return True
        if isinstance(entry.segmentation, list) and entry.segmentation:
            whole = 1 if rings and not isinstance(entry.segmentation[0], list) else len(rings)
            lists = sum(isinstance(ring, list) for ring in entry.segmentation) or 1
            if whole < lists:
                text = "{n} polygons of fewer than three points are left out"
                faults.note("repaired", text, named, lists - whole)
        mask, box, repaired = _repair(entry, size)
        if repaired == "mask":
            text = "{n} masks have no pixel; their objects are read as boxes"
            faults.note("no pixels", text, named)
        elif repaired == "box":
            self._disagreeing += 1
            self._odd = self._odd or f"{named} has the box {', '.join(map(str, entry.bbox or ()))}"
        if box is None:
            text = "{n} objects have neither a box nor a mask, and are left out"
            faults.note("empty box", text, named)
        elif faults.fit_box(box, size, named) is not None and not entry.iscrowd:
            self._masks += mask is not None
            self._boxes += mask is None
            if mask is None:
                self._bare = self._bare or named
        return True

    def _settle(self, image: Listed, entries: list[tuple[str, _Object]]) -> None:
        """Decide which size of an image holds, and check its objects, which had to wait for it."""
        across, down = [0.0], [0.0]
        for _, entry in entries:
            if entry.bbox is not None:
                across.append(entry.bbox[0] + entry.bbox[2])
                down.append(entry.bbox[1] + entry.bbox[3])
            for ring in entry.rings():
                across.append(max(ring[::2]))
                down.append(max(ring[1::2]))
        settle(image, (max(down), max(across)), self._faults, str(self._layout.annotations))
        if image.image_id not in self._faults.bad:
            for named, entry in entries:
                self._check(entry, image, named)


class _OfImage(msgspec.Struct):
    image_id: Id


def _check_mask(
    segmentation: list[_Numbers | float] | _Mask | None,
    rings: list[list[float]],
    size: Size | None,
    place: str,
) -> None:
    """Check what a type cannot say of a mask in an image of (H, W) pixels.

    Raises:
        DataError: run lengths don't fill the image, or a polygon has an odd number of coordinates.
    """
    if isinstance(segmentation, _Mask):
        if size is not None:
            check_run_lengths(segmentation.size, segmentation.counts, size, place)
        return
    for polygon in rings:
        if len(polygon) % 2:
            raise DataError(
                f"{place} has an invalid polygon of {len(polygon)} numbers; expected x0, y0, x1, "
                "y1, …"
            )
