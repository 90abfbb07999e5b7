"""Writes data sets: COCO's two formats and YOLO's, split by split, with copies of the images."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import yaml

from panodetr.data.formats import number_images
from panodetr.data.formats.yolo import DECIMALS, SPLITS
from panodetr.data.masks import draw_mask
from panodetr.data.samples import GroundTruthSegment
from panodetr.errors import DataError
from panodetr.files import write_bytes, write_json, write_text
from panodetr.results.id_map import id_map_png

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from panodetr.data.samples import AnySample, ObjectTruth
    from panodetr.results.types import Category

Point: TypeAlias = tuple[float, float]


class CocoWriter:
    """Writes one split in one of COCO's formats; `finish` writes the JSON."""

    def __init__(
        self,
        folder: Path,
        kind: Literal["panoptic", "instances"],
        split: str,
        categories: Sequence[Category],
    ) -> None:
        self._base = folder / (f"{kind}_{split}" if split else kind)
        self._image_files = _ImageFiles(folder / (split or "images"))
        self._images: list[dict[str, object]] = []
        self._annotations: list[object] = []
        self._categories: list[dict[str, object]] = [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.color}
            if kind == "panoptic"
            else {"id": c.id, "name": c.name}
            for c in categories
        ]

    def add_segments(
        self, sample: AnySample, ids: NDArray[np.int32], segments: Iterable[GroundTruthSegment]
    ) -> None:
        """Write an image's id map (H, W), and keep its segments for the JSON."""
        name = f"{self._add_image(sample).stem}.png"
        write_bytes(self._base / name, id_map_png(ids))
        infos = [
            {"id": s.id, "category_id": s.category_id, "area": s.area, "iscrowd": int(s.is_crowd)}
            for s in segments
        ]
        self._annotations.append(
            {"image_id": sample.image_id, "file_name": name, "segments_info": infos}
        )

    def add_objects(self, sample: AnySample, objects: Iterable[ObjectTruth]) -> None:
        """Keep an image's objects for the JSON; they get new ids, in their order."""
        self._add_image(sample)
        for given in objects:
            truth = given.copy()
            truth["id"] = len(self._annotations) + 1
            truth["bbox"] = [round(side, DECIMALS) for side in truth["bbox"]]
            polygons = truth.get("segmentation")
            if isinstance(polygons, list):
                truth["segmentation"] = [[round(v, DECIMALS) for v in p] for p in polygons]
            self._annotations.append(truth)

    def finish(self) -> None:
        """Write the JSON."""
        write_json(
            self._base.with_name(f"{self._base.name}.json"),
            {
                "images": self._images,
                "annotations": self._annotations,
                "categories": self._categories,
            },
        )

    def _add_image(self, sample: AnySample) -> Path:
        height, width = sample.size
        name = sample.path.name
        entry = {"id": sample.image_id, "file_name": name, "height": height, "width": width}
        self._images.append(dict[str, object](entry))
        return self._image_files.add(sample.path)


class YoloWriter:
    """Writes YOLO data, one split after the other; `finish` writes `data.yaml`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, str] = {}
        self._names: dict[int, str] = {}

    def begin(self, split: str, categories: Sequence[Category]) -> None:
        """Begin a split; one without a name becomes "train", and COCO's year is left out.

        Raises:
            DataError: `data.yaml` has no place for the name, or the split has other classes than
                the one before.
        """
        self._split = re.sub(r"20\d\d$", "", split) or SPLITS[0]
        if self._split not in SPLITS or self._split in self._splits:
            raise DataError(
                f"split {split!r} has no place in data.yaml; expected one each of "
                f"{', '.join(SPLITS)}: rename it, or choose others by --split"
            )
        self._splits[self._split] = f"images/{self._split}"
        self._image_files = _ImageFiles(self._folder / "images" / self._split)
        self._numbers = {category.id: number for number, category in enumerate(categories)}
        names = {self._numbers[category.id]: category.name for category in categories}
        if self._names and names != self._names:
            raise DataError(
                f"split {split!r} has other classes than the one before; expected the same: "
                "data.yaml has one list of them"
            )
        self._names = names

    def add(
        self,
        sample: AnySample,
        objects: Iterable[ObjectTruth],
        lost: Counter[str],
        *,
        with_masks: bool,
    ) -> None:
        """Write an image's objects, as polygons or as boxes; count in `lost` what is left out."""
        name = self._image_files.add(sample.path).stem
        height, width = sample.size
        lines: list[str] = []
        for truth in objects:
            if truth["iscrowd"]:
                lost["crowds"] += 1
                continue
            if with_masks:
                numbers = _polygon(truth, sample.size, lost)
            else:
                lost["masks: some objects have a box only"] += "segmentation" in truth
                x, y, w, h = truth["bbox"]
                numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            if numbers:
                number = self._numbers[truth["category_id"]]
                lines.append(" ".join([str(number), *(f"{value:.10g}" for value in numbers)]))
        path = self._folder / "labels" / self._split / f"{name}.txt"
        write_text(path, "".join(f"{line}\n" for line in lines))

    def finish(self) -> None:
        """Write `data.yaml` without "path": images are then looked for beside it."""
        text = yaml.safe_dump(
            {**self._splits, "names": self._names}, sort_keys=False, allow_unicode=True
        )
        write_text(self._folder / "data.yaml", text)


