"""A data set in COCO's instance format: images, and a JSON with a box and a mask for each object.

`panodetr.data.layout` says where these lie. The JSON is checked and its masks are kept as they are,
for whoever measures average precision against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np

from panodetr.data.layout import require_layout
from panodetr.data.records import Record, finite_number, image_size, named_file, read_record
from panodetr.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.data.layout import Layout


MOST_CHARACTERS = 7
"""Of one number in COCO's string of run lengths: 35 bits, more than any image has pixels."""


class RunLengths(TypedDict):
    """A mask in COCO's run lengths, down the columns.

    `size` is height and width; `counts` are the lengths, empty pixels first, or COCO's string of
    them.
    """

    size: list[int]
    counts: str | list[int]


class ObjectTruth(TypedDict):
    """One object as COCO writes it.

    `bbox` is x, y, width, height in pixels; `area` is what COCO sorts into small, medium and large;
    `iscrowd` is 1 for many objects that nobody told apart. `segmentation` is a list of polygons
    x0, y0, x1, y1, …, or run lengths; missing where the data set has boxes only.
    """

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: NotRequired[list[list[float]] | RunLengths]


@dataclass(frozen=True, kw_only=True)
class InstanceCategory:
    """One class of objects.

    Attributes:
        id: the data set's own.
        name: the data set's own.
    """

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class InstanceImage:
    """One image and its objects.

    Attributes:
        image_id: the data set's own.
        path: of its file.
        size: height, width in pixels.
        objects: in the order of the JSON.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    objects: tuple[ObjectTruth, ...]


@dataclass(frozen=True, kw_only=True)
class InstanceData:
    """One split of a data set.

    Attributes:
        folder: where its JSON lies.
        categories: by rising id.
        images: in the order of the JSON.
        unreadable: what is said of each image that is left out, because its header is broken and no
            JSON gives its size.
    """

    folder: Path
    categories: tuple[InstanceCategory, ...]
    images: tuple[InstanceImage, ...]
    unreadable: tuple[str, ...] = ()

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
    def read(cls, layout: Layout) -> InstanceData:
        """Read and check a JSON; the images may be elsewhere.

        Raises:
            DataError: the file is missing or broken, or it contradicts itself.
        """
        document = read_record(layout.annotations)
        categories = _categories(document)
        images = _images(document)
        objects = _objects(document, images, {category.id for category in categories})
        return cls(
            folder=layout.annotations.parent,
            categories=categories,
            images=tuple(
                InstanceImage(
                    image_id=image_id,
                    path=named_file(image, layout.images),
                    size=image_size(image),
                    objects=tuple(objects[image_id]),
                )
                for image_id, image in images.items()
            ),
        )


def read_run_lengths(record: Record, key: str, size: tuple[int, int]) -> RunLengths:
    """Give a mask in COCO's run lengths, as they are written, after a look whether they fill it.

    Raises:
        DataError: the field is something else, the mask has another size than (H, W), or its run
            lengths don't fill that.
    """
    value = record.fields.get(key)
    if not isinstance(value, dict):
        raise DataError(
            f'{record.place}: "{key}" is no mask in run lengths; expected an object with '
            '"size" and "counts"'
        )
    mask = Record(f'{record.place}: "{key}"', cast("dict[str, object]", value))
    given = mask.items("size")
    if given != list(size):
        raise DataError(
            f"{mask.place} has the size {given}; expected [{size[0]}, {size[1]}], the image's "
            "height and width"
        )
    counts = mask.fields.get("counts")
    if isinstance(counts, str):
        try:
            items: list[object] = [*decode_counts(counts)]
        except ValueError as error:
            raise DataError(f'{mask.place}: "counts" is {error}; write the mask again') from error
    else:
        items = mask.items("counts")
    lengths = [n for n in items if isinstance(n, int) and n >= 0]
    if len(lengths) != len(items) or sum(lengths) != size[0] * size[1]:
        raise DataError(
            f"{mask.place} has run lengths that don't fill its size; expected whole numbers that "
            f"add up to {size[0] * size[1]}"
        )
    return RunLengths(size=list(size), counts=counts if isinstance(counts, str) else lengths)


def decode_counts(text: str) -> list[int]:
    """Decode COCO's string of run lengths.

    Each number is written as characters of five bits and one that says whether more follow, lowest
    bits first; from the fourth number on, as the difference to the last but one.

    Raises:
        ValueError: it is no such string.
    """
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not codes.size:
        return []
    ends = np.flatnonzero(codes < 32)  # R
    if codes.min() < 0 or codes.max() > 63 or not ends.size or ends[-1] != codes.size - 1:
        raise ValueError("no string of run lengths")
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > MOST_CHARACTERS:
        raise ValueError("no string of run lengths: one of them is too long")
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the last bit is the sign
    for parity in (1, 2):
        values[parity::2] = values[parity::2].cumsum()
    return values.tolist()


def _categories(document: Record) -> tuple[InstanceCategory, ...]:
    found: dict[int, InstanceCategory] = {}
    names: set[str] = set()
    for record in document.records("categories"):
        category = InstanceCategory(id=record.integer("id", least=0), name=record.text("name"))
        if category.id in found or category.name in names:
            raise DataError(f"{record.place} repeats id {category.id} or name {category.name!r}")
        found[category.id] = category
        names.add(category.name)
    if not found:
        raise DataError(f"{document.place} has no categories; expected at least one")
    return tuple(found[category_id] for category_id in sorted(found))


def _images(document: Record) -> dict[int, Record]:
    images: dict[int, Record] = {}
    for image in document.records("images"):
        image_id = image.integer("id")
        if image_id in images:
            raise DataError(f"{image.place} repeats image id {image_id}")
        images[image_id] = image
    if not images:
        raise DataError(f"{document.place} has no images; expected at least one")
    return images


def _objects(
    document: Record, images: dict[int, Record], category_ids: set[int]
) -> dict[int, list[ObjectTruth]]:
    """List the objects by image.

    Raises:
        DataError: an id is repeated, or an image or category isn't listed.
    """
    objects: dict[int, list[ObjectTruth]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for record in document.records("annotations"):
        number = record.integer("id")
        image_id, category_id = record.integer("image_id"), record.integer("category_id")
        if number in seen:
            raise DataError(f"{record.place} repeats annotation id {number}")
        if image_id not in images:
            raise DataError(f"{record.place} is for image {image_id}, which images doesn't list")
        if category_id not in category_ids:
            raise DataError(
                f"{record.place} has category {category_id}, which categories doesn't list"
            )
        seen.add(number)
        truth = ObjectTruth(
            id=number,
            image_id=image_id,
            category_id=category_id,
            bbox=record.box("bbox"),
            area=record.number("area", least=0),
            iscrowd=int(record.flag("iscrowd", default=False)),
        )
        if record.fields.get("segmentation"):  # empty where there are boxes only
            truth["segmentation"] = read_segmentation(record, image_size(images[image_id]))
        objects[image_id].append(truth)
    return objects


def read_segmentation(record: Record, size: tuple[int, int]) -> list[list[float]] | RunLengths:
    """Read an object's polygons or run lengths.

    Raises:
        DataError: it is neither, or run lengths that don't fill (H, W).
    """
    if isinstance(record.fields["segmentation"], dict):
        return read_run_lengths(record, "segmentation", size)
    polygons: list[list[float]] = []
    for polygon in record.items("segmentation"):
        points = cast("list[object]", polygon) if isinstance(polygon, list) else []
        numbers = [number for p in points if (number := finite_number(p)) is not None]
        if len(numbers) < 6 or len(numbers) % 2 or len(numbers) != len(points):
            raise DataError(
                f"{record.place} has a polygon that is none; expected three points or more, "
                "as finite numbers x0, y0, x1, y1, …"
            )
        polygons.append(numbers)
    return polygons
