"""A data set to train on, whatever its format: classes, images, and the objects of each image."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from panodetr.data.formats import Faults, system_errors
from panodetr.data.formats.coco import find_splits, require_layout
from panodetr.data.formats.coco_instances import InstanceData
from panodetr.data.formats.coco_panoptic import PanopticData, read_ids
from panodetr.data.formats.id_maps import (
    class_folder,
    find_id_folders,
    read_id_folder,
    read_objects_map,
)
from panodetr.data.formats.yolo import SPLITS, find_yolo, read_yolo, read_yolo_file
from panodetr.data.masks import draw_id_map
from panodetr.data.samples import MaskImage, Sample
from panodetr.data.targets import Objects, segment_classes
from panodetr.errors import DataError
from panodetr.results.types import Category

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from panodetr.data.formats.yolo import YoloFile
    from panodetr.data.samples import AnySample, InstanceCategory

Format: TypeAlias = Literal["coco-panoptic", "coco-instances", "yolo", "id-maps"]
"""How a data set is written."""

FORMATS: tuple[Format, ...] = ("coco-panoptic", "coco-instances", "yolo", "id-maps")

CLASS_NAME = "object"
"""Of the objects of id maps that nothing names."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split of a data set.

    Attributes:
        folder: where it lies.
        split: its name, "" for a folder without splits.
        format: how it is written.
        categories: by rising id; an index is the position in this order.
        samples: the images.
        has_masks: whether every object has a mask; crowds don't count. Where one has none, masks
            are not read at all: half the objects would be trained as background.
        unreadable: a message for each image that is left out, because its header is broken and the
            format gives no sizes.
    """

    folder: Path
    split: str
    format: Format
    categories: tuple[Category, ...]
    samples: tuple[AnySample, ...]
    has_masks: bool
    unreadable: tuple[str, ...] = ()

    @property
    def index_of(self) -> dict[int, int]:
        """The class index of each category id."""
        return {category.id: category.index for category in self.categories}


@system_errors()
def open_data(
    folder: Path,
    split: str | None = None,
    *,
    format: Format | None = None,
    class_name: str = CLASS_NAME,
) -> Dataset:
    """Open a data set of any format and check what can be checked without reading pixels.

    Args:
        folder: the data set's.
        split: its name; None takes "train", or else the only one there is.
        format: how it is written; None takes the first of `FORMATS` that is there: a folder of
            COCO's may have both panoptic and instance annotations.
        class_name: of the objects of id maps whose folder names no class.

    Raises:
        DataError: there is no such data set or split, a file is missing or broken, or it
            contradicts itself.
    """
    format, split = find_data(folder, split, format)
    data = read_split(folder, split, format, Faults(), class_name=class_name)
    for sample in data.samples:
        if not sample.path.is_file():
            raise DataError(f"{sample.path} is missing; it is image {sample.image_id}")
    return data


def read_split(
    folder: Path, split: str, format: Format, faults: Faults, *, class_name: str = CLASS_NAME
) -> Dataset:
    """Read a split of a data set; images that a JSON lists need not be there.

    Args:
        folder: the data set's.
        split: one of its splits.
        format: how it is written.
        faults: raises the first fault, or collects all of them.
        class_name: of the objects of id maps whose folder names no class.

    Raises:
        DataError: the split cannot be read at all, or has a fault and faults are not collected.
    """
    if format == "coco-panoptic":
        layout = require_layout(folder, split, "panoptic")
        return from_panoptic(PanopticData.read(layout, split, faults=faults))
    if format == "coco-instances":
        layout = require_layout(folder, split, "instances")
        return _from_instances(InstanceData.read(layout, faults=faults), folder, split, format)
    if format == "yolo":
        data = read_yolo(_yolo_file(folder), split, faults)
        return _from_instances(data, folder, split, format)
    name = class_folder(folder, split)[1] or class_name
    samples, unreadable = read_id_folder(folder, split, faults)
    return Dataset(
        folder=folder,
        split=split,
        format=format,
        categories=(Category(index=0, id=1, name=name, is_thing=True, color=_color(0)),),
        samples=samples,
        has_masks=True,
        unreadable=unreadable,
    )


@system_errors()
def find_data(folder: Path, split: str | None, format: Format | None) -> tuple[Format, str]:
    """Find out a folder's format and split.

    Raises:
        DataError: there is no data set, no such split, or several to choose from.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one that holds a data set")
    tried: tuple[Format, ...] = (format,) if format else FORMATS
    splits: list[tuple[Format, list[str]]] = [
        (name, found) for name in tried if (found := list_splits(folder, name))
    ]
    if not splits:
        asked = f" in the format {format}" if format else ""
        raise DataError(
            f"{folder} holds no data set{asked}; expected one of these: panoptic_NAME.json or "
            "instances_NAME.json of COCO (perhaps in annotations/), data.yaml of YOLO, "
            "or images/ and masks/ with id maps"
        )
    for name, found in splits:
        chosen = _choose(found, split)
        if chosen is not None:
            return name, chosen
    there = sorted({name or '"" (no split)' for _, found in splits for name in found})
    asked = "which split is meant is not clear" if split is None else f"there is no split {split!r}"
    raise DataError(f"{folder}: {asked}; it has {', '.join(there)}")