def list_segments(
    ids: NDArray[np.int32], listed: Mapping[int, tuple[int, bool]]
) -> list[GroundTruthSegment]:
    """List the segments of an id map (H, W).

    Args:
        ids: 0 = void.
        listed: category id, and whether it is a crowd, of each id; ids without a pixel are skipped.
    """
    numbers, areas = np.unique_counts(ids)
    area_of = dict(zip(numbers.tolist(), areas.tolist(), strict=True))
    return [
        GroundTruthSegment(
            id=number, category_id=category_id, area=area_of[number], is_crowd=is_crowd
        )
        for number, (category_id, is_crowd) in listed.items()
        if number in area_of
    ]


def keeps_ids(samples: Sequence[AnySample]) -> bool:
    """Whether the images' ids survive in a format that has no place for them."""
    in_order = sorted(samples, key=lambda sample: sample.path.name)
    numbers = number_images([sample.path for sample in in_order])
    return numbers == [sample.image_id for sample in in_order]


class _ImageFiles:
    """Copies images into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: dict[str, Path] = {}

    def add(self, image: Path) -> Path:
        """Copy an image, and give its new path.

        Raises:
            DataError: the file was copied for another image, or another file has the same name
                without its suffix.
        """
        other = self._taken.get(image.stem)
        if other == image:
            raise DataError(f"{image} is the file of two images; copy it: files would collide")
        if other is not None:
            raise DataError(f"{image} and {other} have one name; rename one: files would collide")
        self._taken[image.stem] = image
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, self._folder / image.name)
        return self._folder / image.name


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
    return (np.array(outline(mask)).reshape(-1, 2) / scale).ravel().tolist()


def outline(mask: NDArray[np.bool_]) -> list[float]:
    """Give the outline x0, y0, x1, y1, … of a mask (H, W) along the edges of its pixels.

    Parts and holes are joined as `join` does. An empty mask has no points.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return []
    top, left = int(rows[0]), int(columns[0])
    inner = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    loops = [[(x + left, y + top) for x, y in loop] for loop in _loops(inner)]
    return join(loops)


def join(loops: Sequence[Sequence[Point]]) -> list[float]:
    """Join closed loops to one polygon, by lines from the first loop to each other one and back.

    Such lines enclose no area. A pixel inside an even number of loops is outside the polygon.
    """
    first = loops[0][0]
    points = [*loops[0], first]
    for loop in loops[1:]:
        points += [*loop, loop[0], first]
    if len(loops) == 1:
        points.pop()
    return [value for point in points for value in point]


def _loops(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Follow the edges of a mask whose rim is empty; coordinates are those within the rim."""
    following: dict[Point, list[Point]] = {}
    # Each edge has the mask at its right hand, as seen on the screen.
    for axis, forward in ((0, (1, 0)), (1, (0, 1))):
        change = np.diff(mask.astype(np.int8), axis=axis)
        for sign in (1, -1):
            ys, xs = np.nonzero(change == sign)
            ys, xs = (ys, xs - 1) if axis == 0 else (ys - 1, xs)
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
                start, end = (x, y), (x + forward[0], y + forward[1])
                if (sign == 1) != (axis == 0):
                    start, end = end, start
                following.setdefault(start, []).append(end)
    loops: list[list[Point]] = []
    while following:
        start = point = next(iter(following))
        loop: list[Point] = []
        while True:
            ends = following[point]
            end = ends.pop()
            if not ends:
                del following[point]
            if len(loop) > 1 and _straight(loop[-2], loop[-1], point):
                loop[-1] = point
            else:
                loop.append(point)
            point = end
            if point == start:
                break
        # It may have begun in the middle of an edge.
        closed = [loop[-1], *loop, loop[0]]
        corners = zip(closed, loop, closed[2:], strict=False)
        loops.append([b for a, b, c in corners if not _straight(a, b, c)])
    return loops


def _straight(a: Point, b: Point, c: Point) -> bool:
    return a[0] == b[0] == c[0] or a[1] == b[1] == c[1]
