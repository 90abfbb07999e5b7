"""Images with a folder of masks each, one file per object, as in the 2018 Data Science Bowl.

NAME/images/NAME.png    NAME/masks/*.png       a folder an image
images/NAME.png         masks/NAME/*.png       a folder of masks an image
images/NAME.png         masks/NAME_1.png       masks that are numbered
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from panodetr.data.formats import Faults, things
from panodetr.data.formats.id_maps import maps_in, split_name
from panodetr.data.formats.shapes import Rules, finish
from panodetr.data.formats.sizes import Size, list_images
from panodetr.data.masks import mask_object, opened
from panodetr.data.samples import ObjectTruth, Records
from panodetr.data.tree import Tree

_NUMBER = re.compile(r"[ _.-]*(mask|object|obj|instance|inst)?[ _.-]*\d+$", re.IGNORECASE)
"""What is behind the image's name in that of a mask."""

Found: TypeAlias = dict[str, dict[PurePosixPath, list[PurePosixPath]]]


def find_mask_files(tree: Tree) -> Found:
    """Find images and their masks by their splits; "" stands for none."""
    found: Found = {}
    for folder in tree.folders:
        masks = maps_in(tree, folder)
        root = folder if folder.name == "masks" else folder.parent
        if root.name != "masks" or not masks:
            continue
        images = tree.images_in(root.with_name("images"))
        if root != folder:
            images = [path for path in images if path.stem == folder.name]
        elif len(images) > 1:
            found.setdefault(split_name(root.parent.parts), {}).update(_sort(images, masks))
            continue
        elif images and images[0].stem in {path.stem for path in masks}:
            continue
        if len(images) == 1:
            above = root.parent.parent if root == folder else root.parent
            found.setdefault(split_name(above.parts), {})[images[0]] = masks
    return {split: images for split, images in found.items() if images}


def _sort(
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


def read_mask_files(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """List a split's images with their sizes; masks are read when objects are asked for.

    The class has no name.
    """
    paths = [tree.root / path for path in found[split]]
    marked = list_images(paths, faults)
    for one, masks in zip(marked, found[split].values(), strict=True):
        one.plain = len(masks)
        one.read = partial(_read_objects, [tree.root / mask for mask in masks])
    return finish(marked, things({1: ""}), Rules(ids={}), faults, tree.root)


def _read_objects(masks: list[Path], image_id: int, size: Size, _: int) -> list[ObjectTruth]:
    """Read the objects of an image; a mask without a pixel is none."""
    found: list[ObjectTruth] = []
    for path in masks:
        with opened(path, size) as picture:
            mask = np.asfortranarray(np.asarray(picture.convert("L")) > 0)
        if mask.any():
            found.append(mask_object(mask, len(found) + 1, image_id, 1))
    return found
