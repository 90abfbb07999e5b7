"""From results to the bytes of an answer."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from PIL import Image

from panodetr.results.id_map import id_map_png
from panodetr.results.masks import run_lengths
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
    from numpy.typing import NDArray

    from panodetr.results.result import DetectionResult
    from panodetr.serve.api import Work


def write_answer(result: PanopticResult | DetectionResult, work: Work) -> bytes:
    """Write a result in the form that the work asks for."""
    if work.form == "image/png":
        return _png(result.draw())
    if isinstance(result, PanopticResult):
        hosted = work.form == "hosted"
        return msgspec.json.encode(
            _hosted_segments(result) if hosted else _segment_answer(result, work)
        )
    hosted = work.form == "hosted"
    return msgspec.json.encode(
        _hosted_detections(result) if hosted else _detect_answer(result, work)
    )


def _segment_answer(result: PanopticResult, work: Work) -> SegmentAnswer:
    segments = [
        SegmentInfo(
            id=segment.id,
            label=segment.label,
            category_id=segment.category_id,
            is_thing=segment.is_thing,
            score=round(segment.score, 6),
            box=segment.box,
            area=segment.area,
            segmentation=_run_lengths(result.segment_ids == segment.id)
            if work.masks == "rle"
            else msgspec.UNSET,
        )
        for segment in result.segments
    ]
    id_map = _base64(id_map_png(result.segment_ids)) if work.masks == "png" else msgspec.UNSET
    return SegmentAnswer(
        image=_size(result), model=work.model, task=work.task, segments=segments, id_map=id_map
    )


def _detect_answer(result: DetectionResult, work: Work) -> DetectAnswer:
    detections = [
        DetectionInfo(
            id=number,
            label=found.label,
            category_id=found.category_id,
            score=round(found.score, 6),
            box=found.box,
            segmentation=None if (mask := found.mask) is None else _run_lengths(mask),
        )
        for number, found in enumerate(result.detections, start=1)
    ]
    return DetectAnswer(image=_size(result), model=work.model, detections=detections)


def _hosted_segments(result: PanopticResult) -> list[HostedSegment]:
    return [
        HostedSegment(
            label=segment.label,
            score=round(segment.score, 6),
            mask=_base64(_png(np.where(result.segment_ids == segment.id, 255, 0).astype(np.uint8))),
            id=segment.id,
            category_id=segment.category_id,
            is_thing=segment.is_thing,
            box=segment.box,
            area=segment.area,
        )
        for segment in result.segments
    ]


def _hosted_detections(result: DetectionResult) -> list[HostedDetection]:
    return [
        HostedDetection(
            label=found.label,
            score=round(found.score, 6),
            box=HostedBox(*(round(side) for side in found.box)),
        )
        for found in result.detections
    ]


def _size(result: PanopticResult | DetectionResult) -> Size:
    height, width = result.image.shape[:2]
    return Size(width=width, height=height)


def _run_lengths(mask: NDArray[np.bool_]) -> RunLengths:
    height, width = mask.shape
    return RunLengths(size=(height, width), counts=run_lengths(mask))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _base64(contents: bytes) -> str:
    return b64encode(contents).decode("ascii")
