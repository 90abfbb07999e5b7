"""Results in the formats of other programs: COCO, GeoJSON, label maps, ImageJ, Label Studio.

Each function makes one document or file of results; `panodetr.cli.formats` names the files.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import UsageError, import_extra
from panodetr.results.regions import Region, Result, Ring, measure_region
from panodetr.results.types import Category

MOST_IDS_16 = 65535
"""Ids that a 16-bit label map can hold; maps with higher ids have 32 bits."""

COLUMNS = (
    "image", "id", "class", "score", "area", "centroid_x", "centroid_y", "box_x0", "box_y0",
    "box_x1", "box_y1", "equivalent_diameter", "mean_red", "mean_green", "mean_blue",
)  # fmt: skip
"""Of a table of no objects."""


@dataclass
class _Coco:
    """Collects results of many images as one document of COCO's."""

    images: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    annotations: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    categories: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def document(self) -> dict[str, object]:
        """Give the whole: `images`, `annotations` and `categories`."""
        return dict(vars(self))

    def _add_image(self, result: Result, name: str | None) -> int:
        """List an image, and give its id."""
        number = len(self.images) + 1
        height, width = result.image.shape[:2]
        name = name or result.name or f"image-{number}"
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        return number


class CocoInstances(_Coco):
    """Collects results of many images as one COCO instances document."""

    def add(self, result: Result, *, name: str | None = None) -> None:
        """Add an image with its segments or objects; stuff is left out.

        Masks are compressed run lengths, as pycocotools writes them; `score` is kept beside.

        Args:
            result: of the image.
            name: of the image in the document; None takes the name of its file.
        """
        import hotcoco

        image_id = self._add_image(result, name)
        height, width = result.image.shape[:2]
        self.categories = [{"id": c.id, "name": c.name} for c in result.categories if c.is_thing]
        for region in result.regions():
            if not region.is_thing:
                continue
            x0, y0, x1, y1 = region.box
            entry: dict[str, object] = {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": region.category_id,
                "bbox": [round(side, 3) for side in (x0, y0, x1 - x0, y1 - y0)],
                "area": round((x1 - x0) * (y1 - y0), 3),
                "iscrowd": 0,
                "score": round(region.score, 6),
            }
            if region.pixels is not None:
                runs = {"size": [height, width], "counts": region.run_lengths((height, width))}
                encoded = hotcoco.mask.fr_py_objects(runs, height, width)
                entry["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}
                entry["area"] = int(region.pixels.sum())
            self.annotations.append(entry)


class CocoPanoptic(_Coco):
    """Collects panoptic results of many images as one COCO panoptic document."""

    def add(
        self, result: Result, found: dict[str, Any], id_map: str, *, name: str | None = None
    ) -> None:
        """Add an image.

        Args:
            result: of the image.
            found: its `to_dict`.
            id_map: the file name of its ids as a PNG.
            name: as for `CocoInstances.add`.
        """
        image_id = self._add_image(result, name)
        self.annotations.append(
            {"image_id": image_id, "file_name": id_map, "segments_info": found["segments_info"]}
        )
        self.categories = found["categories"]


def to_geojson(result: Result, *, pixel_size: float | None = None) -> dict[str, object]:
    """Give a result as a GeoJSON feature collection that QuPath imports.

    Things are detections, stuff is an annotation, in QuPath's words. Coordinates are pixels, y
    downwards, as QuPath counts; holes are kept. `measurements` has the score and the columns of
    `regions.measure_region` that are numbers.
    """
    regions = result.regions()
    features = [
        to_feature(r, result.image[r.window], result.categories, pixel_size) for r in regions
    ]
    return {"type": "FeatureCollection", "features": features}


def to_feature(
    region: Region,
    window: NDArray[np.uint8],
    categories: Sequence[Category],
    pixel_size: float | None = None,
) -> dict[str, object]:
    """Give one region of an image as a feature of GeoJSON; see `to_geojson`.

    Args:
        region: of the image.
        window: (h, w, 3) RGB, the image's part within `region.window`.
        categories: for the colour.
        pixel_size: as there.
    """
    color = next(list(c.color) for c in categories if c.id == region.category_id)
    measured = measure_region(region, window, "", pixel_size)
    areas = [[_closed(part.outer), *map(_closed, part.holes)] for part in region.outline()]
    one = len(areas) == 1
    return {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": {
            "type": "Polygon" if one else "MultiPolygon",
            "coordinates": areas[0] if one else areas,
        },
        "properties": {
            "objectType": "detection" if region.is_thing else "annotation",
            "name": str(region.id),
            "classification": {"name": region.label, "color": color},
            "measurements": {
                key: value
                for key, value in measured.items()
                if isinstance(value, int | float) and key != "id"
            },
        },
    }


def label_map(result: Result) -> NDArray[np.uint16] | NDArray[np.int32]:
    """Give each pixel (H, W) the id of its segment or object, 0 where there is none.

    Where detected objects overlap the one with the higher score is on top.

    Returns:
        uint16, or int32 where an id is above 65535.

    Raises:
        UsageError: detections have no masks.
    """
    ids = np.zeros(result.image.shape[:2], np.int32)
    for region in reversed(list(result.regions())):
        if region.pixels is None:
            raise UsageError("a label map needs masks; expected detections with masks")
        ids[region.window][region.pixels] = region.id
    return ids.astype(np.uint16) if ids.max(initial=0) <= MOST_IDS_16 else ids


