"""COCO's panoptic format: a PNG whose colours are segment ids, and a list of what they are."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import DataError
from panodetr.results.masks import run_lengths
from panodetr.results.types import Category, Detection, DetectionResult, PanopticResult, Segment


class SegmentInfo(TypedDict):
    """One entry of `segments_info`; `bbox` is x, y, width, height in pixels."""

    id: int
    category_id: int
    label: str
    isthing: int
    score: float
    bbox: list[float]
    area: int
    iscrowd: int


class CategoryInfo(TypedDict):
    """One entry of `categories`."""

    id: int
    name: str
    isthing: int
    color: list[int]


class ResultInfo(TypedDict):
    """A panoptic result without its pixels, ready for JSON."""

    image: str | None
    source: str | None
    height: int
    width: int
    segments_info: list[SegmentInfo]
    categories: list[CategoryInfo]


class MaskInfo(TypedDict):
    """A mask as COCO's uncompressed run lengths; `size` is height, width."""

    size: list[int]
    counts: list[int]


class ObjectInfo(TypedDict):
    """One object; `bbox` is x, y, width, height in pixels, `segmentation` None without masks."""

    category_id: int
    label: str
    score: float
    bbox: list[float]
    segmentation: MaskInfo | None


class DetectionInfo(TypedDict):
    """The objects of an image, ready for JSON."""

    image: str | None
    source: str | None
    height: int
    width: int
    detections: list[ObjectInfo]
    categories: list[CategoryInfo]


def result_info(result: PanopticResult) -> ResultInfo:
    """Describe a result as COCO does; `image` and `source` are None where it came from no file."""
    height, width = result.segment_ids.shape
    image, source = _origin(result.source)
    return {
        "image": image,
        "source": source,
        "height": height,
        "width": width,
        "segments_info": [_segment_info(segment) for segment in result.segments],
        "categories": [_category_info(category) for category in result.categories],
    }


def detection_info(result: DetectionResult) -> DetectionInfo:
    """Describe objects as COCO does; `image` and `source` are None where they came from no file."""
    height, width = result.image.shape[:2]
    image, source = _origin(result.source)
    return {
        "image": image,
        "source": source,
        "height": height,
        "width": width,
        "detections": [_object_info(detection) for detection in result.detections],
        "categories": [_category_info(category) for category in result.categories],
    }


def encode_ids(segment_ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn ids (H, W), 0 to 2^24 - 1, into colours (H, W, 3): id = R + 256 G + 65536 B."""
    # The low bytes of little-endian numbers are these colours already: a view.
    return np.ascontiguousarray(segment_ids, "<i4")[..., None].view(np.uint8)[..., :3]


def decode_ids(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn colours (H, W, 3) back into ids (H, W)."""
    ids = colors[..., 2].astype(np.int32)  # in place from here: one map is held, not several
    for channel in (1, 0):
        ids <<= 8
        ids |= colors[..., channel]
    return ids


def id_map_png(segment_ids: NDArray[np.int32]) -> bytes:
    """Write ids (H, W), 0 to 2^24 - 1, as an RGB PNG.

    Not by Pillow, which tries five filters on every row: in a map of segments most rows equal those
    above them, so one filter serves all, "up", and it takes a quarter of the time. What is left is
    mostly zeros, and looking for no more than runs packs a model's segments tighter; a map that
    repeats a pattern gets larger.
    """
    height, width = segment_ids.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with the filter's number
    colors = rows[:, 1:].reshape(height, width, 3)
    encoded, highest = encode_ids(segment_ids), int(segment_ids.max(initial=0))
    for channel in range(3):
        if highest >> (8 * channel):  # else it stays black
            plane = np.ascontiguousarray(encoded[..., channel])
            colors[0, :, channel] = plane[0]
            np.subtract(plane[1:], plane[:-1], out=colors[1:, :, channel])
    rows[:, 0] = 2
    runs = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    packed = runs.compress(rows.data) + runs.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def read_id_map(path: Path) -> NDArray[np.int32]:
    """Read the ids (H, W) of a panoptic PNG.

    Raises:
        DataError: the file is missing, broken, or no RGB image.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            colors = np.asarray(image)
    except Exception as error:  # a broken file makes the decoder raise whatever it stumbles over
        raise DataError(f"{path}: cannot be read as an id map; expected an RGB PNG") from error
    if colors.ndim != 3 or colors.shape[2] != 3:
        raise DataError(f"{path}: expected an RGB PNG as id map, found mode {image.mode}")
    return decode_ids(colors)


def _origin(source: Path | None) -> tuple[str | None, str | None]:
    """Give an image's name and its absolute path."""
    return (None, None) if source is None else (source.name, str(source.absolute()))


def _object_info(detection: Detection) -> ObjectInfo:
    x0, y0, x1, y1 = detection.box
    mask = detection.mask
    return {
        "category_id": detection.category_id,
        "label": detection.label,
        "score": round(detection.score, 6),
        "bbox": [round(side, 3) for side in (x0, y0, x1 - x0, y1 - y0)],
        "segmentation": None
        if mask is None
        else {"size": list(mask.shape), "counts": run_lengths(mask)},
    }


def _segment_info(segment: Segment) -> SegmentInfo:
    x0, y0, x1, y1 = segment.box
    return {
        "id": segment.id,
        "category_id": segment.category_id,
        "label": segment.label,
        "isthing": int(segment.is_thing),
        "score": round(segment.score, 6),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": segment.area,
        "iscrowd": 0,
    }


def _category_info(category: Category) -> CategoryInfo:
    return {
        "id": category.id,
        "name": category.name,
        "isthing": int(category.is_thing),
        "color": list(category.color),
    }
