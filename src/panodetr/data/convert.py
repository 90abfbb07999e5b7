"""Converts a data set to another format, with everything that the format has a place for.

Whatever is lost is counted and reported.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from panodetr.data.dataset import Dataset, Format, Source
from panodetr.data.formats import number_images
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.formats.shapes import DECIMALS
from panodetr.data.masks import (
    count_pixels,
    draw_id_map,
    draw_mask,
    panoptic_objects,
    read_objects_map,
)
from panodetr.data.samples import AnySample, InstanceImage, ObjectTruth, Sample, read_sample
from panodetr.data.tree import SPLITS
from panodetr.errors import DataError, ImageError, UsageError
from panodetr.files import atomic_folder, write_bytes, write_json, write_text
from panodetr.results.id_map import id_map_png
from panodetr.results.regions import rings
from panodetr.results.types import Category

Target: TypeAlias = Literal["coco-panoptic", "coco-instances", "yolo"]
"""The formats that can be written."""

TARGETS: tuple[Target, ...] = get_args(Target)


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
    folder: Path | Source,
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
        folder: the data set's, or what was found in it.
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
    source = Source(folder) if isinstance(folder, Path) else folder
    format, splits = source.splits(format, split)
    if format == target:
        raise UsageError(f"{source.folder} is {format} data already; choose another --to")
    if out.exists():
        raise UsageError(f"{out} is there already; choose another --out")
    made = Conversion(format=format, splits=splits)
    if format.startswith("coco"):
        made.lost["fields of the JSON beyond those that training and evaluation read"] = 1
    with atomic_folder(out) as written:
        if target == "yolo":
            writer = _YoloWriter(written, made.lost)
        else:
            writer = _CocoWriter(written, made.lost, with_segments=target == "coco-panoptic")
        for name in splits:
            data = source.open(format, name, class_name=class_name, may_be_empty=True)
            made.unreadable += data.unreadable
            writer.begin(data)
            for done, sample in enumerate(data.samples, start=1):
                writer.add(sample)
                made.images += 1
                progress(done, len(data.samples))
            writer.end()
    made.lost = +made.lost  # without what was counted zero times
    return made


def write_clean(source: Source, format: Format, splits: Sequence[str], out: Path) -> int:
    """Write what can be used of a data set in COCO's format.

    Args:
        source: the data set.
        format: how it is written.
        splits: those to write; one that has nothing to learn from is left out.
        out: the folder to write; after an error it is not there.

    Returns:
        How many images were written.

    Raises:
        DataError: there is nothing to learn from in any split, or two images share a name.
        PanodetrError: the system refused to write.
    """
    written, refused = 0, ""
    with atomic_folder(out) as folder:
        for split in splits:
            try:
                data = source.open(format, split)
            except DataError as error:
                refused = str(error)
                continue
            with_segments = isinstance(data.samples[0], Sample)
            writer = _CocoWriter(folder, Counter(), with_segments=with_segments)
            writer.begin(data)
            for sample in data.samples:
                with suppress(ImageError):
                    read_sample(sample)
                    writer.add(sample)
                    written += 1
            writer.end()
        if not written:
            raise DataError(f"nothing can be written: {refused}")
    return written


def join(loops: Sequence[Sequence[tuple[float, float]]]) -> list[float]:
    """Join closed loops to one polygon, by lines from the first loop to each other one and back.

    Such lines enclose no area. A pixel inside an even number of loops is outside the polygon.
    """
    if len(loops) == 1:
        return [value for point in loops[0] for value in point]
    first = loops[0][0]
    points = [*loops[0], first]
    for loop in loops[1:]:
        points += [*loop, loop[0], first]
    return [value for point in points for value in point]


def _things(data: Dataset) -> tuple[Category, ...]:
    return tuple(category for category in data.categories if category.is_thing)


class _Writer:
    """What the writers share: each split's images are copied into one folder."""

    def __init__(self, folder: Path, lost: Counter[str]) -> None:
        self.folder = folder
        self.lost = lost

    def begin(self, data: Dataset) -> None:
        self.data = data
        self._taken: dict[str, Path] = {}

    def copy(self, image: Path, folder: Path) -> None:
        """Copy an image."""
        other = self._taken.get(image.stem)
        if other == image:
            raise DataError(f"{image} is the file of two images; copy it: files would collide")
        if other is not None:
            raise DataError(f"{image} and {other} have one name; rename one: files would collide")
        self._taken[image.stem] = image
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, folder / image.name)


