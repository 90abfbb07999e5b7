"""COCO's panoptic format: images, id maps, and a JSON that names the segments.

`panodetr.data.formats.coco` says how these are found. The JSON is checked when the data
set is opened, the pixels when they are read. NumPy only.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from panodetr.data.formats import Faults, made_up_color
from panodetr.data.formats.coco import (
    CategoryEntry,
    Document,
    Id,
    Join,
    Layout,
    OfImage,
    Text,
    decode_entries,
    decode_joined,
    read_categories,
    read_document,
    read_images,
)
from panodetr.data.formats.sizes import Marked, choose_file, settle
from panodetr.data.masks import VOID, present_ids, read_id_map
from panodetr.data.samples import GroundTruthSegment, Records, Sample
from panodetr.data.tree import sure
from panodetr.errors import ImageError
from panodetr.images.read import read_size
from panodetr.results.types import Category

LARGEST_ID = 2**24 - 1  # three bytes of colour

_Byte: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Category(CategoryEntry, kw_only=True):
    isthing: bool
    color: Any = None

    def rgb(self, index: int) -> tuple[int, int, int]:
        """Give its colour, or one that is made up."""
        try:
            return msgspec.convert(self.color, tuple[_Byte, _Byte, _Byte], strict=False)
        except msgspec.ValidationError:
            return made_up_color(index)


class _Annotation(OfImage):
    file_name: Text
    segments_info: list[msgspec.Raw]


class _Segment(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]
    category_id: Id
    area: Annotated[float, msgspec.Meta(ge=0, le=2**31)] | None = None
    iscrowd: bool | None = None
    bbox: list[float] | None = None


def read_panoptic(layout: Layout, faults: Faults, document: Document | None = None) -> Records:
    """Read and check a JSON, and that its id maps are there; the images may be elsewhere.

    Args:
        layout: where the parts lie.
        faults: what raises the first fault or collects all. Images that have a fault of their own
            are left out.
        document: the JSON, where it has been read already.

    Raises:
        DataError: a file is missing, the JSON is broken, or it contradicts itself.
    """
    document = document or read_document(layout.tree, layout.annotations)
    entries, join = read_categories(document, layout, faults, _Category)
    categories = tuple(
        Category(
            index=index,
            id=number,
            name=entry.name,
            is_thing=entry.isthing,
            color=entry.rgb(index),
        )
        for index, (number, entry) in enumerate(entries.items())
    )
    made_up = sum(entry.color is None for entry in entries.values())
    if made_up:
        text = "{n} categories have no colour; colours are made up"
        faults.note("repaired", text, count=made_up)
    samples = _read_samples(document, layout, join, faults)
    return Records(categories=categories, samples=samples, has_masks=True, place=layout.annotations)


def read_ids(sample: Sample, faults: Faults | None = None) -> NDArray[np.int32]:
    """Read a sample's id map, (H, W), 0 = void, and compare it with the JSON.

    Args:
        sample: the image and its segments.
        faults: what collects the ids that only one of the two has; None raises the first.

    Raises:
        DataError: the file cannot be read, or has another size than the JSON says; or it disagrees
            with the JSON, and faults are not collected.
    """
    faults = faults or Faults()
    ids = read_id_map(sample.id_map, sample.size)
    present = set(present_ids(ids).tolist()) - {VOID}
    listed = {segment.id for segment in sample.segments}
    for number in sorted(present - listed):
        faults.add(
            "unlisted pixels",
            f"{sample.id_map} has {(ids == number).sum()} pixels of segment {number}, which "
            f"segments_info of image {sample.image_id} doesn't list; list it, or paint it void",
            sample.image_id,
        )
    for number in sorted(listed - present):
        faults.add(
            "no pixels",
            f"{sample.id_map} has no pixel of segment {number} of image {sample.image_id}; take it "
            "out of segments_info",
            sample.image_id,
        )
    return ids


def _read_samples(
    document: Document, layout: Layout, categories: Join, faults: Faults
) -> tuple[Sample, ...]:
    """Join images and annotations; images with a fault of their own are left out."""
    place, texts = f"{layout.annotations}: annotations", document.annotations
    silent = Faults(collect=True)
    names = [entry.file_name for _, entry in decode_entries(texts, _Annotation, place, silent)]
    maps = layout.find(names, maps=True)
    images, join = read_images(document, layout, faults, sure(maps))
    found: dict[int, tuple[str, _Annotation]] = {}
    for number, entry, image_id in decode_joined(document, _Annotation, place, join, faults):
        here = f"{place}[{number}]"
        if image_id in found:
            faults.add(
                "duplicate id", f"{here} is a second annotation for image {image_id}", image_id
            )
        else:
            found[image_id] = here, entry
    samples: dict[int, Sample] = {}
    owners: dict[Path, int] = {}
    for image_id, (here, entry) in found.items():
        image, name = images[image_id], entry.file_name
        id_map = choose_file(maps, name, here, faults, image_id)
        if name not in maps:
            path = layout.annotations.with_suffix("") / name
            text = f"{path} is missing; it is the id map of image {entry.image_id}"
            faults.add("missing file", text, image_id)
        if id_map is None:
            continue
        owner = owners.setdefault(id_map, image_id)
        if owner != image_id:
            faults.add(
                "duplicate id",
                f"{here} has the id map {name} of another image, {owner}; expected one of its own",
                image_id,
            )
        if image.differs:
            with suppress(ImageError):  # the id map is read later, and named
                drawn = read_size(id_map)
                expected = f"{drawn[1]}x{drawn[0]}, the size of its id map {id_map}"
                settle(image, drawn == image.header, expected, faults)
        segments = _read_segments(entry, image, here, categories, faults)
        if segments is None:  # of a category that was refused
            continue
        if image.size is not None and not all(segment.area for segment in segments):
            text = "the areas of segments are missing or no whole numbers in {n} images; measured"
            faults.note("repaired", text, f"{here} (image {image_id})")
            with faults.catching("broken file", image_id):
                numbers, counts = np.unique_counts(read_id_map(id_map, image.size))
                areas = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
                segments = [replace(s, area=s.area or areas.get(s.id, 0)) for s in segments]
        if image_id not in faults.bad and image.size is not None:
            samples[image_id] = Sample(
                image_id=image_id,
                name=PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix(),
                path=image.path or Path(image.named),
                id_map=id_map,
                size=image.size,
                segments=tuple(segments),
                as_stored=image.as_stored,
                key=image.key,
            )
    for image_id in images.keys() - found.keys() - faults.bad.keys():
        message = f"{layout.annotations} has no annotation for image {image_id}"
        faults.add("broken entry", message, image_id)
    return tuple(samples[image_id] for image_id in images if image_id in samples)


def _read_segments(
    annotation: _Annotation, image: Marked, place: str, categories: Join, faults: Faults
) -> list[GroundTruthSegment] | None:
    """Read the segments of an image; None where one is of a category that was refused."""
    segments: dict[int, GroundTruthSegment] = {}
    place = f"{place}.segments_info"
    listed = annotation.segments_info
    entries = decode_entries(listed, _Segment, place, faults, lambda raw, here: image.image_id)
    for number, entry in entries:
        named = f"{place}[{number}] (segment {entry.id} of image {image.image_id})"
        category_id = categories.known.get(entry.category_id)
        if entry.id in segments:
            faults.add(
                "duplicate id",
                f"{named} repeats segment id {entry.id} within its image",
                image.image_id,
            )
        elif category_id is None and categories.refused:
            return None
        elif category_id is None:
            faults.add(
                "unknown category",
                f"{named} has category {entry.category_id}, which categories doesn't list",
                image.image_id,
            )
        else:
            whole = entry.area is not None and entry.area >= 1 and entry.area.is_integer()
            segments[entry.id] = GroundTruthSegment(
                id=entry.id,
                category_id=category_id,
                area=int(entry.area) if whole and entry.area is not None else 0,
                is_crowd=bool(entry.iscrowd),
            )
    return list(segments.values())
