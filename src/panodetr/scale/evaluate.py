"""Evaluation on a Ray cluster: workers measure shares of the images, and counts are merged."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from panodetr.errors import PanodetrError
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.metrics import Counts
from panodetr.scale.engines import Lost, run_ray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from panodetr.evaluation.ground_truth import GroundTruth, Task
    from panodetr.predict import Predictor
    from panodetr.scale.engines import Cluster


def evaluate_shares(
    load: Callable[[], Predictor],
    truth: GroundTruth,
    tasks: Sequence[Task],
    cluster: Cluster,
    *,
    size: int,
    threshold: float | None,
    max_detections: int,
    progress: Callable[[], None],
) -> Counts:
    """Measure exactly what `panodetr.evaluation.evaluate.evaluate` does; predictions are not kept.

    Args:
        load: what each worker calls for its model.
        truth: images and annotations, whose files the workers read.
        tasks: what to measure.
        cluster: where to run.
        size: images in a share.
        threshold: as in `evaluate`.
        max_detections: as in `evaluate`.
        progress: called after each share.

    Raises:
        PanodetrError: as in `evaluate`, or workers died at a share.
    """
    images = truth.images
    shares = [replace(truth, images=images[at : at + size]) for at in range(0, len(images), size)]
    measure = partial(_measure, tasks=tasks, threshold=threshold, max_detections=max_detections)
    found: dict[int, Counts] = {}
    for number, counted in run_ray(load, measure, shares, cluster):
        if isinstance(counted, Lost):
            raise PanodetrError(f"images from {shares[number].images[0].path}: {counted.reason}")
        found[number] = counted
        progress()
    counts = deepcopy(found[0])  # Ray's arrays cannot be written
    for number in range(1, len(shares)):
        counts.merge(found[number])
    return counts


def _measure(
    model: Predictor,
    share: GroundTruth,
    *,
    tasks: Sequence[Task],
    threshold: float | None,
    max_detections: int,
) -> Counts:
    return evaluate(model, share, tasks, threshold=threshold, max_detections=max_detections)
