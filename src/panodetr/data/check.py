"""A split of a data set, of any format, checked to the last pixel.

The readers report every fault of the files that describe the images; this file reads the images and
id maps themselves, and counts what is there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from panodetr.data.dataset import read_split
from panodetr.data.formats import Faults, Finding
from panodetr.data.formats.coco_panoptic import check_ids
from panodetr.data.formats.id_maps import read_objects_map
from panodetr.data.samples import InstanceImage, Sample, read_sample
from panodetr.errors import DataError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from panodetr.data.dataset import Dataset, Format
    from panodetr.data.samples import AnySample

Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with how many images are done, and how many there are."""


@dataclass(kw_only=True)
class Inspection:
    """What was found in one split.

    Attributes:
        findings: in the order in which they were found.
        images: how many there are, unreadable ones too.
        objects: how many of each class, by its name; crowds are not among them.
        crowds: segments and objects that stand for many.
    """

    findings: list[Finding]
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter[str])
    crowds: int = 0

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.is_error for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """Describe it for JSON."""
        return {**asdict(self), "objects": dict(self.objects), "errors": self.errors}


def check_split(folder: Path, split: str, format: Format, progress: Progress) -> Inspection:
    """Read every file of a split and list all that is wrong.

    Args:
        folder: the data set's.
        split: one of its splits.
        format: how it is written.
        progress: called after each image with how many are done, and how many there are.

    Returns:
        What was found. A file without which nothing else can be read, such as a broken JSON, is the
        only finding then.
    """
    faults = Faults(collect=True)
    found = Inspection(findings=faults.findings)
    with faults.catching("broken file"):
        data = read_split(folder, split, format, faults)
        found.images = len(data.samples) + len(data.unreadable)
        names = {category.id: category.name for category in data.categories}
        found.objects.update(dict.fromkeys(names.values(), 0))  # classes without objects, too
        ids: Counter[int] = Counter()  # of the objects of id maps
        for done, sample in enumerate(data.samples, start=1):
            _check_image(sample, faults)
            _count(sample, names, found, ids, faults)
            progress(done, len(data.samples))
        if len(data.samples) > 1 and len(ids) == 1:
            faults.note("single id", _describe_single_id(data, *ids))
    return found


def _check_image(sample: AnySample, faults: Faults) -> None:
    """Read an image, and report whether it is missing, broken, or of another size."""
    with faults.catching("missing file"):
        if not sample.path.is_file():
            faults.add("missing file", f"{sample.path} is missing; it is image {sample.image_id}")
            return
    try:
        read_sample(sample)
    except ImageError as error:
        faults.add("broken file", f"{error} (image {sample.image_id})")
    except DataError as error:
        faults.add("wrong size", str(error))


def _count(
    sample: AnySample,
    names: dict[int, str],
    found: Inspection,
    ids: Counter[int],
    faults: Faults,
) -> None:
    """Count an image's objects by class, and compare its id map with what is listed of it."""
    listed: list[tuple[int, bool]] = []  # category and whether it is a crowd
    if isinstance(sample, InstanceImage):
        listed = [(truth["category_id"], bool(truth["iscrowd"])) for truth in sample.objects]
    elif isinstance(sample, Sample):
        listed = [(segment.category_id, segment.is_crowd) for segment in sample.segments]
        if sample.id_map.is_file():  # the reader reports a missing one
            with faults.catching("broken file"):
                check_ids(sample, faults)
    else:
        if not sample.id_map.is_file():
            return
        with faults.catching("broken file"):
            numbers = read_objects_map(sample)[1].tolist()
            ids.update(numbers)
            listed = [(category_id, False) for category_id in names for _ in numbers]
    crowds = sum(is_crowd for _, is_crowd in listed)
    found.crowds += crowds
    found.objects.update(names[i] for i, is_crowd in listed if i in names and not is_crowd)
    named = f"{sample.path} (image {sample.image_id})"
    if crowds:
        faults.note("crowd", f"{named} has {crowds} crowds, which are left out of training")
    if len(listed) == crowds:
        faults.note("empty image", f"{named} has no object")


def _describe_single_id(data: Dataset, number: int) -> str:
    return (
        f"{data.folder / data.split}/masks has the id {number} alone; is that a mask of all "
        "objects together? expected a number for each"
    )
