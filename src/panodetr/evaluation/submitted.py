"""Results that any tool wrote in COCO's formats: checked in full, then counted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import numpy as np

from panodetr.data.masks import decode_counts, read_id_map
from panodetr.data.samples import RunLengths
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import mask_result
from panodetr.evaluation.metrics import Counts, Prediction
from panodetr.validation import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from panodetr.evaluation.average_precision import ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task

_Coordinate = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
_Side = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Mask(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class _Object(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    bbox: tuple[_Coordinate, _Coordinate, _Side, _Side] | None = None
    segmentation: _Mask | None = None


class _Segment(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=1)]
    category_id: int


class _Panoptic(msgspec.Struct):
    image_id: int
    file_name: str
    segments_info: list[_Segment]


class _PanopticFile(msgspec.Struct):
    annotations: list[_Panoptic] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What was measured.

    Attributes:
        counts: of all images.
        missing: images without any prediction, counted as if nothing had been found.
    """

    counts: Counts
    missing: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Results:
    """The tasks of a file, and what reads the prediction for each image that has one."""

    tasks: tuple[Task, ...]
    predictions: dict[int, Callable[[GroundTruthImage], Prediction]]


def score(path: Path, truth: GroundTruth, *, allow_missing: bool = False) -> Scored:
    """Compare the results in a file with the ground truth.

    A list holds COCO's detection results: boxes, masks, or both. Areas come from the masks where
    there are masks. An object with `annotations` holds panoptic results; its id maps lie in the
    folder of the same name beside it.

    Args:
        path: the JSON.
        truth: of the same kind.
        allow_missing: count images without predictions as if nothing had been found, instead of
            refusing the file.

    Raises:
        DataError: the file is of another kind, contradicts itself or the ground truth, or has no
            predictions for some images.
    """
    expected = cast("type[list[_Object] | _PanopticFile]", list[_Object] | _PanopticFile)
    document = read_json(path, expected, DataError, strict=False)
    if isinstance(document, list):
        results = _read_objects(path, document, truth)
    elif document.annotations is None:
        raise DataError(
            f'{path} has no "annotations"; expected COCO\'s panoptic results, or a list of '
            "detection results"
        )
    else:
        results = _read_panoptic(path, document.annotations, truth)
    missing = [image for image in truth.images if image.image_id not in results.predictions]
    if missing and not allow_missing:
        raise DataError(
            f"{path} has no predictions for {len(missing)} of {len(truth.images)} images, first "
            f"{missing[0].image_id}; add them, or count them as empty with --allow-missing"
        )
    counts = Counts(truth, results.tasks)
    for image in truth.images:
        counts.update(image, results.predictions.get(image.image_id, _nothing)(image))
    return Scored(counts=counts, missing=len(missing))


def _nothing(image: GroundTruthImage) -> Prediction:
    return Prediction(segment_ids=np.zeros(image.size, np.int32))


def _read_objects(path: Path, entries: list[_Object], truth: GroundTruth) -> _Results:
    """Check a list of predicted objects, and sort it by image.

    The first entry decides whether the file holds boxes, masks or both.

    Raises:
        DataError: an entry is faulty, or is for an image or category that is not in `truth`.
    """
    images = {image.image_id: image for image in truth.images}
    categories = {category.id for category in truth.object_categories}
    boxes: dict[int, list[ObjectResult]] = {}
    masks: dict[int, list[ObjectResult]] = {}
    tasks: list[Task] = []
    if entries and entries[0].bbox is not None:
        tasks.append("boxes")
    if entries and entries[0].segmentation is not None:
        tasks.append("instances")
    if not tasks:
        raise DataError(
            f'{path} has no entry with "bbox" or "segmentation"; expected COCO\'s detection results'
        )
    truth.require(tasks)
    for number, given in enumerate(entries):
        place = f"{path}: [{number}]"
        _check_known(place, given.image_id, images)
        if given.category_id not in categories:
            raise DataError(
                f"{place} has category {given.category_id}; expected a category of the ground "
                "truth's objects"
            )
        if "boxes" in tasks:
            if given.bbox is None:
                raise DataError(f'{place} has no "bbox"; expected one, as in the first entry')
            boxes.setdefault(given.image_id, []).append(
                {
                    "image_id": given.image_id,
                    "category_id": given.category_id,
                    "bbox": list(given.bbox),
                    "score": given.score,
                }
            )
        if "instances" in tasks:
            mask = _run_lengths(place, given.segmentation, images[given.image_id].size)
            masks.setdefault(given.image_id, []).append(
                mask_result(given.image_id, given.category_id, given.score, mask)
            )

    def of_image(image: GroundTruthImage) -> Prediction:
        return Prediction(boxes=boxes.get(image.image_id), masks=masks.get(image.image_id))

    return _Results(
        tasks=tuple(tasks), predictions=dict.fromkeys(boxes.keys() | masks.keys(), of_image)
    )


def _run_lengths(place: str, mask: _Mask | None, size: tuple[int, int]) -> RunLengths:
    """Check a mask against the size (H, W) of its image.

    Raises:
        DataError: it is missing, has another size, or its run lengths don't fill that.
    """
    if mask is None:
        raise DataError(f'{place} has no "segmentation"; expected one, as in the first entry')
    if mask.size != size:
        raise DataError(
            f"{place} has a mask of {list(mask.size)}; expected {list(size)}, the height and width "
            "of the image"
        )
    try:
        counts = decode_counts(mask.counts) if isinstance(mask.counts, str) else mask.counts
    except ValueError as error:
        raise DataError(f'{place}: "counts" is {error}; write the mask again') from error
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise DataError(
            f"{place} has run lengths that don't fill the mask; expected whole numbers that add "
            f"up to {size[0] * size[1]}"
        )
    return RunLengths(size=list(size), counts=mask.counts)


def _read_panoptic(path: Path, entries: list[_Panoptic], truth: GroundTruth) -> _Results:
    """Check COCO's panoptic results; the id maps are read when their images are counted.

    Raises:
        DataError: an entry is faulty, or is for an image that is not in `truth`.
    """
    truth.require(["panoptic"])
    images = {image.image_id: image for image in truth.images}
    predictions: dict[int, Callable[[GroundTruthImage], Prediction]] = {}
    for number, given in enumerate(entries):
        place = f"{path}: annotations[{number}]"
        _check_known(place, given.image_id, images)
        if given.image_id in predictions:
            raise DataError(f"{place} is a second result for image {given.image_id}")
        name = PurePosixPath(given.file_name)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise DataError(f"{place} names {name}; expected a file within {path.with_suffix('')}")
        predictions[given.image_id] = partial(
            _read_segments, path.with_suffix("") / name, given.segments_info
        )
    return _Results(tasks=("panoptic",), predictions=predictions)


def _read_segments(id_map: Path, segments: list[_Segment], image: GroundTruthImage) -> Prediction:
    return Prediction(segment_ids=read_id_map(id_map, image.size), segments=segments)


def _check_known(place: str, image_id: int, images: dict[int, Any]) -> None:
    if image_id not in images:
        raise DataError(f"{place} is for image {image_id}; expected an image of the ground truth")
