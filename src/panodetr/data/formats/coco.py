"""What COCO's two formats share: which JSONs are of which split, their images and categories.

A JSON with images, annotations and categories is found by its content, wherever it lies in the
folder; `split_of_file` says of which split it is. Its images are those that its names mean.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from panodetr.data.formats import Faults, refuse_second
from panodetr.data.formats.shapes import require_classes
from panodetr.data.formats.sizes import (
    Marked,
    choose_file,
    note_repeated,
    read_headers,
    stated_size,
)
from panodetr.data.tree import ABSENT, ANNOTATIONS_DEPTH, Tree, are_copies, split_of, split_of_file
from panodetr.errors import DataError
from panodetr.validation import decode_json

Kind = Literal["panoptic", "instances"]
"""Which ground truth a JSON holds."""

Entry = TypeVar("Entry", bound=msgspec.Struct)
CategoryT = TypeVar("CategoryT", bound="CategoryEntry")

Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Id: TypeAlias = Whole | str
"""An opaque key: annotations are joined by its value, else by its text."""
Coordinate: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Side: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Box: TypeAlias = tuple[Coordinate, Coordinate, Side, Side]
"""x, y, width, height in pixels."""
Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]

_Value: Any = dict[str, Any] | int | str
"""Of a category in a mapping."""

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SNIFFED = 32 * 2**20
"""Bytes of a JSON that is decoded to see what it is; of a larger one the keys are looked for."""

_KINDS: tuple[Kind, ...] = ("panoptic", "instances")


class CategoryEntry(msgspec.Struct):
    """A category of an instance JSON; a panoptic one says more."""

    id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | Text
    written: Text | int = msgspec.field(name="name")
    supercategory: Any = None

    @property
    def name(self) -> str:
        """Its name, which may be written as a number."""
        return str(self.written)


class _ImageEntry(msgspec.Struct):
    id: Id
    file_name: str = ""
    coco_url: str | None = None
    height: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        """Take the name from the URL where there is none, as in LVIS."""
        self.file_name = self.file_name or "/".join((self.coco_url or "").split("/")[-2:])
        if not self.file_name:
            raise ValueError("object missing required field `file_name`")


class Document(msgspec.Struct):
    """A JSON whose entries are not decoded yet: each is checked by itself.

    Some tools write mappings from ids to entries, which have their ids, too.
    """

    listed: list[msgspec.Raw] | dict[str, msgspec.Raw] = msgspec.field(name="images")
    drawn: list[msgspec.Raw] | dict[str, msgspec.Raw] = msgspec.field(name="annotations")
    categories: list[msgspec.Raw] | dict[str, msgspec.Raw]

    @property
    def images(self) -> list[msgspec.Raw]:
        """The images' texts."""
        return [*self.listed.values()] if isinstance(self.listed, dict) else self.listed

    @property
    def annotations(self) -> list[msgspec.Raw]:
        """The annotations' texts."""
        return [*self.drawn.values()] if isinstance(self.drawn, dict) else self.drawn


class _Used(msgspec.Struct):
    category_id: Id | None = None
    segments_info: list[_Used] = []


class OfImage(msgspec.Struct):
    """An annotation, of which only the image is read."""

    image_id: Id


OfImageT = TypeVar("OfImageT", bound=OfImage)


