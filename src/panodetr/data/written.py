"""Data sets as files: COCO's two formats and YOLO's, split by split, their images copied."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import yaml

from panodetr.data.layout import number_images
from panodetr.data.masks import draw_mask
from panodetr.data.outlines import join, outline
from panodetr.data.panoptic import GroundTruthSegment
from panodetr.data.yolo import DECIMALS, SPLITS
from panodetr.errors import DataError
from panodetr.files import write_bytes, write_json, write_text
from panodetr.results.id_map import id_map_png

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from panodetr.data.dataset import AnySample
    from panodetr.data.instances import ObjectTruth
    from panodetr.results.types import Category


class PanopticWriter:
    """Writes one split as COCO panoptic data; `finish` writes the JSON."""

    def __init__(self, folder: Path, split: str, categories: Sequence[Category]) -> None:
        name = f"panoptic_{split}" if split else "panoptic"
        self._json, self._maps = folder / f"{name}.json", folder / name
        self._image_files = _ImageFiles(folder / (split or "images"))
        self._categories = [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
            for c in categories
        ]
        self._images: list[dict[str, object]] = []
        self._annotations: list[dict[str, object]] = []

    def add(
        self, sample: AnySample, ids: NDArray[np.int32], segments: Iterable[GroundTruthSegment]
    ) -> None:
        """Write an image's id map (H, W), and keep its segments for the JSON."""
        name = f"{self._image_files.add(sample.path).stem}.png"
        write_bytes(self._maps / name, id_map_png(ids))
        self._images.append(_image_entry(sample))
        infos = [
            {"id": s.id, "category_id": s.category_id, "area": s.area, "iscrowd": int(s.is_crowd)}
            for s in segments
        ]
        self._annotations.append(
            {"image_id": sample.image_id, "file_name": name, "segments_info": infos}
        )

    def finish(self) -> None:
        """Write the JSON."""
        write_json(
            self._json,
            {
                "images": self._images,
                "annotations": self._annotations,
                "categories": self._categories,
            },
        )


class InstanceWriter:
    """Writes one split as COCO instance data; `finish` writes the JSON."""

    def __init__(self, folder: Path, split: str, categories: Sequence[Category]) -> None:
        self._json = folder / (f"instances_{split}.json" if split else "instances.json")
        self._image_files = _ImageFiles(folder / (split or "images"))
        self._categories = [{"id": c.id, "name": c.name} for c in categories]
        self._images: list[dict[str, object]] = []
        self._annotations: list[ObjectTruth] = []

    def add(self, sample: AnySample, objects: Iterable[ObjectTruth]) -> None:
        """Keep an image's objects for the JSON; they are numbered anew, in their order."""
        self._image_files.add(sample.path)
        self._images.append(_image_entry(sample))
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
            self._json,
            {
                "images": self._images,
                "annotations": self._annotations,
                "categories": self._categories,
            },
        )


class YoloWriter:
    """Writes YOLO data, one split after the other; `finish` writes `data.yaml`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, str] = {}
        self._names: dict[int, str] = {}

    def begin(self, split: str, categories: Sequence[Category]) -> None:
        """Begin a split; one without a name becomes "train", and a year is left out of a name.

        Raises:
            DataError: it has a name that YOLO has no word for, or other classes than the one
                before.
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
        """Write an image's objects, as polygons or as boxes."""
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
        """Write `data.yaml`, with no "path": its folder is then where images are looked for."""
        text = yaml.safe_dump(
            {**self._splits, "names": self._names}, sort_keys=False, allow_unicode=True
        )
        write_text(self._folder / "data.yaml", text)


def list_segments(
    ids: NDArray[np.int32], listed: Mapping[int, tuple[int, bool]]
) -> list[GroundTruthSegment]:
    """List what an id map (H, W) shows.

    Args:
        ids: 0 = void.
        listed: category id, and whether it is a crowd, of each id; more may be listed than shown.
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
            DataError: one of its name, whatever the ending, is there already: another one, or the
                same for another image.
        """
        other = self._taken.get(image.stem)
        if other == image:
            raise DataError(f"{image} is the image of two images; copy it: files would collide")
        if other is not None:
            raise DataError(f"{image} and {other} have one name; rename one: files would collide")
        self._taken[image.stem] = image
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, self._folder / image.name)
        return self._folder / image.name


def _image_entry(sample: AnySample) -> dict[str, object]:
    height, width = sample.size
    return {
        "id": sample.image_id,
        "file_name": sample.path.name,
        "height": height,
        "width": width,
    }


def _polygon(truth: ObjectTruth, size: tuple[int, int], lost: Counter[str]) -> list[float]:
    """Give one polygon, in fractions of the image's size, that fills exactly the object's mask.

    It is the annotator's own where that does; else it goes along the edges of the pixels.
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
