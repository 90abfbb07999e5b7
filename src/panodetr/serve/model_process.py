"""What a model process does: load the models, then answer batches, each result as bytes."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import ImageError, PanodetrError, UsageError
from panodetr.images.read import read_image
from panodetr.predict import Predictor
from panodetr.results.draw import colors_of
from panodetr.results.id_map import id_map_png, run_starts
from panodetr.results.interchange import label_map, label_tiff, to_csv
from panodetr.results.regions import measure
from panodetr.results.result import DetectionResult, ImageResult, PanopticResult
from panodetr.results.types import Category, Detection, Segment
from panodetr.serve import api
from panodetr.serve.api import Form, Given, RequestError, Work
from panodetr.serve.options import ServiceOptions


def run_models(
    connection: Connection[Any, Any],
    sources: Mapping[str, str],
    options: ServiceOptions,
    threads: int,
) -> None:
    """Run a model process: send the models' descriptions, or an error, then answer requests.

    The front process handles signals. When it is gone, the connection ends and this process, too.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from panodetr.loading import load

    try:
        run = {key: getattr(options, key) for key in ("device", "runtime", "precision", "batch")}
        models = {name: load(source, **run) for name, source in sources.items()}
    except PanodetrError as error:
        connection.send(PanodetrError(str(error)))  # others may not come through a pipe
        return
    with suppress(EOFError, OSError):  # the front process is gone
        connection.send([describe(name, model) for name, model in models.items()])
        while True:
            work, given = connection.recv()
            connection.send(answer_batch(models[work.model], work, given, options.max_pixels))
            give_back_memory()