class _Named(msgspec.Struct):
    file_name: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of one split.

    Attributes:
        annotations: the JSON. The folder of its name is expected to hold panoptic id maps.
        tree: the files among which images and id maps are looked for.
        maps: those among which id maps are, if they are others.
        split: its name.
        others: the JSONs of the other splits, by their names.
    """

    annotations: Path
    tree: Tree
    maps: Tree | None = None
    split: str = ""
    others: dict[str, Path] = field(default_factory=dict[str, Path])

    @classmethod
    def of_file(cls, path: Path) -> Layout:
        """Give the layout of a JSON beside which lie `images` and a folder of its name."""
        return cls(
            annotations=path,
            tree=Tree(path.parent / "images"),
            maps=Tree(path.with_suffix("")),
        )

    def find(
        self, names: Sequence[str], *, maps: bool = False, taken: Iterable[Path] = ()
    ) -> dict[str, list[Path]]:
        """Find the images that names mean, or the id maps, but for files that are taken."""
        tree = self.maps if maps and self.maps else self.tree
        return (tree.pictures if maps else tree.images).find(
            names,
            self.annotations.parent if self.maps is None else tree.root,
            split=self.split,
            others=frozenset(self.others),
            maps=self.annotations.stem if maps else None,
            taken=frozenset(taken),
        )


def read_document(tree: Tree, path: Path, *, keep: bool = False) -> Document:
    """Read a JSON, its entries as they are; with `keep` it is read again later.

    Raises:
        DataError: the file cannot be read, is not JSON, or lacks one of COCO's three lists.
    """
    return decode_json(tree.read(path, keep=keep), Document, str(path), DataError)


def decode_entries(
    entries: Sequence[msgspec.Raw],
    expected: type[Entry],
    place: str,
    faults: Faults,
    image_of: Callable[[msgspec.Raw, str], Hashable] = lambda raw, here: None,
) -> Iterator[tuple[int, Entry]]:
    """Decode and check a list entry by entry; give the faultless ones, by their places in it.

    `image_of` says which image cannot be used for an entry, given its text and place; None is all.
    """
    decoder = msgspec.json.Decoder(expected, strict=False)
    for number, raw in enumerate(entries):
        try:
            entry = decoder.decode(raw)
        except DECODE_ERRORS:
            here = f"{place}[{number}]"
            with faults.catching("broken entry", image_of(raw, here)):
                decode_json(raw, expected, here, DataError, strict=False)
            continue
        yield number, entry


class Join:
    """Numbers entries by their ids, and finds them by value, else by the id's text.

    Attributes:
        known: the number of an entry by each way to write its id.
        refused: whether an entry is faulty: nothing is said then of what is not known.
    """

    def __init__(self) -> None:
        self.known: dict[int | str, int] = {}
        self.refused = False
        self._ids: set[int | str] = set()

    def add(self, key: int | str, number: int) -> bool:
        """Take up an id and its number; False where the id is known already."""
        if key in self._ids:
            return False
        self._ids.add(key)
        self.known[key] = number
        if isinstance(key, int):
            self.known.setdefault(str(key), number)
        elif key.isdecimal() and len(key) < 19:
            self.known.setdefault(int(key), number)
        return True

    def image_of(self, raw: msgspec.Raw, place: str) -> int | str:
        """Give the image of an annotation that is faulty, or else the annotation's place."""
        try:
            given = msgspec.json.decode(raw, type=OfImage, strict=False).image_id
        except DECODE_ERRORS:
            return place
        return self.known.get(given, place)


def decode_joined(
    document: Document, expected: type[OfImageT], place: str, images: Join, faults: Faults
) -> Iterator[tuple[int, OfImageT, int]]:
    """Decode annotations as `decode_entries`, and give each one's image, too.

    Those of images that the JSON doesn't list are counted.
    """
    texts = document.annotations
    for number, entry in decode_entries(texts, expected, place, faults, images.image_of):
        image_id = images.known.get(entry.image_id)
        if image_id is not None:
            yield number, entry, image_id
        elif not images.refused:
            text = "{n} annotations are of images that the JSON doesn't list, and are left out"
            faults.note("unknown image", text, f"{place}[{number}] is for image {entry.image_id}")


def read_images(
    document: Document, layout: Layout, faults: Faults, taken: Iterable[Path] = ()
) -> tuple[dict[int, Marked], Join]:
    """Read the images by their ids, in the order of the JSON, with their sizes and files.

    Files that are taken are something else.

    Raises:
        DataError: an entry is faulty, repeated, or there is none, and faults are not collected.
    """
    place = f"{layout.annotations}: images"
    images: dict[int, Marked] = {}
    join = Join()
    names: dict[int, tuple[str, str]] = {}  # of each image its place and name
    listed = document.images
    entries = list(decode_entries(listed, _ImageEntry, place, faults, lambda _, here: here))
    join.refused = len(entries) < len(listed)
    numbers = _numbers([entry.id for _, entry in entries])
    for place_number, entry in entries:
        here = f"{place}[{place_number}]"
        if not join.add(entry.id, number := numbers[entry.id]):
            faults.add("duplicate id", f"{here} repeats image id {entry.id}", here)
        else:
            names[number] = here, entry.file_name
            images[number] = Marked(
                image_id=number,
                place=str(layout.annotations),
                named=os.path.join(layout.tree.root, entry.file_name),
                key=entry.id if isinstance(entry.id, str) else None,
                size=stated_size(entry.height, entry.width),
            )
    for number, (_, name) in names.items():
        join.known.setdefault(name, number)  # some tools write it for the id
    if not images:
        faults.add(
            "broken entry", f"{layout.annotations} has no images; expected at least one image"
        )
    found = layout.find([name for _, name in names.values()], taken=taken)
    for image_id, (here, name) in names.items():
        images[image_id].path = choose_file(found, name, here, faults, image_id)
    note_repeated(images.values(), faults)
    read_headers(list(images.values()), faults)
    return images, join


