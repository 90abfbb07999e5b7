"""From results to the bytes of an answer."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from PIL import Image

from panodetr.results.id_map import id_map_png
from panodetr.results.interchange import label_tiff, to_csv, to_geojson
from panodetr.results.masks import run_lengths
from panodetr.results.regions import measure
from panodetr.results.result import PanopticResult
from panodetr.serve.api import (
    DetectAnswer,
    DetectionInfo,
    HostedBox,
    HostedDetection,
    HostedSegment,
    RunLengths,
    SegmentAnswer,
    SegmentInfo,
    Size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from panodetr.results.result import DetectionResult
    from panodetr.results.types import Segment
    from panodetr.serve.api import Form, Work


def write_answer(result: PanopticResult | DetectionResult, work: Work) -> bytes:
    """Write a result in the form that the work asks for.

    Raises:
        UsageError: there is no such file of detections without masks.
    """
    if work.form in FILES:
        return FILES[work.form](result)
    if isinstance(result, PanopticResult):
        write = _hosted_segments if work.form == "hosted" else _segments
        return msgspec.json.encode(write(result, work))
    write = _hosted_detections if work.form == "hosted" else _detections
    return msgspec.json.encode(write(result, work))


def _segments(result: PanopticResult, work: Work) -> SegmentAnswer:
    answer = SegmentAnswer(
        image=_size(result),
        model=work.model,
        task=work.task,
        segments=[SegmentInfo(**_described(segment)) for segment in result.segments],
    )
    if work.masks == "rle":
        for segment in answer.segments:
            segment.segmentation = _run_lengths(result.segment_ids == segment.id)
    else:
        answer.id_map = _base64(id_map_png(result.segment_ids))
    return answer


def _hosted_segments(result: PanopticResult, _: Work) -> list[HostedSegment]:
    inside = np.array([0, 255], np.uint8)
    return [
        HostedSegment(
            **_described(segment),
            mask=_base64(_png(inside.take(result.segment_ids == segment.id))),
        )
        for segment in result.segments
    ]


def _detections(result: DetectionResult, work: Work) -> DetectAnswer:
    return DetectAnswer(
        image=_size(result),
        model=work.model,
        detections=[
            DetectionInfo(
                id=number,
                label=found.label,
                category_id=found.category_id,
                score=round(found.score, 6),
                box=found.box,
                segmentation=None if (mask := found.mask) is None else _run_lengths(mask),
            )
            for number, found in enumerate(result.detections, start=1)
        ],
    )


def _hosted_detections(result: DetectionResult, _: Work) -> list[HostedDetection]:
    return [
        HostedDetection(found.label, round(found.score, 6), HostedBox(*map(round, found.box)))
        for found in result.detections
    ]


def _described(segment: Segment) -> dict[str, Any]:
    """Give what all answers say of a segment."""
    names = ("id", "label", "category_id", "is_thing", "box", "area")
    own = {name: getattr(segment, name) for name in names}
    return {**own, "score": round(segment.score, 6)}


def _size(result: PanopticResult | DetectionResult) -> Size:
    height, width = result.image.shape[:2]
    return Size(width=width, height=height)


def _run_lengths(mask: NDArray[np.bool_]) -> RunLengths:
    height, width = mask.shape
    return RunLengths(size=(height, width), counts=run_lengths(mask))


def _overlay(result: PanopticResult | DetectionResult) -> bytes:
    return _png(result.draw())


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _base64(contents: bytes) -> str:
    return b64encode(contents).decode("ascii")


FILES: dict[Form, Callable[[PanopticResult | DetectionResult], bytes]] = {
    "image/png": _overlay,
    "image/tiff": label_tiff,
    "application/geo+json": lambda result: msgspec.json.encode(to_geojson(result)),
    "text/csv": lambda result: to_csv(measure(result)).encode(),
}
"""What writes a result as a file: the overlay, a label map, outlines, a table."""
