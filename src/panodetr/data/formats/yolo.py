"""A data set in YOLO's format: images, and for each a text file of objects.

A YAML, whatever it is called, holds `names` and for each split a folder of images, a text file that
lists them, or a list of such, and perhaps the `path` of these. Without a YAML the names of the
classes are in a text file (`classes.txt`, `obj.names`, `_darknet.labels`), or are their numbers. An
image's labels are where one of its folders becomes `labels`, or beside it. A line is

    class x y width height        a box, its centre and sides
    class x0 y0 x1 y1 x2 y2 …     a polygon
    class x y width height …      a box with keypoints, where the YAML has `kpt_shape`

in fractions of the image's width and height.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import yaml

from panodetr.data.formats import read_text
from panodetr.data.formats.shapes import DECIMALS, Marked, Shape, build, require_classes
from panodetr.data.tree import ANNOTATIONS_DEPTH, SPLITS, Tree, fold, split_of, split_of_file
from panodetr.errors import DataError
from panodetr.images.read import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from panodetr.data.formats import Faults
    from panodetr.data.samples import Records

__all__ = ["DECIMALS", "SPLITS", "find_yolo", "label_file", "read_yolo"]

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
"""What the YAML is called as a rule; where one is, others are not looked at."""

CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "notes.json")

OUTSIDE = 0.01
"""By how much of an image's size a coordinate may lie outside, before it is taken for a mistake."""

MOST_UNNAMED = range(10_000)
"""The classes that there may be where nothing names them."""

LOOKED_AT = 50
"""Label files that are looked into, where no YAML says that they are labels."""

_LINE = re.compile(r"\d{1,4}(\.0*)?(\s+[-+.\deE]+){4,}\s*")


@dataclass(frozen=True, kw_only=True)
class YoloSplit:
    """Where a split is described.

    Attributes:
        place: the YAML, or the folder without one.
        names: of the classes by their numbers; None where nothing names them.
        images: the images of the split.
        missing: images that the split lists and that are not there.
        keypoints: how many numbers of a row are keypoints; 0 where rows have none.
        said: what should be said of where names and images come from.
    """

    place: Path
    names: dict[int, str] | None
    images: list[Path]
    missing: list[str] = field(default_factory=list[str])
    keypoints: int = 0
    said: list[str] = field(default_factory=list[str])


def find_yolo(tree: Tree) -> dict[str, YoloSplit]:
    """Find the splits of a folder; "" stands for none.

    Raises:
        DataError: a YAML is broken, or there are two that may be meant.
    """
    path = _find_yaml(tree)
    return _read_yaml(tree, path) if path is not None else _find_without_yaml(tree)


def read_yolo(tree: Tree, found: dict[str, YoloSplit], split: str, faults: Faults) -> Records:
    """Read the objects of a split.

    Raises:
        DataError: there is no label file for any image, or all lines are of unknown classes.
    """
    this = found[split]
    for text in this.said:
        faults.note("class", text)
    reader = _LabelReader(tree, this, faults)
    marked = [reader.mark(path) for path in this.images]
    marked += [
        Marked(path=None, place=str(this.place), named=name, shapes=[]) for name in this.missing
    ]
    reader.report(split)
    names = this.names
    if names is None:
        largest = max((_largest_class(tree, other) for other in found.values()), default=0)
        names = {number: str(number) for number in range(max([*reader.used, largest]) + 1)}
    names = require_classes(names, reader.used, str(this.place), faults)
    return build(marked, names, {number: number for number in names}, faults, this.place)


def _largest_class(tree: Tree, split: YoloSplit) -> int:
    """Find the largest class of a split, so that all splits have the same classes."""
    largest = 0
    for image in split.images:
        label = label_file(image, tree)
        try:
            lines = read_text(label).splitlines() if label is not None else []
        except DataError:  # said where that split is read
            continue
        firsts = (line.split()[0] for line in lines if _LINE.fullmatch(line))
        largest = max([largest, *(int(float(first)) for first in firsts)])
    return largest


