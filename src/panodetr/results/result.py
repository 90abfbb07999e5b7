"""What a model found in one image: as data, as an overlay, as JSON and as files."""

from __future__ import annotations

import io
import json
import math
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import import_extra
from panodetr.files import write_bytes, write_json, write_picture
from panodetr.results import interchange
from panodetr.results.draw import draw_objects, draw_segments
from panodetr.results.id_map import id_map_png
from panodetr.results.regions import Region, Result, crop, measure, window_of
from panodetr.results.types import Candidates, Category, Detection, Segment

if TYPE_CHECKING:
    from pandas import DataFrame

LARGEST_PNG = 1_200_000
"""Overlays of more pixels are JPEGs: PNG takes ten times the time and seven times the space."""

_JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")

_PANOPTIC_FILES = (".json", "_panoptic.png", "_overlay.png", "_overlay.jpg")
_DETECTION_FILES = ("_detections.json", "_detections.png", "_detections.jpg")

NOTEBOOK_SIDE = 1024
"""Pixels of the longer side of an overlay in a notebook, at most."""

_CLASSES = 4  # that a repr names


@dataclass(frozen=True, kw_only=True)
class SavedFiles:
    """Where a panoptic result is.

    Attributes:
        overlay: the image with its segments drawn on it.
        id_map: RGB PNG, id = R + 256 G + 65536 B.
        json: what the ids stand for.
    """

    overlay: Path
    id_map: Path
    json: Path


