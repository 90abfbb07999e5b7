"""A model over a whole data set: its figures, and its predictions in COCO's own files."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from panodetr.errors import DataError
from panodetr.evaluation.answers import (
    Answer,
    best_of_each_class,
    box_results,
    check_finite,
    mask_result,
    run_lengths,
)
from panodetr.evaluation.metrics import metrics
from panodetr.evaluation.tally import Tally
from panodetr.evaluation.written import PredictionFiles
from panodetr.files import write_json
from panodetr.results.coco import result_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from panodetr.evaluation.detection import ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task
    from panodetr.results.types import Candidates, Category, PanopticResult


class Model(Protocol):
    """What can be evaluated; `panodetr.predict.Predictor` is one."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that it tells apart."""
        ...

    def segment_each(
        self, images: Iterable[Path], /, *, threshold: float | None
    ) -> Iterator[PanopticResult]:
        """Segment image by image; a threshold of None is the model's own."""
        ...

    def candidates_each(self, images: Iterable[Path], /, *, masks: bool) -> Iterator[Candidates]:
        """Give every query's best class and box, with or without its mask."""
        ...

    def answer_each(
        self,
        images: Iterable[Path],
        /,
        *,
        masks: bool,
        threshold: float | None,
        least_score: float | None,
    ) -> Iterator[tuple[PanopticResult, Candidates]]:
        """Do both from one run of the network; candidates may have to score above something."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        tally: the counts, to be merged with those of other processes.
        seconds: of predicting alone: reading the images and growing the masks are in it, reading
            the truth, counting and writing are not.
    """

    tally: Tally
    seconds: float


def evaluate(
    model: Model,
    truth: GroundTruth,
    tasks: Sequence[Task],
    *,
    threshold: float | None = None,
    least_score: float | None = None,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict for every image of a data set, and count the matches with its truth.

    Boxes and masks are measured as the original measures DETR: every query counts with its best
    class. Those of classes that the truth has no objects of, as stuff, don't count.

    Args:
        model: one that has the truth's classes.
        truth: the images and what is on them.
        tasks: what to measure.
        threshold: least score of a segment; None is the model's own.
        least_score: where segments and masks are both measured, what a query must score above to
            have its mask computed, and to count; None counts all.
        out: folder for the predictions; None writes none.
        progress: called after each image with how many are done, and how many there are.

    Raises:
        DataError: the model's classes aren't the data set's, the truth contradicts itself, or
            `out` would overwrite it.
        ImageError: an image cannot be read.
        PanodetrError: the system refused to write.
    """
    check_categories(model.categories, truth, tasks)
    if out is not None and out.resolve() == truth.folder.resolve():
        raise DataError(f"{out} holds the truth; choose another folder for the predictions")
    tally = Tally(truth, tasks)
    known = np.array([category.id for category in truth.object_categories])
    answers = _answers(model, [image.path for image in truth.images], tasks, threshold, least_score)
    clock = _Clock()
    with nullcontext() if out is None else PredictionFiles(out, tasks) as files:
        for number, image in enumerate(truth.images, start=1):
            with clock:
                panoptic, candidates = next(answers)
            answer = _answer(image, panoptic, candidates, tasks, known, clock)
            tally.update(image, answer)
            if files is not None:
                _write(files, image, panoptic, answer)
            if progress is not None:
                progress(number, len(truth.images))
    return Evaluation(tally=tally, seconds=clock.seconds)


def write_metrics(out: Path, evaluation: Evaluation, truth: GroundTruth) -> dict[str, object]:
    """Write `metrics.json` into a folder, and give what it holds.

    Raises:
        PanodetrError: the system refused to write.
    """
    written = metrics(evaluation.tally.compute(), truth, evaluation.seconds)
    write_json(out / "metrics.json", written)
    return written


class _Clock:
    """Adds up the seconds within its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._start


def _answers(
    model: Model,
    images: list[Path],
    tasks: Sequence[Task],
    threshold: float | None,
    least_score: float | None,
) -> Iterator[tuple[PanopticResult | None, Candidates | None]]:
    """Ask a model for what the tasks need, and no more."""
    masks = "instances" in tasks
    if "panoptic" not in tasks:
        yield from ((None, found) for found in model.candidates_each(images, masks=masks))
    elif masks or "boxes" in tasks:
        yield from model.answer_each(
            images, masks=masks, threshold=threshold, least_score=least_score if masks else None
        )
    else:
        yield from ((found, None) for found in model.segment_each(images, threshold=threshold))


def _answer(
    image: GroundTruthImage,
    panoptic: PanopticResult | None,
    candidates: Candidates | None,
    tasks: Sequence[Task],
    known: NDArray[np.int64],
    clock: _Clock,
) -> Answer:
    """Bring what the model said into the form that is counted."""
    boxes: list[ObjectResult] | None = None
    masks: list[ObjectResult] | None = None
    if candidates is not None:
        try:
            check_finite(candidates)
        except DataError as error:
            raise DataError(f"{image.path}: {error}") from error
        chosen = np.flatnonzero(np.isin(candidates.category_ids, known))
        if "boxes" in tasks:
            boxes = box_results(image.image_id, candidates, chosen)
        if "instances" in tasks:
            ranked = best_of_each_class(candidates, chosen)
            masks = _masks(image.image_id, candidates, ranked, clock)
    return Answer(
        segment_ids=None if panoptic is None else panoptic.segment_ids,
        segments=() if panoptic is None else panoptic.segments,
        boxes=boxes,
        masks=masks,
    )


def _masks(
    image_id: int, candidates: Candidates, chosen: NDArray[np.intp], clock: _Clock
) -> list[ObjectResult]:
    """Grow and encode the masks one by one: together they may not fit into memory."""
    results: list[ObjectResult] = []
    for query in chosen.tolist():
        with clock:
            mask = candidates.coarse_masks[query].pixels()
        category_id, score = int(candidates.category_ids[query]), float(candidates.scores[query])
        results.append(mask_result(image_id, category_id, score, run_lengths(mask)))
    return results


def _write(
    files: PredictionFiles, image: GroundTruthImage, panoptic: PanopticResult | None, answer: Answer
) -> None:
    if panoptic is not None:
        segments = result_info(panoptic)["segments_info"]
        files.add_panoptic(image, panoptic.segment_ids, segments)
    if answer.boxes is not None:
        files.add_objects("boxes", answer.boxes)
    if answer.masks is not None:
        files.add_objects("instances", answer.masks)


def check_categories(
    categories: Iterable[Category], truth: GroundTruth, tasks: Sequence[Task]
) -> None:
    """See that the model means by each id what the data set means.

    Objects may be of fewer classes than the model has: a panoptic model knows stuff as well.

    Raises:
        DataError: it doesn't.
    """
    ours = {category.id: category.name for category in categories}
    theirs = {category.id: category.name for category in truth.object_categories}
    wanted = theirs.keys()
    if "panoptic" in tasks:
        theirs |= {category.id: category.name for category in truth.segment_categories}
        wanted = theirs.keys() if truth.of_objects else ours.keys() | theirs.keys()
    for category_id in sorted(wanted):
        one, other = ours.get(category_id, "nothing"), theirs.get(category_id, "nothing")
        if one != other:
            raise DataError(
                f"category {category_id} is {one!r} in the model and {other!r} in {truth.folder}; "
                "expected a model that was trained on these classes"
            )
