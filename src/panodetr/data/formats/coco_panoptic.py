"""COCO's panoptic format: images, id maps, and a JSON that names the segments.

`panodetr.data.formats.coco` says where these lie. The JSON is checked when the data set is opened,
the pixels when they are read. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from panodetr.data.formats import Faults, named_file
from panodetr.data.formats.coco import (
    Box,
    CategoryEntry,
    Document,
    Id,
    Layout,
    Text,
    decode_entries,
    read_categories,
    read_document,
    read_images,
    require_layout,
)
from panodetr.data.masks import VOID, present_ids, read_id_map
from panodetr.data.samples import GroundTruthSegment, Sample
from panodetr.errors import DataError
from panodetr.results.types import Category

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

LARGEST_ID = 2**24 - 1  # three bytes of colour

_Byte: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Category(CategoryEntry):
    isthing: bool
    color: tuple[_Byte, _Byte, _Byte]


class _Annotation(msgspec.Struct):
    image_id: Id
    file_name: Text
    segments_info: list[msgspec.Raw]


class _Segment(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]
    category_id: Id
    area: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    iscrowd: bool = False
    bbox: Box | None = None


@dataclass(frozen=True, kw_only=True)
class PanopticData:
    """One split of a data set.

    Attributes:
        folder: where its JSON lies.
        split: its name, "" for a folder without splits.
        categories: by rising id; an index is the position in this order.
        samples: in the order of the JSON's images.
    """

    folder: Path
    split: str
    categories: tuple[Category, ...]
    samples: tuple[Sample, ...]

    @classmethod
    def open(cls, folder: Path, split: str) -> PanopticData:
        """Read and check a split's JSON, and that its files are there.

        Raises:
            DataError: a file is missing, the JSON is broken, or it contradicts itself.
        """
        data = cls.read(require_layout(folder, split, "panoptic"), split)
        for sample in data.samples:
            if not sample.path.is_file():
                raise DataError(f"{sample.path} is missing; it is image {sample.image_id}")
        return data

    @classmethod
    def read(
        cls,
        layout: Layout,
        split: str = "",
        *,
        document: Document | None = None,
        faults: Faults | None = None,
    ) -> PanopticData:
        """Read and check a JSON, and that its id maps are there; the images may be elsewhere.

        Args:
            layout: where the parts lie.
            split: its name.
            document: the JSON, where it has been read already.
            faults: what collects faults; None raises the first one.

        Raises:
            DataError: a file is missing, the JSON is broken, or it contradicts itself.
        """
        faults = faults or Faults()
        document = document or read_document(layout.annotations)
        entries = read_categories(document, _Category, layout.annotations, faults)
        categories = tuple(
            Category(
                index=index, id=entry.id, name=entry.name, is_thing=entry.isthing, color=entry.color
            )
            for index, entry in enumerate(entries)
        )
        return cls(
            folder=layout.annotations.parent,
            split=split,
            categories=categories,
            samples=_read_samples(document, layout, {c.id for c in categories}, faults),
        )


def read_ids(sample: Sample) -> NDArray[np.int32]:
    """Read a sample's id map, (H, W), 0 = void.

    Raises:
        DataError: the file cannot be read, has another size than the JSON says, shows an id that
            the JSON doesn't list, or lacks one that it does.
    """
    return check_ids(sample, Faults())


def check_ids(sample: Sample, faults: Faults) -> NDArray[np.int32]:
    """Read a sample's id map, (H, W), 0 = void, and compare it with the JSON.

    Raises:
        DataError: the file cannot be read, or has another size than the JSON says; or it disagrees
            with the JSON, and faults are not collected.
    """
    ids = read_id_map(sample.id_map, sample.size)
    present = set(present_ids(ids).tolist()) - {VOID}
    listed = {segment.id for segment in sample.segments}
    for number in sorted(present - listed):
        faults.add(
            "unlisted pixels",
            f"{sample.id_map} has {(ids == number).sum()} pixels of segment {number}, which "
            f"segments_info of image {sample.image_id} doesn't list; list it, or paint it void",
        )
    for number in sorted(listed - present):
        faults.add(
            "no pixels",
            f"{sample.id_map} has no pixel of segment {number} of image {sample.image_id}; take it "
            "out of segments_info",
        )
    return ids


def _read_samples(
    document: Document, layout: Layout, category_ids: set[int], faults: Faults
) -> tuple[Sample, ...]:
    """Join images and annotations.

    Raises:
        DataError: an image has no annotation or several, shares its id map with another, or an id
            map is missing, and faults are not collected.
    """
    images = read_images(document, layout, faults)
    samples: dict[int, Sample] = {}
    names: dict[str, int] = {}
    seen: set[int] = set()
    place = f"{layout.annotations}: annotations"
    for here, entry, _ in decode_entries(document.annotations, _Annotation, place, faults):
        image_id = entry.image_id
        if image_id in seen:
            faults.add("duplicate id", f"{here} is a second annotation for image {image_id}")
            continue
        if image_id not in images:
            message = f"{here} is for image {image_id}, which images doesn't list"
            faults.add("unknown image", message)
            continue
        seen.add(image_id)
        with faults.catching("broken entry"):
            image, id_map = images[image_id], named_file(entry.file_name, layout.id_maps, here)
            name = id_map.relative_to(layout.id_maps).with_suffix("").as_posix()
            owner = names.setdefault(name, image_id)
            if owner != image_id:
                faults.add(
                    "duplicate id",
                    f"{here} has the id map {entry.file_name} of another image, {owner}; expected "
                    "one of its own",
                )
            if not id_map.is_file():
                faults.add(
                    "missing file", f"{id_map} is missing; it is the id map of image {image_id}"
                )
            samples[image_id] = Sample(
                image_id=image_id,
                name=name,
                path=image.path,
                id_map=id_map,
                size=image.size,
                segments=_read_segments(entry, image.size, here, category_ids, faults),
            )
    for image_id in images.keys() - seen:
        message = f"{layout.annotations} has no annotation for image {image_id}"
        faults.add("broken entry", message)
    return tuple(samples[image_id] for image_id in images if image_id in samples)


def _read_segments(
    annotation: _Annotation,
    size: tuple[int, int],
    place: str,
    category_ids: set[int],
    faults: Faults,
) -> tuple[GroundTruthSegment, ...]:
    """Read the segments of an image of (H, W) pixels.

    Raises:
        DataError: one is faulty or repeated, and faults are not collected.
    """
    segments: dict[int, GroundTruthSegment] = {}
    of_image = f"of image {annotation.image_id}"
    entries = decode_entries(annotation.segments_info, _Segment, f"{place}.segments_info", faults)
    for here, entry, _ in entries:
        named = f"{here} (segment {entry.id} {of_image})"
        if entry.id in segments:
            faults.add("duplicate id", f"{named} repeats segment id {entry.id} within its image")
            continue
        if entry.category_id not in category_ids:
            faults.add(
                "unknown category",
                f"{named} has category {entry.category_id}, which categories doesn't list",
            )
        if entry.bbox is not None:
            faults.check_box(entry.bbox, size, named)
        segments[entry.id] = GroundTruthSegment(
            id=entry.id,
            category_id=entry.category_id,
            area=entry.area,
            is_crowd=entry.iscrowd,
        )
    return tuple(segments.values())
