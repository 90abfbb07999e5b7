"""Images with a folder of masks each, one file per object, as in the 2018 Data Science Bowl.

NAME/images/NAME.png    NAME/masks/*.png       a folder an image
images/NAME.png         masks/NAME/*.png       a folder of masks an image
"""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from panodetr.data.formats import Faults, things
from panodetr.data.formats.id_maps import maps_in, split_name
from panodetr.data.formats.shapes import Marked, Rules, finish
from panodetr.data.formats.sizes import Size, list_images
from panodetr.data.masks import mask_object, opened
from panodetr.data.samples import ObjectTruth, Records
from panodetr.data.tree import Tree

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
        elif images and images[0].stem in {path.stem for path in masks}:
            continue
        if len(images) == 1:
            above = root.parent.parent if root == folder else root.parent
            found.setdefault(split_name(above.parts), {})[images[0]] = masks
    return found


def read_mask_files(tree: Tree, found: Found, split: str, faults: Faults) -> Records:
    """List a split's images with their sizes; masks are read when objects are asked for.

    The class has no name.
    """
    paths = [tree.root / path for path in found[split]]
    marked = [
        Marked(
            image=image,
            place=str(image.path),
            plain=len(masks),
            read=partial(_read_objects, [tree.root / mask for mask in masks]),
        )
        for image, masks in zip(list_images(paths, faults), found[split].values(), strict=True)
    ]
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
