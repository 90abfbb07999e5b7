"""Results that any tool wrote in COCO's formats: checked in full, then counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import numpy as np

from panodetr.data.formats import named_file
from panodetr.data.formats.coco import Box
from panodetr.data.masks import check_run_lengths, read_id_map
from panodetr.data.samples import RunLengths
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import RANKED
from panodetr.evaluation.metrics import Counts, Evaluation, Prediction
from panodetr.validation import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from panodetr.evaluation.average_precision import ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task


class _Mask(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class _Object(msgspec.Struct):
    image_id: int | str
    category_id: int
    score: float
    bbox: Box | None = None
    segmentation: _Mask | None = None


class _Segment(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=1)]
    category_id: int


class _Panoptic(msgspec.Struct):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _PanopticFile(msgspec.Struct):
    annotations: list[_Panoptic] | None = None


def score(
    path: Path, truth: GroundTruth, *, allow_missing: bool = False, max_detections: int = RANKED
) -> Evaluation:
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
    if isinstance(document, list):
        tasks = _object_tasks(path, document)
        counts = Counts(truth, tasks, max_detections)
        predictions = _sort_objects(path, document, truth, tasks)
    elif document.annotations is None:
        raise DataError(
            f'{path} has no "annotations"; expected COCO\'s panoptic results, or a list of '
            "detection results"
        )
    else:
        counts = Counts(truth, ["panoptic"])
        predictions = _sort_panoptic(path, document.annotations, truth)
    missing = [image for image in truth.images if image.image_id not in predictions]
    if missing and not allow_missing:
        raise DataError(
            f"{path} has no predictions for {len(missing)} of {len(truth.images)} images, first "
            f"{missing[0].image_id}; add them, or count them as empty with --allow-missing"
        )
    for image in truth.images:
        found = predictions.get(image.image_id)
        if found is None:
            found = Prediction(segment_ids=np.zeros(image.size, np.int32))
        elif isinstance(found, _Panoptic):
            id_map = read_id_map(path.with_suffix("") / found.file_name, image.size)
            found = Prediction(segment_ids=id_map, segments=found.segments_info)
        counts.update(image, found)
    return Evaluation(counts=counts, missing=len(missing))


def _object_tasks(path: Path, entries: list[_Object]) -> list[Task]:
    """Tell by the first entry whether a file holds boxes, masks or both."""
    tasks: list[Task] = []
    if entries and entries[0].bbox is not None:
        tasks.append("boxes")
    if entries and entries[0].segmentation is not None:
        tasks.append("instances")
    if not tasks:
        raise DataError(
            f'{path} has no entry with "bbox" or "segmentation"; expected COCO\'s detection results'
        )
    return tasks


def _sort_objects(
    path: Path, entries: list[_Object], truth: GroundTruth, tasks: Sequence[Task]
) -> dict[int, Prediction]:
    """Check predicted objects, and sort them by image."""
    images = _by_id(truth)
    categories = {category.id for category in truth.object_categories}
    found: dict[int, tuple[list[ObjectResult], list[ObjectResult]]] = {}
    for number, given in enumerate(entries):
        place = f"{path}: [{number}]"
        image = _find_image(images, given.image_id, place)
        if given.category_id not in categories:
            raise DataError(
                f"{place} has category {given.category_id}; expected a category of the ground "
                "truth's objects"
            )
        boxes, masks = found.setdefault(image.image_id, ([], []))
        result: ObjectResult = {
            "image_id": image.image_id,
            "category_id": given.category_id,
            "score": given.score,
        }
        if "boxes" in tasks:
            if given.bbox is None:
                raise DataError(f'{place} has no "bbox"; expected one, as in the first entry')
            boxes.append({**result, "bbox": list(given.bbox)})
        if "instances" in tasks:
            mask = given.segmentation
            if mask is None:
                raise DataError(
                    f'{place} has no "segmentation"; expected one, as in the first entry'
                )
            check_run_lengths(mask.size, mask.counts, image.size, place)
            runs = RunLengths(size=list(mask.size), counts=mask.counts)
            masks.append({**result, "segmentation": runs})
    return {
        image_id: Prediction(boxes=boxes, masks=masks) for image_id, (boxes, masks) in found.items()
    }


def _sort_panoptic(
    path: Path, entries: list[_Panoptic], truth: GroundTruth
) -> dict[int, _Panoptic]:
    """Check panoptic results, and sort them by image; the id maps are read one by one later."""
    images = _by_id(truth)
    found: dict[int, _Panoptic] = {}
    for number, given in enumerate(entries):
        place = f"{path}: annotations[{number}]"
        image_id = _find_image(images, given.image_id, place).image_id
        if image_id in found:
            raise DataError(f"{place} is a second result for image {given.image_id}")
        named_file(given.file_name, path.with_suffix(""), place)
        found[image_id] = given
    return found


def _by_id(truth: GroundTruth) -> dict[int | str, GroundTruthImage]:
    """Give the images by their ids, and by these as text where they are numbers, or the reverse."""
    images: dict[int | str, GroundTruthImage] = {i.written_id: i for i in truth.images}
    for image in truth.images:
        key = image.written_id
        if isinstance(key, int):
            images.setdefault(str(key), image)
        elif key.isdecimal():
            images.setdefault(int(key), image)
    return images


def _find_image(
    images: dict[int | str, GroundTruthImage], image_id: int | str, place: str
) -> GroundTruthImage:
    if image_id not in images:
        raise DataError(f"{place} is for image {image_id}; expected an image of the ground truth")
    return images[image_id]
