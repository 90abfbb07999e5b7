"""A share of the images that is held out of training, to validate with."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.data.formats import one_line
from panodetr.errors import UsageError
from panodetr.evaluation.ground_truth import GroundTruth

if TYPE_CHECKING:
    from panodetr.data.dataset import Dataset, Source
    from panodetr.data.samples import AnySample

HELD_OUT = "held-out"
"""Said in place of a split's name."""


def hold_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Part a split in two, in the same way every time, by a hash of the seed and an image's path.

    Args:
        data: the split.
        share: of its images that is held out, rounded to whole images.
        seed: another one holds out other images.

    Returns:
        What is learned from, and what is held out; images that cannot be read are in the first.

    Raises:
        UsageError: no image would be left on one side.
    """
    paths = {_relative(sample.path, data.folder) for sample in data.samples}
    count = round(share * len(paths)) if 0 < share < 1 else 0
    if not 0 < count < len(paths):
        raise UsageError(
            f"--val-split {share:g} of {len(paths)} images holds out {count}; "
            "expected a share that leaves images to learn from and to validate with"
        )
    held = set(sorted(paths, key=lambda path: _hash(path, seed))[:count])
    sides: tuple[list[AnySample], list[AnySample]] = ([], [])
    for sample in data.samples:
        sides[_relative(sample.path, data.folder) in held].append(sample)
    learned, validated = map(tuple, sides)
    return replace(data, samples=learned), replace(data, samples=validated, unreadable=())


def open_held_out(held: Dataset, source: Source) -> GroundTruth:
    """Give images that are held out as ground truth.

    Args:
        held: the images.
        source: where the data was found.

    Raises:
        DataError: an annotation or id map cannot be read.
    """
    if held.format != "coco-panoptic":
        return GroundTruth.of_data(held)
    truth = GroundTruth.open(source, held.split, allow_missing=True)
    ids = {sample.image_id for sample in held.samples}
    return replace(truth, images=tuple(image for image in truth.images if image.image_id in ids))


def list_images(data: Dataset) -> str:
    """List the images of a split as a text: a path from the data's folder on each line."""
    paths = (_relative(sample.path, data.folder) for sample in data.samples)
    return "".join(f"{one_line(path)}\n" for path in paths)


def _relative(path: Path, folder: Path) -> str:
    """Give an image's path from the data's folder, with slashes on every system."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _hash(path: str, seed: int) -> bytes:
    return sha256(f"{seed} {path}".encode(errors="surrogateescape")).digest()
