"""What a person should know before a run begins, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import Dataset
from panodetr.data.formats.id_maps import read_objects_map
from panodetr.data.samples import AnySample, MaskImage, Sample
from panodetr.errors import DataError
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.training.config import TrainConfig
from panodetr.training.optimizer import learning_rate_factor

NO_VALIDATION = "none"
"""Said in place of a split's name."""

DRAWN_FORMATS = ("id-maps", "mask-files", "voc-masks")
"""Formats that say how many objects an image has in its masks alone."""

COUNTED = 100
"""Images of such a format whose objects are counted."""


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
    yield from _note_kept(config, start)
    yield from _note_many_objects(config, data)


def _note_few_steps(config: TrainConfig) -> Iterator[str]:
    """Say where the run ends before something that it was to do, as `steps` alone can bring."""
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
    if start is None or rule.tile is None or rule != start.preprocessing:
        return
    joined = {config.class_map.get(c.name, c.name).casefold() for c in config.spec.categories}
    if joined.isdisjoint(c.name.casefold() for c in start.categories if c.is_thing):
        yield (
            f"{config.start} knows no such objects; kept of it are tiles of {rule.tile} pixels, "
            f"enlarged {rule.enlarge:g} times, and {config.spec.architecture.num_queries} queries "
            "a tile; to see images whole: --set short_side=800, for more objects: "
            "--set spec.architecture.num_queries=N"
        )


def _note_many_objects(config: TrainConfig, data: Dataset) -> Iterator[str]:
    """Say where an image that the model sees whole has more objects than it has queries."""
    queries, tile = config.spec.architecture.num_queries, config.spec.preprocessing.tile
    seen = [sample for sample in data.samples if tile is None or max(sample.size) <= tile]
    if data.format in DRAWN_FORMATS:
        seen = seen[:COUNTED]
    most, fullest = 0, None
    for sample in seen:
        with suppress(DataError):  # the run skips what cannot be read, and counts it
            count = _count_objects(sample, queries)
            if count > most:
                most, fullest = count, sample.path
    if most > queries:
        yield (
            f"{fullest} has {most} objects, and the model has {queries} queries: it cannot find "
            f"more; give it more: --set spec.architecture.num_queries={most}"
        )


def _count_objects(sample: AnySample, enough: int) -> int:
    """Count an image's objects or segments, crowds left out where there are more than `enough`."""
    if isinstance(sample, MaskImage):
        return read_objects_map(sample)[1].size
    if isinstance(sample, Sample):
        return sum(not segment.is_crowd for segment in sample.segments)
    if len(sample.objects) <= enough:
        return len(sample.objects)
    return sum(not truth["iscrowd"] for truth in sample.objects)
