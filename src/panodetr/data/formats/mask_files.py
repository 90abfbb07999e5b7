"""Images with a folder of masks each, one picture an object, as in the 2018 Data Science Bowl.

NAME/images/NAME.png    NAME/masks/*.png       a folder an image
images/NAME.png         masks/NAME/*.png       a folder of masks an image
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from panodetr.data.formats import Faults, things
from panodetr.data.formats.id_maps import MAP_SUFFIXES
from panodetr.data.formats.sizes import list_images
from panodetr.data.formats.voc_masks import LazyObjects
from panodetr.data.masks import mask_object, opened
from panodetr.data.samples import InstanceImage, ObjectTruth, Records
from panodetr.data.tree import split_of

if TYPE_CHECKING:
    from panodetr.data.tree import Tree

Found: TypeAlias = dict[str, dict[PurePosixPath, list[PurePosixPath]]]


@dataclass(frozen=True)
class _Objects(LazyObjects):
    image_id: int
    masks: tuple[Path, ...]
    size: tuple[int, int]

    def _read(self) -> list[ObjectTruth]:
        """Read the objects; a mask without a pixel is none.

        Raises:
            DataError: a mask is missing, broken, or of another size.
        """
        found: list[ObjectTruth] = []
        for path in self.masks:
            with opened(path, self.size) as picture:
                mask = np.asfortranarray(np.asarray(picture.convert("L")) > 0)
            if mask.any():
                found.append(mask_object(mask, len(found) + 1, self.image_id, 1))
        return found


def find_mask_files(tree: Tree) -> Found:
    """Find images and their masks by their splits; "" stands for none."""
    found: Found = {}
    for folder, names in tree.folders.items():
        masks = [folder / name for name in names if name.lower().endswith(MAP_SUFFIXES)]
        if folder.name == "masks" and masks:
            images = tree.images_in(folder.with_name("images"))
            if len(images) != 1 or images[0].stem in {path.stem for path in masks}:
                continue
            above = folder.parent.parent
        elif folder.parent.name == "masks" and masks:
            images = tree.images_in(folder.parent.with_name("images"))
            images = [path for path in images if path.stem == folder.name]
            if len(images) != 1:
                continue
            above = folder.parent.parent
        else:
            continue
        split = next((s.name for part in reversed(above.parts) if (s := split_of(part))), None)
        found.setdefault(split or above.as_posix().removeprefix("."), {})[images[0]] = masks
    return found


def read_mask_files(
    tree: Tree, found: Found, split: str, faults: Faults, class_name: str
) -> Records:
    """List a split's images with their sizes; masks are read when objects are asked for."""
    images = found[split]
    paths = [tree.root / path for path in images]
    listed = list_images(paths, faults)
    samples = tuple(
        InstanceImage(
            image_id=image.image_id,
            path=path,
            size=image.size,
            as_stored=image.as_stored,
            objects=_Objects(image.image_id, tuple(tree.root / mask for mask in masks), image.size),
        )
        for image, path, masks in zip(listed, paths, images.values(), strict=True)
        if image.size is not None
    )
    return Records(
        categories=things({1: class_name}), samples=samples, has_masks=True, place=tree.root
    )
