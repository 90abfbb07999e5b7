"""What predictions are measured against: the images of one split, with their annotations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from panodetr.data.dataset import CLASS_NAME, Dataset, Format, Source
from panodetr.data.formats import Faults
from panodetr.data.formats.coco import Kind, Layout, make_layout, read_document
from panodetr.data.formats.coco_instances import read_instances
from panodetr.data.formats.coco_panoptic import read_panoptic
from panodetr.data.samples import InstanceImage, Records, Sample
from panodetr.data.tree import same_split
from panodetr.errors import DataError
from panodetr.results.types import Category

Task = Literal["boxes", "instances", "panoptic"]
"""What is measured: AP of boxes, AP of masks, or panoptic quality."""

TASKS: tuple[Task, ...] = ("boxes", "instances", "panoptic")

DEFAULT_SPLIT = "val"

COCO: dict[Kind, Format] = {"panoptic": "coco-panoptic", "instances": "coco-instances"}
"""The formats by what their JSONs hold."""

TruthImage: TypeAlias = Sample | InstanceImage
"""One image with its segments, with its objects, or with both."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """One split, or a share of it.

    Attributes:
        folder: of the JSON.
        images: in the order of the JSON.
        segment_categories: of panoptic segments, by rising id; empty where there are none.
        object_categories: of boxes and masks: the instance JSON's, or else the panoptic things.
        has_masks: whether every object has a mask.
        of_objects: whether the segments are the objects, drawn into one map, and all are things.
        left_out: how many images were missing and left out.
    """

    folder: Path
    images: tuple[TruthImage, ...]
    segment_categories: tuple[Category, ...]
    object_categories: tuple[Category, ...]
    has_masks: bool
    of_objects: bool = False
    left_out: int = 0

    @classmethod
    def open(
        cls,
        folder: Path | Source,
        split: str | None,
        *,
        allow_missing: bool = False,
        class_name: str = CLASS_NAME,
    ) -> GroundTruth:
        """Read a split in any format that training reads, and check that the images are there.

        Of COCO's JSONs, panoptic and instances, both are read where there are both.

        Args:
            folder: the data set's, or what was found in it.
            split: its name; None takes "val", or else the data set that has no splits.
            allow_missing: leave out COCO's images that are missing, and count them.
            class_name: of objects that nothing names.

        Raises:
            DataError: there is no such split, a JSON contradicts itself or the other one, or
                images are missing.
        """
        source = Source(folder) if isinstance(folder, Path) else folder
        format, splits = source.splits(None)
        is_coco = format in COCO.values()
        if is_coco:
            splits = [name for of_coco in COCO.values() for name in source.find(of_coco)]
        if split is None:
            unsplit = "" in splits and same_split(splits, DEFAULT_SPLIT) is None
            split = "" if unsplit else DEFAULT_SPLIT
        if not is_coco:
            format, split = source.choose(split, format)
            return cls.of_data(source.open(format, split, class_name=class_name))
        panoptic, instances = (_find(source, split, kind) for kind in COCO)
        if panoptic is None and instances is None:  # says which there are
            source.choose(split, "coco-panoptic" if source.find("coco-panoptic") else None)
        truth = _join(
            source.folder,
            None if panoptic is None else read_panoptic(panoptic, Faults()),
            None if instances is None else read_instances(instances, Faults()),
        )
        missing = [image.path for image in truth.images if not image.path.is_file()]
        if missing and not (allow_missing and len(missing) < len(truth.images)):
            raise DataError(
                f"{len(missing)} of {len(truth.images)} images are missing, first {missing[0]}; "
                "get them, or leave them out with --allow-missing"
            )
        there = tuple(image for image in truth.images if image.path.is_file())
        return replace(truth, images=there, left_out=len(missing))

    @classmethod
    def read(cls, path: Path) -> GroundTruth:
        """Read one COCO JSON, panoptic or instances; the images may be missing.

        The id maps of a panoptic JSON lie in the folder of the same name beside it.

        Raises:
            DataError: it is neither, or it contradicts itself.
        """
        layout = Layout.of_file(path)
        document = read_document(layout.tree, path)
        if any(b'"segments_info"' in bytes(raw) for raw in document.annotations[:1]):
            return _join(path.parent, read_panoptic(layout, Faults(), document), None)
        return _join(path.parent, None, read_instances(layout, Faults(), document))

    @classmethod
    def of_data(
        cls, data: Dataset, source: Source | None = None, *, faults: Faults | None = None
    ) -> GroundTruth:
        """Take a data set's objects, and their masks as segments, too.

        Args:
            data: the data set.
            source: where it was found: COCO's panoptic data may have an instance JSON beside it.
            faults: collects what is wrong with images, which are left out then; None raises.

        Raises:
            DataError: an image or id map cannot be read, or a JSON contradicts the other one.
        """
        if data.unreadable and faults is None:
            raise DataError(
                f"{len(data.unreadable)} images of {data.folder} cannot be read, first: "
                f"{data.unreadable[0]}; fix or remove them"
            )
        faults = faults or Faults()
        if data.format == "coco-panoptic":
            layout = None if source is None else _find(source, data.split, "instances")
            instances = None if layout is None else read_instances(layout, faults)
            kept = tuple(sample for sample in data.samples if sample.image_id not in faults.bad)
            if instances is not None:
                ids = {sample.image_id for sample in kept}
                objects = tuple(image for image in instances.samples if image.image_id in ids)
                instances = replace(instances, samples=objects)
            return _join(data.folder, replace(data, samples=kept), instances)
        images: list[InstanceImage] = []
        for sample in data.samples:
            with faults.catching("broken file", sample.image_id):
                assert isinstance(sample, InstanceImage)
                in_map = sample.id_map is not None  # which is read once
                images.append(replace(sample, objects=[*sample.objects]) if in_map else sample)
        has_masks = _have_masks(images)
        return cls(
            folder=data.folder,
            images=tuple(images),
            segment_categories=data.categories if has_masks else (),
            object_categories=data.categories,
            has_masks=has_masks,
            of_objects=has_masks,
        )

    def tasks(self) -> tuple[Task, ...]:
        """List what can be measured against it."""
        can: dict[Task, bool] = {
            "boxes": bool(self.object_categories),
            "instances": bool(self.object_categories) and self.has_masks,
            "panoptic": bool(self.segment_categories),
        }
        return tuple(task for task in TASKS if can[task])

    def share(self, rank: int, ranks: int) -> GroundTruth:
        """Give process `rank`, from 0, of several its part: every image is in exactly one."""
        return replace(self, images=self.images[rank::ranks])


def written_id(image: TruthImage) -> int | str:
    """Give the data set's own id of an image, as results name it."""
    return image.image_id if image.key is None else image.key


