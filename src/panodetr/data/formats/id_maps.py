"""A folder of images with one id map each: objects of a single class, drawn as numbers.

    images/          masks/                images and id maps of the same names without ending
    images/          masks/CLASS/          the same; the folder names the class
    NAME/images/     NAME/masks/           a split, laid out in one of these ways

An id map is a PNG or TIFF of 8 or 16 bits of grey: 0 is background, each other number an object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.data.formats import Faults, number_images, read_sizes
from panodetr.data.masks import VOID, present_ids, read_gray_id_map
from panodetr.data.samples import MaskImage
from panodetr.errors import DataError
from panodetr.images.read import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

MAP_SUFFIXES = (".png", ".tif", ".tiff")


def read_objects_map(sample: MaskImage) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Read an image's id map (H, W), 0 = background, and list the objects' ids (N,), rising.

    Raises:
        DataError: it cannot be read, or has another size than the image.
    """
    ids = read_gray_id_map(sample.id_map, sample.size)
    present = present_ids(ids)
    return ids, present[present != VOID]


def find_id_folders(folder: Path) -> list[str]:
    """List a folder's splits that have images and id maps; "" stands for the folder itself."""
    if not folder.is_dir():
        return []
    inner = sorted(path.parent.name for path in folder.glob("*/masks") if _is_split(path.parent))
    return [*inner, ""] if _is_split(folder) else inner


def class_folder(folder: Path, split: str) -> tuple[Path, str | None]:
    """Find the folder of a split's id maps, and the class that it names, if it does.

    Raises:
        DataError: it names several.
    """
    masks = folder / split / "masks"
    inner = sorted(path for path in masks.iterdir() if path.is_dir())
    maps = any(path.suffix.lower() in MAP_SUFFIXES for path in masks.iterdir())
    if maps or not inner:
        return masks, None
    if len(inner) > 1:
        raise DataError(
            f"{masks} has folders for {', '.join(path.name for path in inner)}; "
            "expected one class: write several as COCO panoptic data"
        )
    return inner[0], inner[0].name


def list_pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """List images and their id maps, sorted; an id map may be missing.

    Raises:
        DataError: there is no image, two share a name, or there are several classes.
    """
    masks, _ = class_folder(folder, split)
    images = folder / split / "images"
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{images} holds no image; expected one for each id map in {masks}")
    stems = [path.stem for path in paths]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise DataError(f"{images} has several images called {twice}; expected one an id map")
    return [(path, _map_of(path, masks)) for path in paths]


def read_id_folder(
    folder: Path, split: str, faults: Faults | None = None
) -> tuple[tuple[MaskImage, ...], tuple[str, ...]]:
    """List a split's images with their sizes and id maps, which are not read yet.

    Args:
        folder: the data set's.
        split: one of its splits.
        faults: what collects faults; None raises the first one.

    Returns:
        The images that can be read by their headers, and a message about each of the others.

    Raises:
        DataError: a file is missing, no image can be read, or there are several classes.
    """
    faults = faults or Faults()
    pairs = list_pairs(folder, split)
    paths = [path for path, _ in pairs]
    sizes, unreadable = read_sizes(paths, faults)
    images: list[MaskImage] = []
    for image_id, (path, id_map), size in zip(number_images(paths), pairs, sizes, strict=True):
        if not id_map.is_file():
            faults.add("missing file", f"{id_map} is missing; it is the id map of {path}")
        if size is not None:
            images.append(MaskImage(image_id=image_id, path=path, id_map=id_map, size=size))
    if faults.collect:
        masks, known = class_folder(folder, split)[0], {id_map for _, id_map in pairs}
        for path in sorted(masks.iterdir()):
            if path.suffix.lower() in MAP_SUFFIXES and path not in known:
                where = folder / split / "images"
                faults.tolerate("missing file", f"{path} has no image of its name in {where}")
    return tuple(images), unreadable


def _is_split(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _map_of(path: Path, masks: Path) -> Path:
    paths = [masks / f"{path.stem}{suffix}" for suffix in MAP_SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])
