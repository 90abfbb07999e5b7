"""Images with masks in files of their own, of objects of a single class.

One id map an image, with one whole number a pixel, and no loss: 0 is background, any other an
object. Images and maps have the same names without ending:

    images/          masks/                or masks/CLASS/, which names the class
    NAME/images/     NAME/masks/           a split, laid out in one of these ways; or
    images/NAME/     masks/NAME/
    X_img.tif        X_masks.tif           Cellpose's pairs in one folder; an image may be X.tif
    01/t000.tif      01_GT/SEG/man_seg000.tif     the Cell Tracking Challenge's

Or a mask an object, as in the 2018 Data Science Bowl:

    NAME/images/NAME.png    NAME/masks/*.png       a folder an image, or NAME/image.png
    images/NAME.png         masks/NAME/*.png       a folder of masks an image
    images/NAME.png         images/NAME/masks/*.png
    images/NAME.png         masks/NAME_1.png       masks that are numbered
    ANY/NAME.jpg            annotations/NAME_CLASS_1.png     pycococreator's, which name classes
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from panodetr.data.formats import Faults
from panodetr.data.formats.shapes import build
from panodetr.data.formats.sizes import Marked, Size
from panodetr.data.masks import map_objects, mask_object, opened, read_objects_map
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

_RARE_WORDS = _MAP_WORDS | {"seg", "segmentation", "segmentations", "instance", "instances"}
"""Where no folder is called as usual: the images' is the only other one with these names."""

_ROLES = _RARE_WORDS | IMAGE_FOLDERS | {"cp", "rgb", "raw"}

_ENDINGS = ("_masks", "_mask", "_labels", "_label", "_instances", "_seg", "_gt")
"""Of the stem of an id map that is called after its image."""

_BEHIND = re.compile(r"(?:[ _.-]+(?P<label>[^\W\d_].*?))?[ _.-]*\d+")
"""What is behind the image's name in that of a mask of one object: perhaps its class, a number."""

_OBJECTS = frozenset(("mask", "object", "obj", "instance", "inst"))
"""Words in the place of a class that name none."""

_FRAME = re.compile(r"(?:t|man_seg)(\d+)")
"""The name of an image, or of its id map, in the Cell Tracking Challenge."""

MaskFiles: TypeAlias = dict[str, dict[PurePosixPath, list[PurePosixPath]]]
"""The masks of each image of each split; "" stands for none."""


@dataclass(kw_only=True)
class MapFolders:
    """Where a split's images and id maps are: their folders from the root, and the class."""

    split: str
    images: PurePosixPath
    maps: dict[PurePosixPath, str | None] = field(default_factory=dict[PurePosixPath, str | None])


def find_id_maps(tree: Tree) -> dict[str, MapFolders]:
    """Find a folder's splits that have images and id maps; "" stands for none.

    Folders of images that are all of one split, or of none, are called by their paths.
    """
    groups: dict[PurePosixPath, MapFolders] = {}
    for words in (_MAP_WORDS, _RARE_WORDS):
        for folder in tree.folders if not groups or words is _MAP_WORDS else ():
            if known := _image_folder(tree, folder, words):
                images, split, class_name = known
                group = groups.setdefault(images, MapFolders(split=split, images=images))
                group.maps[folder] = class_name
    if not groups:
        # Roboflow's maps beside "_classes.csv" are of classes, not objects.
        folders = [f for f, names in tree.folders.items() if "_classes.csv" not in names]
        counts = {folder: len(_pairs_beside(tree, folder)) for folder in folders}
        if sum(counts.values()) > 1:  # one pair is no data set
            for folder in (folder for folder, count in counts.items() if count):
                split = _split_name(folder.parts)
                groups[folder] = MapFolders(split=split, images=folder, maps={folder: None})
    splits = Counter(group.split for group in groups.values())
    return {
        group.split if splits[group.split] == 1 else images.as_posix(): group
        for images, group in groups.items()
    }


