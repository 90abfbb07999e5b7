"""Images with masks in files of their own, of objects of a single class.

One id map an image, with one whole number a pixel, and no loss: 0 is background, any other an
object. Images and maps have the same names without ending:

    images/          masks/                or masks/CLASS/, which names the class
    NAME/images/     NAME/masks/           a split, laid out in one of these ways; or
    images/NAME/     masks/NAME/
    X_img.tif        X_masks.tif           Cellpose's pairs in one folder; an image may be X.tif

Or a mask an object, as in the 2018 Data Science Bowl:

    NAME/images/NAME.png    NAME/masks/*.png       a folder an image
    images/NAME.png         masks/NAME/*.png       a folder of masks an image
    images/NAME.png         masks/NAME_1.png       masks that are numbered
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from panodetr.data.formats import Faults
from panodetr.data.formats.shapes import build
from panodetr.data.formats.sizes import Marked, Size
from panodetr.data.masks import id_map_objects, mask_object, opened, read_objects_map
from panodetr.data.samples import ObjectTruth, Records
from panodetr.data.tree import (
    IMAGE_FOLDERS,
    Tree,
    fold,
    holds_images,
    split_of,
    split_of_folder,
    words_of,
)
from panodetr.errors import DataError

MAP_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

_MAP_WORDS = frozenset(
    {"masks", "mask", "labels", "label", "maps", "labelmaps"}
    | {"groundtruth", "ground", "truth", "gt"}
)
"""Of a folder's name; its other words are those of the images' folder, too."""

_ROLES = _MAP_WORDS | IMAGE_FOLDERS | {"cp", "instances"}

_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")
"""Of the stem of an id map that is called after its image."""

_NUMBER = re.compile(r"[ _.-]*(mask|object|obj|instance|inst)?[ _.-]*\d+$", re.IGNORECASE)
"""What is behind the image's name in that of a mask of one object."""

MaskFiles: TypeAlias = dict[str, dict[PurePosixPath, list[PurePosixPath]]]
"""The masks of each image of each split; "" stands for none."""


@dataclass(kw_only=True)
class MapFolders:
    """Where a split's images and id maps are: their folders from the root, and the class."""

    images: PurePosixPath
    maps: dict[PurePosixPath, str | None] = field(default_factory=dict[PurePosixPath, str | None])


def find_id_maps(tree: Tree) -> dict[str, MapFolders]:
    """Find a folder's splits that have images and id maps; "" stands for none."""
    found: dict[str, MapFolders] = {}
    for folder in tree.folders:
        for images, split, class_name in _image_folders(tree, folder):
            group = found.setdefault(split, MapFolders(images=images))
            if group.images == images:
                group.maps[folder] = class_name
    if not found:
        # Roboflow's maps beside "_classes.csv" are of classes, not objects.
        folders = [f for f, names in tree.folders.items() if "_classes.csv" not in names]
        counts = {folder: len(_pairs_beside(tree, folder)) for folder in folders}
        if sum(counts.values()) > 1:  # one pair is no data set
            for folder in (folder for folder, count in counts.items() if count):
                found[_split_name(folder.parts)] = MapFolders(images=folder, maps={folder: None})
    return found


def read_id_maps(tree: Tree, found: dict[str, MapFolders], split: str, faults: Faults) -> Records:
    """List a split's images with their sizes and id maps, which are not read yet.

    The class has no name where no folder names it.

    Raises:
        DataError: two images share a name, or there are several classes.
    """
    group = found[split]
    masks = tree.root / next(iter(group.maps))
    classes = sorted({name for name in group.maps.values() if name is not None})
    if len(classes) > 1:
        raise DataError(
            f"{masks.parent} has folders for {', '.join(classes)}; "
            "expected one class: write several as COCO panoptic data"
        )
    if list(group.maps) == [group.images]:
        pairs = _pairs_beside(tree, group.images)
    else:
        pairs = _pairs_between(tree, group, faults)
    marked: list[Marked] = []
    for inner, id_map in pairs.items():
        path = tree.root / inner
        one = Marked(path=path, named=str(path), place=str(path), plain=1)
        marked.append(one)
        if id_map is None:
            text = f"{masks / path.stem}.png is missing; it is the id map of {path}"
            faults.add("missing file", text, path)
        else:
            one.id_map = tree.root / id_map
            one.read = partial(_read_id_map, one.id_map)
    return build(marked, classes or [""], faults, masks)


def _read_id_map(path: Path, image_id: int, size: Size, _: int) -> list[ObjectTruth]:
    return id_map_objects(*read_objects_map(path, size), image_id, 1)


def _image_folders(
    tree: Tree, maps: PurePosixPath
) -> Iterator[tuple[PurePosixPath, str, str | None]]:
    """Give folders whose images may belong to the id maps of one folder, with split and class."""
    for place, part in enumerate(maps.parts if _maps_in(tree, maps) else ()):
        words = set(words_of(part))
        if words.isdisjoint(_MAP_WORDS):
            continue
        before, after = maps.parts[:place], maps.parts[place + 1 :]
        split = next((found.name for word in words if (found := split_of(word))), None)
        bare = words - _MAP_WORDS
        for name in tree.below[PurePosixPath(*before)]:
            own = set(words_of(name))
            if not (bare <= own if holds_images(name) else own == bare != set()):
                continue
            for rest, class_name in ((after, None), (after[:-1], after[-1])) if after else (
                ((), None),):  # fmt: skip
                folder = PurePosixPath(*before, name, *rest)
                if tree.images_in(folder):
                    yield folder, split or _split_name((*before, *rest)), class_name
                    return


