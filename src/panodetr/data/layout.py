"""Where the parts of a COCO data set lie: the JSON, the images and the id maps of one split.

Three layouts, K being `panoptic` or `instances` and NAME the split:

    K.json            images/    K/                    no splits; the split's name is ""
    K_NAME.json       NAME/      K_NAME/
    annotations/K_NAME.json      NAME/      annotations/K_NAME/      as COCO unpacks

In the last one NAME may leave out the year: "val" finds `annotations/panoptic_val2017.json`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from panodetr.errors import DataError, ImageError
from panodetr.images.read import read_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Kind = Literal["panoptic", "instances"]
"""Which truth a JSON holds."""


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


def read_sizes(images: Sequence[Path]) -> tuple[list[tuple[int, int] | None], tuple[str, ...]]:
    """Read the sizes (H, W) of images, where no file gives them.

    Returns:
        The sizes in the images' order, None for images whose headers are broken, and what is said
        of each of these.

    Raises:
        DataError: an image is missing, there is none, or none can be read.
    """
    sizes: list[tuple[int, int] | None] = []
    unreadable: list[str] = []
    for image in images:
        try:
            sizes.append(read_size(image))
        except ImageError as error:
            if not image.exists():
                raise DataError(str(error)) from error
            sizes.append(None)
            unreadable.append(str(error))
    if len(unreadable) == len(images):
        raise DataError(f"none of {len(images)} images can be read, the first: {unreadable[0]}")
    return sizes, tuple(unreadable)


def number_images(images: Sequence[Path]) -> list[int]:
    """Give images ids where no file does: the numbers they are called by, or else 1 and up.

    COCO's images are called by their ids, which so survive formats that have no place for them.
    """
    stems = [image.stem for image in images]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(images) + 1))
