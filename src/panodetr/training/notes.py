"""What a data set's objects are like, and notes that a user should read before a run begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import View
from panodetr.data.dataset import Dataset, read_objects
from panodetr.data.masks import read_objects_map
from panodetr.data.samples import AnySample, Sample
from panodetr.data.targets import view_target
from panodetr.errors import DataError
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.images.views import lay_tiles
from panodetr.training.config import TrainConfig
from panodetr.training.optimizer import learning_rate_factor

NO_VALIDATION = "none"
"""Stands for no validation, in place of a split's name."""

MEASURED = 100
"""Images whose objects are measured or, where only masks tell how many there are, counted."""

DRAWN_FORMATS = ("id-maps", "mask-files", "voc-masks")
"""Formats that say how many objects an image has in its masks alone."""

COUNTED_TILED = 30
"""Images larger than a tile whose objects are measured, at most: large id maps take a while."""


def list_notes(
    config: TrainConfig,
    data: Dataset,
    truth: GroundTruth | None,
    val: str | None,
    start: ModelSpec | None,
) -> Iterator[str]:
    """List what a run does without, what it may not reach, and what may not fit.

    Args:
        config: the run.
        data: what is learned from.
        truth: what it is validated with; None for nothing.
        val: the split that was asked for.
        start: what the model that it starts from says of itself.
    """
    idle = f", and patience={config.patience} does nothing" if config.patience else ""
    if truth is None:
        none = "no split is called val; --val-split 0.2 holds images out"
        where = "--val none" if val == NO_VALIDATION else none
        yield f"there is no validation ({where}): no best model is kept{idle}"
    elif not config.validate_every and idle:
        yield f"validate_every is 0: there is one validation, at the end{idle}"
    if truth is not None:
        learned = {sample.path for sample in data.samples}
        if shared := sum(image.path in learned for image in truth.images):
            yield (
                f"{shared} of the {len(truth.images)} images to validate with are also learned "
                "from: the figures say nothing of new images"
            )
    yield from _note_few_steps(config)
    if (bits := config.spec.preprocessing.bits) not in (None, 16):
        yield (
            f"16-bit images fill {bits} bits, so {(1 << bits) - 1:,} is white, here and in "
            "prediction; say otherwise with --set spec.preprocessing.bits=16"
        )
    yield from _note_kept(config, start)
    yield from note_many_objects(config.spec, data)


def _note_few_steps(config: TrainConfig) -> Iterator[str]:
    """Say where the run ends before something that it was to do, as when `steps` is lowered."""
    if config.spec.architecture.masks and config.mask_start >= config.steps:
        yield (
            f"no step learns masks: there are {config.steps}, and mask_start is "
            f"{config.mask_start}; let them come sooner: --set mask_start=N"
        )
    # If it is not at its peak where the warm-up ends, it never is: from there on it only falls.
    if config.warmup >= config.steps or learning_rate_factor(config.warmup, config) < 1:
        fall = f"decay {config.decay}" + (f" and drop {config.drop}" if config.drop else "")
        yield (
            f"the learning rate never reaches its peak: there are {config.steps} steps, and "
            f"warmup is {config.warmup}, {fall}; let them be shorter: --set warmup=N --set decay=N"
        )


def _note_kept(config: TrainConfig, start: ModelSpec | None) -> Iterator[str]:
    """Say how a model of tiles will look at objects that it has never seen."""
    rule = config.spec.preprocessing
    if start is None or rule.tile is None:
        return
    if rule.enlarge != start.preprocessing.enlarge:  # fitted to the objects
        yield (
            f"images are seen in tiles of {rule.tile} pixels, at {rule.enlarge:.2g} of their size, "
            f"so that objects are as large as those that {config.start} has learned; choose "
            "yourself: --set spec.preprocessing.tile=N --set spec.preprocessing.enlarge=X, or see "
            "images whole: --set short_side=800"
        )
        return
    joined = {config.class_map.get(c.name, c.name).casefold() for c in config.spec.categories}
    if joined.isdisjoint(c.name.casefold() for c in start.categories if c.is_thing):
        yield (
            f"{config.start} knows no such objects; kept of it are tiles of {rule.tile} pixels, "
            f"enlarged {rule.enlarge:g} times, and {config.spec.architecture.num_queries} queries "
            "a tile; to see images whole: --set short_side=800, for more objects: "
            "--set spec.architecture.num_queries=N"
        )


def note_many_objects(spec: ModelSpec, data: Dataset) -> Iterator[str]:
    """Say where an image, or a tile of a large one, has more objects than a model has queries.

    And how many objects are larger than a tile.
    """
    queries, rule = spec.architecture.num_queries, spec.preprocessing
    tile = rule.tile
    seen = [sample for sample in data.samples if tile is None or max(sample.size) <= tile]
    tiled = [sample for sample in data.samples if tile is not None and max(sample.size) > tile]
    if data.format in DRAWN_FORMATS:
        seen = spread(seen, MEASURED)
    most, fullest = 0, None
    for sample in seen:
        with suppress(DataError):  # the run skips what cannot be read, and counts it
            count = count_objects(sample, queries)
            if count > most:
                most, fullest = count, sample.path
    objects, larger, largest = 0, 0, 0
    for sample in spread(tiled, COUNTED_TILED):
        with suppress(DataError):
            boxes = object_boxes(sample, data)
            sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
            objects, larger = objects + len(boxes), larger + int((sides > (tile or 0)).sum())
            largest = max(largest, round(sides.max(initial=0)))
            x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
            for y0, x0, y1, x1 in lay_tiles(sample.size, rule):
                count = int(((y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)).sum())
                if count > most:
                    most, fullest = count, f"a tile of {sample.path}"
    if larger:
        yield (
            f"{larger} of {objects} objects are larger than a tile of {tile} pixels, up to "
            f"{largest}: they are learned and found in parts; see them whole with larger tiles "
            "(spec.preprocessing.tile) or whole images (of finetune: --set short_side=800)"
        )
    if most > queries:
        yield (
            f"{fullest} has {most} objects, and the model has {queries} queries: it cannot find "
            f"more; give it more: --set spec.architecture.num_queries={most}"
        )


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
    if isinstance(sample, Sample):
        return sum(not segment.is_crowd for segment in sample.segments)
    if sample.id_map is not None:
        return read_objects_map(sample.id_map, sample.size)[1].size
    if len(sample.objects) <= enough:
        return len(sample.objects)
    return sum(not truth["iscrowd"] for truth in sample.objects)
