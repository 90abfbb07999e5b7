"""How good the model is on images that it does not learn from, whole ones, as in use."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.data.formats import one_line
from panodetr.errors import DataError, UsageError
from panodetr.evaluation.evaluate import check_categories, evaluate
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.evaluation.metrics import metrics
from panodetr.loading import predictor_of
from panodetr.model.detr import Detr
from panodetr.training.processes import gather, share_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from accelerate import Accelerator

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.data.dataset import Dataset, Source
    from panodetr.data.samples import AnySample
    from panodetr.evaluation.ground_truth import Task
    from panodetr.evaluation.metrics import Figures
    from panodetr.predict import Predictor


FIGURES = {
    "thing PQ": "pq_things",
    "stuff PQ": "pq_stuff",
    "PQ": "pq",
    "box AP": "boxes_ap",
    "mask AP": "instances_ap",
}
"""The figures that are shown first, and what the log calls them."""

HELD_OUT = "held-out"
"""Said in place of the name of a split whose images are held out of training."""

LEAST_SCORE = 0.01
"""Queries that score less count for no average precision where masks are measured. Of the bundled
model on nuclei they are three fifths of all, whose masks would take most of the time, and change
mask AP by less than 1e-6."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What one validation found.

    Attributes:
        step: steps done.
        score: what the best model is picked by, 0 to 1.
        measure: what that is, a name in `figures`: "thing PQ"; "PQ" where the data has no things;
            "box AP" where the model or the data has no masks.
        metrics: everything, as `panodetr.evaluation.metrics` lays it out, less the panoptic figures
            of things or stuff where the data has none.
    """

    step: int
    score: float
    measure: str
    metrics: dict[str, object]

    @property
    def figures(self) -> dict[str, float]:
        """What a person wants to know first, 0 to 1, by name; PQ, too, unless all is things."""
        found = scalars(self.metrics)
        names = [name for name in FIGURES if name != "PQ" or "pq_stuff" in found]
        return {name: found[FIGURES[name]] for name in names if FIGURES[name] in found}


def choose_tasks(spec: ModelSpec, truth: GroundTruth) -> tuple[Task, ...]:
    """Say what is measured: all that both the truth and the model know.

    Objects with masks, of whatever format, are panoptic truth as well (`GroundTruth.of_data`).

    Raises:
        DataError: the model's classes aren't the truth's, or there is nothing to measure.
    """
    tasks: tuple[Task, ...] = truth.tasks()
    if not spec.architecture.masks:
        tasks = tuple(task for task in tasks if task == "boxes")
    if not tasks:
        raise DataError(
            f"{truth.folder} has no objects to validate boxes with; "
            "train a model with masks, or do without validation: --val none"
        )
    check_categories(spec.categories, truth, tasks)
    return tasks


def validate(
    model: Detr,
    spec: ModelSpec,
    truth: GroundTruth,
    *,
    step: int,
    accelerator: Accelerator,
    progress: Callable[[int, int], None],
) -> Validation:
    """Predict every image of a data set once, shared out to all processes, and count together.

    Every process gets the same answer.

    Args:
        model: whose answers; all processes have the same weights.
        spec: what it says of itself.
        truth: what is measured against.
        step: steps done.
        accelerator: the processes.
        progress: called with this process's images done and to do.

    Raises:
        DataError: the truth contradicts itself or the model's classes, or the model gives no
            numbers.
        ImageError: an image cannot be read.
    """
    share_buffers(accelerator, model)
    share = truth.share(accelerator.process_index, accelerator.num_processes)
    predictor = make_predictor(model, spec, accelerator.device)
    tasks = choose_tasks(spec, truth)
    mine = evaluate(predictor, share, tasks, least_score=LEAST_SCORE, progress=progress)
    counts, *others = gather(accelerator, mine.counts)
    for other in others:
        counts.merge(other)
    figures = counts.compute()
    measure, score = _score(figures)
    found = metrics(figures, truth)
    kinds = {"_things" if c.is_thing else "_stuff" for c in truth.segment_categories}
    for absent in {"_things", "_stuff"} - kinds:
        found = {name: value for name, value in found.items() if not name.endswith(absent)}
    return Validation(step=step, score=score, measure=measure, metrics=found)


def make_predictor(model: Detr, spec: ModelSpec, device: torch.device) -> Predictor:
    """Predict with a copy: a runtime takes its model over, and this one goes on learning."""
    taken = Detr(spec.architecture)
    taken.load_state_dict(model.state_dict())
    return predictor_of(spec, taken, device)


def _score(figures: Figures) -> tuple[str, float]:
    if figures.panoptic is not None:
        if figures.panoptic.things.classes:
            return "thing PQ", figures.panoptic.things.pq
        return "PQ", figures.panoptic.all.pq
    assert figures.boxes is not None
    return "box AP", figures.boxes.ap or 0.0


def scalars(metrics: Mapping[str, object], within: str = "") -> dict[str, float]:
    """Give the figures over all classes: `boxes_ap` stands within "boxes"."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict) and name != "per_class":
            found |= scalars(value, f"{within}{name}_")
        elif isinstance(value, int | float) and name not in ("images", "step"):
            found[within + name] = float(value)
    return found


def hold_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Part a split in two, in the same way every time, by a hash of the seed and an image's path.

    Args:
        data: the split.
        share: of its images that is held out, rounded to whole images.
        seed: another one holds out other images.

    Returns:
        What is learned from, and what is held out; images that cannot be read are in the first.

    Raises:
        UsageError: no image would be left on one side.
    """
    paths = {_relative(sample.path, data.folder) for sample in data.samples}
    count = round(share * len(paths)) if 0 < share < 1 else 0
    if not 0 < count < len(paths):
        raise UsageError(
            f"--val-split {share:g} of {len(paths)} images holds out {count}; "
            "expected a share that leaves images to learn from and to validate with"
        )
    held = set(sorted(paths, key=lambda path: _hash(path, seed))[:count])
    sides: tuple[list[AnySample], list[AnySample]] = ([], [])
    for sample in data.samples:
        sides[_relative(sample.path, data.folder) in held].append(sample)
    learned, validated = map(tuple, sides)
    return replace(data, samples=learned), replace(data, samples=validated, unreadable=())


def open_held_out(held: Dataset, source: Source) -> GroundTruth:
    """Give images that are held out as ground truth.

    Args:
        held: the images.
        source: where the data was found.

    Raises:
        DataError: an annotation or id map cannot be read.
    """
    if held.format != "coco-panoptic":
        return GroundTruth.of_data(held)
    truth = GroundTruth.open(source, held.split, allow_missing=True)
    ids = {sample.image_id for sample in held.samples}
    return replace(truth, images=tuple(image for image in truth.images if image.image_id in ids))


def list_images(data: Dataset) -> str:
    """List the images of a split as a text: a path from the data's folder on each line."""
    paths = (_relative(sample.path, data.folder) for sample in data.samples)
    return "".join(f"{one_line(path)}\n" for path in paths)


def _relative(path: Path, folder: Path) -> str:
    """Give an image's path from the data's folder, with slashes on every system."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _hash(path: str, seed: int) -> bytes:
    return sha256(f"{seed} {path}".encode(errors="surrogateescape")).digest()