def read_id_maps(tree: Tree, found: dict[str, MapFolders], split: str, faults: Faults) -> Records:
    """List a split's images with their sizes and id maps, which are not read yet.

    The class has no name where no folder names it.

    Raises:
        DataError: two images share a name, or there are several classes or folders of id maps.
    """
    group = found[split]
    masks = tree.root / next(iter(group.maps))
    classes = sorted({name for name in group.maps.values() if name is not None})
    unnamed = [str(folder) for folder, name in group.maps.items() if name is None]
    if len(unnamed) > 1:
        raise DataError(
            f"{tree.root / group.images} may have its id maps in {' or '.join(unnamed)}; expected "
            "one folder of them: take the others away"
        )
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
    for inner, maps in pairs.items():
        path = tree.root / inner
        if not maps and masks.name == "SEG":
            faults.note("left out", "{n} frames have no id map, and are left out", str(path))
            continue
        one = Marked(path=path, named=str(path), place=str(path), plain=1)
        marked.append(one)
        if len(maps) > 1:
            text = f"{path} may have its id map in {maps[0]} or {maps[1]}; take the other away"
            faults.add("duplicate id", text, path)
        elif not maps:
            text = f"{masks / path.stem}.png is missing; it is the id map of {path}"
            faults.add("missing file", text, path)
        else:
            one.id_map = tree.root / maps[0]
            one.read = partial(_read_id_map, one.id_map)
    return build(marked, classes or [""], faults, masks)


def _read_id_map(path: Path, image_id: int, size: Size, _: int) -> list[ObjectTruth]:
    ids, numbers = read_objects_map(path, size)
    return map_objects(ids, dict.fromkeys(numbers.tolist(), 1), image_id)


def _image_folder(
    tree: Tree, maps: PurePosixPath, expected: frozenset[str]
) -> tuple[PurePosixPath, str, str | None] | None:
    """Give the folder whose images belong to the id maps of one folder, with split and class.

    One of the expected words is in the folder's name, or in that of a folder above it.
    """
    if maps.name == "TRA" or not _maps_in(tree, maps):  # points of the Cell Tracking Challenge
        return None
    parts = maps.parts[:-1] if maps.name == "SEG" else maps.parts
    for place, part in enumerate(parts):
        words = set(words_of(part))
        if words.isdisjoint(expected):
            continue
        before, after = parts[:place], parts[place + 1 :]
        split = next((found.name for word in words if (found := split_of(word))), None)
        bare = words - expected
        alike: list[tuple[PurePosixPath, str, str | None]] = []
        for name in tree.below[PurePosixPath(*before)]:
            own = set(words_of(name))
            named = bare <= own if holds_images(name) else own == bare != set()
            for rest, class_name in ((after, None), (after[:-1], after[-1])) if after else (
                ((), None),):  # fmt: skip
                folder = PurePosixPath(*before, name, *rest)
                found = folder, split or _split_name((*before, *rest)), class_name
                images = tree.images_in(folder) if name != part else []
                if images and named:
                    return found
                if images and all(_pair(images, _maps_in(tree, maps)).values()):
                    alike.append(found)
        if len(alike) == 1 and expected is _RARE_WORDS:
            return alike[0]
    return None


def _maps_in(tree: Tree, folder: PurePosixPath) -> list[PurePosixPath]:
    """List the files in a folder that may be id maps."""
    names = tree.folders[folder]
    return [folder / name for name in names if name.lower().endswith(MAP_SUFFIXES)]


def _split_name(parts: tuple[str, ...]) -> str:
    """Give the split that folders name, or else all of their names."""
    return split_of_folder(PurePosixPath(*parts)) or "/".join(parts)


def _pairs_between(
    tree: Tree, group: MapFolders, faults: Faults
) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Pair images and id maps of two folders; an id map may be missing."""
    images = tree.images_in(group.images)
    stems = [path.stem for path in images]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        where = tree.root / group.images
        raise DataError(f"{where} has several images called {twice}; expected one an id map")
    maps = [path for folder in group.maps for path in _maps_in(tree, folder)]
    pairs = _pair(images, maps)
    paired = {path.stem for inner in pairs.values() for path in inner}
    for path in sorted(path for path in maps if path.stem not in paired):
        text = "{n} id maps have no image of their name"
        faults.note("missing file", text, f"{tree.root / path} in {tree.root / group.images}")
    return pairs


def _pairs_beside(tree: Tree, folder: PurePosixPath) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Pair images and id maps that lie in one folder; what has no id map is no image of it."""
    maps = [path for path in _maps_in(tree, folder) if path.stem.endswith(_ENDINGS)]
    images = [path for path in tree.images_in(folder) if path not in maps]
    return {path: inner for path, inner in _pair(images, maps).items() if inner}


