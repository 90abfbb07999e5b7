"""The images of a data set and their ground truth, as every reader gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from panodetr.errors import ChannelError, DataError
from panodetr.images.preprocess import Preprocessing
from panodetr.images.read import StoredImage, read_image
from panodetr.results.types import Category


class RunLengths(TypedDict):
    """A mask in COCO's run lengths, down the columns.

    `size` is height and width; `counts` are the lengths, empty pixels first, or COCO's string of
    them.
    """

    size: list[int]
    counts: str | list[int]


class ObjectTruth(TypedDict):
    """One object as COCO writes it.

    `bbox` is x, y, width, height in pixels; `area` is what COCO sorts into small, medium and large;
    `iscrowd` is 1 for many objects drawn as one. `segmentation` is a list of polygons
    x0, y0, x1, y1, …, or run lengths; missing where the data set has boxes only.
    """

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: NotRequired[list[list[float]] | RunLengths]


@dataclass(frozen=True, kw_only=True)
class GroundTruthSegment:
    """One segment that the annotators drew.

    Attributes:
        id: its value in the id map, 1 or more.
        category_id: the data set's own.
        area: pixels, as the JSON says: panoptic quality counts with it, not with the pixels.
        is_crowd: True where the segment covers many objects drawn as one.
    """

    id: int
    category_id: int
    area: int
    is_crowd: bool


@dataclass(frozen=True, kw_only=True)
class DataImage:
    """One image of a data set, whatever its ground truth.

    Attributes:
        image_id: the data set's own; where it has none, the number that the image is called by, or
            else its place.
        path: of its file.
        size: height, width in pixels.
        as_stored: whether the ground truth is for the image without its EXIF orientation.
        key: the data set's own id, where that is text; `image_id` is a number in its place.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    as_stored: bool = False
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sample(DataImage):
    """One image with panoptic ground truth.

    Attributes:
        name: the id map's file name without its suffix, unique in the split.
        id_map: path of the id map.
        segments: in the order of the JSON.
        objects: boxes and masks of a second file; None where they follow from the segments.
    """

    name: str
    id_map: Path
    segments: tuple[GroundTruthSegment, ...]
    objects: Sequence[ObjectTruth] | None = None


@dataclass(frozen=True, kw_only=True)
class InstanceImage(DataImage):
    """One image and its objects, in the order of the file.

    Those of a COCO JSON are kept as text, and those of masks in files of their own are not kept:
    they are read each time they are asked for.

    Attributes:
        objects: each with a box, and perhaps a mask.
        id_map: the file of grey values that are the objects, all of one class, where it is one.
    """

    objects: Sequence[ObjectTruth]
    id_map: Path | None = None


AnySample: TypeAlias = Sample | InstanceImage
"""One image and where its ground truth is; each kind has image_id, path and size (H, W)."""


class LazyObjects(Sequence[ObjectTruth]):
    """Objects that are read anew each time they are asked for."""

    def __init__(self, read: Callable[[], list[ObjectTruth]], count: int | None = None) -> None:
        """Keep how objects are read, and how many there are, if that is known."""
        self._read = read
        self._count = count

    def __len__(self) -> int:
        return len(self._read()) if self._count is None else self._count

    def __iter__(self) -> Iterator[ObjectTruth]:
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> ObjectTruth: ...
    @overload
    def __getitem__(self, place: slice) -> list[ObjectTruth]: ...
    def __getitem__(self, place: int | slice) -> ObjectTruth | list[ObjectTruth]:
        return self._read()[place]


@dataclass(frozen=True, kw_only=True)
class Records:
    """What a reader gives of one split, whatever its format.

    Attributes:
        categories: by rising id; an index is the position in this order.
        samples: the images; their files need not be there.
        has_masks: whether most objects have a mask; crowds don't count. Others are drawn as their
            boxes. Where most have none, masks are not read at all.
        place: the file or folder that the annotations are in.
        absent: images that are listed and not there, if they are not among the samples.
        faulty: images that are listed and cannot be used.
    """

    categories: tuple[Category, ...]
    samples: tuple[AnySample, ...]
    has_masks: bool
    place: Path = Path()
    absent: tuple[str, ...] = ()
    faulty: tuple[Path, ...] = ()


def source_of(sample: AnySample) -> Path | StoredImage:
    """Give what a sample's image is read from, in the orientation that its ground truth is for."""
    return StoredImage(sample.path) if sample.as_stored else sample.path


def read_sample(sample: AnySample, rule: Preprocessing | None = None) -> NDArray[np.uint8]:
    """Read a sample's image, (H, W, 3) RGB.

    Args:
        sample: the image.
        rule: the model's; None takes all 16 bits, and the first of channels that must be chosen.

    Raises:
        ImageError: the file cannot be read as an image.
        DataError: it has another size than the JSON says.
    """
    if rule is not None:
        image = read_image(source_of(sample), bits=rule.bits, channels=rule.channels)
    else:
        try:
            image = read_image(source_of(sample))
        except ChannelError:
            image = read_image(source_of(sample), channels=(0,))
    height, width = image.shape[:2]
    if (height, width) != sample.size:
        raise DataError(
            f"{sample.path} is {width}x{height} pixels; expected "
            f"{sample.size[1]}x{sample.size[0]}, as the JSON says of image {sample.image_id}"
        )
    return image
