"""Results that any tool wrote, in COCO's formats: checked in full, then counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from panodetr.data.idmaps import read_id_map
from panodetr.data.instances import read_run_lengths
from panodetr.data.records import Record, named_file, read_json
from panodetr.errors import DataError
from panodetr.evaluation.answers import Answer, mask_result
from panodetr.evaluation.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from panodetr.evaluation.detection import ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What was measured.

    Attributes:
        tally: the counts.
        missing: images without any prediction, counted as if nothing had been found.
    """

    tally: Tally
    missing: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Results:
    """The predictions of a file: which tasks, and the answer to each image that has one."""

    tasks: tuple[Task, ...]
    answers: Mapping[int, Callable[[GroundTruthImage], Answer]]


@dataclass(frozen=True, kw_only=True)
class _Segment:
    id: int
    category_id: int


def score(path: Path, truth: GroundTruth, *, allow_missing: bool = False) -> Scored:
    """Count the results in a file against a truth.

    A list holds COCO's detection results: boxes, masks, or both, and areas come from the masks also
    where there are both. An object with `annotations` is panoptic; its id maps lie in the folder of
    the same name beside it.

    Args:
        path: the JSON.
        truth: of the same kind.
        allow_missing: count images without predictions as if nothing had been found, instead of
            refusing the file.

    Raises:
        DataError: the file is of another kind, contradicts itself or the truth, or has no
            predictions for some images.
    """
    document = read_json(path)
    if isinstance(document, list):
        results = _read_objects(path, cast("list[object]", document), truth)
    elif isinstance(document, dict):
        results = _read_panoptic(path, cast("dict[str, object]", document), truth)
    else:
        raise DataError(f"{path} holds neither a list nor an object; expected COCO's results")
    missing = [image for image in truth.images if image.image_id not in results.answers]
    if missing and not allow_missing:
        raise DataError(
            f"{path} has no predictions for {len(missing)} of {len(truth.images)} images, first "
            f"{missing[0].image_id}; add them, or count them as empty with --allow-missing"
        )
    tally = Tally(truth, results.tasks)
    for image in truth.images:
        tally.update(image, results.answers.get(image.image_id, _nothing)(image))
    return Scored(tally=tally, missing=len(missing))


def _nothing(image: GroundTruthImage) -> Answer:
    return Answer(segment_ids=np.zeros(image.size, np.int32))


def _read_objects(path: Path, entries: list[object], truth: GroundTruth) -> _Results:
    """Check a list of detections, and sort it by image.

    Raises:
        DataError: an entry isn't one, or the truth hasn't its image or category.
    """
    images = {image.image_id: image for image in truth.images}
    categories = {category.id for category in truth.object_categories}
    records = list(Record(str(path), {"results": entries}).records("results"))
    tasks = _object_tasks(path, records)
    truth.require(tasks)
    found: dict[int, dict[Task, list[ObjectResult]]] = {}
    for record in records:
        image_id, category_id = record.integer("image_id"), record.integer("category_id")
        if image_id not in images:
            raise DataError(f"{record.place} is for image {image_id}, which the truth doesn't list")
        if category_id not in categories:
            raise DataError(
                f"{record.place} has category {category_id}, which the truth has no objects of"
            )
        score = record.number("score")
        own = found.setdefault(image_id, {task: [] for task in tasks})
        if "boxes" in tasks:
            own["boxes"].append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": record.box("bbox"),
                    "score": score,
                }
            )
        if "instances" in tasks:
            mask = read_run_lengths(record, "segmentation", images[image_id].size)
            own["instances"].append(mask_result(image_id, category_id, score, mask))
    return _Results(tasks=tasks, answers={i: _given(own) for i, own in found.items()})


def _object_tasks(path: Path, records: list[Record]) -> tuple[Task, ...]:
    """Say what a list of detections can be scored for, by its first entry.

    Raises:
        DataError: it is empty, or its entries have neither boxes nor masks.
    """
    if not records:
        raise DataError(f"{path} is an empty list; expected COCO's detection results")
    first = records[0].fields
    can: dict[Task, bool] = {"boxes": "bbox" in first, "instances": "segmentation" in first}
    tasks: tuple[Task, ...] = tuple(task for task, it_can in can.items() if it_can)
    if not tasks:
        raise DataError(
            f'{records[0].place} has neither "bbox" nor "segmentation"; expected COCO\'s detection '
            "results"
        )
    return tasks


def _given(own: dict[Task, list[ObjectResult]]) -> Callable[[GroundTruthImage], Answer]:
    answer = Answer(boxes=own.get("boxes"), masks=own.get("instances"))
    return lambda image: answer


def _read_panoptic(path: Path, document: dict[str, object], truth: GroundTruth) -> _Results:
    """Check COCO's panoptic results; the id maps are read when their images are counted.

    Raises:
        DataError: the JSON is another one, or contradicts itself or the truth.
    """
    if "annotations" not in document:
        raise DataError(
            f'{path} has no "annotations"; expected COCO\'s panoptic results, or a list of '
            "detection results"
        )
    truth.require(["panoptic"])
    images = {image.image_id for image in truth.images}
    answers: dict[int, Callable[[GroundTruthImage], Answer]] = {}
    for record in Record(str(path), document).records("annotations"):
        image_id = record.integer("image_id")
        if "segments_info" not in record.fields:
            raise DataError(
                f'{record.place} has no "segments_info", so {path} is no panoptic result; expected '
                "one, or a list of detection results"
            )
        if image_id not in images:
            raise DataError(f"{record.place} is for image {image_id}, which the truth doesn't list")
        if image_id in answers:
            raise DataError(f"{record.place} is a second result for image {image_id}")
        answers[image_id] = _read_later(
            named_file(record, path.with_suffix("")), tuple(_segments(record))
        )
    return _Results(tasks=("panoptic",), answers=answers)


def _segments(record: Record) -> Iterator[_Segment]:
    for info in record.records("segments_info"):
        yield _Segment(id=info.integer("id", least=1), category_id=info.integer("category_id"))


def _read_later(
    id_map: Path, segments: tuple[_Segment, ...]
) -> Callable[[GroundTruthImage], Answer]:
    return lambda image: Answer(segment_ids=read_id_map(id_map, image.size), segments=segments)