def _maps_in(tree: Tree, folder: PurePosixPath) -> list[PurePosixPath]:
    """List the files in a folder that may be id maps."""
    names = tree.folders[folder]
    return [folder / name for name in names if name.lower().endswith(MAP_SUFFIXES)]


def _split_name(parts: tuple[str, ...]) -> str:
    """Give the split that folders name, or else all of their names."""
    return split_of_folder(PurePosixPath(*parts)) or "/".join(parts)


def _pairs_between(
    tree: Tree, group: MapFolders, faults: Faults
) -> dict[PurePosixPath, PurePosixPath | None]:
    """Pair images and id maps of two folders; an id map may be missing."""
    images = tree.images_in(group.images)
    stems = [path.stem for path in images]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        where = tree.root / group.images
        raise DataError(f"{where} has several images called {twice}; expected one an id map")
    maps = {p.stem: p for folder in group.maps for p in reversed(_maps_in(tree, folder))}
    pairs = _pair(images, maps)
    for path in maps.keys() - {p.stem for p in pairs.values() if p is not None}:
        text = "{n} id maps have no image of their name"
        faults.note("missing file", text, f"{tree.root / maps[path]} in {tree.root / group.images}")
    return pairs


def _pairs_beside(tree: Tree, folder: PurePosixPath) -> dict[PurePosixPath, PurePosixPath | None]:
    """Pair images and id maps that lie in one folder; what has no id map is no image of it."""
    maps = {path.stem: path for path in _maps_in(tree, folder) if path.stem.endswith(_ENDINGS)}
    images = [path for path in tree.images_in(folder) if path.stem not in maps]
    return {path: id_map for path, id_map in _pair(images, maps).items() if id_map}


def _pair(
    images: Sequence[PurePosixPath], maps: dict[str, PurePosixPath]
) -> dict[PurePosixPath, PurePosixPath | None]:
    """Pair images and id maps by their stems, or by what these have beside words such as "mask"."""
    by_words: dict[tuple[str, ...], list[PurePosixPath]] = {}
    for stem, path in maps.items():
        by_words.setdefault(_bare(stem), []).append(path)
    taken = set(maps).intersection(path.stem for path in images)
    pairs: dict[PurePosixPath, PurePosixPath | None] = {}
    for path in images:
        same = [found for found in by_words.get(_bare(path.stem), ()) if found.stem not in taken]
        pairs[path] = maps.get(path.stem) or (same[0] if len(same) == 1 else None)
    return pairs


def _bare(stem: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\W_]+", fold(stem)) if word not in _ROLES)


def find_mask_files(tree: Tree) -> MaskFiles:
    """Find images and their masks by their splits; "" stands for none."""
    found: MaskFiles = {}
    for folder in tree.folders:
        masks = _maps_in(tree, folder)
        root = folder if folder.name == "masks" else folder.parent
        if root.name != "masks" or not masks:
            continue
        images = tree.images_in(root.with_name("images"))
        if root != folder:
            images = [path for path in images if path.stem == folder.name]
        elif len(images) > 1:
            found.setdefault(_split_name(root.parent.parts), {}).update(_by_image(images, masks))
            continue
        elif images and images[0].stem in {path.stem for path in masks}:
            continue
        if len(images) == 1:
            above = root.parent.parent if root == folder else root.parent
            found.setdefault(_split_name(above.parts), {})[images[0]] = masks
    return {split: images for split, images in found.items() if images}


def _by_image(
    images: Sequence[PurePosixPath], masks: Sequence[PurePosixPath]
) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Give each image the masks of its name and a number; none if some are called otherwise."""
    by_stem = {path.stem: path for path in images}
    found: dict[PurePosixPath, list[PurePosixPath]] = {path: [] for path in images}
    for mask in masks:
        image = by_stem.get(_NUMBER.sub("", mask.stem))
        if image is None or mask.stem in by_stem:
            return {}
        found[image].append(mask)
    return found if len(masks) > len(images) else {}


def read_mask_files(tree: Tree, found: MaskFiles, split: str, faults: Faults) -> Records:
    """List a split's images with their sizes; masks are read when objects are asked for.

    The class has no name.
    """
    marked = [
        Marked(
            path=(path := tree.root / image),
            named=str(path),
            place=str(path),
            plain=len(masks),
            read=partial(_read_masks, [tree.root / mask for mask in masks]),
        )
        for image, masks in found[split].items()
    ]
    return build(marked, [""], faults, tree.root)


def _read_masks(masks: list[Path], image_id: int, size: Size, _: int) -> list[ObjectTruth]:
    """Read the objects of an image; a mask without a pixel is none."""
    found: list[ObjectTruth] = []
    for path in masks:
        with opened(path, size) as picture:
            mask = np.asfortranarray(np.asarray(picture.convert("L")) > 0)
        if mask.any():
            found.append(mask_object(mask, len(found) + 1, image_id, 1))
    return found
