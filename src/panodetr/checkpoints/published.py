"""Known models: those that come with the package, published ones, and COCO's classes.

Checkpoints trained on COCO often carry its categories only as numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.checkpoints.spec import CONFIG_FILE, MOST_CLASSES
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import (
    COCO_CLASSES,
    COCO_PANOPTIC_CLASSES,
    RESNET18,
    DetrConfig,
    detr_resnet50,
    detr_resnet50_dc5,
    detr_resnet50_dc5_panoptic,
    detr_resnet50_panoptic,
    detr_resnet101,
    detr_resnet101_dc5,
    detr_resnet101_panoptic,
)
from panodetr.results.types import Category

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS = Path(__file__).parents[1] / "assets" / "models"
_COCO = Path(__file__).with_name("coco.json")
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
    rows = json.loads(_COCO.read_text("utf-8"))["categories"]
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

    91 are COCO's detection classes and 250 its panoptic ones. For any other number the names are
    unknown.

    Raises:
        ValueError: no model has so many.
    """
    if not 0 < num_classes <= MOST_CLASSES:
        raise ValueError(f"there are {num_classes} classes; expected 1 to {MOST_CLASSES}")
    if num_classes == COCO_CLASSES:
        return coco_detection()
    if num_classes == COCO_PANOPTIC_CLASSES:
        return coco_panoptic()
    return tuple(plain_category(index, f"class {index}") for index in range(num_classes))


def plain_category(index: int, name: str) -> Category:
    """Make a category of which only the name is known; it counts as a thing."""
    return Category(
        index=index, id=index, name=name, is_thing=True, color=_OTHER[index % len(_OTHER)]
    )


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published model.

    Attributes:
        hub_id: its name on the Hugging Face hub.
        file: its original file's name; the facebook ones end in the first eight hexadecimal digits
            of the file's SHA-256.
        architecture: its shape.
        categories: its classes.
        preprocessing: how its images are fed.
        size: bytes of its weights, as float32.
        licence: of the weights, by SPDX.
        data: what the figures were measured on.
        figures: in percent, as published: "ap" and "segm_ap" of boxes and masks, "pq", "sq", "rq",
            and those with "_things" and "_stuff".
    """

    hub_id: str
    file: str
    architecture: DetrConfig
    categories: tuple[Category, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    size: int
    licence: str = "Apache-2.0"
    data: str = "COCO val2017"
    figures: Mapping[str, float]

    @property
    def digest_prefix(self) -> str | None:
        """The first digits of the original file's SHA-256; None where its name has none."""
        stem = self.file.removesuffix(".pth")
        last = stem.rsplit("-", 1)[-1]
        return last if len(last) == 8 and last != stem else None


def _detector(name: str, file: str, architecture: DetrConfig, size: int, ap: float) -> Published:
    return Published(
        hub_id=f"facebook/{name}",
        file=file,
        architecture=architecture,
        categories=coco_detection(),
        size=size,
        figures={"ap": ap},
    )


_PANOPTIC_FIGURES = (
    "ap", "segm_ap", "pq", "sq", "rq", "pq_things", "sq_things", "rq_things",
    "pq_stuff", "sq_stuff", "rq_stuff",
)  # fmt: skip


def _panoptic(
    name: str, file: str, architecture: DetrConfig, size: int, *figures: float
) -> Published:
    return Published(
        hub_id=f"facebook/{name}",
        file=file,
        architecture=architecture,
        categories=coco_panoptic(),
        size=size,
        figures=dict(zip(_PANOPTIC_FIGURES, figures, strict=True)),
    )


def _table(
    name: str, file: str, queries: int, long_side: int, names: str, size: int, ap: float
) -> Published:
    """A Table Transformer: ResNet-18, pre-norm, images resized by their long side."""
    labels = names.split(", ")
    return Published(
        hub_id=f"microsoft/table-transformer-{name}",
        file=file,
        architecture=replace(
            DetrConfig(backbone=RESNET18, num_classes=len(labels)),
            num_queries=queries,
            pre_norm=True,
        ),
        categories=tuple(plain_category(index, label) for index, label in enumerate(labels)),
        preprocessing=Preprocessing(short_side=long_side, long_side=long_side),
        size=size,
        licence="MIT",
        data="PubTables-1M test",
        figures={"ap": ap},
    )


PUBLISHED = (
    _detector("detr-resnet-50", "detr-r50-e632da11.pth", detr_resnet50(), 166_524_032, 42.0),
    _detector(
        "detr-resnet-50-dc5", "detr-r50-dc5-f0fb7ef5.pth", detr_resnet50_dc5(), 166_524_032, 43.3
    ),
    _detector("detr-resnet-101", "detr-r101-2c7b67e5.pth", detr_resnet101(), 242_701_440, 43.5),
    _detector(
        "detr-resnet-101-dc5", "detr-r101-dc5-a2e86def.pth", detr_resnet101_dc5(), 242_701_440, 44.9
    ),
    _panoptic(
        "detr-resnet-50-panoptic", "detr-r50-panoptic-00ce5173.pth", detr_resnet50_panoptic(),
        172_022_112, 38.8, 31.1, 43.4, 79.3, 53.8, 48.2, 79.8, 59.5, 36.3, 78.5, 45.3,
    ),
    _panoptic(
        "detr-resnet-50-dc5-panoptic", "detr-r50-dc5-panoptic-da08f1b1.pth",
        detr_resnet50_dc5_panoptic(),
        172_022_112, 40.2, 31.9, 44.6, 79.8, 55.0, 49.4, 80.5, 60.6, 37.3, 78.7, 46.5,
    ),
    _panoptic(
        "detr-resnet-101-panoptic", "detr-r101-panoptic-40021d53.pth", detr_resnet101_panoptic(),
        248_199_520, 40.1, 33.0, 45.1, 79.9, 55.5, 50.5, 80.9, 61.7, 37.0, 78.5, 46.0,
    ),
    _table(
        "detection", "pubtables1m_detection_detr_r18.pth", 15, 800, "table, table rotated",
        115_274_524, 97.0,
    ),
    _table(
        "structure-recognition", "pubtables1m_structure_detr_r18.pth", 125, 1000,
        "table, table column, table row, table column header, table projected row header, "
        "table spanning cell",
        115_391_276, 90.2,
    ),
)  # fmt: skip


def find_published(name: str) -> Published | None:
    """Find a published model by its hub id or by its original file's name."""
    return next((model for model in PUBLISHED if name in (model.hub_id, model.file)), None)


@dataclass(frozen=True)
class Seen:
    """An object that a published model's documentation says it finds in an image.

    Attributes:
        label: the category's name.
        score: rounded to three digits.
        box: x0, y0, x1, y1 in pixels, rounded to two digits.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


TWO_CATS_URL = "http://images.cocodataset.org/val2017/000000039769.jpg"
"""The image of DETR's model cards."""

TWO_CATS = {"cat": 2, "remote": 2, "couch": 1}
"""What is on it, of COCO's things, by COCO's own truth."""

DOCUMENTED = {
    "facebook/detr-resnet-50": (
        Seen("remote", 0.998, (40.16, 70.81, 175.55, 117.98)),
        Seen("remote", 0.996, (333.24, 72.55, 368.33, 187.66)),
        Seen("couch", 0.995, (-0.02, 1.15, 639.73, 473.76)),
        Seen("cat", 0.999, (13.24, 52.05, 314.02, 470.93)),
        Seen("cat", 0.999, (345.4, 23.85, 640.37, 368.72)),
    ),
}
"""What transformers' documentation prints for that image, at threshold 0.9."""
