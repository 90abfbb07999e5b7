"""A result as files: overlay picture, COCO id map, and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from panodetr.files import write_bytes, write_json, written_whole
from panodetr.results.coco import id_map_png, result_info
from panodetr.results.draw import draw_overlay
from panodetr.results.types import PanopticResult

LARGEST_PNG = 1_200_000
"""Overlays of more pixels are JPEGs: PNG takes ten times the time and seven times the space."""


@dataclass(frozen=True, kw_only=True)
class SavedFiles:
    """Where a result lies.

    Attributes:
        overlay: the photo with its segments drawn in.
        id_map: RGB PNG, id = R + 256 G + 65536 B.
        json: what the ids stand for.
    """

    overlay: Path
    id_map: Path
    json: Path


def save_result(result: PanopticResult, folder: str | Path) -> SavedFiles:
    """Write `NAME_overlay.png` (`.jpg` for a large photo), `NAME_panoptic.png` and `NAME.json`.

    NAME is the photo's own without its ending. Where that is taken by another photo, or by any file
    that is not this photo's earlier result, `-2`, `-3` and so on are tried: the JSON knows the
    photo's absolute path, so a second run overwrites the first one's files and nobody else's. A
    result without a source is called `photo` and overwrites nothing. Each file is written whole or
    not at all, the JSON last: where it lies the others do, too.

    Raises:
        PanodetrError: the system refused to write.
    """
    folder = Path(folder)
    picture = Image.fromarray(draw_overlay(result))
    large = picture.width * picture.height > LARGEST_PNG
    name = _name_in(folder, result.source)
    overlays = {
        large: folder / f"{name}_overlay{_OVERLAY_SUFFIX[large]}" for large in (False, True)
    }
    files = SavedFiles(
        overlay=overlays[large],
        id_map=folder / f"{name}_panoptic.png",
        json=folder / f"{name}.json",
    )
    write_bytes(files.id_map, id_map_png(result.segment_ids))
    with written_whole(files.overlay) as path:
        if large:
            picture.save(path, "JPEG", quality=92, subsampling=0)  # thin coloured lines stay sharp
        else:
            picture.save(path, "PNG", compress_level=1)
    overlays[not large].unlink(missing_ok=True)  # of an earlier run on a photo of another size
    write_json(files.json, {**result_info(result), "file_name": files.id_map.name})
    return files


_OVERLAY_SUFFIX = {False: ".png", True: ".jpg"}
_ENDINGS = (".json", "_panoptic.png", "_overlay.png", "_overlay.jpg")


def _name_in(folder: Path, source: Path | None) -> str:
    """Find the first name that is free, or that holds an earlier result of the same source."""
    base = "photo" if source is None else source.stem
    name, number = base, 1
    while not _is_free(folder, name) and not _is_of(folder / f"{name}.json", source):
        number += 1
        name = f"{base}-{number}"
    return name


def _is_free(folder: Path, name: str) -> bool:
    return not any((folder / f"{name}{ending}").exists() for ending in _ENDINGS)


def _is_of(path: Path, source: Path | None) -> bool:
    """Say whether `path` is the JSON of an earlier result of `source`."""
    if source is None:
        return False
    try:
        earlier = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # missing or not JSON: then it is not ours
        return False
    return (
        isinstance(earlier, dict)
        and "segments_info" in earlier
        and earlier.get("source") == str(source.absolute())
    )
