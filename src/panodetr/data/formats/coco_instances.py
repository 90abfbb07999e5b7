"""COCO's instance format: images, and a JSON with a box and perhaps a mask for each object.

`panodetr.data.formats.coco` says where these lie. Every annotation is checked by itself when the
data set is opened. After that an image keeps the text of its annotations, which takes a fifth of
the memory of Python's numbers, and decodes it when somebody asks for its objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias, overload

import msgspec

from panodetr.data.formats import Faults
from panodetr.data.formats.coco import (
    Box,
    CategoryEntry,
    Coordinate,
    Document,
    Id,
    Layout,
    decode_entries,
    read_categories,
    read_document,
    read_images,
    require_layout,
)
from panodetr.data.masks import check_run_lengths
from panodetr.data.samples import InstanceCategory, InstanceImage, ObjectTruth, RunLengths
from panodetr.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.data.formats.coco import ListedImage

_Polygon: TypeAlias = Annotated[list[Coordinate], msgspec.Meta(min_length=6)]


class _Mask(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class _Object(msgspec.Struct):
    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    area: Annotated[float, msgspec.Meta(ge=0, le=1e18)]
    iscrowd: bool = False
    segmentation: list[_Polygon] | _Mask | None = None

    def to_truth(self) -> ObjectTruth:
        truth = ObjectTruth(
            id=self.id,
            image_id=self.image_id,
            category_id=self.category_id,
            bbox=list(self.bbox),
            area=self.area,
            iscrowd=int(self.iscrowd),
        )
        if isinstance(self.segmentation, _Mask):
            truth["segmentation"] = RunLengths(
                size=list(self.segmentation.size), counts=self.segmentation.counts
            )
        elif self.segmentation:  # empty where there are boxes only
            truth["segmentation"] = self.segmentation
        return truth


class _StoredObjects(Sequence[ObjectTruth]):
    """The objects of one image as the JSON writes them: checked, and decoded on demand."""

    def __init__(self, entries: Sequence[msgspec.Raw]) -> None:
        self._text = b"[" + b",".join(map(bytes, entries)) + b"]"
        self._count = len(entries)

    def __len__(self) -> int:
        return self._count

    def _decode(self) -> list[ObjectTruth]:
        found = msgspec.json.decode(self._text, type=list[_Object], strict=False)
        return [entry.to_truth() for entry in found]

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
        folder: where its JSON lies.
        categories: by rising id.
        images: in the order of the JSON.
        has_masks: whether every object has a mask; crowds don't count.
        unreadable: a message for each image that is left out, because its header is broken and no
            JSON gives its size.
    """

    folder: Path
    categories: tuple[InstanceCategory, ...]
    images: tuple[InstanceImage, ...]
    has_masks: bool
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
    def read(
        cls, layout: Layout, *, document: Document | None = None, faults: Faults | None = None
    ) -> InstanceData:
        """Read and check a JSON; the images may be elsewhere.

        Args:
            layout: where the parts lie.
            document: the JSON, where it has been read already.
            faults: what collects faults; None raises the first one.

        Raises:
            DataError: the file is missing or broken, or it contradicts itself.
        """
        faults = faults or Faults()
        document = document or read_document(layout.annotations)
        entries = read_categories(document, CategoryEntry, layout.annotations, faults)
        listed = read_images(document, layout, faults)
        texts, without = _read_objects(document, layout, listed, {e.id for e in entries}, faults)
        return cls(
            folder=layout.annotations.parent,
            categories=tuple(InstanceCategory(id=entry.id, name=entry.name) for entry in entries),
            images=tuple(
                InstanceImage(
                    image_id=image_id,
                    path=image.path,
                    size=image.size,
                    objects=_StoredObjects(texts.pop(image_id)),
                )
                for image_id, image in listed.items()
            ),
            has_masks=not without,
        )


def _read_objects(
    document: Document,
    layout: Layout,
    images: dict[int, ListedImage],
    category_ids: set[int],
    faults: Faults,
) -> tuple[dict[int, list[msgspec.Raw]], int]:
    """Check the objects; give their texts by image, and how many that are no crowds lack masks.

    Raises:
        DataError: one is faulty or repeated, or its image or category isn't listed, and faults are
            not collected.
    """
    texts: dict[int, list[msgspec.Raw]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    masks, without = 0, 0
    missing: list[str] = []  # where others have masks, these places are faults
    place = f"{layout.annotations}: annotations"
    for here, entry, raw in decode_entries(document.annotations, _Object, place, faults):
        if entry.id in seen:
            faults.add("duplicate id", f"{here} repeats annotation id {entry.id}")
            continue
        seen.add(entry.id)
        image = images.get(entry.image_id)
        if image is None:
            faults.add(
                "unknown image", f"{here} is for image {entry.image_id}, which images doesn't list"
            )
            continue
        named = f"{here} (annotation {entry.id} of image {entry.image_id})"
        if entry.category_id not in category_ids:
            faults.add(
                "unknown category",
                f"{named} has category {entry.category_id}, which categories doesn't list",
            )
        faults.check_box(entry.bbox, image.size, named)
        if not entry.segmentation:
            if not entry.iscrowd:
                without += 1
                if faults.collect:
                    missing.append(named)
        elif not entry.iscrowd:
            masks += 1
        try:
            _check_mask(entry.segmentation, image.size, named)
        except DataError as error:
            faults.add("broken entry", str(error))
            continue
        texts[entry.image_id].append(raw)
    if masks:
        for named in missing:
            faults.tolerate(
                "missing mask",
                f"{named} has no mask, others do; masks are trained where every object has one",
            )
    return texts, without


def _check_mask(
    segmentation: list[list[float]] | _Mask | None, size: tuple[int, int], place: str
) -> None:
    """Check what a type cannot say of a mask in an image of (H, W) pixels.

    Raises:
        DataError: run lengths don't fill the image, or a polygon has an odd number of coordinates.
    """
    if isinstance(segmentation, _Mask):
        check_run_lengths(segmentation.size, segmentation.counts, size, place)
        return
    for polygon in segmentation or ():
        if len(polygon) % 2:
            raise DataError(
                f"{place} has an invalid polygon of {len(polygon)} numbers; expected x0, y0, x1, "
                "y1, …"
            )
