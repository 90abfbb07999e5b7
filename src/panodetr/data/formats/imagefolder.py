"""Hugging Face's imagefolder: beside the images `metadata`, a row an image, with boxes.

It is a `.jsonl`, `.csv` or `.parquet`. `objects` holds lists of boxes and of classes, or a list of
objects; or these lists are columns themselves. In a CSV they are JSON, or as Python prints them.
"""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

import msgspec

from panodetr.data.formats import Faults
from panodetr.data.formats.coco import Box, Text
from panodetr.data.formats.shapes import build, find_images, read_files
from panodetr.data.formats.sizes import Marked, Shape, stated_size
from panodetr.data.samples import Records
from panodetr.data.tree import Found, Tree, as_lines, as_text, sort_by_split, split_of_file
from panodetr.errors import DataError, import_extra
from panodetr.validation import check, decode_json

_Label: TypeAlias = Annotated[int, msgspec.Meta(ge=0)] | str

_BOXES = ("bbox", "bboxes", "boxes")
"""What the list of the objects' boxes may be called."""

_CLASSES = ("categories", "category", "category_id", "labels", "label", "class_labels", "classes")
"""What the list of their classes may be called."""

_OTHERS = frozenset(("id", "area", "iscrowd", "image_id", "segmentation", "keypoints"))
"""Lists that say other things of objects."""

_LISTS = ("objects", "annotations", *_BOXES)
"""One of them is in each row."""

_UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError)


class _Row(msgspec.Struct):
    file_name: Text
    objects: dict[str, Any] | list[dict[str, Any]] | None = None
    height: float | None = None
    width: float | None = None
    found: list[tuple[Box, _Label]] = []

    def pair(self, place: str, row: dict[str, Any]) -> None:
        """Give each box its class, from `objects` or else from the row's own columns."""
        given: dict[str, Any] = {key: row[key] for key in (*_BOXES, *_CLASSES) if key in row}
        if isinstance(self.objects, dict):
            given = self.objects
        elif self.objects is not None:
            keys = dict.fromkeys(key for one in self.objects for key in one)
            given = {key: [one.get(key) for one in self.objects] for key in keys}
        name = next((key for key in _BOXES if key in given), None)
        key = next((key for key in _CLASSES if key in given), None)
        listed = given.get(name or "", None if given else [])
        boxes = check(listed, list[Box], f"{place}: {name or 'bbox'}", DataError, strict=False)
        labels = check(given.get(key or "", [0] * len(boxes)), list[_Label], place, DataError)
        unknown = given.keys() - _OTHERS - set(_BOXES)
        if (key is None and unknown) or len(labels) != len(boxes):
            raise DataError(
                f"{place} has {len(boxes)} boxes and {len(labels)} classes, with the lists "
                f"{', '.join(given)}; expected a list categories with a class a box"
            )
        self.found = list(zip(boxes, labels, strict=True))


def find_imagefolder(tree: Tree) -> Found:
    """Find the files that list objects, by their splits; "" stands for none."""
    tables = (p for p in tree.files(".csv", ".parquet") if p.stem == "metadata")
    paths = [
        path
        for path in (*tree.files(".jsonl"), *tables)
        if "file_name" in (keys := _keys(tree, path)) and not keys.isdisjoint(_LISTS)
    ]
    return sort_by_split(paths, split_of_file)


def _keys(tree: Tree, path: PurePosixPath) -> frozenset[str]:
    """Say which keys a file's rows have."""
    if path.suffix.lower() == ".jsonl":
        return tree.keys_in(tree.root / path)
    with suppress(DataError):  # it is none
        text = tree.read(tree.root / path, keep=True)
        head = text.partition(b"\n")[0] if path.suffix.lower() == ".csv" else text
        return frozenset(key for key in ("file_name", *_LISTS) if key.encode() in head)
    return frozenset()


def read_imagefolder(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """Read the boxes of a split; classes that are numbers are called by their numbers.

    Raises:
        DataError: a file cannot be read at all.
        MissingExtra: it is Parquet, and pyarrow is not installed.
    """
    marked, labels, _ = read_files(tree, found, split, faults, _read)
    find_images(tree, marked, split, faults)
    path = tree.root / found[split][0]
    if all(label.isdecimal() and len(label) < 5 for label in labels):
        numbers = {n: str(n) for n in range(max(map(int, labels), default=0) + 1)}
        faults.note("class", "nothing names the classes, which are called by their numbers")
        return build(marked, numbers, faults, path)
    return build(marked, labels, faults, path)


def _read(contents: bytes, path: Path, faults: Faults) -> Iterator[Marked]:
    """Read the rows that are faultless."""
    reader = {".csv": _read_csv, ".parquet": _read_parquet}.get(path.suffix.lower(), as_lines)
    with faults.catching("broken file"):
        for number, given in enumerate(reader(contents, path), start=1):
            place = f"{path}:{number}"
            with faults.catching("broken entry", place):
                if isinstance(given, str):
                    given = decode_json(given.encode(), dict[str, Any], place, DataError)
                given.setdefault("objects", given.get("annotations"))
                row = check(given, _Row, place, DataError, strict=False)
                row.pair(place, given)
                shapes = [
                    Shape(str(label), f"{place} object {n}", box=list(box))
                    for n, (box, label) in enumerate(row.found)
                ]
                size = stated_size(row.height, row.width)
                yield Marked(named=row.file_name, place=place, file=path, size=size, shapes=shapes)


def _read_csv(contents: bytes, path: Path) -> Iterator[dict[str, Any]]:
    try:
        for row in csv.DictReader(io.StringIO(as_text(contents, path))):
            yield {key: _evaluate(value) for key, value in row.items() if key and value}
    except csv.Error as error:
        raise DataError(f"{path} is no CSV ({error}); write it again") from error


def _evaluate(text: str) -> Any:
    """Read a list or dictionary of a CSV; other text is itself."""
    if text[:1] in ("[", "{"):
        for decode in (msgspec.json.decode, ast.literal_eval):
            try:
                return decode(text)
            except _UNREADABLE:
                continue
    return text


def _read_parquet(contents: bytes, path: Path) -> Iterable[dict[str, Any]]:
    pyarrow, parquet = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    try:
        return parquet.read_table(io.BytesIO(contents)).to_pylist()
    except (pyarrow.ArrowException, *_UNREADABLE) as error:
        raise DataError(f"{path} is no Parquet ({error}); write it again") from error
