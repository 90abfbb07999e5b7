"""Known models: bundled with the package, published elsewhere; and COCO's classes.

Checkpoints trained on COCO often carry its categories only as numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from panodetr.checkpoints.spec import CONFIG_FILE
from panodetr.errors import CheckpointError, CheckpointWarning
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import (
    COCO_CLASSES,
    COCO_PANOPTIC_CLASSES,
    MOST_CLASSES,
    Architecture,
    EomtConfig,
)
from panodetr.results.types import Category
from panodetr.validation import check, read_json

MODELS = Path(__file__).parents[1] / "assets" / "models"
UNUSED = "N/A"  # what lists of names call an index without a class
_COCO = Path(__file__).with_name("coco.json")
_ADE20K_CLASSES = 150
_ADE20K_STUFF = frozenset((
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60,
    61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131,
    140, 141, 145,
))  # fmt: skip
_OTHER = (  # colours of classes that COCO does not have; far apart
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40),
)  # fmt: skip


def bundled(models: Path = MODELS) -> dict[str, Path]:
    """List the models that come with the package: name to checkpoint folder, by name."""
    return {config.parent.name: config.parent for config in sorted(models.glob(f"*/{CONFIG_FILE}"))}


@cache
def coco_panoptic() -> tuple[Category, ...]:
    """List COCO's 80 things and 53 stuff; a class's index is its id."""
    rows = read_json(_COCO, dict[str, Any], CheckpointError)["categories"]
    indexed = [{"index": row["id"], **row} for row in rows]
    return check(indexed, tuple[Category, ...], str(_COCO), CheckpointError)


@cache
def coco_detection() -> tuple[Category, ...]:
    """List COCO's 80 things; a class's index is its id, from 1 to 90 with gaps."""
    return tuple(category for category in coco_panoptic() if category.is_thing)


def categories_by_count(num_classes: int, *, is_guess: bool = False) -> tuple[Category, ...]:
    """Name the classes of a model that only says how many it has.

    91 are COCO's detection classes and 250 its panoptic ones, with a warning where that is a guess.
    For any other number the names are unknown.

    Raises:
        ValueError: no model has so many.
    """
    if not 0 < num_classes <= MOST_CLASSES:
        raise ValueError(f"there are {num_classes} classes; expected 1 to {MOST_CLASSES}")
    if is_guess and num_classes in (COCO_CLASSES, COCO_PANOPTIC_CLASSES):
        warnings.warn(
            f"the model has {num_classes} classes without names, which are taken for COCO's; if "
            "they are others, name them with `panodetr convert SOURCE FOLDER --names FILE`",
            CheckpointWarning,
            stacklevel=2,
        )
    if num_classes == COCO_CLASSES:
        return coco_detection()
    if num_classes == COCO_PANOPTIC_CLASSES:
        return coco_panoptic()
    return tuple(plain_category(index, f"class {index}") for index in range(num_classes))


def dense_categories(count: int, labels: Sequence[str] | None) -> tuple[Category, ...]:
    """Name classes that are numbered without gaps, as those of EoMT.

    COCO's, and which of ADE20K's are stuff, are known by how many there are.

    Args:
        count: of the classes.
        labels: their names, `UNUSED` for those that the data does not have; None where unknown.
    """
    for known in (coco_panoptic(), coco_detection()):
        if len(known) == count and (labels is None or labels[0] == known[0].name):
            return tuple(replace(category, index=n) for n, category in enumerate(known))
    names = [f"class {n}" for n in range(count)] if labels is None else labels
    found = tuple(plain_category(n, name) for n, name in enumerate(names) if name != UNUSED)
    if count != _ADE20K_CLASSES:
        return found
    return tuple(replace(c, is_thing=c.index not in _ADE20K_STUFF) for c in found)


def name_categories(names: Sequence[str], num_classes: int) -> tuple[Category, ...]:
    """Name a model's classes, in the order of their indices; "N/A" is no class.

    Raises:
        CheckpointError: there are more or fewer names than classes, or a name comes twice.
    """
    if len(names) != num_classes:
        raise CheckpointError(
            f"{len(names)} names were given for {num_classes} classes; expected one for each, "
            f"{UNUSED} for one that is not used"
        )
    used = [name for name in names if name != UNUSED]
    if len(set(used)) < len(used):
        twice = next(name for name in used if used.count(name) > 1)
        raise CheckpointError(f"two classes have the name {twice!r}; expected different names")
    named = enumerate(names)
    return tuple(plain_category(index, name) for index, name in named if name != UNUSED)


def plain_category(index: int, name: str) -> Category:
    """Make a category of which only the name is known; it counts as a thing."""
    return Category(
        index=index, id=index, name=name, is_thing=True, color=_OTHER[index % len(_OTHER)]
    )


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published model, as `published.json` lists it.

    Attributes:
        hub_id: its name on the Hugging Face hub.
        file: its original file's name; empty where all are called the same.
        size: bytes of its weights, as float32.
        licence: of the weights, by SPDX, or where to read it.
        data: what the figures were measured on.
        architecture: its shape.
        preprocessing: how its images are fed.
        labels: names of its classes by index; none where they are COCO's.
        figures: in percent, as published: "ap" and "segm_ap" of boxes and masks, "pq", "sq", "rq",
            and those with "_things" and "_stuff".
    """

    hub_id: str
    file: str = ""
    size: int
    licence: str
    data: str
    architecture: Architecture
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] = ()
    figures: dict[str, float]

    @property
    def categories(self) -> tuple[Category, ...]:
        """Its classes."""
        if isinstance(self.architecture, EomtConfig):
            return dense_categories(self.architecture.num_classes, None)
        if not self.labels:
            return categories_by_count(self.architecture.num_classes)
        return tuple(plain_category(index, label) for index, label in enumerate(self.labels))


PUBLISHED = read_json(
    Path(__file__).with_name("published.json"), tuple[Published, ...], CheckpointError
)


def find_published(name: str) -> Published | None:
    """Find a published model by its hub id or by its original file's name."""
    return next((model for model in PUBLISHED if name in (model.hub_id, model.file)), None)