def give_back_memory() -> None:
    """Give free memory back to the system, where the C library is GNU's.

    It keeps the pieces between blocks that live, and batches of many sizes leave ever more of them.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def describe(name: str, model: Predictor) -> api.ModelInfo:
    """Describe a model for clients."""
    return api.ModelInfo(
        name=name,
        task="panoptic" if model.spec.architecture.masks else "detection",
        categories=list(model.categories),
        threshold=model.spec.threshold,
    )


def answer_batch(
    model: Predictor, work: Work, given: Sequence[Given], max_pixels: int
) -> Sequence[bytes | RequestError]:
    """Answer images that ask for the same work, in their order; one that fails does so alone."""
    rule = model.spec.preprocessing
    read = partial(read_image, bits=rule.bits, channels=rule.channels, max_pixels=max_pixels)
    try:
        images = [read(one.image) for one in given]
        if work.action == "write":
            written = zip(given, images, strict=True)
            return [write_file(one, image, model.categories, work.form) for one, image in written]
        if work.action == "segment":
            model = model.with_merge(**dict(work.merge)) if work.merge else model
            results: Any = model.segment(images, threshold=work.threshold, task=work.task)
        else:
            masks = work.masks is not None
            results = model.detect(images, threshold=work.threshold, masks=masks)
        return [write_answer(result, work) for result in results]
    except Exception as error:
        if len(given) > 1:
            return [answer_batch(model, work, [one], max_pixels)[0] for one in given]
        if isinstance(error, PanodetrError):
            return [RequestError(415 if isinstance(error, ImageError) else 422, str(error))]
        detail = "the model failed; the service's log has more"
        return [RequestError(500, detail, fault=traceback.format_exc())]


def write_answer(result: PanopticResult | DetectionResult, work: Work) -> bytes:
    """Write a result in the form that the work asks for.

    Raises:
        UsageError: there is no such file of detections without masks.
    """
    if work.form == "overlay":
        return _png(result.draw())
    if work.form in _WRITERS:
        return _WRITERS[work.form](result)
    if isinstance(result, PanopticResult):
        answer = _hosted_segments(result) if work.form == "hosted" else _segments(result, work)
    else:
        answer = _hosted_detections(result) if work.form == "hosted" else _detections(result, work)
    return msgspec.json.encode(answer)


def write_file(
    given: Given, image: NDArray[np.uint8], categories: tuple[Category, ...], form: Form
) -> bytes:
    """Write what a client kept of an answer as a file.

    Args:
        given: from the client.
        image: the given one, (H, W, 3) uint8 RGB.
        categories: of the model that found it.
        form: one of `panodetr.serve.api.File`.

    Raises:
        UsageError: what is shown does not fit the image or the model.
    """
    shown = given.shown
    found = [*shown.segments, *shown.detections]
    unknown = {one.category_id for one in found} - {category.id for category in categories}
    if unknown:
        raise UsageError(f"the model has no category {min(unknown)}; name the model that found it")
    common: Any = {"image": image, "source": Path(shown.name), "categories": categories}
    if shown.runs is None:
        if shown.segments:
            raise UsageError("the segments come without runs; request them with masks=runs")
        detections = [
            Detection(
                label=one.label,
                category_id=one.category_id,
                score=one.score,
                box=one.box,
                id=one.id,
            )
            for one in shown.detections
        ]
        return _WRITERS[form](DetectionResult(detections=tuple(detections), **common))
    ids, lengths, pixels = shown.runs.ids, shown.runs.lengths, image.shape[0] * image.shape[1]
    if len(ids) != len(lengths) or sum(lengths) != pixels:
        raise UsageError(f"the runs do not cover the image; expected {pixels:,} pixels")
    segment_ids = np.repeat(np.array(ids, np.int32), lengths).reshape(image.shape[:2])
    segments = tuple(Segment(**_described(segment)) for segment in shown.segments)
    result = PanopticResult(segments=segments, segment_ids=segment_ids, **common)
    if not all(np.any(region.pixels) for region in result.regions()):
        raise UsageError("a segment has no pixel in its box; send segments unchanged")
    return _WRITERS[form](result)


def _segments(result: PanopticResult, work: Work) -> api.SegmentAnswer:
    ids, colors = result.segment_ids, colors_of(result.segments, result.categories)
    answer = api.SegmentAnswer(
        image=_size(result),
        model=work.model,
        task=work.task,
        segments=[
            api.SegmentInfo(**_described(segment), color=color)
            for segment, color in zip(result.segments, colors, strict=True)
        ],
    )
    if work.masks == "rle":
        size = ids.shape[0], ids.shape[1]
        for segment, region in zip(answer.segments, result.regions(), strict=True):
            counts = region.run_lengths(size) or []
            segment.segmentation = api.RunLengths(size=size, counts=counts)
    elif work.masks == "runs":
        starts = run_starts(ids)
        lengths = np.diff(starts, append=ids.size)
        answer.runs = api.Runs(ids=ids.ravel()[starts].tolist(), lengths=lengths.tolist())
    else:
        answer.id_map = _base64(id_map_png(ids))
    return answer


def _hosted_segments(result: PanopticResult) -> list[dict[str, Any]]:
    inside = np.array([0, 255], np.uint8)
    return [
        {**_described(one), "mask": _base64(_png(inside.take(result.segment_ids == one.id)))}
        for one in result.segments
    ]


def _detections(result: DetectionResult, work: Work) -> api.DetectAnswer:
    size = result.image.shape[0], result.image.shape[1]
    colors = colors_of(result.detections, result.categories)
    return api.DetectAnswer(
        image=_size(result),
        model=work.model,
        detections=[
            api.DetectionInfo(
                id=found.id,
                label=found.label,
                category_id=found.category_id,
                score=round(found.score, 6),
                box=found.box,
                color=color,
                segmentation=msgspec.UNSET
                if (runs := found.run_lengths()) is None
                else api.RunLengths(size=size, counts=runs),
            )
            for found, color in zip(result.detections, colors, strict=True)
        ],
    )


def _hosted_detections(result: DetectionResult) -> list[dict[str, Any]]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    return [
        {
            "label": found.label,
            "score": round(found.score, 6),
            "box": dict(zip(sides, map(round, found.box), strict=True)),
        }
        for found in result.detections
    ]


def _described(segment: Segment | api.SegmentInfo) -> dict[str, Any]:
    """Give what all answers say of a segment."""
    names = ("id", "label", "category_id", "is_thing", "area")
    own = {name: getattr(segment, name) for name in names}
    return {**own, "score": round(segment.score, 6), "box": tuple(map(round, segment.box))}


def _size(result: PanopticResult | DetectionResult) -> api.Size:
    height, width = result.image.shape[:2]
    return api.Size(width=width, height=height)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _base64(contents: bytes) -> str:
    return b64encode(contents).decode("ascii")


_WRITERS: dict[Form, Callable[[ImageResult], bytes]] = {
    "id_map": lambda result: id_map_png(label_map(result).astype(np.int32)),
    "labels": label_tiff,
    "coco": lambda result: msgspec.json.encode(result.to_coco()),
    "geojson": lambda result: msgspec.json.encode(result.to_geojson()),
    "csv": lambda result: to_csv(measure(result)).encode(),
}