def _pair(
    images: Sequence[PurePosixPath], maps: Sequence[PurePosixPath]
) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Give each image the id map of its stem, or else those of its words but for "mask" and such.

    Of maps that differ in their endings alone the first is taken.
    """
    by_stem = {path.stem: path for path in reversed(maps)}
    by_words: dict[tuple[str, ...], list[PurePosixPath]] = {}
    for stem in sorted(by_stem.keys() - {path.stem for path in images}):
        by_words.setdefault(_bare(stem), []).append(by_stem[stem])
    return {
        path: [by_stem[path.stem]] if path.stem in by_stem else by_words.get(_bare(path.stem), [])
        for path in images
    }


def _bare(stem: str) -> tuple[str, ...]:
    if frame := _FRAME.fullmatch(fold(stem)):
        return (frame[1],)
    return tuple(word for word in re.split(r"[\W_]+", fold(stem)) if word not in _ROLES)


def find_mask_files(tree: Tree) -> MaskFiles:
    """Find images and their masks by their splits; "" stands for none."""
    found: MaskFiles = {}
    for folder in tree.folders:
        masks = _maps_in(tree, folder)
        root = folder.parent if fold(folder.parent.name) == "masks" else folder
        above, name_classes = root.parent, root.name == "annotations"
        if not masks or not (name_classes or fold(root.name) == "masks"):
            continue
        beside = [name for name in tree.below[above] if name_classes or holds_images(name)]
        images = [i for name in beside if name != root.name for i in tree.images_in(above / name)]
        if root != folder:
            pairs = {image: masks for image in images if image.stem == folder.name}
        elif len(images) > 1 or name_classes:
            pairs = _by_image(images, masks)
        else:
            lone = [image for image in tree.images_in(above.parent) if image.stem == above.name]
            above = above.parent
            if lone and holds_images(above.name):
                above = above.parent
            if not lone and len(masks) > 1:
                lone = tree.images_in(root.parent)
            stems = {mask.stem for mask in masks}
            lone = [image for image in images or lone if image.stem not in stems]
            pairs = dict.fromkeys(lone, masks) if len(lone) == 1 else {}
        found.setdefault(_split_name(above.parts), {}).update(pairs)
    return {split: images for split, images in found.items() if images}


def _by_image(
    images: Sequence[PurePosixPath], masks: Sequence[PurePosixPath]
) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Give each image the masks of its name and a number; none if some are called otherwise."""
    by_stem = {path.stem: path for path in images}
    found: dict[PurePosixPath, list[PurePosixPath]] = {path: [] for path in images}
    for mask in masks:
        starts = (mask.stem[:end] for end in range(len(mask.stem), 0, -1))
        image = next((by_stem[start] for start in starts if start in by_stem), None)
        if image is None or not _BEHIND.fullmatch(mask.stem.removeprefix(image.stem)):
            return {}
        found[image].append(mask)
    named = any(_label(image, mask) for image, inner in found.items() for mask in inner)
    return found if named or len(masks) > len(images) else {}


def _label(image: PurePosixPath, mask: PurePosixPath) -> str:
    """Give the class that the name of a mask has behind that of its image; "" where it has none."""
    behind = mask.stem.removeprefix(image.stem)
    found = _BEHIND.fullmatch(behind) if behind != mask.stem else None
    label = found and found["label"]
    return label if label and fold(label) not in _OBJECTS else ""


def read_mask_files(tree: Tree, found: MaskFiles, split: str, faults: Faults) -> Records:
    """List a split's images with their sizes; masks are read when objects are asked for.

    The class has no name where those of masks have none.
    """
    splits = found.values()
    pairs = ((image, m) for images in splits for image, masks in images.items() for m in masks)
    names = dict(enumerate(sorted({_label(image, mask) for image, mask in pairs}), start=1))
    ids = {name: number for number, name in names.items()}
    marked: list[Marked] = []
    for image, masks in found[split].items():
        path = tree.root / image
        read = partial(_read_masks, [(tree.root / m, ids[_label(image, m)]) for m in masks])
        one = Marked(path=path, named=str(path), place=str(path), plain=len(masks), read=read)
        marked.append(one)
    return build(marked, names, faults, tree.root)


def _read_masks(
    masks: list[tuple[Path, int]], image_id: int, size: Size, _: int
) -> list[ObjectTruth]:
    """Read the objects of an image, each of a file and a category; one without a pixel is none."""
    found: list[ObjectTruth] = []
    for path, category_id in masks:
        with opened(path, size) as picture:
            mask = np.asfortranarray(np.asarray(picture.convert("L")) > 0)
        if mask.any():
            found.append(mask_object(mask, len(found) + 1, image_id, category_id))
    return found
