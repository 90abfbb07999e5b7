"""A data set in COCO's panoptic format: images, id maps, and a JSON that names the segments.

`panodetr.data.layout` says where these lie. The JSON is checked when the data set is opened, the
pixels when they are read. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from panodetr.data.idmaps import VOID, present_ids, read_id_map
from panodetr.data.layout import require_layout
from panodetr.data.records import Record, image_size, named_file, read_record
from panodetr.errors import DataError
from panodetr.images.read import read_image
from panodetr.results.types import Category

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from panodetr.data.dataset import AnySample
    from panodetr.data.layout import Layout

LARGEST_ID = 2**24 - 1  # three bytes of colour


@dataclass(frozen=True, kw_only=True)
class GroundTruthSegment:
    """One segment that the annotators drew.

    Attributes:
        id: its value in the id map, 1 or more.
        category_id: the data set's own.
        area: pixels, as the JSON says: panoptic quality counts with it, not with the pixels.
        is_crowd: True where the segment covers many objects that nobody told apart.
    """

    id: int
    category_id: int
    area: int
    is_crowd: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and its truth.

    Attributes:
        image_id: the data set's own.
        name: the id map's file name without its suffix, unique in the split.
        path: of its file.
        id_map: path of the id map.
        size: height, width in pixels.
        segments: in the order of the JSON.
    """

    image_id: int
    name: str
    path: Path
    id_map: Path
    size: tuple[int, int]
    segments: tuple[GroundTruthSegment, ...]


@dataclass(frozen=True, kw_only=True)
class PanopticData:
    """One split of a data set.

    Attributes:
        folder: where it lies.
        split: its name, "" for a folder without splits.
        categories: by rising id; an index is the position in this order.
        samples: in the order of the JSON's images.
    """

    folder: Path
    split: str
    categories: tuple[Category, ...]
    samples: tuple[Sample, ...]

    @classmethod
    def open(cls, folder: Path, split: str) -> PanopticData:
        """Read and check a split's JSON, and that its files are there.

        Raises:
            DataError: a file is missing, the JSON is broken, or it contradicts itself.
        """
        data = cls.read(require_layout(folder, split, "panoptic"), split)
        for sample in data.samples:
            if not sample.path.is_file():
                raise DataError(f"{sample.path} is missing; it is image {sample.image_id}")
        return data

    @classmethod
    def read(cls, layout: Layout, split: str = "") -> PanopticData:
        """Read and check a JSON, and that its id maps are there; the images may be elsewhere.

        Raises:
            DataError: a file is missing, the JSON is broken, or it contradicts itself.
        """
        document = read_record(layout.annotations)
        categories = _categories(document)
        samples = _samples(document, layout, {category.id for category in categories})
        folder = layout.annotations.parent
        return cls(folder=folder, split=split, categories=categories, samples=samples)


def read_sample(sample: AnySample) -> NDArray[np.uint8]:
    """Read a sample's image, (H, W, 3) RGB.

    Raises:
        ImageError: the file cannot be read as an image.
        DataError: it has another size than the JSON says.
    """
    image = read_image(sample.path)
    height, width = image.shape[:2]
    if (height, width) != sample.size:
        raise DataError(
            f"{sample.path} is {width}x{height} pixels; expected "
            f"{sample.size[1]}x{sample.size[0]}, as the JSON says of image {sample.image_id}"
        )
    return image


def read_ids(sample: Sample) -> NDArray[np.int32]:
    """Read a sample's id map, (H, W), 0 = void.

    Raises:
        DataError: the file cannot be read, has another size than the JSON says, shows an id that
            the JSON doesn't list, or lacks one that it does.
    """
    ids = read_id_map(sample.id_map, sample.size)
    shown = set(present_ids(ids).tolist()) - {VOID}
    listed = {segment.id for segment in sample.segments}
    if shown - listed:
        raise DataError(
            f"{sample.id_map} shows segment {min(shown - listed)}, which the JSON doesn't list for "
            f"image {sample.image_id}; list it in segments_info or paint it void"
        )
    if listed - shown:
        raise DataError(
            f"{sample.id_map} has no pixel of segment {min(listed - shown)}, which the JSON lists "
            f"for image {sample.image_id}; take it out of segments_info"
        )
    return ids


