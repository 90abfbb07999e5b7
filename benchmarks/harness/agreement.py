"""How near a runtime of less precision comes to PyTorch in float32, on images with a truth."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import panodetr
from harness.compare import Agreement, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from harness.process import Answer, Laps
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.predict import Predictor
    from panodetr.runtimes.base import Precision

FIGURES = ("classes", "box_iou", "mask_iou", "queries", "reference_pq", "pq")


class OnData:
    """Two forms of one model on a data set's split `val`."""

    def __init__(
        self, reference: str | Path, other: str | Path, data: Path, precision: Precision = "float32"
    ) -> None:
        """Load both.

        Args:
            reference: the exact form.
            other: a file that was exported from it, or the same model.
            data: the data set.
            precision: what the other computes in, where it is no exported file.
        """
        from panodetr.evaluation.ground_truth import GroundTruth

        self.reference = panodetr.load(reference, device="cpu")
        self.other = panodetr.load(other, device="cpu", precision=precision)
        self.truth = GroundTruth.open(data, "val")
        self.image = self.truth.images[0].path

    def run(self) -> Laps:
        """Segment one image with each."""
        laps: Laps = {}
        for name, model in (("reference", self.reference), ("other", self.other)):
            start = time.perf_counter()
            model.segment(self.image)
            laps[name] = time.perf_counter() - start
        return laps

    def answer(self) -> Answer:
        """Give the figures of `agree`, in the order of `FIGURES`."""
        figures = agree(self.reference, self.other, self.truth)
        return {"figures": np.array([figures[name] for name in FIGURES])}

    @staticmethod
    def agreement(answer: Answer) -> Agreement:
        """Put an answer in words."""
        figures: dict[str, float] = dict(zip(FIGURES, answer["figures"].tolist(), strict=True))
        text = (
            f"{figures['queries']:.0f} queries: {describe(figures)}; "
            f"PQ {100 * figures['reference_pq']:.1f} → {100 * figures['pq']:.1f}"
        )
        return Agreement(same=None, text=text, figures=figures)


def agree(
    reference: Predictor,
    other: Predictor,
    truth: GroundTruth,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Compare two forms of one model.

    Args:
        reference: the exact one.
        other: with the same queries.
        truth: a panoptic data set with the model's classes.
        progress: called after each image with how many are done, and how many there are.

    Returns:
        Over all queries that the exact one keeps: `classes`, the part with the same class,
        `box_iou` and `mask_iou`, the means of each query's overlap with itself, and `queries`,
        their number; and the panoptic quality of both, `reference_pq` and `pq`.

    Raises:
        DataError: the model's classes aren't the data set's.
        CheckpointError: the two have little to do with each other.
        ImageError: an image cannot be read.
    """
    from panodetr.export.export import measure_agreement

    found = measure_agreement(
        reference.runtime, other.runtime, reference.spec, _batches(reference, truth, progress)
    )
    return {
        "classes": found["same_class"],
        **{name: found[name] for name in ("box_iou", "mask_iou", "queries")},
        "reference_pq": panoptic_quality(reference, truth),
        "pq": panoptic_quality(other, truth),
    }


def panoptic_quality(model: Predictor, truth: GroundTruth) -> float:
    """Measure a model's PQ over all classes, 0 to 1; errors as for `agree`."""
    from panodetr.evaluation.evaluate import evaluate

    figures = evaluate(model, truth, ("panoptic",)).compute().panoptic
    assert figures is not None
    return figures.all.pq


def first_images(truth: GroundTruth, count: int | None) -> GroundTruth:
    """Leave out all images but the first; None leaves all in."""
    return replace(truth, images=truth.images[:count])


def _batches(
    model: Predictor, truth: GroundTruth, progress: Callable[[int, int], None] | None
) -> Iterator[NDArray[np.uint8]]:
    """Cut images into batches of views, as predicting does."""
    from panodetr.images.views import read_tiled, view_batches

    rule = model.spec.preprocessing
    for number, image in enumerate(truth.images, start=1):
        for views in view_batches([read_tiled(image.path, rule)], rule):
            yield np.stack([view.pixels for view in views])
        if progress is not None:
            progress(number, len(truth.images))
