"""How near a runtime of less precision comes to PyTorch in float32, on images with a truth."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import panodetr
from harness.compare import (
    Agreement,
    QueryAgreement,
    describe,
    kept_of,
    network_answer,
    query_agreement,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from harness.process import Answer, Laps
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.images.views import View
    from panodetr.predict import Predictor
    from panodetr.runtimes.base import Precision, Prediction

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
        ImageError: an image cannot be read.
    """
    parts: list[QueryAgreement] = []
    threshold = reference.spec.threshold
    for number, image in enumerate(truth.images, start=1):
        pairs = zip(_views(reference, image.path), _views(other, image.path), strict=True)
        for (views, exact), (_, near) in pairs:
            for index in range(len(views)):
                queries = kept_of(exact.logits[index], threshold)
                a, b = (_answer_of(found, index, queries) for found in (exact, near))
                parts.append(query_agreement(a, b, queries))
        if progress is not None:
            progress(number, len(truth.images))
    joined = QueryAgreement(
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.masks for part in parts]),
    )
    return {
        **joined.means(),
        "queries": float(len(joined.classes)),
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


def _views(model: Predictor, image: Path) -> Iterator[tuple[list[View], Prediction]]:
    """Run a model on the views of an image, as predicting does."""
    from panodetr.images.views import read_tiled, view_batches

    rule = model.spec.preprocessing
    for views in view_batches([read_tiled(image, rule)], rule):
        yield views, model.runtime.detect(np.stack([view.pixels for view in views]), None)


def _answer_of(found: Prediction, index: int, queries: NDArray[np.intp]) -> Answer:
    """Give what a network found in one image of its batch."""
    chosen = [queries if number == index else queries[:0] for number in range(len(found.logits))]
    masks = found.masks(chosen)[index].logits()
    assert found.boxes is not None
    return network_answer(found.logits[index], found.boxes[index], queries, masks)
