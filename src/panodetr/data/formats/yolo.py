"""A data set in YOLO's format: `data.yaml`, images, and a text file of objects beside each image.

`data.yaml` holds `names` (a list, or an object from number to name), perhaps `path`, and for each
split (`train`, `val`, `test`) a folder of images, a text file that lists them, or a list of such. A
image's labels are where "images" in its path becomes "labels" and its ending ".txt"; an image
without a file has no objects. A line is

    class x y width height        a box, its centre and sides
    class x0 y0 x1 y1 x2 y2 …     a polygon

in fractions of the image's width and height.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml

from panodetr.data.formats import Faults, number_images, read_sizes
from panodetr.data.formats.coco_instances import InstanceData
from panodetr.data.samples import InstanceCategory, InstanceImage, ObjectTruth
from panodetr.errors import DataError
from panodetr.images.read import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

SPLITS = ("train", "val", "test")
NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")

OUTSIDE = 0.01
"""By how much of an image's size a coordinate may lie outside, before it is taken for a mistake."""

DECIMALS = 5
"""Of coordinates in pixels: a fraction of ten digits gives back what COCO wrote, to the last digit.

COCO's rule for filling polygons rounds to fifths of a pixel, of which COCO's numbers are often
halves: the slightest error would move the outline.
"""


@dataclass(frozen=True, kw_only=True)
class YoloFile:
    """What `data.yaml` says.

    Attributes:
        path: the file.
        names: of the classes by their numbers, which need not be without gaps.
        splits: for each split that is named, its folders and lists of images.
    """

    path: Path
    names: dict[int, str]
    splits: dict[str, tuple[Path, ...]]


def find_yolo(folder: Path) -> Path | None:
    """Find a folder's `data.yaml`; None where there is none."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_yolo_file(path: Path) -> YoloFile:
    """Read `data.yaml`.

    Raises:
        DataError: it cannot be read, or has no names or no split.
    """
    try:
        # Without tags and types: a class may be called "no", which YAML takes for False.
        value = cast("object", yaml.load(path.read_text("utf-8"), yaml.BaseLoader))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise DataError(f"{path} is not YAML ({reason}); write it again") from error
    if not isinstance(value, dict):
        raise DataError(f'{path} holds no fields; expected "names" and "train" or "val"')
    fields = cast("dict[object, object]", value)
    root = path.parent / _path(fields.get("path") or ".", f'{path}: "path"')
    splits = {
        split: tuple(
            _existing(_path(part, f'{path}: "{split}"'), root, path.parent)
            for part in _listed(fields[split])
        )
        for split in SPLITS
        if fields.get(split)
    }
    if not splits:
        raise DataError(f"{path} names no images; expected a folder under train, val or test")
    return YoloFile(path=path, names=_names(fields.get("names"), path), splits=splits)


def read_yolo(file: YoloFile, split: str, faults: Faults | None = None) -> InstanceData:
    """Read the sizes of a split's images and their objects, polygons in pixels.

    Args:
        file: what `data.yaml` says.
        split: one of its splits.
        faults: what collects faults; None raises the first one.

    Raises:
        DataError: there is no such split, no image that can be read, or a label is broken.
    """
    faults = faults or Faults()
    paths = list_images(file, split)
    sizes, unreadable = read_sizes(paths, faults)
    images: list[InstanceImage] = []
    boxes: list[str] = []
    polygons = 0
    numbers = count(1)
    for image_id, path, size in zip(number_images(paths), paths, sizes, strict=True):
        objects: list[ObjectTruth] = []
        with faults.catching("broken file"):
            for place, label in _read_labels(label_file(path), file.names, faults):
                if len(label.numbers) == 4:
                    boxes.append(place)
                else:
                    polygons += 1
                if size is not None:
                    objects.append(to_object(label, next(numbers), image_id, size))
                    faults.check_box(objects[-1]["bbox"], size, place)
        if size is not None:
            image = InstanceImage(image_id=image_id, path=path, size=size, objects=tuple(objects))
            images.append(image)
    if polygons:
        for place in boxes:
            faults.tolerate(
                "missing mask",
                f"{place} is a box, others are polygons; masks are trained where every object has "
                "one",
            )
    if faults.collect:
        _report_stray_labels(paths, faults)
    return InstanceData(
        folder=file.path.parent,
        categories=tuple(InstanceCategory(id=n, name=file.names[n]) for n in sorted(file.names)),
        images=tuple(images),
        has_masks=not boxes,
        unreadable=unreadable,
    )


def list_images(file: YoloFile, split: str) -> list[Path]:
    """List a split's images, sorted; those that a text file lists need not be there.

    Raises:
        DataError: there is no such split, or no image in it.
    """
    if split not in file.splits:
        raise DataError(f"{file.path} has no split {split!r}; it has {', '.join(file.splits)}")
    paths = {path for part in file.splits[split] for path in _images(part, file.path.parent)}
    if not paths:
        raise DataError(f"{file.path} has no image in its split {split!r}")
    return sorted(paths)


def label_file(path: Path) -> Path:
    """Give the file of an image's objects: the last "images" of the path becomes "labels"."""
    parts = list(path.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


@dataclass(frozen=True)
class Label:
    """One line of a label file: a class, and 4 numbers of a box or 6 and more of a polygon."""

    class_number: int
    numbers: tuple[float, ...]


def _read_labels(path: Path, names: dict[int, str], faults: Faults) -> Iterator[tuple[str, Label]]:
    """Read the lines of a label file with their places; none where there is no file.

    Raises:
        DataError: the file cannot be read; or a line is broken, of an unknown class, or has
            coordinates that are no fractions, and faults are not collected.
    """
    if not path.exists() and not path.is_symlink():
        return
    first: dict[str, int] = {}
    for number, text in enumerate(_read_lines(path), start=1):
        line, place = text.strip(), f"{path}:{number}"
        if not line:
            continue
        if first.setdefault(line, number) != number:
            faults.tolerate("duplicate id", f"{place} repeats line {first[line]}")
        try:
            label = parse_label(line, place)
        except DataError as error:
            faults.add("broken entry", str(error))
            continue
        if label.class_number not in names:
            faults.add(
                "unknown category",
                f"{place} has class {label.class_number}, which names doesn't list",
            )
            continue
        yield place, label


def _report_stray_labels(paths: list[Path], faults: Faults) -> None:
    """Report label files, beside those of the images, whose image isn't there."""
    labels = {label_file(path) for path in paths}
    lists = {path.parent / "classes.txt" for path in labels}
    for folder in sorted({label.parent for label in labels}):
        for path in sorted(folder.glob("*.txt")):
            if path not in labels | lists:
                faults.tolerate(
                    "missing file", f"{path} has labels for an image that isn't in the split"
                )


def parse_label(text: str, place: str) -> Label:
    """Read one line, whatever its class; `place` is for the message.

    Raises:
        DataError: it is broken, or has coordinates that are no fractions.
    """
    first, *rest = text.split()
    try:
        number, values = float(first), tuple(float(part) for part in rest)
    except ValueError:
        raise DataError(f"{place} is {text[:40]!r}; expected numbers") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{place} has {len(values)} numbers after its class; expected 4 for a box, "
            "or 6 or more in pairs for a polygon"
        )
    if not number.is_integer():
        raise DataError(f"{place} has class {first}; expected a whole number")
    if not all(isfinite(v) and -OUTSIDE <= v <= 1 + OUTSIDE for v in values):
        raise DataError(
            f"{place} has a coordinate outside 0 to 1; expected fractions of the image's size"
        )
    return Label(int(number), values)