def _find(source: Source, split: str, kind: Kind) -> Layout | None:
    """Find the JSON of a split of COCO's."""
    found = source.find(COCO[kind])
    name = same_split(found, split)
    return None if name is None else make_layout(source.tree, found, name)


def _have_masks(images: Iterable[TruthImage]) -> bool:
    return all("segmentation" in truth for image in images for truth in image.objects or ())


def _join(folder: Path, panoptic: Records | None, instances: Records | None) -> GroundTruth:
    """Join the panoptic and the instance annotations of each image."""
    listed = () if panoptic is None else panoptic.samples
    samples = [sample for sample in listed if isinstance(sample, Sample)]
    listed = () if instances is None else instances.samples
    objects = {image.image_id: image for image in listed if isinstance(image, InstanceImage)}
    odd = {sample.image_id for sample in samples} ^ objects.keys()
    if odd and panoptic is not None and instances is not None:
        raise DataError(
            f"{folder}: image {min(odd)} is in only one of the panoptic and the instance JSON; "
            "expected the same images in both"
        )
    images: list[TruthImage] = [] if samples else list(objects.values())
    for sample in samples:
        if other := objects.get(sample.image_id):
            if sample.size != other.size:
                raise DataError(
                    f"{folder}: image {sample.image_id} is {sample.size} in the panoptic and "
                    f"{other.size} in the instance JSON; expected one height and width"
                )
            sample = replace(sample, objects=other.objects)
        images.append(sample)
    segment_categories = () if panoptic is None else panoptic.categories
    things = tuple(category for category in segment_categories if category.is_thing)
    return GroundTruth(
        folder=folder,
        images=tuple(images),
        segment_categories=segment_categories,
        object_categories=things if instances is None else instances.categories,
        has_masks=_have_masks(images),
    )