class _CocoWriter(_Writer):
    """Writes one of COCO's formats."""

    def __init__(self, folder: Path, lost: Counter[str], *, with_segments: bool) -> None:
        super().__init__(folder, lost)
        self._with_segments = with_segments
        self._kind = "panoptic" if with_segments else "instances"

    def begin(self, data: Dataset) -> None:
        """Begin a split."""
        super().begin(data)
        self._base = self.folder / (f"{self._kind}_{data.split}" if data.split else self._kind)
        self._images: list[dict[str, object]] = []
        self._annotations: list[object] = []

    def add(self, sample: AnySample) -> None:
        """Copy an image, and keep its objects or write its id map."""
        self.copy(sample.path, self.folder / (self.data.split or "images"))
        (height, width), name = sample.size, sample.path.name
        entry = {"id": sample.image_id, "file_name": name, "height": height, "width": width}
        self._images.append(dict[str, object](entry))
        if self._with_segments:
            ids, segments = _segments(sample, self.data, self.lost)
            name = f"{sample.path.stem}.png"
            write_bytes(self._base / name, id_map_png(ids))
            self._annotations.append(
                {"image_id": sample.image_id, "file_name": name, "segments_info": segments}
            )
            return
        for given in _objects(sample, self.data, self.lost):
            truth = given.copy()
            truth["id"] = len(self._annotations) + 1
            truth["bbox"] = [round(side, DECIMALS) for side in truth["bbox"]]
            polygons = truth.get("segmentation")
            if isinstance(polygons, list):
                truth["segmentation"] = [[round(v, DECIMALS) for v in p] for p in polygons]
            self._annotations.append(truth)

    def end(self) -> None:
        """Write the split's JSON."""
        categories = [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.color}
            if self._with_segments
            else {"id": c.id, "name": c.name}
            for c in (self.data.categories if self._with_segments else _things(self.data))
        ]
        lists = {"images": self._images, "annotations": self._annotations, "categories": categories}
        write_json(self._base.with_name(f"{self._base.name}.json"), lists)


class _YoloWriter(_Writer):
    """Writes YOLO data: images, labels, and one `data.yaml` for all splits."""

    def __init__(self, folder: Path, lost: Counter[str]) -> None:
        super().__init__(folder, lost)
        self._splits: dict[str, str] = {}
        self._names: list[str] = []

    def begin(self, data: Dataset) -> None:
        """Begin a split; one without a name becomes "train", and COCO's year is left out."""
        super().begin(data)
        split = self._split = re.sub(r"20\d\d$", "", data.split) or SPLITS[0]
        if split not in SPLITS or split in self._splits:
            raise DataError(
                f"split {split!r} has no place in data.yaml; expected one each of "
                f"{', '.join(SPLITS)}: rename it, or choose others by --split"
            )
        self._splits[split] = f"images/{split}"
        things = _things(data)
        names = [category.name for category in things]
        if self._names and names != self._names:
            raise DataError(
                f"split {split!r} has other classes than the one before; expected the same: "
                "data.yaml has one list of them"
            )
        self._names = names
        self._numbers = {category.id: number for number, category in enumerate(things)}
        if any(category_id != number for category_id, number in self._numbers.items()):
            self.lost["category ids: classes are numbered from 0"] = len(things)
        in_order = sorted(data.samples, key=lambda sample: sample.path.name)
        numbers = number_images([sample.path for sample in in_order])
        if numbers != [sample.image_id for sample in in_order]:
            self.lost["image ids: images' names don't give them"] += len(data.samples)
        if data.format == "coco-instances":
            objects = sum(len(s.objects) for s in data.samples if isinstance(s, InstanceImage))
            self.lost["annotation ids, and areas other than the polygons'"] += objects

    def add(self, sample: AnySample) -> None:
        self.copy(sample.path, self.folder / "images" / self._split)
        height, width = sample.size
        lines: list[str] = []
        for truth in _objects(sample, self.data, self.lost):
            if truth["iscrowd"]:
                self.lost["crowds"] += 1
                continue
            if self.data.has_masks:
                numbers = _polygon(truth, sample.size, self.lost)
            else:
                self.lost["masks: some objects have a box only"] += "segmentation" in truth
                x, y, w, h = truth["bbox"]
                numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            if numbers:
                number = self._numbers[truth["category_id"]]
                lines.append(" ".join([str(number), *(f"{value:.10g}" for value in numbers)]))
        path = self.folder / "labels" / self._split / f"{sample.path.stem}.txt"
        write_text(path, "".join(f"{line}\n" for line in lines))

    def end(self) -> None:
        """Write `data.yaml` without "path": images are then looked for beside it."""
        document = {**self._splits, "names": dict(enumerate(self._names))}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        write_text(self.folder / "data.yaml", text)


