"""Images with one id map each: objects of a single class, drawn as numbers.

    images/          masks/                images and id maps of the same names without ending
    images/          masks/CLASS/          the same; the folder names the class
    NAME/images/     NAME/masks/           a split, laid out in one of these ways; or
    images/NAME/     masks/NAME/
    X_img.tif        X_masks.tif           Cellpose's pairs in one folder; an image may be X.tif

An id map has one whole number a pixel, and no loss: 0 is background, any other an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from panodetr.data.formats import Faults, things
from panodetr.data.formats.sizes import list_images
from panodetr.data.masks import VOID, present_ids, read_gray_id_map
from panodetr.data.samples import MaskImage, Records
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

_MAP_WORDS = frozenset({"masks", "mask", "labels", "label", "maps", "labelmaps", "groundtruth"})
"""Of a folder's name; its other words are those of the images' folder, too."""

_ROLES = _MAP_WORDS | IMAGE_FOLDERS | {"cp", "instances"}

_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")
"""Of the stem of an id map that is called after its image."""


@dataclass(kw_only=True)
class MapFolders:
    """Where a split's images and id maps are: their folders from the root, and the class."""

    images: PurePosixPath
    maps: dict[PurePosixPath, str | None] = field(default_factory=dict[PurePosixPath, str | None])


def read_objects_map(sample: MaskImage) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Read an image's id map (H, W), 0 = background, and list the objects' ids (N,), rising.

    Raises:
        DataError: it cannot be read, or has another size than the image.
    """
    ids = read_gray_id_map(sample.id_map, sample.size)
    present = present_ids(ids)
    return ids, present[present != VOID]


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
                found[split_name(folder.parts)] = MapFolders(images=folder, maps={folder: None})
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
    paths = [tree.root / path for path in pairs]
    listed = list_images(paths, faults)
    samples: list[MaskImage] = []
    for image, path, id_map in zip(listed, paths, pairs.values(), strict=True):
        if id_map is None:
            text = f"{masks / path.stem}.png is missing; it is the id map of {path}"
            faults.add("missing file", text, image.image_id)
        elif image.size is not None and image.image_id not in faults.bad:
            samples.append(
                MaskImage(
                    image_id=image.image_id,
                    path=path,
                    id_map=tree.root / id_map,
                    size=image.size,
                    as_stored=image.as_stored,
                )
            )
    categories = things({1: classes[0] if classes else ""})
    return Records(categories=categories, samples=tuple(samples), has_masks=True, place=masks)


def _image_folders(
    tree: Tree, maps: PurePosixPath
) -> Iterator[tuple[PurePosixPath, str, str | None]]:
    """Give folders whose images may belong to the id maps of one folder, with split and class."""
    for place, part in enumerate(maps.parts if maps_in(tree, maps) else ()):
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
                    yield folder, split or split_name((*before, *rest)), class_name
                    return


def maps_in(tree: Tree, folder: PurePosixPath) -> list[PurePosixPath]:
    """List the files in a folder that may be id maps."""
    names = tree.folders[folder]
    return [folder / name for name in names if name.lower().endswith(MAP_SUFFIXES)]


def split_name(parts: tuple[str, ...]) -> str:
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
    maps = {p.stem: p for folder in group.maps for p in reversed(maps_in(tree, folder))}
    pairs = _pair(images, maps)
    for path in maps.keys() - {p.stem for p in pairs.values() if p is not None}:
        text = "{n} id maps have no image of their name"
        faults.note("missing file", text, f"{tree.root / maps[path]} in {tree.root / group.images}")
    return pairs


def _pairs_beside(tree: Tree, folder: PurePosixPath) -> dict[PurePosixPath, PurePosixPath | None]:
    """Pair images and id maps that lie in one folder; what has no id map is no image of it."""
    maps = {path.stem: path for path in maps_in(tree, folder) if path.stem.endswith(_ENDINGS)}
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
