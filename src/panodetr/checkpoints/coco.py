"""COCO's categories, which checkpoints trained on COCO often carry only as numbers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from panodetr.model.config import COCO_CLASSES, COCO_PANOPTIC_CLASSES
from panodetr.results.types import Category

_FILE = Path(__file__).with_name("coco.json")
_OTHER = (  # colours of classes that COCO does not have, far from each other
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40),
)  # fmt: skip


@cache
def coco_panoptic() -> tuple[Category, ...]:
    """List COCO's 80 things and 53 stuff; a class's index is its id."""
    rows = json.loads(_FILE.read_text("utf-8"))["categories"]
    return tuple(
        Category(
            index=row["id"],
            id=row["id"],
            name=row["name"],
            is_thing=row["is_thing"],
            color=tuple(row["color"]),
        )
        for row in rows
    )


@cache
def coco_detection() -> tuple[Category, ...]:
    """List COCO's 80 things; a class's index is its id, from 1 to 90 with gaps."""
    return tuple(category for category in coco_panoptic() if category.is_thing)


def categories_by_count(num_classes: int) -> tuple[Category, ...]:
    """Name the classes of a model that only says how many it has.

    91 are COCO's detection classes, 250 its panoptic ones: nobody else counts so. Of any other
    number the names are unknown.
    """
    if num_classes == COCO_CLASSES:
        return coco_detection()
    if num_classes == COCO_PANOPTIC_CLASSES:
        return coco_panoptic()
    return tuple(plain_category(index, f"class {index}") for index in range(num_classes))


def plain_category(index: int, name: str) -> Category:
    """Make a thing of which only the name is known."""
    return Category(
        index=index, id=index, name=name, is_thing=True, color=_OTHER[index % len(_OTHER)]
    )
