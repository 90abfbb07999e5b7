"""What is wrong with YOLO's files, and with folders of id maps, all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.data.idfolder import MAP_SUFFIXES, MaskImage, class_folder, list_pairs
from panodetr.data.instances import InstanceImage
from panodetr.data.layout import number_images
from panodetr.data.yolo import (
    find_yolo,
    label_file,
    label_lines,
    list_images,
    parse_label,
    read_yolo_file,
    to_object,
    unknown_class,
)
from panodetr.errors import ImageError
from panodetr.images.read import read_size

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.data.findings import Inspection, Progress

UNKNOWN = (0, 0)
"""The size of an image that cannot be read."""


def check_yolo(found: Inspection, folder: Path, split: str, progress: Progress) -> None:
    """Check a split of a YOLO data set.

    Raises:
        DataError: `data.yaml` cannot be read, or there is no such split or no image in it.
    """
    path = find_yolo(folder)
    assert path is not None
    file = read_yolo_file(path)
    paths = list_images(file, split)
    found.images = len(paths)
    found.objects.update(dict.fromkeys(file.names.values(), 0))
    boxes: list[str] = []
    for done, (image_id, path) in enumerate(zip(number_images(paths), paths, strict=True), start=1):
        image = InstanceImage(
            image_id=image_id, path=path, size=_size(found, path, image_id), objects=()
        )
        with found.catching("broken file"):
            boxes += _labels(found, image, file.names)
        progress(done, len(paths))
    if len(boxes) < found.objects.total():
        for place in boxes:
            found.error(
                "missing mask",
                f"{place} is a box, others are polygons; masks are trained where every object "
                "has one",
            )
    _stray_labels(found, paths)


def check_id_folder(found: Inspection, folder: Path, split: str, progress: Progress) -> None:
    """Check a split of a folder of id maps.

    Raises:
        DataError: there is no image, or there are several classes.
    """
    masks, name = class_folder(folder, split)
    pairs = list_pairs(folder, split)
    found.images = len(pairs)
    numbers: list[int] = []
    for done, (image_id, (path, id_map)) in enumerate(
        zip(number_images([path for path, _ in pairs]), pairs, strict=True), start=1
    ):
        size = _size(found, path, image_id)
        if not id_map.is_file():
            found.error("missing file", f"{id_map} is missing; it is the id map of {path}")
        elif size != UNKNOWN:
            with found.catching("broken file"):
                image = MaskImage(image_id=image_id, path=path, id_map=id_map, size=size)
                ids = image.read_ids()[1].tolist()
                numbers += ids
                found.objects[name or "object"] += len(ids)
                if not ids:
                    found.note("empty image", f"{path} (image {image_id}) has no object")
        progress(done, len(pairs))
    if len(pairs) > 1 and len(set(numbers)) == 1:
        found.note(
            "single id",
            f"{masks} has the id {numbers[0]} alone; is that a mask of all objects together? "
            "expected a number for each",
        )
    known = {id_map for _, id_map in pairs}
    for path in sorted(masks.iterdir()):
        if path.suffix.lower() in MAP_SUFFIXES and path not in known:
            found.error(
                "missing file", f"{path} has no image of its name in {folder / split}/images"
            )


def _labels(found: Inspection, image: InstanceImage, names: dict[int, str]) -> list[str]:
    """Check an image's labels; the places of those that are boxes.

    Raises:
        DataError: the file is no text.
    """
    path, boxes = label_file(image.path), list[str]()
    seen: dict[str, int] = {}
    for line, text in label_lines(path):
        place = f"{path}:{line}"
        if text.strip() in seen:
            found.error("duplicate id", f"{place} repeats line {seen[text.strip()]}")
        seen[text.strip()] = line
        with found.catching("broken entry"):
            label = parse_label(text, place)
            if label.class_number in names:
                found.objects[names[label.class_number]] += 1
                boxes += [place] if len(label.numbers) == 4 else []
            else:
                found.error("unknown category", unknown_class(label, place))
            if image.size != UNKNOWN:
                bbox = to_object(label, line, image.image_id, image.size)["bbox"]
                found.box(bbox, image.size, place)
    if not seen:
        found.note("empty image", f"{image.path} (image {image.image_id}) has no object in {path}")
    return boxes


def _size(found: Inspection, path: Path, image_id: int) -> tuple[int, int]:
    """Read an image whose size no file gives; its height and width, or `UNKNOWN`."""
    try:
        size = read_size(path)
    except ImageError as error:
        kind = "broken file" if path.exists() else "missing file"
        found.error(kind, f"{error} (image {image_id})")
        return UNKNOWN
    found.image(InstanceImage(image_id=image_id, path=path, size=size, objects=()))
    return size


def _stray_labels(found: Inspection, paths: list[Path]) -> None:
    """Note label files, beside those of the images, whose image isn't there."""
    labels = {label_file(path) for path in paths}
    lists = {path.parent / "classes.txt" for path in labels}
    for folder in sorted({label.parent for label in labels}):
        for path in sorted(folder.glob("*.txt")):
            if path not in labels | lists:
                found.error(
                    "missing file", f"{path} has labels for an image that isn't in the split"
                )