def to_object(label: Label, number: int, image_id: int, size: tuple[int, int]) -> ObjectTruth:
    """Write a line as COCO would, in pixels of an image (H, W)."""
    height, width = size
    if len(label.numbers) == 4:
        x, y, w, h = label.numbers
        bbox = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        bbox = [round(side, DECIMALS) for side in bbox]
        return ObjectTruth(
            id=number,
            image_id=image_id,
            category_id=label.class_number,
            bbox=bbox,
            area=bbox[2] * bbox[3],
            iscrowd=0,
        )
    xs = [round(x * width, DECIMALS) for x in label.numbers[::2]]
    ys = [round(y * height, DECIMALS) for y in label.numbers[1::2]]
    corners = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return ObjectTruth(
        id=number,
        image_id=image_id,
        category_id=label.class_number,
        bbox=[min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
        area=abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in corners)) / 2,
        iscrowd=0,
        segmentation=[[value for point in zip(xs, ys, strict=True) for value in point]],
    )


def _names(value: object, path: Path) -> dict[int, str]:
    """Read the names of the classes.

    Raises:
        DataError: there are none, or a number or name is repeated or something else.
    """
    pairs: list[tuple[object, object]] = []
    if isinstance(value, list):
        pairs = list(enumerate(cast("list[object]", value)))
    elif isinstance(value, dict):
        pairs = list(cast("dict[object, object]", value).items())
    names: dict[int, str] = {}
    for number, name in pairs:
        if isinstance(name, list | dict):  # not shown: a few words can stand for lists without end
            raise DataError(f"{path} names class {number!r} by a list; expected a name")
        if not re.fullmatch(r"\d{1,9}", str(number)) or not name:
            raise DataError(f"{path} names class {number!r} {name!r}; expected a number and a name")
        names[int(str(number))] = str(name)
    if not names or len(set(names.values())) != len(pairs):
        raise DataError(
            f'{path} has no "names", or repeats one; expected a list of the classes\' names'
        )
    return names


def _listed(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _path(value: object, place: str) -> str:
    """Read a path.

    Raises:
        DataError: it is a list or an object.
    """
    if isinstance(value, list | dict):
        raise DataError(f"{place} holds a list within; expected a path, or a list of paths")
    return str(value)


def _existing(part: str, root: Path, folder: Path) -> Path:
    """Find a folder or list that `data.yaml` names.

    `path` is often that of another machine, and `../train/images` is often meant from the folder
    of the file itself: what is there wins.
    """
    inner = part
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
    tries = [root / part, folder / part, folder / inner]
    return next((path for path in tries if path.exists()), tries[0])


def _read_lines(path: Path) -> list[str]:
    """Read a text file.

    Raises:
        DataError: it is something else, or cannot be read.
    """
    if not path.is_file():  # a pipe would never end
        raise DataError(f"cannot read {path}: it is no file; expected text")
    try:
        return path.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: {error}; expected text in UTF-8") from error


def _images(part: Path, folder: Path) -> Iterator[Path]:
    """Give the images of a folder, or those that a text file lists.

    Raises:
        DataError: there is no such folder or list, or the list cannot be read.
    """
    if part.is_dir():
        yield from (p for p in part.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    elif part.suffix == ".txt" and part.is_file():
        for line in _read_lines(part):
            if line.strip():
                tries = [folder / line.strip(), part.parent / line.strip()]
                yield next((path for path in tries if path.exists()), tries[0])
    elif part.suffix.lower() in SUFFIXES and part.is_file():
        yield part
    else:
        raise DataError(f"{part} is missing; data.yaml names it as a split's images")
