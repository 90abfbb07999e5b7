"""Validation: how good the model is on whole images that it does not learn from, as in use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import Dataset, Source, read_objects
from panodetr.data.formats import Faults
from panodetr.data.samples import read_sample
from panodetr.errors import DataError, ImageError, UsageError
from panodetr.evaluation.evaluate import check_categories, evaluate
from panodetr.evaluation.ground_truth import GroundTruth, Task
from panodetr.evaluation.metrics import metrics
from panodetr.images.preprocess import Preprocessing
from panodetr.loading import predictor_of
from panodetr.model.build import build
from panodetr.model.network import Network
from panodetr.predict import Predictor
from panodetr.training.processes import gather

if TYPE_CHECKING:
    from accelerate import Accelerator

FIGURES = {
    "thing PQ": "pq_things",
    "stuff PQ": "pq_stuff",
    "PQ": "pq",
    "box AP": "boxes_ap",
    "mask AP": "instances_ap",
}
"""The figures that are shown first, and what the log calls them."""

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
        tie: the box AP, which tells models of one score apart: while things have a PQ of 0, say.
        measure: what that is, a name in `figures`: "thing PQ"; "PQ" where the data has no things;
            "box AP" where the model or the data has no masks.
        metrics: everything, as `panodetr.evaluation.metrics` lays it out, less the panoptic figures
            of things or stuff where the data has none.
        left_out: a line for each image that cannot be read, by its id.
    """

    step: int
    score: float
    measure: str
    metrics: dict[str, object]
    tie: float = 0.0
    left_out: Mapping[int, str] = field(default_factory=dict[int, str])

    @property
    def figures(self) -> dict[str, float]:
        """What a person wants to know first, 0 to 1, by name; PQ, too, unless all is things."""
        found = scalars(self.metrics)
        names = [name for name in FIGURES if name != "PQ" or "pq_stuff" in found]
        return {name: found[FIGURES[name]] for name in names if FIGURES[name] in found}


def choose_tasks(spec: ModelSpec, truth: GroundTruth) -> tuple[Task, ...]:
    """Say what is measured: all that both the ground truth and the model know.

    Raises:
        DataError: the model's classes aren't the ground truth's, or there is nothing to measure.
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
    model: Network,
    spec: ModelSpec,
    truth: GroundTruth,
    *,
    step: int,
    accelerator: Accelerator,
    progress: Callable[[int, int], None],
    left_out: dict[int, str] | None = None,
) -> Validation:
    """Predict every image of a data set once, shared out to all processes, and count together.

    Every process gets the same answer.

    Args:
        model: whose answers; all processes have the same weights.
        spec: its specification.
        truth: what is measured against.
        step: steps done.
        accelerator: the processes.
        progress: called with this process's images done and to do.
        left_out: gets a line for each image of any process that cannot be read, by its id; those in
            it already are not tried again.

    Raises:
        DataError: the ground truth contradicts itself or the model's classes, no image can be read,
            or the model gives no numbers.
    """
    from accelerate.utils import broadcast

    for buffer in model.buffers():  # the running statistics of rank 0's live batch norms
        broadcast(buffer)
    share = truth.share(accelerator.process_index, accelerator.num_processes)
    predictor = make_predictor(model, spec)
    tasks = choose_tasks(spec, truth)
    bad = {} if left_out is None else left_out
    while True:
        images = tuple(image for image in share.images if image.image_id not in bad)
        share = replace(share, images=images)
        try:
            mine = evaluate(predictor, share, tasks, least_score=LEAST_SCORE, progress=progress)
            break
        except (ImageError, DataError):
            found = _find_unreadable(share, spec.preprocessing)
            if not found:
                raise
            bad |= found
    everywhere = gather((mine, dict(bad)))
    for _, others in everywhere:
        bad |= others
    if len(bad) >= len(truth.images):
        raise DataError(f"no image can be read, the last: {[*bad.values()][-1]}")
    counts, *others = [counts for counts, _ in everywhere]
    for other in others:
        counts.merge(other)
    figures = counts.compute()
    found = metrics(figures)
    kinds = {"_things" if c.is_thing else "_stuff" for c in truth.segment_categories}
    for absent in {"_things", "_stuff"} - kinds:
        found = {name: value for name, value in found.items() if not name.endswith(absent)}
    box_ap = (figures.boxes.ap if figures.boxes is not None else None) or 0.0
    measure, score = "box AP", box_ap
    if (quality := figures.panoptic) is not None:
        measure, score = "PQ", quality.all.pq
        if quality.things.classes:
            measure, score = "thing PQ", quality.things.pq
    return Validation(
        step=step, score=score, tie=box_ap, measure=measure, metrics=found, left_out=bad
    )


def _find_unreadable(truth: GroundTruth, rule: Preprocessing) -> dict[int, str]:
    """Read images with their ground truth, as training does: a line for each that fails."""
    categories = (*truth.segment_categories, *truth.object_categories)
    index_of = {category.id: 0 for category in categories}
    found: dict[int, str] = {}
    for image in truth.images:
        try:
            read_sample(image, rule)
            read_objects(image, index_of, with_masks=truth.has_masks)
        except (ImageError, DataError) as error:
            found[image.image_id] = str(error)
    return found


def make_predictor(model: Network, spec: ModelSpec) -> Predictor:
    """Predict with a copy: a runtime takes its model over, and this one goes on learning."""
    taken = build(spec.architecture)
    taken.load_state_dict(model.state_dict())
    return predictor_of(spec, taken, model.queries.weight.device)


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
    paths = list_images(data)
    images = len(set(paths))
    count = round(share * images) if 0 < share < 1 else 0
    if not 0 < count < images:
        raise UsageError(
            f"--val-split {share:g} of {images} images holds out {count}; "
            "expected a share that leaves images to learn from and to validate with"
        )

    def digest(path: str) -> bytes:
        return sha256(f"{seed} {path}".encode(errors="surrogateescape")).digest()

    held = set(sorted(set(paths), key=digest)[:count])
    learned, validated = (
        tuple(s for s, path in zip(data.samples, paths, strict=True) if (path in held) is side)
        for side in (False, True)
    )
    return replace(data, samples=learned), replace(data, samples=validated, unreadable=())


def list_images(data: Dataset) -> list[str]:
    """Give each image's path from the data's folder, with slashes on every system."""
    relative = (os.path.relpath(sample.path, data.folder) for sample in data.samples)
    return [Path(path).as_posix() for path in relative]


def open_truth(data: Dataset, source: Source) -> tuple[GroundTruth, list[str]]:
    """Give a split, or images that are held out, as ground truth.

    Returns:
        The ground truth of the images that can be read, and a line for each that cannot.

    Raises:
        DataError: a file that describes all of the data is broken, or contradicts another one.
    """
    faults = Faults(collect=True)
    truth = GroundTruth.of_data(data, source, faults=faults)
    if faults.fatal:
        raise DataError(faults.fatal[0])
    return truth, [*dict.fromkeys((*data.unreadable, *faults.bad.values()))]