def _numbers(keys: Sequence[int | str]) -> dict[int | str, int]:
    """Number images by their ids: the ids themselves, or their places where some are words."""
    try:
        numbers = {key: int(key) for key in keys}
        if len(set(numbers.values())) == len(numbers):
            return numbers
    except ValueError:
        pass
    return {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}


def read_categories(
    document: Document, layout: Layout, faults: Faults, expected: type[CategoryT] = CategoryEntry
) -> tuple[dict[int, CategoryT], Join]:
    """Read the categories by their ids, rising, without those that stand for nothing.

    Left out, with a note: a root that Roboflow writes above all classes, which no object has, and a
    repeated name that no object has.

    Raises:
        DataError: an entry is faulty, two share an id, two of one name have objects, or there is
            none, and faults are not collected; or it is not clear which ids names stand for.
    """
    found: dict[int, CategoryT] = {}
    join = Join()
    place = f"{layout.annotations}: categories"
    listed = _list_categories(document, layout, place)
    entries = list(decode_entries(listed, expected, place, faults))
    join.refused = len(entries) < len(listed)
    numbers = _numbers([entry.id for _, entry in entries])
    for number, entry in entries:
        known = found.setdefault(numbers[entry.id], entry)
        join.add(entry.id, numbers[entry.id])
        if (entry.name, entry.supercategory) != (known.name, known.supercategory):
            text = f"{place}[{number}] repeats id {entry.id} of {entry.name!r}"
            faults.add("duplicate id", text)
    for number, entry in found.items():
        join.known.setdefault(entry.name, number)  # some tools write it for the id
    if not found and not join.refused:
        text = f"{layout.annotations} has no categories; expected at least one"
        faults.add("broken entry", text)
        join.refused = True
    count = Counter(entry.name for entry in found.values())
    suspects = {number for number, entry in found.items() if count[entry.name] > 1}
    roots = [number for number, entry in found.items() if entry.supercategory == "none"]
    root = roots[0] if len(roots) == 1 and len(found) > 1 else None
    if root is not None or suspects:
        used: set[int] = set()
        for keys in _used(document, layout):
            used |= {join.known[key] for key in keys if key in join.known}
            if (suspects | ({root} if root is not None else set())) <= used:
                break
        if root is not None and root not in used:
            text = "a class without objects that stands above all others is none"
            faults.note("class", text, f"{found.pop(root).name!r}, id {root}")
        names = {number: entry.name for number, entry in found.items()}
        kept = require_classes(names, used, str(layout.annotations), faults)
        found = {number: found[number] for number in kept}
    return dict(sorted(found.items())), join


def _list_categories(document: Document, layout: Layout, place: str) -> list[msgspec.Raw]:
    """Give the categories as COCO writes them where they are a list of names, or a mapping.

    A mapping leads from ids to names or entries, or from names to ids. A list counts from 0, or
    from 1 where an object has its length as id.
    """
    given = document.categories
    entries: list[dict[str, Any]] = []
    if isinstance(given, dict):
        for key, raw in given.items():
            value = decode_json(raw, _Value, f"{place}: {key}", DataError)
            if isinstance(value, dict):
                entries.append({"id": key, "name": key} | value)
            elif isinstance(value, int) or (value.isdecimal() and not key.isdecimal()):
                entries.append({"id": value, "name": key})
            else:
                entries.append({"id": key, "name": value})
    elif given and all(bytes(raw).startswith(b'"') for raw in given):
        used = {str(key) for keys in _used(document, layout) for key in keys}
        from_one = str(len(given)) in used
        numbers = used & set(map(str, range(len(given) + 1)))
        if numbers and from_one == ("0" in numbers):
            raise DataError(
                f"{place} are {len(given)} names, and the ids of objects "
                f"({', '.join(sorted(numbers)[:5])}) may count from 0 or 1; write each as "
                '{"id": NUMBER, "name": NAME}'
            )
        names = [decode_json(raw, str, place, DataError) for raw in given]
        entries = [{"id": n, "name": name} for n, name in enumerate(names, start=from_one)]
    else:
        return given
    return [msgspec.Raw(msgspec.json.encode(entry)) for entry in entries]


