"""A model over a whole data set: its figures, and its predictions in COCO's own files."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

from panodetr.data.panoptic import read_ids
from panodetr.errors import DataError
from panodetr.evaluation.panoptic import PanopticQuality
from panodetr.files import folder_written_whole, write_json
from panodetr.results.coco import id_map_png, result_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from panodetr.data.panoptic import PanopticData, Sample
    from panodetr.evaluation.panoptic import PanopticFigures
    from panodetr.results.coco import SegmentInfo
    from panodetr.results.types import Category, PanopticResult


class Segmenter(Protocol):
    """What can be evaluated; `panodetr.predict.Predictor` is one."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that it tells apart."""
        ...

    def segment(self, photo: Path, /, *, threshold: float | None = None) -> PanopticResult:
        """Segment one photo; a threshold of None is the model's own."""
        ...


class ClassMetrics(TypedDict):
    """One category, as `ClassQuality` explains it."""

    pq: float
    sq: float
    rq: float
    f1: float
    tp: int
    fp: int
    fn: int
    iou: float


class Metrics(TypedDict):
    """What `metrics.json` holds: fractions from 0 to 1, unrounded.

    Means over the categories that occur, 0 where none does; `f1` is at IoU above one half. Seconds
    are of segmenting alone, reading the photo included, reading the truth and counting not.
    """

    pq: float
    sq: float
    rq: float
    f1: float
    pq_things: float
    sq_things: float
    rq_things: float
    f1_things: float
    pq_stuff: float
    sq_stuff: float
    rq_stuff: float
    f1_stuff: float
    images: int
    seconds_per_image: float
    per_class: dict[str, ClassMetrics]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was predicted for one photo, in little memory.

    Attributes:
        image_id: the data set's own.
        file_name: of the id map in COCO's JSON, the truth's own name.
        png: the id map, compressed: some kilobytes where the pixels would be hundreds.
        segments: COCO's `segments_info`, with scores.
    """

    image_id: int
    file_name: str
    png: bytes
    segments: list[SegmentInfo]


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        metrics: the figures.
        predictions: in the order of the data set's samples.
        data: what was evaluated on.
    """

    metrics: Metrics
    predictions: tuple[Prediction, ...]
    data: PanopticData

    def write(self, out: Path) -> None:
        """Write `metrics.json`, `panoptic.json` and the id maps in `panoptic/` into a folder.

        The latter two are in the form that COCO's evaluation servers and panopticapi read.

        Raises:
            DataError: `out` is the data set's own folder, whose truth would be overwritten.
            PanodetrError: the system refused to write.
        """
        if out.resolve() == self.data.folder.resolve():
            raise DataError(f"{out} holds the truth; choose another folder for the predictions")
        with folder_written_whole(out / "panoptic") as folder:
            for prediction in self.predictions:
                path = folder / prediction.file_name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(prediction.png)
        annotations = [
            {"image_id": p.image_id, "file_name": p.file_name, "segments_info": p.segments}
            for p in self.predictions
        ]
        write_json(out / "panoptic.json", {"annotations": annotations})
        write_json(out / "metrics.json", self.metrics)


def evaluate(
    segmenter: Segmenter,
    data: PanopticData,
    *,
    threshold: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Segment every photo of a data set and count the matches with its truth.

    Args:
        segmenter: the model, trained on the data set's classes.
        data: whose ids and names of categories must be the model's.
        threshold: least score of a segment; None is the model's own.
        progress: called after each photo with how many are done, and how many there are.

    Raises:
        DataError: the model's classes aren't the data set's, or an id map contradicts the JSON.
        ImageError: a photo cannot be read.
    """
    _check_categories(segmenter.categories, data)
    quality = PanopticQuality(data.categories)
    predictions: list[Prediction] = []
    seconds = 0.0
    for sample in data.samples:
        start = time.perf_counter()
        result = segmenter.segment(sample.photo, threshold=threshold)
        seconds += time.perf_counter() - start
        try:
            quality.update(read_ids(sample), sample.segments, result.segment_ids, result.segments)
        except DataError as error:
            raise DataError(f"{sample.photo}: {error}") from error
        predictions.append(_prediction(sample, result))
        if progress is not None:
            progress(len(predictions), len(data.samples))
    return EvaluationReport(
        metrics=_metrics(quality.compute(), data, seconds),
        predictions=tuple(predictions),
        data=data,
    )


def _check_categories(categories: Iterable[Category], data: PanopticData) -> None:
    """See that the model means by each id what the data set means.

    Raises:
        DataError: it doesn't.
    """
    ours = {category.id: category.name for category in categories}
    theirs = {category.id: category.name for category in data.categories}
    for category_id in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(category_id, "nothing"), theirs.get(category_id, "nothing")
        if one != other:
            raise DataError(
                f"category {category_id} is {one!r} in the model and {other!r} in {data.folder}; "
                "expected a model that was trained on these classes"
            )


def _metrics(figures: PanopticFigures, data: PanopticData, seconds: float) -> Metrics:
    overall, things, stuff = figures.all, figures.things, figures.stuff
    per_class = zip(data.categories, figures.per_class, strict=True)
    return Metrics(
        pq=overall.pq,
        sq=overall.sq,
        rq=overall.rq,
        f1=overall.f1,
        pq_things=things.pq,
        sq_things=things.sq,
        rq_things=things.rq,
        f1_things=things.f1,
        pq_stuff=stuff.pq,
        sq_stuff=stuff.sq,
        rq_stuff=stuff.rq,
        f1_stuff=stuff.f1,
        images=len(data.samples),
        seconds_per_image=seconds / len(data.samples),
        per_class={c.name: ClassMetrics(**asdict(q), f1=q.f1) for c, q in per_class},
    )


def _prediction(sample: Sample, result: PanopticResult) -> Prediction:
    return Prediction(
        image_id=sample.image_id,
        file_name=f"{sample.name}.png",
        png=id_map_png(result.segment_ids),
        segments=result_info(result)["segments_info"],
    )
