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
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias, cast

import msgspec
import numpy as np
import yaml

from panodetr.data.formats import AbsentError, Faults
from panodetr.data.formats.shapes import build, require_classes
from panodetr.data.formats.sizes import Marked, Shape
from panodetr.data.samples import Records
from panodetr.data.tree import (
    ANNOTATIONS_DEPTH,
    IMAGE_FOLDERS,
    SPLITS,
    Tree,
    as_text,
    fold,
    is_image,
    loose,
    split_of,
    split_of_folder,
    sure,
    words_of,
)
from panodetr.errors import DataError
from panodetr.images.read import SUFFIXES
from panodetr.validation import check

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
"""What the YAML is called as a rule; where one is, others are not looked at."""

CLASS_LISTS = (
    *("classes.txt", "obj.names", "_darknet.labels", "notes.json"),
    *("class_names.txt", "names.txt", "labels.txt"),
)

NO_LABELS = frozenset((*CLASS_LISTS, "train.txt", "val.txt", "valid.txt", "test.txt"))
"""Text files that may lie among labels."""

OUTSIDE = 0.01
"""By how much of an image's size a coordinate may lie outside, before it is taken for a mistake."""

MOST_UNNAMED = range(10_000)
"""The classes that there may be where nothing names them."""

LOOKED_AT = 50
"""Label files that are looked into, where no YAML says that they are labels."""

_LABEL_WORDS = frozenset(("label", "labels", "annotation", "annotations", "txt", "yolo"))

_LINE = re.compile(r"\d{1,4}(\.0*)?(\s+[-+.\deE]+){4,}\s*")


_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class _Fields(msgspec.Struct):
    """What a YAML says, but for its splits; all scalars are text."""

    names: list[_Name] | dict[_Number, _Name] | str = ""
    nc: Any = None
    path: str = ""
    kpt_shape: Any = None

    def keypoints(self) -> int:
        """Give how many numbers of a row are keypoints: [8, 3] stands for 24."""
        try:
            count, each = msgspec.convert(self.kpt_shape, tuple[int, int], strict=False)
        except msgspec.ValidationError:
            return 0
        return count * each if 0 <= count < 10_000 and 0 <= each < 10_000 else 0


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
    names, largest = this.names, 0
    if names is None:
        files = filter(None, (label_file(i, tree) for s in found.values() for i in s.images))
        largest = max((tree.once(_largest_class, label) for label in files), default=0)
    known = names or MOST_UNNAMED
    keypoints = this.keypoints or _guess_keypoints(tree, this.images, faults)
    marked: list[Marked] = []
    labels: set[Path] = set()
    unknown: list[tuple[int, str, Path]] = []  # class, place and image of a line
    used: Counter[int] = Counter()
    lines = 0
    for path in this.images:
        label = label_file(path, tree)
        one = Marked(named=str(path), place=str(label or path), path=path)
        marked.append(one)
        if label is None:
            continue
        if label in labels:
            faults.note("duplicate id", "{n} label files are of several images", str(label))
        labels.add(label)
        with faults.catching("broken file", path):
            for place, line in _read_lines(tree, label, faults):
                lines += 1
                try:
                    shape = parse_label(line, place, keypoints)
                except DataError as error:
                    faults.add("broken entry", str(error), path)
                    continue
                number = cast("int", shape.label)
                if number in known:
                    used[number] += 1
                    one.shapes.append(shape)
                else:
                    unknown.append((number, place, path))
    if this.images and not labels:
        looked = sorted(
            {str(p) for image in this.images[:9] for p in _label_folders(tree, image.parent)}
        )
        raise DataError(
            f"no label file for any of the {len(this.images)} images of "
            f"{f'split {split!r}' if split else this.place}, first {this.images[0]}; looked "
            f"for {this.images[0].stem}.txt in {', '.join(looked[:4])}: put the text files there"
        )
    if unknown and len(unknown) == lines:
        classes = ", ".join(map(str, sorted({number for number, _, _ in unknown})[:5]))
        listed = ", ".join(map(str, sorted(this.names or ())[:9]))
        raise DataError(
            f"{this.place}: all {lines} lines of the labels have class {classes}, "
            f"names lists {listed}; correct names, or the labels"
        )
    for number, place, path in unknown:
        message = f"{place} has class {number}, which names doesn't list"
        faults.add("unknown category", message, path)
    _note_orphans(tree, labels, faults)
    marked += [Marked(named=name, place=str(this.place)) for name in this.missing]
    if names is None:
        names = {number: str(number) for number in range(max([*used, largest]) + 1)}
    names = require_classes(names, used, str(this.place), faults)
    return build(marked, names, faults, this.place, fractions=True)


