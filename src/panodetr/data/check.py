"""A split of a data set, of any format, checked to the last pixel.

The readers report every fault of the files that describe the images; this file reads the images and
id maps themselves, and counts what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from scipy import ndimage

from panodetr.data.dataset import Dataset, Format, Source, judge
from panodetr.data.formats import Faults, Finding, system_errors
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import VOID, count_pixels, draw_id_map, read_objects_map
from panodetr.data.samples import AnySample, Sample, read_sample
from panodetr.data.targets import LEAST_AREA, extents
from panodetr.errors import ChannelError, DataError, ImageError
from panodetr.images.read import find_bits

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many images are done, and how many there are."""

QUERIES = 100
"""Of most published models: they find no more objects in an image."""

MOST_PIECES = 2
"""Areas an object of id maps, touching ones as one, from which a note says so."""

LEAST_DENSE = 0.1
"""Part of its box that an object of id maps fills as a rule; shades fill less."""

LEAST_COVERED = 0.01
"""Share of masks' pixels below other masks from which a note says so."""


@dataclass(kw_only=True)
class Inspection:
    """What was found in one split.

    Attributes:
        faults: what was found wrong or worth knowing.
        images: how many there are, unreadable ones too.
        objects: how many of each class, by its name; crowds are not among them.
        crowds: segments and objects that stand for many.
        empty: images without objects.
        has_masks: whether objects have masks.
        smallest: the area of the smallest object in pixels, and its image; None without objects.
        largest: likewise.
        most: the most objects in an image, and the image.
        pieces: connected areas of id maps, where objects that touch are one.
        scattered: objects of id maps that fill little of their boxes, or are no targets.
        masked: pixels of the masks of images with several.
        visible: those of them that lie below no other mask.
    """

    faults: Faults
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter[str])
    crowds: int = 0
    empty: int = 0
    has_masks: bool = False
    smallest: tuple[float, str] | None = None
    largest: tuple[float, str] | None = None
    most: tuple[int, str] = (0, "")
    pieces: int = 0
    scattered: int = 0
    masked: int = 0
    visible: int = 0

    @property
    def findings(self) -> list[Finding]:
        """All faults, and after them the notes."""
        return self.faults.findings

    @property
    def errors(self) -> int:
        """How many faults there are."""
        return self.faults.count

    def to_dict(self) -> dict[str, object]:
        """Describe it for JSON."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "images": self.images,
            "objects": dict(self.objects),
            "crowds": self.crowds,
            "empty": self.empty,
            "masks": self.has_masks,
            "smallest": self.smallest,
            "largest": self.largest,
            "most": self.most,
            "errors": self.errors,
        }


def check_split(
    folder: Path | Source, split: str, format: Format, progress: Progress
) -> Inspection:
    """Read every file of a split and list all that is wrong.

    Args:
        folder: the data set's, or what was found in it.
        split: one of its splits.
        format: how it is written.
        progress: called after each image with how many are done, and how many there are.

    Returns:
        What was found. A file without which nothing else can be read, such as a broken JSON, is the
        only finding then.
    """
    faults = Faults(collect=True)
    found = Inspection(faults=faults)
    try:
        with system_errors():
            source = Source(folder) if isinstance(folder, Path) else folder
            data = source.read(format, split, faults)
    except DataError as error:
        faults.add("broken file", str(error))
        return found
    found.images = len(data.samples) + len(data.unreadable)
    names = {category.id: category.name for category in data.categories}
    found.objects.update(dict.fromkeys(names.values(), 0))  # classes without objects, too
    ids: Counter[int] = Counter()  # of the objects of id maps
    for done, sample in enumerate(data.samples, start=1):
        try:
            read_sample(sample)
        except ImageError as error:
            faults.add("broken file", f"{error} (image {sample.image_id})", sample.image_id)
        except DataError as error:
            faults.add("wrong size", str(error), sample.image_id)
        _count(sample, data, found, ids, faults)
        progress(done, len(data.samples))
    try:
        bits = find_bits([sample.path for sample in data.samples])
        if bits not in (None, 16):
            faults.note("format", f"16-bit images fill {bits} bits; training reads them so")
    except ChannelError as error:
        faults.note("format", str(error))
    if len(data.samples) > 1 and len(ids) == 1:
        text = f"{data.place} has the id {next(iter(ids))} alone; is that a mask of all objects?"
        faults.note("single id", f"{text} expected a number for each")
    elif 2 * found.scattered > ids.total():
        text = (
            f"{found.scattered} of {ids.total()} objects of id maps are some pixels here and there"
        )
        faults.note("single id", f"{text}; are their numbers the shades of soft edges?")
    elif found.pieces > MOST_PIECES * ids.total():
        text = f"id maps have {ids.total()} objects in {found.pieces} pieces; are they of classes?"
        faults.note("single id", f"{text} expected a number for each object")
    found.has_masks = data.has_masks
    covered = 1 - found.visible / found.masked if found.masked else 0.0
    if covered > LEAST_COVERED:
        text = f"{covered:.0%} of the pixels of masks lie below other masks, of which"
        faults.note("overlap", f"{text} the smaller is on top")
    if not faults.count:  # else it is said what is wrong
        with faults.catching("nothing to learn"):
            judge(data, faults)
    return found


def _count(
    sample: AnySample, data: Dataset, found: Inspection, ids: Counter[int], faults: Faults
) -> None:
    """Count an image's objects by class, and compare its id map with what is listed of it."""
    names = {category.id: category.name for category in data.categories}
    listed: list[tuple[int, bool, float]] = []  # category, whether it is a crowd, and its pixels
    with faults.catching("broken file", sample.image_id):
        if isinstance(sample, Sample):
            listed = [(s.category_id, s.is_crowd, s.area) for s in sample.segments]
            read_ids(sample, faults)
        elif sample.id_map is not None:
            pixels, numbers = read_objects_map(sample.id_map, sample.size)
            ids.update(numbers.tolist())
            found.pieces += cast("tuple[object, int]", ndimage.label(pixels))[1]
            values, boxes, areas = extents(pixels)
            sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            least = np.maximum(LEAST_DENSE * sizes, LEAST_AREA)
            found.scattered += int(((areas < least) & (values != VOID)).sum())
            listed = [(i, False, area) for i in names for area in areas[values != VOID].tolist()]
        else:
            truths = list(sample.objects)
            listed = [(t["category_id"], bool(t["iscrowd"]), t["area"]) for t in truths]
            drawn = [t for t in truths if "segmentation" in t and not t["iscrowd"]]
            if data.has_masks and len(drawn) > 1:
                found.visible += int(np.count_nonzero(draw_id_map(drawn, sample.size)))
                masks = (truth.get("segmentation", []) for truth in drawn)
                found.masked += sum(count_pixels(mask, sample.size) for mask in masks)
    crowds = sum(is_crowd for _, is_crowd, _ in listed)
    found.crowds += crowds
    found.objects.update(names[i] for i, is_crowd, _ in listed if i in names and not is_crowd)
    named = f"{sample.path} (image {sample.image_id})"
    for _, is_crowd, area in listed:
        if not is_crowd and area > 0:
            found.smallest = min(found.smallest or (area, named), (area, named))
            found.largest = max(found.largest or (area, named), (area, named))
    found.most = max(found.most, (len(listed) - crowds, named))
    if len(listed) - crowds > QUERIES:
        text = f"{{n}} images have more than {QUERIES} objects, the queries of most models"
        faults.note("many objects", text, f"{named} has {len(listed) - crowds}")
    if crowds:
        text = "{n} crowds are left out of training"
        faults.note("crowd", text, f"{named} has {crowds}", crowds)
    if len(listed) == crowds:
        found.empty += 1
        faults.note("empty image", "{n} images have no object", named)