@system_errors()
def list_splits(folder: Path, format: Format) -> list[str]:
    """List the splits of one format; "" stands for a data set that has none.

    Raises:
        DataError: YOLO's `data.yaml` is broken.
    """
    if format == "yolo":
        return list(_yolo_file(folder).splits) if find_yolo(folder) else []
    if format == "id-maps":
        return find_id_folders(folder)
    return find_splits(folder, "panoptic" if format == "coco-panoptic" else "instances")


def read_objects(sample: AnySample, index_of: dict[int, int], *, with_masks: bool) -> Objects:
    """Read the objects of an image, crowds left out.

    Never more than one map of the image's size is held, and one mask while it is drawn.

    Args:
        sample: the image.
        index_of: the class index of each category id.
        with_masks: whether masks are read where objects are written one by one; id maps always are.

    Raises:
        DataError: an id map cannot be read, or contradicts what is said of it.
    """
    if isinstance(sample, Sample):
        classes, segment_ids = segment_classes(sample.segments, index_of)
        return Objects(classes=classes, segment_ids=segment_ids, boxes=None, ids=read_ids(sample))
    if isinstance(sample, MaskImage):
        ids, segment_ids = read_objects_map(sample)
        classes = np.zeros(segment_ids.size, np.int64)
        return Objects(classes=classes, segment_ids=segment_ids, boxes=None, ids=ids)
    truths = [truth for truth in sample.objects if not truth["iscrowd"]]
    boxes = np.array([truth["bbox"] for truth in truths], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        classes=np.array([index_of[truth["category_id"]] for truth in truths], np.int64),
        segment_ids=np.arange(1, len(truths) + 1, dtype=np.int32),
        boxes=boxes,
        ids=draw_id_map(truths, sample.size) if with_masks else None,
    )


def from_panoptic(data: PanopticData) -> Dataset:
    """Give a panoptic data set as one to train on."""
    return Dataset(
        folder=data.folder,
        split=data.split,
        format="coco-panoptic",
        categories=data.categories,
        samples=data.samples,
        has_masks=True,
    )


def _from_instances(data: InstanceData, folder: Path, split: str, format: Format) -> Dataset:
    return Dataset(
        folder=folder,
        split=split,
        format=format,
        categories=name_categories(data.categories),
        samples=data.images,
        has_masks=data.has_masks,
        unreadable=data.unreadable,
    )


def name_categories(categories: Sequence[InstanceCategory]) -> tuple[Category, ...]:
    """Make things of the categories of a format that has no stuff and no colours."""
    return tuple(
        Category(index=index, id=c.id, name=c.name, is_thing=True, color=_color(index))
        for index, c in enumerate(categories)
    )


def _choose(found: list[str], split: str | None) -> str | None:
    """Pick a split: by name, which may leave out COCO's year."""
    if split is None:
        trained = _choose(found, SPLITS[0])
        return trained if trained is not None else found[0] if len(found) == 1 else None
    if split in found:
        return split
    return next((n for n in found if split and n[:-4] == split and n[-4:].isdecimal()), None)


def _yolo_file(folder: Path) -> YoloFile:
    path = find_yolo(folder)
    assert path is not None
    return read_yolo_file(path)


def _color(index: int) -> tuple[int, int, int]:
    """A colour for a class: hues a golden section apart are never near each other."""
    red, green, blue = colorsys.hsv_to_rgb((0.97 + index * 0.618034) % 1, 0.7, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
