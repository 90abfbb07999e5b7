"""Converts a data set to another format, with everything that the format has a place for.

Whatever is lost is counted and reported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from panodetr.data.dataset import FORMATS, find_data, list_splits, open_data
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.formats.id_maps import read_objects_map
from panodetr.data.masks import draw_id_map, id_map_objects, mask_area, panoptic_objects
from panodetr.data.samples import InstanceImage, MaskImage, Sample
from panodetr.data.writers import CocoWriter, YoloWriter, keeps_ids, list_segments
from panodetr.errors import DataError, UsageError
from panodetr.files import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from panodetr.data.dataset import Dataset, Format
    from panodetr.data.samples import AnySample, GroundTruthSegment, ObjectTruth
    from panodetr.results.types import Category

Target: TypeAlias = Literal["coco-panoptic", "coco-instances", "yolo"]
"""The formats that can be written."""

TARGETS: tuple[Target, ...] = ("coco-panoptic", "coco-instances", "yolo")


@dataclass(kw_only=True)
class Conversion:
    """What was written.

    Attributes:
        format: what it was read as.
        splits: by name.
        images: how many images.
        lost: what the new format has no place for, and how often it occurred.
        unreadable: a message for each image that is left out because its header is broken.
    """

    format: Format
    splits: list[str]
    images: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list[str])


def convert_data(
    folder: Path,
    out: Path,
    target: Target,
    *,
    class_name: str,
    split: str | None = None,
    format: Format | None = None,
    progress: Callable[[int, int], None],
) -> Conversion:
    """Write a data set in another format, images and all.

    Args:
        folder: the data set's.
        out: the folder to write; after an error it is not there.
        target: the format to write.
        class_name: of the objects of id maps whose folder names no class.
        split: the one to write; None writes all.
        format: how the data set is written; None finds out.
        progress: called after each image with how many of its split are done, and how many there
            are.

    Raises:
        UsageError: it has that format already, or `out` is there already.
        DataError: the data set is broken, or lacks masks that the format needs.
        PanodetrError: the system refused to write.
    """
    format, splits = find_splits(folder, split, format)
    if format == target:
        raise UsageError(f"{folder} is {format} data already; choose another --to")
    if out.exists():
        raise UsageError(f"{out} is there already; choose another --out")
    made = Conversion(format=format, splits=splits)
    if format.startswith("coco"):
        made.lost["fields of the JSON beyond those that training and evaluation read"] = 1
    with atomic_folder(out) as written:
        yolo = YoloWriter(written)
        for name in splits:
            data = open_data(folder, name, format=format, class_name=class_name)
            made.unreadable += data.unreadable
            if target == "yolo":
                _begin_yolo(data, yolo, made.lost)
                coco = None
            elif target == "coco-panoptic":
                coco = CocoWriter(written, "panoptic", name, data.categories)
            else:
                coco = CocoWriter(written, "instances", name, _things(data))
            for done, sample in enumerate(data.samples, start=1):
                if coco is None:
                    objects = _objects(sample, data, made.lost)
                    yolo.add(sample, objects, made.lost, with_masks=data.has_masks)
                elif target == "coco-panoptic":
                    coco.add_segments(sample, *_segments(sample, data, made.lost))
                else:
                    coco.add_objects(sample, _objects(sample, data, made.lost))
                made.images += 1
                progress(done, len(data.samples))
            if coco is not None:
                coco.finish()
        if target == "yolo":
            yolo.finish()
    made.lost = +made.lost  # without what was counted zero times
    return made


def find_splits(folder: Path, split: str | None, format: Format | None) -> tuple[Format, list[str]]:
    """Find a data set's format, and its splits or the one that is asked for.

    Raises:
        DataError: there is no such data set or split.
    """
    if split is None and folder.is_dir():
        tried: tuple[Format, ...] = (format,) if format else FORMATS
        for name in tried:
            splits = list_splits(folder, name)
            if splits:
                return name, splits
    format, split = find_data(folder, split, format)
    return format, [split]


def _things(data: Dataset) -> tuple[Category, ...]:
    return tuple(category for category in data.categories if category.is_thing)


def _begin_yolo(data: Dataset, yolo: YoloWriter, lost: Counter[str]) -> None:
    things = _things(data)
    yolo.begin(data.split, things)
    if [category.id for category in things] != list(range(len(things))):
        lost["category ids: classes are numbered from 0"] = len(things)
    if not keeps_ids(data.samples):
        lost["image ids: images' names don't give them"] += len(data.samples)
    if data.format == "coco-instances":
        objects = sum(len(s.objects) for s in data.samples if isinstance(s, InstanceImage))
        lost["annotation ids, and areas other than the polygons'"] += objects


def _segments(
    sample: AnySample, data: Dataset, lost: Counter[str]
) -> tuple[NDArray[np.int32], list[GroundTruthSegment]]:
    """Give an image's id map (H, W) and its segments.

    Raises:
        DataError: an object has no mask, or the annotations are broken.
    """
    if isinstance(sample, InstanceImage):
        return _draw(sample, lost)
    assert isinstance(sample, MaskImage)  # panoptic data is not converted to itself
    ids, numbers = read_objects_map(sample)
    category_id = data.categories[0].id
    return ids, list_segments(ids, dict.fromkeys(numbers.tolist(), (category_id, False)))


def _draw(
    sample: InstanceImage, lost: Counter[str]
) -> tuple[NDArray[np.int32], list[GroundTruthSegment]]:
    """Draw objects into one id map, crowds below all others.

    Raises:
        DataError: an object has no mask.
    """
    for truth in sample.objects:
        if "segmentation" not in truth:
            raise DataError(
                f"{sample.path}: object {truth['id']} has a box only; expected masks, which "
                "panoptic data needs"
            )
    objects = [truth for truth in sample.objects if not truth["iscrowd"]]
    crowds = [truth for truth in sample.objects if truth["iscrowd"]]
    ids, below = draw_id_map(objects, sample.size), draw_id_map(crowds, sample.size)
    free = (ids == 0) & (below > 0)
    ids[free] = below[free] + len(objects)
    truths = dict(enumerate([*objects, *crowds], start=1))
    listed = {n: (truth["category_id"], bool(truth["iscrowd"])) for n, truth in truths.items()}
    segments = list_segments(ids, listed)
    lost["annotation ids, and boxes and areas other than the pixels'"] += len(truths)
    lost["objects that lie below others with all their pixels"] += len(truths) - len(segments)
    for segment in segments:
        covered = segment.area < mask_area(truths[segment.id], sample.size)
        lost["objects that lie below others with a part of their pixels"] += covered
    return ids, segments


def _objects(sample: AnySample, data: Dataset, lost: Counter[str]) -> Sequence[ObjectTruth]:
    """Give an image's objects; stuff and the ids in its map are lost."""
    if isinstance(sample, InstanceImage):
        return sample.objects
    if isinstance(sample, Sample):
        things = {category.id for category in _things(data)}
        stuff = sum(segment.category_id not in things for segment in sample.segments)
        lost["segments of stuff"] += stuff
        lost["ids of things in the id maps"] += len(sample.segments) - stuff
        return panoptic_objects(sample, read_ids(sample), things)
    ids, numbers = read_objects_map(sample)
    lost["ids of objects in the id maps"] += len(numbers)
    return id_map_objects(ids, numbers, sample.image_id, data.categories[0].id)
