"""What is wrong with COCO's JSONs and their files, all of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from panodetr.data.idmaps import VOID, present_ids, read_id_map
from panodetr.data.instances import InstanceImage, read_segmentation
from panodetr.data.panoptic import LARGEST_ID, Sample, sample_name, shared_id_map
from panodetr.data.records import Record, image_size, named_file, read_record

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.data.findings import Inspection, Progress
    from panodetr.data.layout import Layout


def check_panoptic(found: Inspection, layout: Layout, progress: Progress) -> None:
    """Check a panoptic JSON, its images and its id maps.

    Raises:
        DataError: the JSON cannot be read at all.
    """
    document = read_record(layout.annotations)
    names = _categories(found, document, panoptic=True)
    images = _images(found, document, layout)
    annotated: dict[int, Record] = {}
    for image_id, annotation in found.identified(
        found.records(document, "annotations"), "image_id"
    ):
        if image_id in images:
            annotated[image_id] = annotation
        else:
            found.error(
                "unknown image",
                f"{annotation.place} is for image {image_id}, which images doesn't list",
            )
    owners: dict[str, int] = {}  # of the id maps
    for done, (image_id, image) in enumerate(images.items(), start=1):
        found.image(image)
        if image_id not in annotated:
            found.error("broken entry", f"{document.place} has no annotation for image {image_id}")
        else:
            with found.catching("broken entry"):
                id_map = named_file(annotated[image_id], layout.id_maps)
                owner = owners.setdefault(sample_name(id_map, layout), image_id)
                if owner != image_id:
                    found.error("duplicate id", shared_id_map(annotated[image_id], owner))
                listed = _segments(found, annotated[image_id], image, names)
                _id_map(found, id_map, image, listed)
        progress(done, len(images))


def check_instances(found: Inspection, layout: Layout, progress: Progress) -> None:
    """Check an instance JSON and its images.

    Raises:
        DataError: the JSON cannot be read at all.
    """
    document = read_record(layout.annotations)
    names = _categories(found, document, panoptic=False)
    images = _images(found, document, layout)
    objects: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    without: list[str] = []
    for number, record in found.identified(found.records(document, "annotations")):
        with found.catching("broken entry"):
            image_id = record.integer("image_id")
            if image_id not in images:
                found.error(
                    "unknown image",
                    f"{record.place} is for image {image_id}, which images doesn't list",
                )
                continue
            place = f"{record.place} (annotation {number} of image {image_id})"
            record = Record(place, record.fields)
            known = _known_category(found, record, names, place)
            is_crowd = record.flag("iscrowd", default=False)
            (crowds if is_crowd else objects)[image_id] += 1
            if known is not None and not is_crowd:
                found.objects[known] += 1
            if record.fields.get("segmentation"):
                with found.catching("broken entry"):
                    read_segmentation(record, images[image_id].size)
            elif not is_crowd:
                without.append(place)
            found.box(record.box("bbox"), images[image_id].size, place)
            record.number("area", least=0)
    if len(without) < objects.total():  # else it is a data set of boxes
        for place in without:
            found.error(
                "missing mask",
                f"{place} has no mask, others do; masks are trained where every object has one",
            )
    for done, (image_id, image) in enumerate(images.items(), start=1):
        found.image(image)
        _tell(found, image, objects[image_id], crowds[image_id])
        progress(done, len(images))


def _categories(found: Inspection, document: Record, *, panoptic: bool) -> dict[int, str]:
    """Check the categories; their names by id."""
    names: dict[int, str] = {}
    for number, record in found.identified(found.records(document, "categories")):
        with found.catching("broken entry"):
            record.integer("id", least=0)
            name = record.text("name")
            if name in names.values():
                found.error("duplicate id", f"{record.place} repeats the name {name!r}")
            names[number] = name
            found.objects[name] += 0  # classes without objects are counted, too
            if panoptic:
                record.flag("isthing")
                record.color("color")
    if not names:
        found.error("broken entry", f"{document.place} has no categories")
    return names


def _images(found: Inspection, document: Record, layout: Layout) -> dict[int, InstanceImage]:
    """Check the images' entries; those that can be used, by id."""
    images: dict[int, InstanceImage] = {}
    paths: dict[Path, int] = {}
    for number, record in found.identified(found.records(document, "images")):
        with found.catching("broken entry"):
            path = named_file(record, layout.images)
            size = image_size(record)
            images[number] = InstanceImage(image_id=number, path=path, size=size, objects=())
            if path in paths:
                found.error(
                    "duplicate id",
                    f"{record.place} (image {number}) has {path}, image {paths[path]} too",
                )
            paths[path] = number
    found.images = len(images)
    if not images:
        found.error("broken entry", f"{document.place} has no images")
    return images


def _known_category(
    found: Inspection, record: Record, names: dict[int, str], place: str
) -> str | None:
    category_id = record.integer("category_id")
    if category_id not in names:
        found.error(
            "unknown category",
            f"{place} has category {category_id}, which categories doesn't list",
        )
    return names.get(category_id)


def _segments(
    found: Inspection, annotation: Record, image: InstanceImage, names: dict[int, str]
) -> set[int]:
    """Check what is listed of an image's segments; their ids."""
    listed: set[int] = set()
    crowds = 0
    for number, record in found.identified(found.records(annotation, "segments_info")):
        with found.catching("broken entry"):
            listed.add(number)
            place = f"{record.place} (segment {number} of image {image.image_id})"
            if not 1 <= number <= LARGEST_ID:
                found.error("broken entry", f"{place} has an id that is not 1 to {LARGEST_ID}")
            known = _known_category(found, record, names, place)
            is_crowd = record.flag("iscrowd", default=False)
            crowds += is_crowd
            if known is not None and not is_crowd:
                found.objects[known] += 1
            record.integer("area", least=1)
            if "bbox" in record.fields:
                found.box(record.box("bbox"), image.size, place)
    _tell(found, image, len(listed) - crowds, crowds)
    return listed


def _id_map(found: Inspection, path: Path, image: InstanceImage, listed: set[int]) -> None:
    """Compare an id map with what is listed of it."""
    if not path.is_file():
        found.error(
            "missing file", f"{path} is missing; it is the id map of image {image.image_id}"
        )
        return
    with found.catching("broken file"):
        ids = read_id_map(path, image.size)
        shown = set(present_ids(ids).tolist()) - {VOID}
        for number in sorted(shown - listed):
            found.error(
                "unlisted pixels",
                f"{path} has {np.count_nonzero(ids == number)} pixels of segment {number}, which "
                f"segments_info of image {image.image_id} doesn't list",
            )
        for number in sorted(listed - shown):
            found.error(
                "no pixels", f"{path} has no pixel of segment {number} of image {image.image_id}"
            )


def _tell(found: Inspection, image: InstanceImage | Sample, objects: int, crowds: int) -> None:
    """Note crowds, and images without objects."""
    found.crowds += crowds
    if crowds:
        found.note(
            "crowd",
            f"{image.path} (image {image.image_id}) has {crowds} of them: left out of training",
        )
    if not objects:
        found.note("empty image", f"{image.path} (image {image.image_id}) has no object")
