"""What is wrong with YOLO's files, and with folders of id maps, all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.data.idfolder import MAP_SUFFIXES, MaskImage, class_folder, list_pairs
from panodetr.data.instances import InstanceImage
from panodetr.data.layout import number_photos
from panodetr.data.yolo import (
    find_yolo,
    label_file,
    label_lines,
    list_photos,
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
"""The size of a photo that cannot be read."""


def check_yolo(found: Inspection, folder: Path, split: str, progress: Progress) -> None:
    """Check a split of a YOLO data set.

    Raises:
        DataError: `data.yaml` cannot be read, or there is no such split or no photo in it.
    """
    path = find_yolo(folder)
    assert path is not None
    file = read_yolo_file(path)
    photos = list_photos(file, split)
    found.images = len(photos)
    found.objects.update(dict.fromkeys(file.names.values(), 0))
    boxes: list[str] = []
    for done, (image_id, photo) in enumerate(
        zip(number_photos(photos), photos, strict=True), start=1
    ):
        image = InstanceImage(
            image_id=image_id, photo=photo, size=_size(found, photo, image_id), objects=()
        )
        with found.catching("broken file"):
            boxes += _labels(found, image, file.names)
        progress(done, len(photos))
    if len(boxes) < found.objects.total():
        for place in boxes:
            found.error(
                "missing mask",
                f"{place} is a box, others are polygons; masks are trained where every object "
                "has one",
            )
    _stray_labels(found, photos)


def check_id_folder(found: Inspection, folder: Path, split: str, progress: Progress) -> None:
    """Check a split of a folder of id maps.

    Raises:
        DataError: there is no photo, or there are several classes.
    """
    masks, name = class_folder(folder, split)
    pairs = list_pairs(folder, split)
    found.images = len(pairs)
    numbers: list[int] = []
    for done, (image_id, (photo, id_map)) in enumerate(
        zip(number_photos([photo for photo, _ in pairs]), pairs, strict=True), start=1
    ):
        size = _size(found, photo, image_id)
        if not id_map.is_file():
            found.error("missing file", f"{id_map} is missing; it is the id map of {photo}")
        elif size != UNKNOWN:
            with found.catching("broken file"):
                image = MaskImage(image_id=image_id, photo=photo, id_map=id_map, size=size)
                ids = image.read_ids()[1].tolist()
                numbers += ids
                found.objects[name or "object"] += len(ids)
                if not ids:
                    found.note("empty image", f"{photo} (image {image_id}) has no object")
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
                "missing file", f"{path} has no photo of its name in {folder / split}/images"
            )


def _labels(found: Inspection, image: InstanceImage, names: dict[int, str]) -> list[str]:
    """Check a photo's labels; the places of those that are boxes.

    Raises:
        DataError: the file is no text.
    """
    path, boxes = label_file(image.photo), list[str]()
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
        found.note("empty image", f"{image.photo} (image {image.image_id}) has no object in {path}")
    return boxes


def _size(found: Inspection, photo: Path, image_id: int) -> tuple[int, int]:
    """Read a photo whose size no file gives; its height and width, or `UNKNOWN`."""
    try:
        size = read_size(photo)
    except ImageError as error:
        kind = "broken file" if photo.exists() else "missing file"
        found.error(kind, f"{error} (image {image_id})")
        return UNKNOWN
    found.photo(InstanceImage(image_id=image_id, photo=photo, size=size, objects=()))
    return size


def _stray_labels(found: Inspection, photos: list[Path]) -> None:
    """Note label files, beside those of the photos, whose photo isn't there."""
    labels = {label_file(photo) for photo in photos}
    lists = {photo.parent / "classes.txt" for photo in labels}
    for folder in sorted({label.parent for label in labels}):
        for path in sorted(folder.glob("*.txt")):
            if path not in labels | lists:
                found.error(
                    "missing file", f"{path} has labels for a photo that isn't in the split"
                )