def _used(document: Document, layout: Layout) -> Iterator[set[int | str]]:
    """Give the categories of objects or segments, as written, of this split and each other one."""
    key = _used_at, layout.annotations
    yield layout.tree.found.setdefault(key, _used_in(document))
    for path in layout.others.values():
        yield layout.tree.once(_used_at, path)


def _used_at(tree: Tree, path: Path) -> set[int | str]:
    try:
        return _used_in(read_document(tree, path, keep=True))
    except DataError:  # said where that split is opened
        return set()


def _used_in(document: Document) -> set[int | str]:
    decoder = msgspec.json.Decoder(_Used, strict=False)
    found: set[int | str] = set()
    for raw in document.annotations:
        with suppress(*DECODE_ERRORS):
            entry = decoder.decode(raw)
            inner = (segment.category_id for segment in entry.segments_info)
            found.update(key for key in (entry.category_id, *inner) if key is not None)
    return found


def find_documents(tree: Tree, kind: Kind) -> dict[str, list[Path]]:
    """Find the JSONs of one kind by their splits; "" stands for none."""
    found: dict[str, list[Path]] = {}
    for path in tree.files(".json", depth=ANNOTATIONS_DEPTH):
        its_kind, split = tree.once(_sniff, path)
        if its_kind == kind:
            found.setdefault(split, []).append(tree.root / path)
    return {
        split: _only(tree, paths, kind) if len(paths) > 1 else paths
        for split, paths in sorted(found.items(), key=lambda item: (not item[0], item[0]))
    }


def make_layout(tree: Tree, found: dict[str, list[Path]], split: str) -> Layout:
    """Give the parts of a split that was found.

    Raises:
        DataError: several JSONs are of this split.
    """
    path, *more = found[split]
    if more:
        refuse_second(path, more[0], split)
    others = {name: paths[0] for name, paths in found.items() if name != split}
    return Layout(annotations=path, tree=tree, split=split, others=others)


def _only(tree: Tree, paths: list[Path], kind: Kind) -> list[Path]:
    """Keep JSONs whose images are there; of these one of copies, or that with COCO's name."""
    there = [path for path in paths if tree.lists_images(path)] or paths
    if len(there) < len(paths):
        tree.leave_out(ABSENT, (path for path in paths if path not in there))
        paths = there
    if len(paths) > 1 and are_copies(paths):
        tree.leave_out("are copies of the one that is read", paths[1:])
        return paths[:1]
    named = [path for path in paths if path.stem.startswith((f"{kind}_", kind))]
    return named if len(named) == 1 else paths


def _sniff(tree: Tree, path: PurePosixPath) -> tuple[Kind | None, str]:
    """Say what a JSON holds, None where it is not one of COCO's, and of which split it is.

    A broken JSON with one of COCO's names counts, so that its error is reported.
    """
    named: Kind | None = next(
        (kind for kind in _KINDS if re.match(rf"{kind}(_|$)", path.stem)), None
    )
    keys, split = tree.keys_in(tree.root / path), split_of_file(path)
    if not {"images", "annotations", "categories"} <= keys:
        return named, split
    kind: Kind = "panoptic" if "segments_info" in keys else "instances"
    if (tree.root / path).stat().st_size > _SNIFFED:
        return kind, split
    try:
        document = read_document(tree, tree.root / path, keep=True)
    except DataError as error:
        return kind if "not valid JSON" in str(error) else named, split
    split = split or _split_of_images(document.images)
    return kind if document.images or named == kind else None, split


def _split_of_images(images: Sequence[msgspec.Raw]) -> str:
    """Give the split whose folder all images are named in; "" where there is none."""
    try:
        names = [msgspec.json.decode(raw, type=_Named).file_name for raw in images]
    except DECODE_ERRORS:
        return ""
    tops = {PurePosixPath(name.replace("\\", "/")).parts[:1] for name in names}
    split = split_of(tops.pop()[0]) if len(tops) == 1 and () not in tops else None
    return split.name if split else ""
