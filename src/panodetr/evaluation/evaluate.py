"""Scores a model on a whole data set, or results that any tool wrote in COCO's formats.

A model's predictions can be kept in COCO's own files; results from elsewhere are checked in full.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from panodetr.data.formats import named_file
from panodetr.data.formats.coco import Box, Join
from panodetr.data.masks import VOID, check_run_lengths, encode_pixels, read_id_map
from panodetr.data.samples import RunLengths, Sample, source_of
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import RANKED, ObjectResult
from panodetr.evaluation.ground_truth import GroundTruth, Task, TruthImage, written_id
from panodetr.evaluation.metrics import Counts, Prediction
from panodetr.files import atomic_folder, atomic_write
from panodetr.predict import Predictor
from panodetr.results.id_map import id_map_png
from panodetr.results.result import PanopticResult
from panodetr.results.types import Candidates, Category
from panodetr.validation import Count, read_json

AddPrediction: TypeAlias = Callable[[TruthImage, PanopticResult | None, Prediction], None]


def evaluate(
    model: Predictor,
    truth: GroundTruth,
    tasks: Sequence[Task],
    *,
    threshold: float | None = None,
    least_score: float | None = None,
    max_detections: int = RANKED,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
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
        max_detections: how many predictions of a class count in an image: the best. COCO's is 100.
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
    counts = Counts(truth, tasks, max_detections)
    known = [category.id for category in truth.object_categories]
    segments, masks = "panoptic" in tasks, "instances" in tasks
    outputs = model.answer_each(
        [source_of(image) for image in truth.images],
        segments=segments,
        candidates=masks or "boxes" in tasks,
        masks=masks,
        threshold=threshold,
        least_score=least_score if segments and masks else None,
    )
    with ExitStack() as stack:
        add = None if out is None else stack.enter_context(prediction_files(out, tasks))
        for number, image in enumerate(truth.images, start=1):
            with _timed(counts):
                panoptic, candidates = next(outputs)
            prediction = Prediction()
            if panoptic is not None:
                prediction.segment_ids = panoptic.segment_ids
                prediction.segments = panoptic.segments
            if candidates is not None:
                _check_finite(image.path, candidates)
                chosen = np.flatnonzero(np.isin(candidates.category_ids, known))
                if "boxes" in tasks:
                    prediction.boxes = box_results(image.image_id, candidates, chosen)
                if masks:
                    chosen = best_of_each_class(candidates, chosen, max_detections)
                    prediction.instances = []
                    for query in chosen.tolist():  # masks together may not fit into memory
                        with _timed(counts):
                            mask = candidates.coarse_masks[query].pixels()
                        prediction.instances.append(
                            {
                                "image_id": image.image_id,
                                "category_id": int(candidates.category_ids[query]),
                                "segmentation": encode_pixels(mask),
                                "score": float(candidates.scores[query]),
                            }
                        )
            counts.update(image, prediction)
            if add is not None:
                add(image, panoptic, prediction)
            if progress is not None:
                progress(number, len(truth.images))
    return counts


@contextmanager
def _timed(counts: Counts) -> Generator[None]:
    start = time.perf_counter()
    yield
    counts.seconds = (counts.seconds or 0.0) + time.perf_counter() - start


def _check_finite(path: Path, candidates: Candidates) -> None:
    bad = ~(np.isfinite(candidates.scores) & np.isfinite(candidates.boxes).all(axis=1))
    if bad.any():
        query = int(np.argmax(bad))
        raise DataError(
            f"{path}: the model's query {query} has the score {candidates.scores[query]} and the "
            f"box {candidates.boxes[query].tolist()}; expected finite numbers: its weights are "
            "broken"
        )


def box_results(
    image_id: int, candidates: Candidates, chosen: NDArray[np.intp]
) -> list[ObjectResult]:
    """Write those queries of an image that are chosen (N,) as COCO's box results, unrounded."""
    boxes = candidates.boxes[chosen].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    ids, scores = candidates.category_ids[chosen].tolist(), candidates.scores[chosen].tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(ids, boxes.tolist(), scores, strict=True)
    ]


def best_of_each_class(
    candidates: Candidates, chosen: NDArray[np.intp], most: int = RANKED
) -> NDArray[np.intp]:
    """Keep of some queries (N,) of an image the best of each class, in their order.

    COCO's figures ignore all after the first `most`.
    """
    ranked = chosen[np.argsort(-candidates.scores[chosen], kind="stable")]
    classes = candidates.category_ids[ranked]
    kept = [ranked[classes == category_id][:most] for category_id in np.unique(classes)]
    return np.sort(np.concatenate([chosen[:0], *kept]))


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
def prediction_files(out: Path, tasks: Iterable[Task]) -> Generator[AddPrediction]:
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
        writers: dict[Task, Callable[[object], None]] = {
            task: stack.enter_context(_json_list(out / f"{task}.json", within=task == "panoptic"))
            for task in tasks
        }
        id_maps = out / "panoptic"
        if "panoptic" in writers:
            id_maps = stack.enter_context(atomic_folder(id_maps))

        def add(image: TruthImage, panoptic: PanopticResult | None, prediction: Prediction) -> None:
            named = {"image_id": written_id(image)}
            for result in prediction.boxes or ():
                writers["boxes"]({**result, **named})
            for result in prediction.instances or ():
                writers["instances"]({**result, **named})
            if panoptic is not None:
                name = f"{image.name if isinstance(image, Sample) else image.path.stem}.png"
                (id_maps / name).parent.mkdir(parents=True, exist_ok=True)
                (id_maps / name).write_bytes(id_map_png(panoptic.segment_ids))
                segments = panoptic.to_dict()["segments_info"]
                writers["panoptic"]({**named, "file_name": name, "segments_info": segments})

        yield add


@contextmanager
def _json_list(path: Path, *, within: bool) -> Generator[Callable[[object], None]]:
    """Write a list in a JSON file, one entry a line, or `within` an object as "annotations"."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [' if within else "[")
        before = "\n"

        def add(entry: object) -> None:
            nonlocal before
            file.write(before + json.dumps(entry, ensure_ascii=False, allow_nan=False))
            before = ",\n"

        yield add
        file.write("\n]}\n" if within else "\n]\n")


class _Object(msgspec.Struct):
    image_id: int | str
    category_id: int
    score: float
    bbox: Box | None = None
    segmentation: RunLengths | None = None


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
                mask = result["segmentation"] = given.segmentation
                check_run_lengths(mask["size"], mask["counts"], sizes[image_id], place)
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
