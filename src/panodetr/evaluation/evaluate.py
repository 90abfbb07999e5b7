"""Runs a model over a whole data set: its figures, and its predictions in COCO's own files."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO, TypeAlias

import numpy as np

from panodetr.errors import DataError
from panodetr.evaluation.average_precision import (
    best_of_each_class,
    box_results,
    check_finite,
    mask_result,
    run_lengths,
)
from panodetr.evaluation.metrics import Counts, Prediction, metrics
from panodetr.files import atomic_folder, atomic_write, write_json
from panodetr.results.id_map import id_map_png

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from panodetr.evaluation.average_precision import ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task
    from panodetr.results.result import PanopticResult
    from panodetr.results.types import Candidates, Category

    AddPrediction: TypeAlias = Callable[[GroundTruthImage, PanopticResult | None, Prediction], None]


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
        counts: to be merged with those of other processes.
        seconds: of predicting alone: includes reading the images and enlarging the masks, not
            reading the ground truth, counting and writing.
    """

    counts: Counts
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
    """Predict for every image of a data set, and count the matches with its ground truth.

    Boxes and masks are measured as the original measures DETR: every query counts with its best
    class. Queries whose class has no objects in the ground truth, such as stuff, are left out.

    Args:
        model: one that has the classes of the ground truth.
        truth: the images and their annotations.
        tasks: what to measure.
        threshold: least score of a segment; None is the model's own.
        least_score: where segments and masks are both measured, only queries with a higher score
            have their masks computed, and count; None counts all.
        out: folder for the predictions; None writes none.
        progress: called after each image with how many are done, and how many there are.

    Raises:
        DataError: the model's classes aren't the data set's, the ground truth contradicts itself,
            or `out` would overwrite it.
        ImageError: an image cannot be read.
        PanodetrError: the system refused to write.
    """
    check_categories(model.categories, truth, tasks)
    if out is not None and out.resolve() == truth.folder.resolve():
        raise DataError(f"{out} holds the ground truth; choose another folder for the predictions")
    counts = Counts(truth, tasks)
    known = np.array([category.id for category in truth.object_categories])
    images = [image.path for image in truth.images]
    outputs = _run_model(model, images, tasks, threshold, least_score)
    clock = _Clock()
    with nullcontext() if out is None else prediction_files(out, tasks) as add:
        for number, image in enumerate(truth.images, start=1):
            with clock:
                panoptic, candidates = next(outputs)
            prediction = _prediction(image, panoptic, candidates, tasks, known, clock)
            counts.update(image, prediction)
            if add is not None:
                add(image, panoptic, prediction)
            if progress is not None:
                progress(number, len(truth.images))
    return Evaluation(counts=counts, seconds=clock.seconds)


def write_metrics(out: Path, evaluation: Evaluation, truth: GroundTruth) -> dict[str, object]:
    """Write `metrics.json` into a folder, and give what it holds.

    Raises:
        PanodetrError: the system refused to write.
    """
    written = metrics(evaluation.counts.compute(), truth, evaluation.seconds)
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


def _run_model(
    model: Model,
    images: list[Path],
    tasks: Sequence[Task],
    threshold: float | None,
    least_score: float | None,
) -> Iterator[tuple[PanopticResult | None, Candidates | None]]:
    """Run a model for what the tasks need, and no more."""
    masks = "instances" in tasks
    if "panoptic" not in tasks:
        yield from ((None, found) for found in model.candidates_each(images, masks=masks))
    elif masks or "boxes" in tasks:
        yield from model.answer_each(
            images, masks=masks, threshold=threshold, least_score=least_score if masks else None
        )
    else:
        yield from ((found, None) for found in model.segment_each(images, threshold=threshold))


def _prediction(
    image: GroundTruthImage,
    panoptic: PanopticResult | None,
    candidates: Candidates | None,
    tasks: Sequence[Task],
    known: NDArray[np.int64],
    clock: _Clock,
) -> Prediction:
    """Bring what the model found into the form that is counted."""
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
    return Prediction(
        segment_ids=None if panoptic is None else panoptic.segment_ids,
        segments=() if panoptic is None else panoptic.segments,
        boxes=boxes,
        masks=masks,
    )


def _masks(
    image_id: int, candidates: Candidates, chosen: NDArray[np.intp], clock: _Clock
) -> list[ObjectResult]:
    """Enlarge and encode the masks one by one: together they may not fit into memory."""
    results: list[ObjectResult] = []
    for query in chosen.tolist():
        with clock:
            mask = candidates.coarse_masks[query].pixels()
        category_id, score = int(candidates.category_ids[query]), float(candidates.scores[query])
        results.append(mask_result(image_id, category_id, score, run_lengths(mask)))
    return results


def check_categories(
    categories: Iterable[Category], truth: GroundTruth, tasks: Sequence[Task]
) -> None:
    """Check that each category id has the same name in the model and the data set.

    Objects may be of fewer classes than the model has: a panoptic model knows stuff as well.

    Raises:
        DataError: a category differs, or is missing in one of them.
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


@contextmanager
def prediction_files(out: Path, tasks: Iterable[Task]) -> Generator[AddPrediction, None, None]:
    """Write `boxes.json`, `instances.json`, and `panoptic.json` with `panoptic/`, by task.

    COCO's evaluation servers and tools read them. Entries are written at once, so none are kept in
    memory. The files get their names when the `with` block ends without an error; after an error
    the files of before are left.

    Yields:
        A function that writes the predictions for one image.

    Raises:
        PanodetrError: the system refused to write.
    """
    with ExitStack() as stack:
        lists: dict[Task, _JsonList] = {}
        for task in tasks:
            path = stack.enter_context(atomic_write(out / f"{task}.json"))
            file = stack.enter_context(path.open("w", encoding="utf-8"))
            head, tail = ('{"annotations": [', "]}\n") if task == "panoptic" else ("[", "]\n")
            lists[task] = _JsonList(file, head)
            stack.callback(lists[task].end, tail)
        id_maps = out / "panoptic"
        if "panoptic" in lists:
            id_maps = stack.enter_context(atomic_folder(id_maps))

        def add(
            image: GroundTruthImage, panoptic: PanopticResult | None, prediction: Prediction
        ) -> None:
            for result in prediction.boxes or ():
                lists["boxes"].add(result)
            for result in prediction.masks or ():
                lists["instances"].add(result)
            if panoptic is not None:
                path = id_maps / f"{image.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(id_map_png(panoptic.segment_ids))
                segments = panoptic.to_dict()["segments_info"]
                lists["panoptic"].add(
                    {
                        "image_id": image.image_id,
                        "file_name": f"{image.name}.png",
                        "segments_info": segments,
                    }
                )

        yield add


class _JsonList:
    """A list in a JSON file, one entry a line."""

    def __init__(self, file: TextIO, head: str) -> None:
        self._file = file
        self._before = f"{head}\n"

    def add(self, entry: object) -> None:
        """Write one entry."""
        self._file.write(self._before + json.dumps(entry, ensure_ascii=False, allow_nan=False))
        self._before = ",\n"

    def end(self, tail: str) -> None:
        """End the list, which may be empty."""
        self._file.write(("\n" if self._before == ",\n" else self._before) + tail)