class _LabelReader:
    """Reads label files, and counts what is worth a word."""

    def __init__(self, tree: Tree, split: YoloSplit, faults: Faults) -> None:
        self._tree = tree
        self._split = split
        self._faults = faults
        self._labels: set[Path] = set()
        self._lines = 0
        self._unknown: list[tuple[int, str, Path]] = []  # class, place and image of a line
        self.used: Counter[int] = Counter()

    def mark(self, path: Path) -> Marked:
        """Read the objects of an image."""
        shapes: list[Shape] = []
        label = label_file(path, self._tree)
        if label is not None:
            self._labels.add(label)
            with self._faults.catching("broken file", path):
                shapes = list(self._read(label, path))
        self.used.update(cast("int", shape.label) for shape in shapes)
        return Marked(path=path, place=str(label or path), shapes=shapes, fractions=True)

    def _read(self, label: Path, image: Path) -> Iterator[Shape]:
        known = self._split.names or MOST_UNNAMED
        seen: set[str] = set()
        for number, text in enumerate(read_text(label).splitlines(), start=1):
            line, place = " ".join(text.split()), f"{label}:{number}"
            if not line:
                continue
            self._lines += 1
            if line in seen:
                text = "{n} lines repeat another of their file, and are read once"
                self._faults.note("duplicate id", text, place)
                continue
            seen.add(line)
            try:
                shape = parse_label(line, place, self._split.keypoints)
            except DataError as error:
                self._faults.add("broken entry", str(error), image)
                continue
            if shape.label not in known:
                self._unknown.append((cast("int", shape.label), place, image))
                continue
            yield shape

    def report(self, split: str) -> None:
        """Say what holds for all label files.

        Raises:
            DataError: there are none, or all lines are of unknown classes.
        """
        images = self._split.images
        if images and not self._labels:
            looked = sorted(
                {str(path) for image in images[:9] for path in _label_folders(image, self._tree)}
            )
            raise DataError(
                f"no label file for any of the {len(images)} images of "
                f"{f'split {split!r}' if split else self._split.place}, first {images[0]}; looked "
                f"in {', '.join(looked[:4])}: put the text files there"
            )
        if self._unknown and len(self._unknown) == self._lines:
            classes = ", ".join(map(str, sorted({number for number, _, _ in self._unknown})[:5]))
            listed = ", ".join(map(str, sorted(self._split.names or ())[:9]))
            raise DataError(
                f"{self._split.place}: all {self._lines} lines of the labels have class {classes}, "
                f"names lists {listed}; correct names, or the labels"
            )
        for number, place, image in self._unknown:
            message = f"{place} has class {number}, which names doesn't list"
            self._faults.add("unknown category", message, image)
        lists = {*CLASS_LISTS, "train.txt", "val.txt", "valid.txt", "test.txt"}
        for folder in sorted({label.parent for label in self._labels}):
            for name in sorted(self._tree.names_in(folder)):
                path = folder / name
                if name.endswith(".txt") and name not in lists and path not in self._labels:
                    text = "{n} label files have no image of their name in the split"
                    self._faults.note("missing file", text, str(path))


def parse_label(text: str, place: str, keypoints: int = 0) -> Shape:
    """Read one line, whatever its class, in fractions; `place` is for the message.

    Raises:
        DataError: it is broken, or has coordinates that are no fractions.
    """
    first, *rest = text.removeprefix("\ufeff").split()
    try:
        number, values = float(first), tuple(float(part) for part in rest)
    except ValueError:
        raise DataError(f"{place} is {text[:40]!r}; expected numbers") from None
    if keypoints:
        if len(values) not in (4, 4 + keypoints):
            raise DataError(
                f"{place} has {len(values)} numbers after its class; expected 4 for a box, and "
                f"{keypoints} for its keypoints"
            )
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{place} has {len(values)} numbers after its class; expected 4 for a box, "
            "or 6 or more in pairs for a polygon"
        )
    if not number.is_integer() or number < 0:
        raise DataError(f"{place} has class {first}; expected a whole number")
    if not all(isfinite(v) and -OUTSIDE <= v <= 1 + OUTSIDE for v in values):
        raise DataError(
            f"{place} has a coordinate outside 0 to 1; expected fractions of the image's size"
        )
    if len(values) == 4:
        x, y, width, height = values
        return Shape(int(number), place, box=[x - width / 2, y - height / 2, width, height])
    return Shape(int(number), place, rings=[list(values)])


