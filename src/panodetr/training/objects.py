"""How large and how many a data set's objects are: what notes and recipes go by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panodetr.data.augment import View
from panodetr.data.dataset import Dataset, read_objects
from panodetr.data.formats.id_maps import read_objects_map
from panodetr.data.samples import AnySample, MaskImage, Sample
from panodetr.data.targets import view_target
from panodetr.errors import DataError

MEASURED = 100
"""Images whose objects are measured, at most, spread over the data set."""


@dataclass(frozen=True, kw_only=True)
class ObjectSizes:
    """What the objects of a data set measure, in pixels of their images.

    Attributes:
        median: of an object's longer side.
        large: the longer side that a tenth of the objects exceed.
        image: the median of the images' longer side.
    """

    median: float
    large: float
    image: float


def measure_objects(data: Dataset) -> ObjectSizes | None:
    """Measure some of a data set's things; None where there are none."""
    sides: list[NDArray[np.float32]] = []
    for sample in spread(data.samples, MEASURED):
        with suppress(DataError):
            boxes = object_boxes(sample, data)
            sides.append((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0))
    every = np.concatenate([np.zeros(0, np.float32), *sides])
    if not len(every):
        return None
    median, large = np.quantile(every, (0.5, 0.9)).tolist()
    image = float(np.median([max(sample.size) for sample in data.samples]))
    return ObjectSizes(median=max(1.0, median), large=max(1.0, large), image=image)


def spread(samples: Sequence[AnySample], most: int) -> Sequence[AnySample]:
    """Take at most so many samples, from the first to the last."""
    return samples[:: -(-len(samples) // most) or 1]


def object_boxes(sample: AnySample, data: Dataset) -> NDArray[np.float32]:
    """Give the boxes (N, 4) x0, y0, x1, y1 of an image's objects, in pixels.

    Raises:
        DataError: its id map cannot be read.
    """
    objects = read_objects(sample, data.index_of, with_masks=False)
    if objects.boxes is not None:
        return objects.boxes
    things = np.array([category.is_thing for category in data.categories])
    target = view_target(objects, View(window=(0, 0, *sample.size), size=sample.size))
    return target.boxes[things[target.classes]]


def count_objects(sample: AnySample, enough: int) -> int:
    """Count an image's objects or segments, crowds left out where there are more than `enough`.

    Raises:
        DataError: its id map cannot be read.
    """
    if isinstance(sample, MaskImage):
        return read_objects_map(sample)[1].size
    if isinstance(sample, Sample):
        return sum(not segment.is_crowd for segment in sample.segments)
    if len(sample.objects) <= enough:
        return len(sample.objects)
    return sum(not truth["iscrowd"] for truth in sample.objects)
