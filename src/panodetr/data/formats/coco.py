"""What COCO's two formats share: where a split lies, its images and its categories.

Three layouts, K being `panoptic` or `instances` and NAME the split:

    K.json            images/    K/                    no splits; the split's name is ""
    K_NAME.json       NAME/      K_NAME/
    annotations/K_NAME.json      NAME/      annotations/K_NAME/      as COCO unpacks

In the last one NAME may leave out the year: "val" finds `annotations/panoptic_val2017.json`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

import msgspec

from panodetr.data.formats import Faults, named_file
from panodetr.errors import DataError
from panodetr.images.read import MAX_PIXELS
from panodetr.validation import decode_json, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Kind = Literal["panoptic", "instances"]
"""Which ground truth a JSON holds."""

Entry = TypeVar("Entry", bound=msgspec.Struct)
CategoryT = TypeVar("CategoryT", bound="CategoryEntry")

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""What every program reads from a JSON without loss."""
Coordinate: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Side: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Box: TypeAlias = tuple[Coordinate, Coordinate, Side, Side]
"""x, y, width, height in pixels."""
Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
_Length: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)]


class CategoryEntry(msgspec.Struct):
    """A category of an instance JSON; a panoptic one says more."""

    id: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    name: Text


class _ImageEntry(msgspec.Struct):
    id: Id
    file_name: Text
    height: _Length
    width: _Length


class Document(msgspec.Struct):
    """A JSON whose entries are not decoded yet: each is checked by itself."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


@dataclass(frozen=True)
class Layout:
    """The parts of one split.

    Attributes:
        annotations: the JSON.
        images: folder that the images' file names are in.
        id_maps: folder of the panoptic id maps; instances have none.
    """

    annotations: Path
    images: Path
    id_maps: Path


@dataclass(frozen=True)
class ListedImage:
    """An image that a JSON lists: its path, and its size (H, W) in pixels."""

    path: Path
    size: tuple[int, int]


def read_document(path: Path) -> Document:
    """Read a JSON, its entries as they are.

    Raises:
        DataError: the file cannot be read, is not JSON, or lacks one of COCO's three lists.
    """
    return read_json(path, Document, DataError)


def is_panoptic(annotation: msgspec.Raw) -> bool:
    """Whether an annotation lists segments, as those of a panoptic JSON do."""
    try:
        return "segments_info" in msgspec.json.decode(annotation, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return False  # whoever reads it says what is wrong


def decode_entries(
    entries: Sequence[msgspec.Raw], expected: type[Entry], place: str, faults: Faults
) -> Iterator[tuple[str, Entry, msgspec.Raw]]:
    """Decode and check a list entry by entry; give place, value and text of those without fault.

    Raises:
        DataError: an entry is faulty, and faults are not collected.
    """
    for number, raw in enumerate(entries):
        here = f"{place}[{number}]"
        try:
            entry = decode_json(raw, expected, here, DataError, strict=False)
        except DataError as error:
            faults.add("broken entry", str(error))
            continue
        yield here, entry, raw


def read_images(document: Document, layout: Layout, faults: Faults) -> dict[int, ListedImage]:
    """Read the images by their ids, in the order of the JSON; the files may be missing.

    Raises:
        DataError: an entry is faulty, repeated, or there is none, and faults are not collected.
    """
    place = f"{layout.annotations}: images"
    images: dict[int, ListedImage] = {}
    paths: dict[Path, int] = {}
    for here, entry, _ in decode_entries(document.images, _ImageEntry, place, faults):
        if entry.id in images:
            faults.add("duplicate id", f"{here} repeats image id {entry.id}")
            continue
        if entry.height * entry.width > MAX_PIXELS:
            faults.add(
                "broken entry",
                f"{here} is {entry.width}x{entry.height} pixels; expected {MAX_PIXELS:,} at most",
            )
            continue
        with faults.catching("broken entry"):
            path = named_file(entry.file_name, layout.images, here)
            if path in paths:
                faults.tolerate(
                    "duplicate id",
                    f"{here} (image {entry.id}) has {path}, image {paths[path]} too",
                )
            paths[path] = entry.id
            images[entry.id] = ListedImage(path, (entry.height, entry.width))
    if not images:
        faults.add("broken entry", f"{layout.annotations} has no images; expected at least one")
    return images


def read_categories(
    document: Document, expected: type[CategoryT], path: Path, faults: Faults
) -> list[CategoryT]:
    """Read the categories, by rising id.

    Raises:
        DataError: an entry is faulty, two share an id or a name, or there is none, and faults are
            not collected.
    """
    found: dict[int, CategoryT] = {}
    names: set[str] = set()
    place = f"{path}: categories"
    for here, entry, _ in decode_entries(document.categories, expected, place, faults):
        if entry.id in found or entry.name in names:
            faults.add("duplicate id", f"{here} repeats id {entry.id} or name {entry.name!r}")
        found.setdefault(entry.id, entry)
        names.add(entry.name)
    if not found:
        faults.add("broken entry", f"{path} has no categories; expected at least one")
    return [found[category_id] for category_id in sorted(found)]


def find_layout(folder: Path, split: str, kind: Kind) -> Layout | None:
    """Find a split whose JSON is there; None where there is none."""
    if not split:
        layouts = [Layout(folder / f"{kind}.json", folder / "images", folder / kind)]
    else:
        beside = folder / f"{kind}_{split}"
        layouts = [Layout(beside.with_name(f"{beside.name}.json"), folder / split, beside)]
        for path in sorted((folder / "annotations").glob(f"{kind}_*.json")):
            name = path.stem.removeprefix(f"{kind}_")
            if name == split or re.fullmatch(rf"{re.escape(split)}20\d\d", name):
                layouts.append(Layout(path, folder / name, path.with_suffix("")))
    return next((layout for layout in layouts if layout.annotations.is_file()), None)


def require_layout(folder: Path, split: str, kind: Kind) -> Layout:
    """Find a split and see that its folders are there.

    Raises:
        DataError: a part is missing; the message lists the splits that are there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with COCO {kind} data")
    layout = find_layout(folder, split, kind)
    if layout is None:
        named = f"{kind}_{split}.json" if split else f"{kind}.json"
        there = ", ".join(name or '"" (no split)' for name in find_splits(folder, kind)) or "none"
        raise DataError(f"{folder / named} is missing; splits in {folder}: {there}")
    parts = [layout.images, layout.id_maps] if kind == "panoptic" else [layout.images]
    for part in parts:
        if not part.is_dir():
            raise DataError(
                f"{part} is missing; expected a folder of the files that "
                f"{layout.annotations.name} names"
            )
    return layout


def find_splits(folder: Path, kind: Kind) -> list[str]:
    """List a folder's splits by name; "" stands for the data set that has none."""
    found = [*folder.glob(f"{kind}_*.json"), *(folder / "annotations").glob(f"{kind}_*.json")]
    splits = sorted({path.stem.removeprefix(f"{kind}_") for path in found})
    return [*splits, ""] if (folder / f"{kind}.json").is_file() else splits