def label_file(image: Path, tree: Tree) -> Path | None:
    """Find the file of an image's objects; None where there is none."""
    name = f"{image.stem}.txt"
    for folder in _label_folders(image, tree):
        if name in tree.names_in(folder):
            return folder / name
    return None


def _label_folders(image: Path, tree: Tree) -> list[Path]:
    """List where an image's labels may be: where a folder becomes "labels", the last one first."""
    parts = image.parent.parts
    inside = tree.root in image.parents
    places = list(reversed(range(len(tree.root.parts) - 1 if inside else 1, len(parts))))
    places.sort(key=lambda place: parts[place] != "images")
    swapped = [Path(*parts[:place], "labels", *parts[place + 1 :]) for place in places]
    return list(dict.fromkeys([*swapped, image.parent / "labels", image.parent]))


def _find_yaml(tree: Tree) -> Path | None:
    """Find the YAML that describes the data; None where there is none.

    Raises:
        DataError: two may be meant.
    """
    found: list[PurePosixPath] = []
    for path in tree.files(".yaml", ".yml", depth=ANNOTATIONS_DEPTH):
        if path.name in NAMES and len(path.parts) == 1:
            return tree.root / path
        try:
            fields = load_yaml(tree.root / path)
        except DataError:
            continue
        if "names" in fields and any(split_of(str(key)) for key in fields):
            found.append(path)
    found.sort(key=lambda path: (len(path.parts), path.name not in NAMES))
    ranks = [(len(path.parts), path.name not in NAMES) for path in found[:2]]
    same = len({tree.read_bytes(path) for path in found[:2]}) == 1
    if len(found) > 1 and ranks[0] == ranks[1] and not same:
        raise DataError(
            f"{tree.root / found[0]} and {found[1]} both name classes and images; say which is "
            "meant with --annotations FILE"
        )
    return tree.root / found[0] if found else None


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML of fields, all scalars as text: a class may be called "no".

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        value = cast("object", yaml.load(read_text(path), yaml.BaseLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a bad character
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise DataError(f"{path} is not YAML ({reason}); write it again") from error
    if not isinstance(value, dict):
        raise DataError(f'{path} holds no fields; expected "names" and "train" or "val"')
    return {str(key): part for key, part in cast("dict[object, object]", value).items()}


def _read_yaml(tree: Tree, path: Path) -> dict[str, YoloSplit]:
    """Read the splits that a YAML names.

    Raises:
        DataError: it is broken, or none of what it names is there.
    """
    fields = load_yaml(path)
    root = _path(fields.get("path") or ".", f'{path}: "path"')
    names = _names(fields.get("names"), path)
    named = {split.kind: key for key in fields if (split := split_of(key)) and fields[key]}
    if not named:
        raise DataError(f"{path} names no images; expected a folder under train, val or test")
    folders = _Folders(tree, path.parent, root)
    parts: dict[str, list[Path]] = {}
    absent: dict[str, str] = {}
    for split in SPLITS:
        if split in named:
            key = named[split]
            texts = [_path(part, f'{path}: "{key}"') for part in _listed(fields[key])]
            there = [place for text in texts if (place := folders.find(text)) is not None]
            if there:
                parts[split] = there
            else:
                absent[split] = texts[0] if texts else "nothing"
    said: list[str] = []
    for split in SPLITS:
        for known in list(parts.values()):
            folder = None if split in parts else folders.of_split(known[0], split)
            if folder is not None:
                parts[split] = [folder]
                named_so = f"{absent.pop(split, 'nothing')} for {split}"
                said.append(f"{path} names {named_so}; {folder} is taken")
    said += [f"{path} names {t} for {s}, which is not there" for s, t in absent.items()]
    foreign = re.match(r"[\\/]|[A-Za-z]:", root + next(iter(absent.values()), ""))
    if not parts and foreign and (found := _find_without_yaml(tree, names)):
        for split in found.values():
            split.said.insert(0, f"nothing that {path} names is there; {tree.root} is taken")
        return found
    if not parts:
        first = next(iter(absent.values()))
        raise DataError(
            f"{folders.full(first)} is missing; {path.name} names it as a split's images, and "
            f"{tree.root} has {tree.describe()}; correct {path.name}"
        )
    keypoints = _keypoints(fields.get("kpt_shape"))
    found: dict[str, YoloSplit] = {}
    for split, places in parts.items():
        images: set[Path] = set()
        missing: list[str] = []
        for place in places:
            there, gone = folders.images(place)
            images.update(there)
            missing += gone
        if not images and not missing:
            raise DataError(f"{path} has no image in its split {split!r}: {places[0]} holds none")
        found[split] = YoloSplit(
            place=path,
            names=names,
            images=sorted(images),
            missing=missing,
            keypoints=keypoints,
            said=said,
        )
    return found


class _Folders:
    """Finds the folders and lists that a YAML names, which was perhaps written elsewhere."""

    def __init__(self, tree: Tree, folder: Path, root: str) -> None:
        self._tree = tree
        self._folder = folder
        self._root = root
        self._by_key: dict[tuple[str, ...], list[PurePosixPath]] = {}
        for path in tree.folders:
            self._by_key.setdefault(_key(path.parts), []).append(path)

    def full(self, part: str) -> Path:
        """Give the path as it is written."""
        return self._folder / self._root / part

    def find(self, part: str) -> Path | None:
        """Find what is named: as it is written, or else what ends most like it."""
        inner = re.sub(r"^(\.\./)+", "", part)
        for path in (self.full(part), self._folder / part, self._folder / inner):
            try:
                if path.exists() and (path.is_file() or self._holds_images(path)):
                    return path
            except (OSError, ValueError):
                continue
        parts = re.split(r"[\\/]+", f"{self._root}/{part}")
        parts = [p for p in parts if p not in ("", ".", "..")]
        if parts and parts[-1].lower().endswith(".txt"):
            named = list(self._tree.files(".txt"))
            same = [path for path in named if fold(path.name) == fold(parts[-1])]
            return self._tree.root / same[0] if len(same) == 1 else None
        key = _key(tuple(parts))
        for tail in (key, key[:-1] if key[-1:] == ("images",) else ()):
            for start in range(len(tail)):
                if tail[start:] == ("images",) and len(tail) > 1:
                    continue  # of any split
                if found := self._ending(tail[start:]):
                    return found
        return None

    def of_split(self, other: Path, split: str) -> Path | None:
        """Find the folder of a split that is not named, where that of another one is known."""
        try:
            parts = other.relative_to(self._tree.root).parts
        except ValueError:
            return None
        if not any(split_of(part) for part in parts):
            return None
        key = tuple(split if split_of(part) else part for part in _key(parts))
        return self._ending(key)

    def images(self, place: Path) -> tuple[Iterable[Path], list[str]]:
        """Give the images of a folder or a list, and the names of those that are not there."""
        if place.is_dir():
            return self._tree.images_below(place), []
        if place.suffix.lower() == ".txt":
            names = [line.strip() for line in read_text(place).splitlines() if line.strip()]
            found = self._tree.images.find(names, place.parent)
            return found.paths.values(), found.absent
        return ([place] if place.suffix.lower() in SUFFIXES else []), []

    def _ending(self, key: tuple[str, ...]) -> Path | None:
        """Find the one folder with images whose path ends in a key; the uppermost where nested."""
        same = [
            path
            for other, paths in self._by_key.items()
            if other[len(other) - len(key) :] == key and len(other) >= len(key)
            for path in paths
            if self._tree.images_in(path, deep=True)
        ]
        same.sort(key=lambda path: len(path.parts))
        if not same or (len(same) > 1 and same[0] not in same[1].parents and (
            len(same[0].parts) == len(same[1].parts))):  # fmt: skip
            return None
        return self._tree.root / same[0]

    def _holds_images(self, path: Path) -> bool:
        return path.is_dir() and next(iter(self._tree.images_below(path)), None) is not None


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Give a path's folders as people mean them: any word for a split, and for images."""
    words = {"image": "images", "imgs": "images", "img": "images"}
    return tuple(
        split.name if (split := split_of(part)) else words.get(fold(part), fold(part))
        for part in parts
    )


def _find_without_yaml(tree: Tree, names: dict[int, str] | None = None) -> dict[str, YoloSplit]:
    """Find images with labels where no YAML says of them; it may say the names of classes."""
    lists = {
        split.name: path
        for path in tree.files(".txt", depth=ANNOTATIONS_DEPTH)
        if (split := split_of(path.stem))
    }
    if next(tree.files(".txt"), None) is None:
        return {}
    images = [tree.root / path for path in tree.files(*SUFFIXES)]
    labelled = [image for image in images if label_file(image, tree)]
    looked = (label_file(image, tree) for image in labelled[:LOOKED_AT])
    if not any(path and _is_label(path) for path in looked):
        return {}
    names, said = (names, list[str]()) if names else _class_list(tree)
    folders = {image.parent for image in labelled}
    images = [image for image in images if image.parent in folders]
    splits: dict[str, list[Path]] = {}
    for split, path in lists.items():
        listed = [line.strip() for line in read_text(tree.root / path).splitlines() if line.strip()]
        if listed and not _LINE.fullmatch(listed[0]):
            found = tree.images.find(listed, (tree.root / path).parent)
            splits[split] = sorted(found.paths.values())
    if not any(splits.values()):
        splits = {}
        for image in images:
            split = split_of_file(PurePosixPath(os.path.relpath(image, tree.root)).parent / "_")
            splits.setdefault(split, []).append(image)
    return {
        split: YoloSplit(place=tree.root, names=names, images=sorted(paths), said=said)
        for split, paths in sorted(splits.items())
        if paths
    }


def _is_label(path: Path) -> bool:
    """Whether a text file begins with a line of YOLO's."""
    try:
        lines = (line for line in read_text(path).splitlines() if line.strip())
        return _LINE.fullmatch(next(lines, "")) is not None
    except DataError:
        return False


def _class_list(tree: Tree) -> tuple[dict[int, str] | None, list[str]]:
    """Read the names of the classes from the file that lists them, and what should be said."""
    for wanted in CLASS_LISTS:
        for folder, files in tree.folders.items():
            if wanted in files or (wanted in tree.names_in(tree.root / folder)):
                path = tree.root / folder / wanted
                names = _names_of(path)
                if names:
                    return dict(enumerate(names)), [f"names of classes are those of {path}"]
    others = [path for path in tree.files(".names", depth=ANNOTATIONS_DEPTH)]
    if len(others) == 1:
        return dict(enumerate(_names_of(tree.root / others[0]))), []
    return None, [
        "nothing names the classes, which are called by their numbers; write data.yaml with the "
        'lines "train: FOLDER" and "names: [NAME, NAME]"'
    ]


def _names_of(path: Path) -> list[str]:
    try:
        text = read_text(path)
        if path.suffix == ".json":
            return [str(entry["name"]) for entry in json.loads(text)["categories"]]
    except (DataError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _names(value: object, path: Path) -> dict[int, str]:
    """Read the names of the classes.

    Raises:
        DataError: there are none, or a number or name is something else.
    """
    pairs: list[tuple[object, object]] = []
    if isinstance(value, list):
        pairs = list(enumerate(cast("list[object]", value)))
    elif isinstance(value, dict):
        pairs = list(cast("dict[object, object]", value).items())
    elif isinstance(value, str) and (path.parent / value).is_file():
        pairs = list(enumerate(_names_of(path.parent / value)))
    names: dict[int, str] = {}
    for number, name in pairs:
        if isinstance(name, list | dict):  # not shown: a few words can stand for lists without end
            raise DataError(f"{path} names class {number!r} by a list; expected a name")
        if not re.fullmatch(r"\d{1,9}", str(number)) or not name:
            raise DataError(f"{path} names class {number!r} {name!r}; expected a number and a name")
        names[int(str(number))] = str(name)
    if not names:
        raise DataError(f'{path} has no "names"; expected a list of the classes\' names')
    return names


def _keypoints(value: object) -> int:
    """Give how many numbers of a row are keypoints: [8, 3] stands for 24."""
    numbers = [str(part) for part in cast("list[object]", value)] if isinstance(value, list) else []
    if len(numbers) != 2 or not all(re.fullmatch(r"\d{1,4}", number) for number in numbers):
        return 0
    return int(numbers[0]) * int(numbers[1])


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