def label_tiff(result: Result) -> bytes:
    """Write `label_map` as a compressed TIFF, which napari, Cellpose, StarDist and ImageJ read."""
    file = io.BytesIO()
    picture = Image.fromarray(label_map(result))
    picture.save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


def imagej_rois(result: Result) -> list[tuple[str, bytes]]:
    """Give ImageJ's ROIs by name: a polygon for each component of each segment or object.

    Names are `ID-CLASS`, with `-2`, `-3` … for further components. ImageJ's polygons have no holes.

    Raises:
        MissingExtra: the library roifile is not installed.
    """
    make = import_extra("roifile").ImagejRoi.frompoints
    found: list[tuple[str, bytes]] = []
    for region in result.regions():
        for number, part in enumerate(region.outline(), start=1):
            name = f"{region.id}-{region.label}{'' if number == 1 else f'-{number}'}"
            found.append((name, make(np.array(part.outer), name=name).tobytes()))
    return found


def to_csv(rows: Sequence[dict[str, object]]) -> str:
    """Write rows of `regions.measure_region` as a table with commas; without rows, the header.

    A column that some rows lack, such as a video's frame, is empty there.
    """
    file = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row) or COLUMNS
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
    )
    return file.getvalue()


def to_label_studio(result: Result, *, model: str, name: str | None = None) -> dict[str, object]:
    """Give a result as a Label Studio task with predictions, for its import.

    The labelling interface must have an image `image` and, with masks, brush labels `brush`, else
    rectangle labels `box`, named as the model's classes.
    """
    height, width = result.image.shape[:2]
    found: list[dict[str, Any]] = []
    for region in result.regions():
        mask = region.mask((height, width))
        kind = "rectanglelabels" if mask is None else "brushlabels"
        x0, y0, x1, y1 = region.box
        shape: dict[str, object] = (
            {
                "x": 100 * x0 / width,
                "y": 100 * y0 / height,
                "width": 100 * (x1 - x0) / width,
                "height": 100 * (y1 - y0) / height,
                "rotation": 0,
            }
            if mask is None
            else {"format": "rle", "rle": list(brush_rle(mask))}
        )
        found.append(
            {
                "id": str(region.id),
                "type": kind,
                "from_name": "box" if mask is None else "brush",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": round(region.score, 6),
                "value": {**shape, kind: [region.label]},
            }
        )
    scores = [entry["score"] for entry in found]
    prediction = {
        "model_version": model,
        "score": round(float(np.mean(scores)), 6) if scores else 0.0,
        "result": found,
    }
    return {"data": {"image": name or result.name}, "predictions": [prediction]}


def brush_rle(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask (H, W) as Label Studio's brush does: RGBA bytes, run lengths bit by bit.

    A header of 32 bits counts the bytes, 5 bits give the word's length less 1, four times 4 bits
    the lengths of run counts less 1. Then each run has a bit 1, two bits that choose the count's
    length, the count less 1, and the byte. All counts here have 16 bits.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(starts, append=flat.size)  # four channels a pixel
    values = np.where(flat[starts], 255, 0)
    longest = 1 << 16
    parts = -(-lengths // longest)
    counts = np.full(int(parts.sum()), longest)
    counts[np.cumsum(parts) - 1] = lengths - (parts - 1) * longest
    values = np.repeat(values, parts)
    head = [(4 * flat.size, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]
    bits = [np.array([(number >> s) & 1 for number, n in head for s in range(n - 1, -1, -1)])]
    runs = (((0b111 << 16) | (counts - 1)) << 8) | values  # 1, 11, 16 bits, 8 bits
    bits.append((runs[:, None] >> np.arange(26, -1, -1) & 1).ravel())
    return np.packbits(np.concatenate(bits).astype(np.uint8)).tobytes()


def to_supervision(result: Result) -> Any:
    """Give a result as supervision's `Detections`; without supervision as transformers has it.

    Returns:
        `supervision.Detections` with boxes, masks where there are any, scores, category ids, and
        `class_name` in `data`. Where supervision is not installed, the dictionary of tensors that
        its `Detections.from_transformers` takes: `boxes`, `scores`, `labels` and, with masks,
        `masks`.
    """
    found = list(result.regions())
    boxes = np.array([region.box for region in found], np.float32).reshape(-1, 4)
    scores = np.array([region.score for region in found], np.float32)
    ids = np.array([region.category_id for region in found], np.int64)
    masks = result.masks
    with_masks = len(masks) == len(found)
    try:
        from supervision import Detections
    except ImportError:
        import torch

        values: dict[str, NDArray[Any]] = {"boxes": boxes, "scores": scores, "labels": ids}
        if with_masks:
            values["masks"] = masks[:, None]  # N, 1, H, W
        return {key: torch.from_numpy(value) for key, value in values.items()}
    return Detections(
        xyxy=boxes,
        mask=masks if with_masks else None,
        confidence=scores,
        class_id=ids,
        data={"class_name": np.array([region.label for region in found], object)},
    )


def _closed(ring: Ring) -> list[list[int]]:
    """Repeat the first point at the end, as GeoJSON closes rings."""
    return [[x, y] for x, y in [*ring, ring[0]]]