def _segments(
    sample: AnySample, data: Dataset, lost: Counter[str]
) -> tuple[NDArray[np.int32], list[dict[str, int]]]:
    """Give an image's id map (H, W) and its segments as the JSON lists them."""
    if isinstance(sample, Sample):
        ids = read_ids(sample)
        known = {s.id: (s.category_id, int(s.is_crowd)) for s in sample.segments}
        return ids, _list_segments(ids, known)
    if sample.id_map is None:
        return _draw(sample, lost)
    ids, numbers = read_objects_map(sample.id_map, sample.size)
    category_id = data.categories[0].id
    return ids, _list_segments(ids, dict.fromkeys(numbers.tolist(), (category_id, 0)))


def _draw(
    sample: InstanceImage, lost: Counter[str]
) -> tuple[NDArray[np.int32], list[dict[str, int]]]:
    """Draw objects into one id map, crowds below all others."""
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
    listed = {number: (t["category_id"], int(t["iscrowd"])) for number, t in truths.items()}
    segments = _list_segments(ids, listed)
    lost["annotation ids, and boxes and areas other than the pixels'"] += len(truths)
    lost["objects that lie below others with all their pixels"] += len(truths) - len(segments)
    for segment in segments:
        mask = truths[segment["id"]].get("segmentation", [])
        covered = segment["area"] < count_pixels(mask, sample.size)
        lost["objects that lie below others with a part of their pixels"] += covered
    return ids, segments


def _list_segments(
    ids: NDArray[np.int32], listed: Mapping[int, tuple[int, int]]
) -> list[dict[str, int]]:
    """List those ids of a map (H, W) that have pixels, given each one's category and `iscrowd`."""
    numbers, areas = np.unique_counts(ids)
    area_of = dict(zip(numbers.tolist(), areas.tolist(), strict=True))
    return [
        {"id": number, "category_id": category_id, "area": area_of[number], "iscrowd": crowd}
        for number, (category_id, crowd) in listed.items()
        if number in area_of
    ]


def _objects(sample: AnySample, data: Dataset, lost: Counter[str]) -> Sequence[ObjectTruth]:
    """Give an image's objects; stuff and the ids in its map are lost."""
    if isinstance(sample, Sample):
        things = {category.id for category in _things(data)}
        stuff = sum(segment.category_id not in things for segment in sample.segments)
        lost["segments of stuff"] += stuff
        lost["ids of things in the id maps"] += len(sample.segments) - stuff
        return panoptic_objects(sample, read_ids(sample), things)
    objects = list(sample.objects)
    lost["ids of objects in the id maps"] += len(objects) if sample.id_map else 0
    return objects


def _polygon(truth: ObjectTruth, size: tuple[int, int], lost: Counter[str]) -> list[float]:
    """Give one polygon, in fractions of the image's size, that fills exactly the object's mask.

    It is the annotator's own where that fills the mask; else it goes along the edges of the pixels.
    """
    assert "segmentation" in truth
    height, width = size
    written = truth["segmentation"]
    mask = draw_mask(written, size)
    scale = np.array([width, height], np.float64)
    if isinstance(written, list):
        loops = [list(zip(p[::2], p[1::2], strict=True)) for p in written]
        points = np.clip(np.array(join(loops)).reshape(-1, 2), 0, scale)
        if np.array_equal(draw_mask([points.ravel().tolist()], size), mask):
            x, y, w, h = truth["bbox"]
            off = np.array([*points.min(axis=0), *points.max(axis=0)]) - [x, y, x + w, y + h]
            lost["boxes that differ from their polygons' by more than a pixel"] += bool(
                np.abs(off).max() > 1
            )
            return (points / scale).ravel().tolist()
    if not mask.any():
        lost["objects without a pixel"] += 1
        return []
    lost["masks as they were written: an outline of the same pixels takes their place"] += 1
    return (np.array(join(rings(mask))).reshape(-1, 2) / scale).ravel().tolist()