def sample_name(id_map: Path, layout: Layout) -> str:
    """Give the name of a sample: that of its id map, without the suffix."""
    return id_map.relative_to(layout.id_maps).with_suffix("").as_posix()


def shared_id_map(annotation: Record, other: int) -> str:
    """Say that an annotation has the id map of an image that came before."""
    return (
        f"{annotation.place} has the id map {annotation.text('file_name')} of another image, "
        f"{other}; expected one of its own"
    )


def _categories(document: Record) -> tuple[Category, ...]:
    """Read the categories, by rising id.

    Raises:
        DataError: there is none, or two share an id or a name.
    """
    records: dict[int, Record] = {}
    names: set[str] = set()
    for record in document.records("categories"):
        category_id, name = record.integer("id", least=0), record.text("name")
        if category_id in records or name in names:
            raise DataError(f"{record.place} repeats id {category_id} or name {name!r}")
        records[category_id] = record
        names.add(name)
    if not records:
        raise DataError(f"{document.place} has no categories; expected at least one")
    return tuple(
        Category(
            index=index,
            id=category_id,
            name=records[category_id].text("name"),
            is_thing=records[category_id].flag("isthing"),
            color=records[category_id].color("color"),
        )
        for index, category_id in enumerate(sorted(records))
    )


def _samples(document: Record, layout: Layout, category_ids: set[int]) -> tuple[Sample, ...]:
    """Join images and annotations.

    Raises:
        DataError: an image is listed twice, has no annotation or several, shares its id map with
            another, or an id map is missing.
    """
    images: dict[int, Record] = {}
    for image in document.records("images"):
        image_id = image.integer("id")
        if image_id in images:
            raise DataError(f"{image.place} repeats image id {image_id}")
        images[image_id] = image
    annotations: dict[int, Record] = {}
    for annotation in document.records("annotations"):
        image_id = annotation.integer("image_id")
        if image_id not in images:
            raise DataError(
                f"{annotation.place} is for image {image_id}, which images doesn't list"
            )
        if image_id in annotations:
            raise DataError(f"{annotation.place} is a second annotation for image {image_id}")
        annotations[image_id] = annotation
    if not images:
        raise DataError(f"{document.place} has no images; expected at least one")
    missing = images.keys() - annotations.keys()
    if missing:
        raise DataError(f"{document.place} has no annotation for image {min(missing)}")
    samples: dict[str, Sample] = {}
    for image_id, image in images.items():
        annotation = annotations[image_id]
        id_map = named_file(annotation, layout.id_maps)
        if not id_map.is_file():
            raise DataError(f"{id_map} is missing; {annotation.place} names it")
        name = sample_name(id_map, layout)
        if name in samples:
            raise DataError(shared_id_map(annotation, samples[name].image_id))
        samples[name] = Sample(
            image_id=image_id,
            name=name,
            path=named_file(image, layout.images),
            id_map=id_map,
            size=image_size(image),
            segments=_segments(annotation, category_ids),
        )
    return tuple(samples.values())


def _segments(annotation: Record, category_ids: set[int]) -> tuple[GroundTruthSegment, ...]:
    segments: dict[int, GroundTruthSegment] = {}
    for record in annotation.records("segments_info"):
        segment = GroundTruthSegment(
            id=record.integer("id", least=1),
            category_id=record.integer("category_id"),
            area=record.integer("area", least=1),
            is_crowd=record.flag("iscrowd", default=False),
        )
        if segment.id > LARGEST_ID:
            raise DataError(
                f"{record.place} has id {segment.id}; a pixel can say {LARGEST_ID} at most"
            )
        if segment.id in segments:
            raise DataError(f"{record.place} repeats segment id {segment.id} within its image")
        if segment.category_id not in category_ids:
            raise DataError(
                f"{record.place} has category {segment.category_id}, which categories doesn't list"
            )
        segments[segment.id] = segment
    return tuple(segments.values())