def _read_lines(tree: Tree, label: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    """Give the places and lines of a label file, repeated ones once."""
    seen: set[str] = set()
    for number, text in enumerate(as_text(tree.read(label), label).splitlines(), start=1):
        line, place = " ".join(text.split()), f"{label}:{number}"
        if line in seen:
            note = "{n} lines repeat another of their file, and are read once"
            faults.note("duplicate id", note, place)
        elif line:
            seen.add(line)
            yield place, line


def _note_orphans(tree: Tree, labels: set[Path], faults: Faults) -> None:
    """Count the label files beside those that were read, which no image has."""
    for folder in sorted({label.parent for label in labels}):
        for name in sorted(set(tree.names_in(folder).values())):
            path = folder / name
            if path.suffix.lower() == ".txt" and name not in NO_LABELS and path not in labels:
                text = "{n} label files have no image of their name in the split"
                faults.note("missing file", text, str(path))


def _largest_class(tree: Tree, label: Path) -> int:
    """Find the largest class in a file: where none has a name, all splits have the same classes."""
    with suppress(DataError):  # said where that split is read
        lines = filter(_LINE.fullmatch, tree.lines(label, keep=True))
        return max((int(float(line.split()[0])) for line in lines), default=0)
    return 0


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
        more = " (is the fifth a score, or an angle? take it away)" if len(values) == 5 else ""
        raise DataError(
            f"{place} has {len(values)} numbers after its class{more}; expected 4 for a box, "
            "or 6 or more in pairs for a polygon"
        )
    if not number.is_integer() or number < 0:
        raise DataError(f"{place} has class {first}; expected a whole number")
    negative = len(values) == 4 and min(values[2:]) < 0  # a width or height
    if negative or not all(isfinite(v) and -OUTSIDE <= v <= 1 + OUTSIDE for v in values):
        raise DataError(
            f"{place} has a coordinate outside 0 to 1; expected fractions of the image's size"
        )
    if len(values) == 4:
        x, y, width, height = values
        return Shape(int(number), place, box=[x - width / 2, y - height / 2, width, height])
    return Shape(int(number), place, rings=[list(values)])


def _guess_keypoints(tree: Tree, images: Sequence[Path], faults: Faults) -> int:
    """Give how many numbers of a row are keypoints where no YAML says so; 0 where it is not clear.

    All rows but boxes have as many numbers. After the box each third one is 0, 1 or 2, as how well
    a keypoint is seen; or else points lie within the box, whose sides would be a point far off.
    """
    rows: list[list[float]] = []
    for label in filter(None, (label_file(image, tree) for image in images[:LOOKED_AT])):
        with suppress(DataError, ValueError):  # said where the file is read
            lines = filter(_LINE.fullmatch, tree.lines(label, keep=True))
            inner = [[float(part) for part in line.split()[1:]] for line in lines]
            rows += [row for row in inner if len(row) > 4]
    if not rows or len({len(row) for row in rows}) > 1:
        return 0
    numbers = np.array(rows)
    centre, sides, points = numbers[:, None, :2], numbers[:, None, 2:4], numbers[:, 4:]
    count = points.shape[1]
    clear = count % 3 == 0 and bool(np.isin(points[:, 2::3], (0, 1, 2)).all())
    if not clear and count % 2 == 0 and count > 2:
        points = points.reshape(len(rows), -1, 2)
        points = np.where(points.any(axis=2, keepdims=True), points, centre)  # 0, 0: not seen
        around = np.concatenate((points, centre), axis=1)
        low, high = around.min(axis=1), around.max(axis=1)
        far = np.maximum(low - sides[:, 0], sides[:, 0] - high) > high - low
        inside = np.abs(points - centre) <= sides / 2 + OUTSIDE
        clear = bool(inside.all() and 4 * far.any(axis=1).sum() > len(rows))
    if not clear:
        return 0
    text = f"{count} numbers after a row's box are taken for keypoints, which are not read"
    faults.note("class", f"{text}; kpt_shape would say so")
    return count


def label_file(image: Path, tree: Tree) -> Path | None:
    """Find the file of an image's objects; None where there is none."""
    name = f"{image.stem}.txt"
    for folder in tree.once(_label_folders, image.parent):
        names = tree.names_in(folder)
        if found := names.get(name) or names.get(loose(name)):
            return folder / found
    return None


def _label_folders(tree: Tree, folder: Path) -> list[Path]:
    """List where labels of a folder's images may be: where a folder becomes "labels", last first.

    Then where it becomes another one beside it that is called alike, as "train" and "train_labels".
    """
    parts = folder.parts
    inside = tree.root in (folder, *folder.parents)
    above = len(tree.root.parts)
    places = list(reversed(range(above - 1 if inside else 1, len(parts))))
    places.sort(key=lambda place: parts[place] != "images")
    swapped = [Path(*parts[:place], "labels", *parts[place + 1 :]) for place in places]
    alike: list[Path] = []
    for place in places if inside else ():
        own = set(words_of(parts[place]))
        for name in tree.below.get(PurePosixPath(*parts[above:place]), ()):
            words = set(words_of(name))
            if words & _LABEL_WORDS and words - _LABEL_WORDS <= own and place >= above:
                alike.append(Path(*parts[:place], name, *parts[place + 1 :]))
    found = [*swapped, folder / "labels", folder, *alike]
    if not any(map(tree.names_in, swapped)):  # those of all splits may be in one folder
        places = [p for p in places if p >= above and all(map(split_of, parts[p + 1 :]))]
        found += [Path(*parts[:place], "labels") for place in places]
    return list(dict.fromkeys(found))


def _find_yaml(tree: Tree) -> Path | None:
    """Find the YAML that describes the data; None where there is none."""
    found: list[PurePosixPath] = []
    names_only: list[PurePosixPath] = []
    for path in tree.files(".yaml", ".yml", depth=ANNOTATIONS_DEPTH):
        if path.name in NAMES and len(path.parts) == 1:
            return tree.root / path
        names: object = ""
        try:
            fields = load_yaml(tree, tree.root / path)
        except DataError:
            continue
        with suppress(DataError):  # said where it is read
            names = check(fields, _Fields, str(path), DataError, strict=False).names
        if "names" in fields and any(split_of(str(key)) for key in fields):
            found.append(path)
        elif names and not isinstance(names, str):
            names_only.append(path)
    ranks = {path: (len(path.parts), path.name not in NAMES) for path in found}
    found.sort(key=ranks.__getitem__)
    for other in found[1:]:
        if ranks[other] == ranks[found[0]] and not _are_one(tree, found[0], other):
            raise DataError(
                f"{tree.root / found[0]} and {other} both name classes and images; say which is "
                "meant with --annotations FILE"
            )
    texts = {tree.read(tree.root / path, keep=True) for path in names_only if not found}
    if len(texts) == 1:
        found = names_only
    return tree.root / found[0] if found else None


def _are_one(tree: Tree, one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether two YAMLs are copies that name the same images."""
    if len({tree.read(tree.root / path, keep=True) for path in (one, other)}) > 1:
        return False
    with suppress(DataError):  # the copy names nothing that is there, or the first one says so
        first, second = (_read_yaml(tree, tree.root / path) for path in (one, other))
        return [split.images for split in first.values()] == [s.images for s in second.values()]
    return True


def load_yaml(tree: Tree, path: Path) -> dict[str, Any]:
    """Read a YAML of fields, all scalars as text: a class may be called "no".

    Raises:
        DataError: it cannot be read, or is something else.
    """
    text = as_text(tree.read(path, keep=True), path)
    try:
        value = cast("object", yaml.load(text, yaml.BaseLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a bad character
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise DataError(f"{path} is not YAML ({reason}); write it again") from error
    if not isinstance(value, dict):
        raise DataError(f'{path} holds no fields; expected "names" and "train" or "val"')
    fields = {str(key): part for key, part in cast("dict[object, object]", value).items()}
    names = fields.get("names")
    if isinstance(names, dict):  # which may lead to numbers, or from them
        pairs = cast("dict[object, object]", names).items()
        turned = {str(number): name for name, number in pairs}
        keys = [*turned, *(str(name) for name, _ in pairs)]
        if [key.isdecimal() for key in keys] == [True] * len(pairs) + [False] * len(pairs):
            fields["names"] = turned
    return fields


def _read_yaml(tree: Tree, path: Path) -> dict[str, YoloSplit]:
    """Read the splits that a YAML names."""
    fields = load_yaml(tree, path)
    given = check(fields, _Fields, str(path), DataError, strict=False)
    names = _names(tree, given, path)
    shorter = sorted(fields, key=len, reverse=True)  # train, not train_labels
    named = {split.kind: key for key in shorter if (split := split_of(key)) and fields[key]}
    if not named:
        if (found := _find_without_yaml(tree, names)) or path.name not in NAMES:
            return found
        raise DataError(f"{path} names no images; expected a folder under train, val or test")
    parts: dict[str, list[Path]] = {}
    absent: dict[str, str] = {}
    for split in SPLITS:
        if split in named:
            place = f'{path}: "{named[split]}"'
            value = fields[named[split]]
            value = value if isinstance(value, list) else [value]
            texts = check(value, list[str], place, DataError)
            places = [_find_place(tree, path.parent, given.path, text) for text in texts]
            if there := [place for place in places if place is not None]:
                parts[split] = there
            else:
                absent[split] = texts[0] if texts else "nothing"
    said: list[str] = []
    for split in SPLITS:
        for known in list(parts.values()):
            folder = None if split in parts else _find_alike(tree, known[0], split)
            if folder is not None:
                parts[split] = [folder]
                named_so = f"{absent.pop(split, 'nothing')} for {split}"
                said.append(f"{path} names {named_so}; {folder} is taken")
    said += [f"{path} names {t} for {s}, which is not there" for s, t in absent.items()]
    if not given.names:
        said.append(f"{path} names no classes, which are called by their numbers")
    elif str(given.nc).isdecimal() and str(given.nc) != str(len(names)):
        said.append(f"{path} has nc {given.nc} and {len(names)} names; the names count")
    foreign = re.match(r"[\\/]|[A-Za-z]:", (given.path or ".") + next(iter(absent.values()), ""))
    if not parts and foreign and (found := _find_without_yaml(tree, names)):
        for split in found.values():
            split.said.insert(0, f"nothing that {path} names is there; {tree.root} is taken")
        return found
    if not parts:
        first = path.parent / given.path / next(iter(absent.values()))
        raise AbsentError(
            f"{first} is missing; {path.name} names it as a split's images, and {tree.root} has "
            f"{tree.describe()}; correct {path.name}",
            path,
        )
    found: dict[str, YoloSplit] = {}
    for split, places in parts.items():
        images: set[Path] = set()
        missing: list[str] = []
        for place in places:
            there, gone = _list_images(tree, place)
            images.update(there)
            missing += gone
        if not images and not missing:
            said.append(f"{path} has no image in its split {split!r}: {places[0]} holds none")
            continue
        found[split] = YoloSplit(
            place=path,
            names=names,
            images=sorted(images),
            missing=missing,
            keypoints=given.keypoints(),
            said=said,
        )
    if not found:
        raise DataError(said[-1])
    return found


def _find_place(tree: Tree, folder: Path, root: str, part: str) -> Path | None:
    """Find the folder or list that a YAML names: as it is written, or else what ends most like it.

    Args:
        tree: the data set's files.
        folder: the YAML's.
        root: what the YAML says of the folder that `part` counts from.
        part: what is named, which was perhaps written elsewhere.
    """
    inner = re.sub(r"^(\.\./)+", "", part)
    for path in (folder / root / part, folder / part, folder / inner):
        with suppress(OSError, ValueError):
            if path.is_file() or (path.is_dir() and any(tree.images_below(path))):
                return path
    parts = [p for p in re.split(r"[\\/]+", f"{root}/{part}") if p not in ("", ".", "..")]
    if parts and parts[-1].lower().endswith(".txt"):
        same = [path for path in tree.files(".txt") if fold(path.name) == fold(parts[-1])]
        return tree.root / same[0] if len(same) == 1 else None
    key = _key(tuple(parts))
    has_split = any(map(split_of, parts))  # which alone would tell folders of images apart
    tails = [key[n:] for n in range(len(key)) if key[n:] != ("images",) or not has_split]
    if key[-1:] == ("images",):
        tails += [key[start:-1] for start in range(len(key) - 1)] or [key]
    return next((found for tail in tails if (found := _ending(tree, tail))), None)


def _find_alike(tree: Tree, other: Path, split: str) -> Path | None:
    """Find the folder of a split that is not named, where that of another one is known."""
    if tree.root not in (other, *other.parents):
        return None
    parts = other.relative_to(tree.root).parts
    key = tuple(split if split_of(part) else part for part in _key(parts))
    return _ending(tree, key) if any(map(split_of, parts)) else None


def _list_images(tree: Tree, place: Path) -> tuple[Iterable[Path], list[str]]:
    """Give the images of a folder or a list, and the names of those that are not there."""
    if place.is_dir():
        return tree.images_below(place), []
    if place.suffix.lower() != ".txt":
        return ([place] if is_image(place.name) else []), []
    names = tree.lines(place, keep=True)
    found = tree.images.find(names, place.parent)
    return sure(found), [name for name in dict.fromkeys(names) if name not in found]


def _ending(tree: Tree, key: tuple[str, ...]) -> Path | None:
    """Find the one folder with images whose path ends in a key; the uppermost where nested."""
    same = [
        path
        for path in sorted(tree.folders, key=lambda path: len(path.parts))
        if _key(path.parts)[-len(key) :] == key and tree.images_in(path, deep=True)
    ]
    several = len(same) > 1 and len(same[0].parts) == len(same[1].parts)
    return None if not same or several else tree.root / same[0]


@cache
def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Give a path's folders as people mean them: any word for a split, and for images."""
    return tuple(
        split.name if (split := split_of(part)) else "images" if part in IMAGE_FOLDERS else part
        for part in map(fold, parts)
    )


def _find_without_yaml(tree: Tree, names: dict[int, str] | None = None) -> dict[str, YoloSplit]:
    """Find images with labels where no YAML says of them; it may say the names of classes."""
    if next(tree.files(".txt"), None) is None:
        return {}
    holds_masks = tree.pictures.holds_masks
    paths = (path for path in tree.files(*SUFFIXES) if not holds_masks(path.parent.parts))
    images = [tree.root / path for path in paths]
    labelled = [image for image in images if label_file(image, tree)]
    looked = (label_file(i, tree) for i in labelled[:: max(1, len(labelled) // LOOKED_AT)])
    if not any(path and _is_label(tree, path) for path in looked):
        return {}
    folders = {label.parent for image in labelled if (label := label_file(image, tree))}
    names, said = (names, list[str]()) if names else _class_list(tree, folders)
    folders = {image.parent for image in labelled}
    images = [image for image in images if image.parent in folders]
    splits: dict[str, list[Path]] = {}
    for path in tree.files(".txt", depth=ANNOTATIONS_DEPTH):
        if (split := split_of(path.stem)) and not _is_label(tree, tree.root / path):
            listed = tree.lines(tree.root / path, keep=True)
            found = tree.images.find(listed, (tree.root / path).parent)
            splits.setdefault(split.name, []).extend(sure(found))
    if not any(splits.values()):
        inner = {f: PurePosixPath(os.path.relpath(f, tree.root)) for f in folders}
        above = {f: _above_split(path) for f, path in inner.items()}
        top = min((base for base in above.values() if base), key=len, default=())
        splits = {}
        below: list[Path] = []
        for image in images:
            base, split = above[image.parent], split_of_folder(inner[image.parent])
            if base and len(base) > len(top) and base[: len(top)] == top:
                below.append(image)
            else:
                splits.setdefault(split, []).append(image)
        if below:
            text = f"{len(below)} images, first {below[0]}, have splits of their own: left out"
            said = [*said, f"{text}; name their folder to read them"]
    return {
        split: YoloSplit(place=tree.root, names=names, images=sorted(set(paths)), said=said)
        for split, paths in sorted(splits.items())
        if paths
    }


def _above_split(folder: PurePosixPath) -> tuple[str, ...]:
    """Give the root and the folders above one that is called as a split; () where none is."""
    parts = ("", *folder.parts)
    return next((parts[:n] for n, part in enumerate(parts) if split_of(part)), ())


def _is_label(tree: Tree, path: Path) -> bool:
    """Whether a text file begins with a line of YOLO's."""
    with suppress(DataError):
        return any(_LINE.fullmatch(line) for line in tree.lines(path, keep=True)[:1])
    return False


def _class_list(tree: Tree, labels: Collection[Path]) -> tuple[dict[int, str] | None, list[str]]:
    """Read the names of the classes from the file that lists them, and what should be said.

    Of several the nearest to the folders of labels is taken.
    """

    def rank(path: Path) -> tuple[int, int]:
        steps = (PurePosixPath(os.path.relpath(path.parent, label)).parts for label in labels)
        name = loose(path.name)
        place = CLASS_LISTS.index(name) if name in CLASS_LISTS else len(CLASS_LISTS)
        return min(map(len, steps), default=0), place

    paths = [
        tree.root / folder / name
        for folder, files in tree.folders.items()
        for name in files
        if loose(name) in CLASS_LISTS
        or (name.endswith(".names") and len(folder.parts) <= ANNOTATIONS_DEPTH)
    ]
    found = {p: names for p in sorted(paths, key=rank) if (names := tree.once(_names_of, p))}
    if not found:
        return None, [
            "nothing names the classes, which are called by their numbers; write data.yaml with "
            'the lines "train: FOLDER" and "names: [NAME, NAME]"'
        ]
    path, names = next(iter(found.items()))
    others = [str(other) for other, listed in found.items() if listed != names]
    for other in (other for other in found if rank(other)[0] == rank(path)[0]):
        short, names = sorted((names, found[other]), key=len)
        if other.parent != path.parent and names[: len(short)] != short:
            raise DataError(f"{path} and {other} list other classes; take one away")
    more = f"; {others[0]} lists others" if others else ""
    return dict(enumerate(names)), [f"names of classes are those of {path}{more}"]


def _names_of(tree: Tree, path: Path) -> list[str]:
    """Read a list of names, a line each, or Label Studio's JSON; empty where that is broken."""
    try:
        if path.suffix == ".json":
            return [str(entry["name"]) for entry in json.loads(tree.read(path))["categories"]]
        lines = tree.lines(path)
        found = [re.fullmatch(rf"{n}\s*[:,\s]\s*(\S.*)", line) for n, line in enumerate(lines)]
        numbered = [match[1] for match in found if match]
        return numbered if len(numbered) == len(lines) else lines
    except (DataError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _names(tree: Tree, given: _Fields, path: Path) -> dict[int, str]:
    """Give the names of the classes by their numbers."""
    names = given.names
    if isinstance(names, str):
        listed = tree.once(_names_of, path.parent / names) if names else []
        names = listed or (re.findall(r"[^\s,][^,]*", names) if "," in names else [])
    if not names and given.nc in map(str, MOST_UNNAMED):
        names = list(map(str, range(int(given.nc))))
    if not names:
        raise DataError(f'{path} has no "names"; expected a list of the classes\' names')
    return names if isinstance(names, dict) else dict(enumerate(names))