@dataclass(frozen=True, kw_only=True)
class SavedDetections:
    """Where detected objects are.

    Attributes:
        overlay: the image with boxes, and masks if there are any, drawn on it.
        json: the objects.
    """

    overlay: Path
    json: Path


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageResult(Result):
    """What a model found in one image, and the forms that it can be given and kept in."""

    @abstractmethod
    def draw(self, *, scores: bool = True) -> NDArray[np.uint8]:
        """Draw what was found over the image: (k H, k W, 3) uint8 RGB, with k from 1 to 4."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Describe what was found, ready for JSON."""

    @abstractmethod
    def save(self, folder: str | Path) -> SavedFiles | SavedDetections:
        """Write an overlay, a JSON and, of segments, an id map into a folder."""

    def crops(self) -> list[NDArray[np.uint8]]:
        """Cut each region out: (h, w, 4) uint8 RGB and alpha, which is 0 beside its pixels."""
        return [pixels for _, pixels in crop(self)]

    def to_coco(self) -> dict[str, object]:
        """Give the things as a COCO instances document; `interchange.CocoInstances` joins many."""
        coco = interchange.CocoInstances()
        coco.add(self)
        return coco.document()

    def to_geojson(self, *, pixel_size: float | None = None) -> dict[str, object]:
        """Give a GeoJSON feature collection, as `interchange.to_geojson` does."""
        return interchange.to_geojson(self, pixel_size=pixel_size)

    def to_pandas(self, *, pixel_size: float | None = None) -> DataFrame:
        """Give a table with a row for each region; `regions.measure_region` lists the columns.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return import_extra("pandas").DataFrame(measure(self, pixel_size=pixel_size))

    def to_supervision(self) -> Any:
        """Give supervision's `Detections`, as `interchange.to_supervision` does."""
        return interchange.to_supervision(self)

    def show(self) -> None:
        """Show the overlay in the system's viewer of images."""
        Image.fromarray(self.draw()).show()

    def _repr_png_(self) -> bytes:
        """Give the overlay as a PNG, which Jupyter shows: 1,024 pixels wide or high at most."""
        picture = Image.fromarray(self.draw())
        picture.thumbnail((NOTEBOOK_SIDE, NOTEBOOK_SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PanopticResult(ImageResult):
    """The segments of one image; the rest is as in `ImageResult`.

    Attributes:
        segments: in the order of their ids.
        segment_ids: (H, W) int32 at the image's own size; 0 = nothing.
    """

    segments: tuple[Segment, ...]
    segment_ids: NDArray[np.int32]

    def __post_init__(self) -> None:
        own = tuple(replace(segment, segment_ids=self.segment_ids) for segment in self.segments)
        object.__setattr__(self, "segments", own)

    def __repr__(self) -> str:
        return f"PanopticResult({_summary('segment', self.segments, self)})"

    def regions(self) -> Iterator[Region]:
        """Give the segments in the order of their ids; see `ImageResult.regions`."""
        for segment in self.segments:
            x0, y0, x1, y1 = (int(edge) for edge in segment.box)
            window = slice(y0, y1), slice(x0, x1)
            pixels = self.segment_ids[window] == segment.id
            yield _region(segment, segment.is_thing, window, pixels)

    def category_ids(self) -> NDArray[np.int32]:
        """Give each pixel (H, W) its category's id, -1 where nothing was found."""
        of_segment = np.full(max((s.id for s in self.segments), default=0) + 1, -1, np.int32)
        for segment in self.segments:
            of_segment[segment.id] = segment.category_id
        return of_segment.take(self.segment_ids)

    def draw(self, *, scores: bool = True) -> NDArray[np.uint8]:
        """Draw the segments over the image, with outlines and labels.

        A label has the segment's id, its class and its score; where there is no room, the id.

        Args:
            scores: False leaves ids and scores out, as for ground truth.

        Returns:
            (k H, k W, 3) uint8 RGB; k is 1, or 2 to 4 for images far smaller than 768 pixels.
        """
        found = self.segments, self.categories
        picture = draw_segments(self.image, self.segment_ids, *found, scores=scores)
        return np.asarray(picture)

    def to_dict(self) -> dict[str, Any]:
        """Describe the segments, ready for JSON.

        Returns:
            `image` and `source`, the file's name and absolute path or None; `height`, `width`;
            `segments_info`, as COCO has it, with `label` and `score`, and `track` in a video;
            `categories`, as COCO has it.
            Each `bbox` is x, y, width, height in pixels.
        """
        found = {
            "segments_info": [
                {
                    "id": segment.id,
                    "category_id": segment.category_id,
                    "label": segment.label,
                    "isthing": int(segment.is_thing),
                    "score": round(segment.score, 6),
                    "bbox": _bbox(segment.box),
                    "area": segment.area,
                    "iscrowd": 0,
                    **_track(segment),
                }
                for segment in self.segments
            ],
        }
        return _with_image(found, self)

    def save(self, folder: str | Path) -> SavedFiles:
        """Write `NAME_overlay.png`, `NAME_panoptic.png` and `NAME.json`.

        The overlay of a JPEG, or of a large image, is a `.jpg`.

        NAME is the image's own without its suffix. If another image's result has that name, or any
        file that is not an earlier result of this image, `-2`, `-3` and so on are tried. The JSON
        holds the image's absolute path, so a second run overwrites the first one's files and no
        others. A result without a source is named `image` and overwrites nothing. Each write is
        atomic. The JSON comes last: where it is, the other files are, too.

        Raises:
            PanodetrError: the system refused to write.
        """
        folder = Path(folder)
        name = free_name(folder, self.source, _PANOPTIC_FILES, "segments_info")
        id_map, json_file = folder / f"{name}_panoptic.png", folder / f"{name}.json"
        with ThreadPoolExecutor(1) as beside:  # drawing leaves a core free
            written = beside.submit(lambda: write_bytes(id_map, id_map_png(self.segment_ids)))
            overlay = _save_picture(self, folder / f"{name}_overlay")
            written.result()
        write_json(json_file, {**self.to_dict(), "file_name": id_map.name})
        return SavedFiles(overlay=overlay, id_map=id_map, json=json_file)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DetectionResult(ImageResult):
    """The objects of one image; the rest is as in `ImageResult`.

    Attributes:
        detections: the best score first.
    """

    detections: tuple[Detection, ...]

    def __post_init__(self) -> None:
        numbered = enumerate(self.detections, start=1)
        own = tuple(one if one.id else replace(one, id=number) for number, one in numbered)
        object.__setattr__(self, "detections", own)

    def regions(self) -> Iterator[Region]:
        """Give the objects, the best score first; see `ImageResult.regions`."""
        things = {category.id: category.is_thing for category in self.categories}
        for found in self.detections:
            pixels = found.tile_mask
            window = _inside(found.box, self.image) if pixels is None else window_of(pixels)
            if window is None:
                continue
            own = None if pixels is None else pixels[window]
            if found.coarse_mask is not None:
                top, left, _, _ = found.coarse_mask.tile
                rows, columns = window
                window = (
                    slice(rows.start + top, rows.stop + top),
                    slice(columns.start + left, columns.stop + left),
                )
            yield _region(found, things[found.category_id], window, own)

    def __repr__(self) -> str:
        return f"DetectionResult({_summary('object', self.detections, self)})"

    def draw(self, *, scores: bool = True) -> NDArray[np.uint8]:
        """Draw boxes with their labels over the image, and masks where there are any.

        Size, labels and `scores` are as in `PanopticResult.draw`; a label's id is the JSON's: the
        place among `detections`, from 1.

        Returns:
            (k H, k W, 3) uint8 RGB.
        """
        picture = draw_objects(self.image, self.detections, self.categories, scores=scores)
        return np.asarray(picture)

    def to_dict(self) -> dict[str, Any]:
        """Describe the objects, ready for JSON.

        Returns:
            As `PanopticResult.to_dict`, with `detections` in place of `segments_info`: each has
            `id`, from 1, `category_id`, `label`, `score`, `bbox`, and `segmentation`, the mask's
            `size` and COCO's uncompressed run lengths `counts`, or None without masks.
        """
        found = {
            "detections": [
                {
                    "id": detection.id,
                    "category_id": detection.category_id,
                    "label": detection.label,
                    "score": round(detection.score, 6),
                    "bbox": [round(side, 3) for side in _bbox(detection.box)],
                    "segmentation": None
                    if (mask := detection.coarse_mask) is None
                    else {"size": list(mask.image_size), "counts": detection.run_lengths()},
                    **_track(detection),
                }
                for detection in self.detections
            ],
        }
        return _with_image(found, self)

    def save(self, folder: str | Path) -> SavedDetections:
        """Write `NAME_detections.png` and `NAME_detections.json`.

        The overlay of a JPEG, or of a large image, is a `.jpg`.

        Names are found as by `PanopticResult.save`; both results may lie in one folder.

        Raises:
            PanodetrError: the system refused to write.
        """
        folder = Path(folder)
        name = free_name(folder, self.source, _DETECTION_FILES, "detections")
        json_file = folder / f"{name}_detections.json"
        overlay = _save_picture(self, folder / f"{name}_detections")
        write_json(json_file, self.to_dict())
        return SavedDetections(overlay=overlay, json=json_file)


def name_detections(found: Candidates, categories: Sequence[Category]) -> tuple[Detection, ...]:
    """Name what was found, the best score first."""
    labels = {category.id: category.name for category in categories}
    detections: list[Detection] = []
    for index in np.argsort(-found.scores, kind="stable"):
        x0, y0, x1, y1 = found.boxes[index].tolist()
        category_id = int(found.category_ids[index])
        detections.append(
            Detection(
                label=labels[category_id],
                category_id=category_id,
                score=float(found.scores[index]),
                box=(x0, y0, x1, y1),
                coarse_mask=found.coarse_masks[index] if found.coarse_masks else None,
            )
        )
    return tuple(detections)


def _region(
    found: Segment | Detection,
    is_thing: bool,
    window: tuple[slice, slice],
    pixels: NDArray[np.bool_] | None,
) -> Region:
    return Region(
        id=found.id,
        label=found.label,
        category_id=found.category_id,
        is_thing=is_thing,
        score=found.score,
        box=found.box,
        window=window,
        pixels=pixels,
        track=found.track,
    )


def _summary(what: str, found: Sequence[Segment | Detection], result: ImageResult) -> str:
    """Say how many there are, of which classes, and in which image."""
    labels = [one.label for one in found]
    counted = Counter(labels).most_common()
    classes = [f"{count} {label}" for label, count in counted[:_CLASSES]]
    if len(counted) > _CLASSES:
        classes.append("…")
    many = f"{len(labels)} {what}{'' if len(labels) == 1 else 's'}"
    of = f": {', '.join(classes)}" if classes else ""
    name = f"{result.name}, " if result.name else ""
    return f"{many}{of}; {name}{result.image.shape[1]}x{result.image.shape[0]} pixels"


def _with_image(found: dict[str, Any], result: PanopticResult | DetectionResult) -> dict[str, Any]:
    """Add the image and the categories to what was found, in the order of the JSON."""
    source = result.source
    return {
        "image": result.name or None,
        "source": None if source is None else origin(source),
        "height": result.image.shape[0],
        "width": result.image.shape[1],
        **found,
        "categories": [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
            for c in result.categories
        ],
    }


def _track(one: Segment | Detection) -> dict[str, int]:
    """Give the track's number, in a video."""
    return {} if one.track is None else {"track": one.track}


def _inside(
    box: tuple[float, float, float, float], image: NDArray[np.uint8]
) -> tuple[slice, slice] | None:
    """Give the rows and columns of an image that a box touches; None where it lies outside."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    rows = slice(max(math.floor(y0), 0), min(math.ceil(y1), height))
    columns = slice(max(math.floor(x0), 0), min(math.ceil(x1), width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _bbox(box: tuple[float, float, float, float]) -> list[float]:
    """Turn x0, y0, x1, y1 into COCO's x, y, width, height."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def _save_picture(result: ImageResult, stem: Path) -> Path:
    """Write the overlay as PNG, or as JPEG where it is large or its image is one.

    The one that it replaces is removed.
    """
    picture = Image.fromarray(result.draw())
    png, jpeg = (stem.with_name(stem.name + suffix) for suffix in (".png", ".jpg"))
    lossy = result.source is not None and PurePath(result.source).suffix.lower() in _JPEGS
    lossy = lossy or picture.width * picture.height > LARGEST_PNG
    target, other = (jpeg, png) if lossy else (png, jpeg)
    # subsampling 0: thin coloured lines stay sharp in a JPEG
    options: Any = {"quality": 92, "subsampling": 0} if lossy else {"compress_level": 1}
    # It can be drawn again from the other files, which are flushed to the disk.
    write_picture(target, picture, flush=False, **options)
    other.unlink(missing_ok=True)  # of an earlier run on an image of another size
    return target


def origin(source: Path | str) -> str:
    """Write where an image came from: an absolute path, or the name that it has elsewhere."""
    return source if isinstance(source, str) else str(source.absolute())


def free_name(folder: Path, source: Path | str | None, endings: Sequence[str], key: str) -> str:
    """Find the first name that is free, or that has an earlier result of the same source.

    `endings` are those of all files of a result, the JSON's first; `key` is in every such JSON.
    """
    base = "image" if source is None else PurePath(source).stem
    name, number = base, 1
    while any(os.path.exists(folder / f"{name}{ending}") for ending in endings):  # or too long
        if source is not None and _is_of(folder / f"{name}{endings[0]}", source, key):
            break
        number += 1
        name = f"{base}-{number}"
    return name


def is_saved(folder: Path, source: Path | str, kind: type[ImageResult]) -> bool:
    """Whether a folder has the files of an image's result, of segments or of detections."""
    panoptic = issubclass(kind, PanopticResult)
    endings = _PANOPTIC_FILES if panoptic else _DETECTION_FILES
    name = free_name(folder, source, endings, "segments_info" if panoptic else "detections")
    return os.path.exists(folder / f"{name}{endings[0]}")


def _is_of(file: Path, source: Path | str, key: str) -> bool:
    """Whether a file is the JSON of an earlier result of `source`."""
    try:
        text = file.read_text("utf-8")
        earlier = json.loads(text.partition("\n")[0] if file.suffix == ".jsonl" else text)
    except (OSError, ValueError):  # missing or not JSON: another file
        return False
    named = isinstance(earlier, dict) and key in earlier
    return named and earlier.get("source") == origin(source)
