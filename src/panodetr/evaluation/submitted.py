"""Results that any tool wrote in COCO's formats: checked in full, then counted."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from panodetr.data.formats import named_file
from panodetr.data.formats.coco import Box, Join
from panodetr.data.masks import VOID, check_run_lengths, read_id_map
from panodetr.data.samples import RunLengths
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import RANKED, ObjectResult
from panodetr.evaluation.ground_truth import GroundTruth, Task, written_id
from panodetr.evaluation.metrics import Counts, Prediction
from panodetr.validation import Count, read_json


class _Mask(msgspec.Struct):
    size: list[int]
    counts: str | list[int]


class _Object(msgspec.Struct):
    image_id: int | str
    category_id: int
    score: float
    bbox: Box | None = None
    segmentation: _Mask | None = None


class _Segment(msgspec.Struct):
    id: Count
    category_id: int


class _Panoptic(msgspec.Struct):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _PanopticFile(msgspec.Struct):
    annotations: list[_Panoptic] | None = None


_FIELDS: dict[Task, str] = {"boxes": "bbox", "instances": "segmentation"}


def score(
    path: Path, truth: GroundTruth, *, allow_missing: bool = False, max_detections: int = RANKED
) -> Counts:
    """Compare the results in a file with the ground truth.

    A list holds COCO's detection results: boxes, masks, or both. Areas come from the masks where
    there are masks. An object with `annotations` holds panoptic results; its id maps lie in the
    folder of the same name beside it.

    Args:
        path: the JSON.
        truth: of the same kind.
        allow_missing: count images without predictions as if nothing had been found, instead of
            refusing the file.
        max_detections: how many predictions of a class count in an image: the best. COCO's is 100.

    Raises:
        DataError: the file is of another kind, contradicts itself or the ground truth, or has no
            predictions for some images.
    """
    expected = cast("type[list[_Object] | _PanopticFile]", list[_Object] | _PanopticFile)
    document = read_json(path, expected, DataError, strict=False)
    images = Join()
    for image in truth.images:
        images.add(written_id(image), image.image_id)
    if isinstance(document, list):
        tasks = _object_tasks(path, document)
        counts = Counts(truth, tasks, max_detections)
        found = _sort_objects(path, document, truth, images, tasks)
    elif document.annotations is None:
        raise DataError(
            f'{path} has no "annotations"; expected COCO\'s panoptic results, or a list of '
            "detection results"
        )
    else:
        counts = Counts(truth, ["panoptic"])
        found = _sort_panoptic(path, document.annotations, images)
    missing = [image.image_id for image in truth.images if image.image_id not in found]
    counts.missing = len(missing)
    if missing and not allow_missing:
        raise DataError(
            f"{path} has no predictions for {len(missing)} of {len(truth.images)} images, first "
            f"{missing[0]}; add them, or count them as empty with --allow-missing"
        )
    for image in truth.images:
        prediction = found.get(image.image_id)
        if prediction is None:
            prediction = Prediction(segment_ids=np.zeros(image.size, np.int32))
        elif isinstance(prediction, _Panoptic):
            id_map = read_id_map(path.with_suffix("") / prediction.file_name, image.size)
            segments = prediction.segments_info
            if any(segment.id == VOID for segment in segments):
                # Only an unlisted 0 is void. transformers' post_process_panoptic counts from 0.
                id_map = id_map + 1
                segments = [_Segment(one.id + 1, one.category_id) for one in segments]
            prediction = Prediction(segment_ids=id_map, segments=segments)
        counts.update(image, prediction)
    return counts


def _object_tasks(path: Path, entries: list[_Object]) -> list[Task]:
    """Tell by the first entry whether a file holds boxes, masks or both."""
    first = entries[0] if entries else None
    tasks: list[Task] = [task for task, name in _FIELDS.items() if getattr(first, name, None)]
    if not tasks:
        raise DataError(
            f'{path} has no entry with "bbox" or "segmentation"; expected COCO\'s detection results'
        )
    return tasks


def _sort_objects(
    path: Path, entries: list[_Object], truth: GroundTruth, images: Join, tasks: list[Task]
) -> dict[int, Prediction]:
    """Check predicted objects, and sort them by image."""
    categories = {category.id for category in truth.object_categories}
    sizes = {image.image_id: image.size for image in truth.images}
    found: dict[int, dict[Task, list[ObjectResult]]] = {}
    for number, given in enumerate(entries):
        place = f"{path}: [{number}]"
        image_id = _find_image(images, given.image_id, place)
        if given.category_id not in categories:
            raise DataError(
                f"{place} has category {given.category_id}; expected a category of the ground "
                "truth's objects"
            )
        lists = found.setdefault(image_id, {task: [] for task in tasks})
        for task in tasks:
            result = ObjectResult(
                image_id=image_id, category_id=given.category_id, score=given.score
            )
            if task == "boxes" and given.bbox is not None:
                result["bbox"] = list(given.bbox)
            elif task == "instances" and given.segmentation is not None:
                mask = given.segmentation
                check_run_lengths(mask.size, mask.counts, sizes[image_id], place)
                result["segmentation"] = RunLengths(size=mask.size, counts=mask.counts)
            else:
                raise DataError(
                    f'{place} has no "{_FIELDS[task]}"; expected one, as in the first entry'
                )
            lists[task].append(result)
    return {image_id: Prediction(**lists) for image_id, lists in found.items()}


def _sort_panoptic(path: Path, entries: list[_Panoptic], images: Join) -> dict[int, _Panoptic]:
    """Check panoptic results, and sort them by image; the id maps are read one by one later."""
    found: dict[int, _Panoptic] = {}
    for number, given in enumerate(entries):
        place = f"{path}: annotations[{number}]"
        image_id = _find_image(images, given.image_id, place)
        if image_id in found:
            raise DataError(f"{place} is a second result for image {given.image_id}")
        named_file(given.file_name, path.with_suffix(""), place)
        found[image_id] = given
    return found


def _find_image(images: Join, image_id: int | str, place: str) -> int:
    found = images.known.get(image_id)
    if found is None:
        raise DataError(f"{place} is for image {image_id}; expected an image of the ground truth")
    return found
