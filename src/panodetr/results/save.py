"""A result as files: overlay picture and JSON, and for segments a COCO id map."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from panodetr.files import atomic_write, json_bytes, write_bytes, write_json
from panodetr.results.coco import detection_info, id_map_png, result_info
from panodetr.results.draw import draw_detections, find_labels, paint_segments
from panodetr.results.labels import write_labels
from panodetr.results.types import DetectionResult, PanopticResult

LARGEST_PNG = 1_200_000
"""Overlays of more pixels are JPEGs: PNG takes ten times the time and seven times the space."""


@dataclass(frozen=True, kw_only=True)
class SavedFiles:
    """Where a result lies.

    Attributes:
        overlay: the image with its segments drawn in.
        id_map: RGB PNG, id = R + 256 G + 65536 B.
        json: what the ids stand for.
    """

    overlay: Path
    id_map: Path
    json: Path


@dataclass(frozen=True, kw_only=True)
class SavedDetections:
    """Where detected objects lie.

    Attributes:
        overlay: the image with boxes, and masks if there are any, drawn in.
        json: the objects.
    """

    overlay: Path
    json: Path


def save_result(result: PanopticResult, folder: str | Path) -> SavedFiles:
    """Write `NAME_overlay.png` (`.jpg` for a large image), `NAME_panoptic.png` and `NAME.json`.

    NAME is the image's own without its ending. Where that is taken by another image, or by any file
    that is not this image's earlier result, `-2`, `-3` and so on are tried: the JSON knows the
    image's absolute path, so a second run overwrites the first one's files and nobody else's. A
    result without a source is called `image` and overwrites nothing. Each file is written whole or
    not at all, the JSON last: where it lies the others do, too.

    Raises:
        PanodetrError: the system refused to write.
    """
    folder = Path(folder)
    name = _SEGMENTS.name_in(folder, result.source)
    id_map, json_file = folder / f"{name}_panoptic.png", folder / f"{name}.json"
    with ThreadPoolExecutor(1) as beside:  # painting and compressing leave a core to the rest
        labels = beside.submit(find_labels, result)
        written = beside.submit(lambda: write_bytes(id_map, id_map_png(result.segment_ids)))
        told = beside.submit(json_bytes, {**result_info(result), "file_name": id_map.name})
        picture = paint_segments(result)
        write_labels(picture, labels.result())
        overlay = _save_picture(picture, folder / f"{name}_overlay")
        written.result()
    write_bytes(json_file, told.result())
    return SavedFiles(overlay=overlay, id_map=id_map, json=json_file)


def save_detections(result: DetectionResult, folder: str | Path) -> SavedDetections:
    """Write `NAME_detections.png` (`.jpg` for a large image) and `NAME_detections.json`.

    Names are found as by `save_result`; the files of both lie beside each other.

    Raises:
        PanodetrError: the system refused to write.
    """
    folder = Path(folder)
    picture = Image.fromarray(draw_detections(result))
    name = _DETECTIONS.name_in(folder, result.source)
    json_file = folder / f"{name}_detections.json"
    overlay = _save_picture(picture, folder / f"{name}_detections")
    write_json(json_file, detection_info(result))
    return SavedDetections(overlay=overlay, json=json_file)


def _save_picture(picture: Image.Image, stem: Path) -> Path:
    """Write a picture as PNG, or as JPEG where it is large, and remove what it replaces."""
    png, jpeg = (stem.with_name(stem.name + suffix) for suffix in (".png", ".jpg"))
    large = picture.width * picture.height > LARGEST_PNG
    target, other = (jpeg, png) if large else (png, jpeg)
    with atomic_write(target) as path:
        if large:
            picture.save(path, "JPEG", quality=92, subsampling=0)  # thin coloured lines stay sharp
        else:
            picture.save(path, "PNG", compress_level=1)
    other.unlink(missing_ok=True)  # of an earlier run on an image of another size
    return target


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How the files of one kind of result are told from others.

    Attributes:
        json: the ending of the JSON.
        endings: of all files.
        key: that every JSON of this kind has.
    """

    json: str
    endings: tuple[str, ...]
    key: str

    def name_in(self, folder: Path, source: Path | None) -> str:
        """Find the first name that is free, or that holds an earlier result of the same source."""
        base = "image" if source is None else source.stem
        name, number = base, 1
        while not self._is_free(folder, name) and not self._is_of(folder, name, source):
            number += 1
            name = f"{base}-{number}"
        return name

    def _is_free(self, folder: Path, name: str) -> bool:
        return not any((folder / f"{name}{ending}").exists() for ending in self.endings)

    def _is_of(self, folder: Path, name: str, source: Path | None) -> bool:
        """Say whether there is the JSON of an earlier result of `source`."""
        if source is None:
            return False
        try:
            earlier = json.loads((folder / f"{name}{self.json}").read_text("utf-8"))
        except (OSError, ValueError):  # missing or not JSON: then it is not ours
            return False
        return (
            isinstance(earlier, dict)
            and self.key in earlier
            and earlier.get("source") == str(source.absolute())
        )


_SEGMENTS = _Kind(
    json=".json",
    endings=(".json", "_panoptic.png", "_overlay.png", "_overlay.jpg"),
    key="segments_info",
)
_DETECTIONS = _Kind(
    json="_detections.json",
    endings=("_detections.json", "_detections.png", "_detections.jpg"),
    key="detections",
)
