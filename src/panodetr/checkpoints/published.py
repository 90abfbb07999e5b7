"""The DETRs that others published: what they are, and what they reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from panodetr.checkpoints.coco import coco_detection, coco_panoptic, plain_category
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import (
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from panodetr.results.types import Category


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
    licence: str = "Apache-2.0"
    data: str = "COCO val2017"
    figures: Mapping[str, float]

    @property
    def digest_prefix(self) -> str | None:
        """The first digits of the original file's SHA-256; None where its name has none."""
        stem = self.file.removesuffix(".pth")
        last = stem.rsplit("-", 1)[-1]
        return last if len(last) == 8 and last != stem else None


def _detector(name: str, file: str, architecture: DetrConfig, ap: float) -> Published:
    return Published(
        hub_id=f"facebook/{name}",
        file=file,
        architecture=architecture,
        categories=coco_detection(),
        figures={"ap": ap},
    )


_PANOPTIC_FIGURES = (
    "ap", "segm_ap", "pq", "sq", "rq", "pq_things", "sq_things", "rq_things",
    "pq_stuff", "sq_stuff", "rq_stuff",
)  # fmt: skip


def _panoptic(name: str, file: str, architecture: DetrConfig, *figures: float) -> Published:
    return Published(
        hub_id=f"facebook/{name}",
        file=file,
        architecture=architecture,
        categories=coco_panoptic(),
        figures=dict(zip(_PANOPTIC_FIGURES, figures, strict=True)),
    )


def _table(name: str, file: str, queries: int, long_side: int, names: str, ap: float) -> Published:
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
        licence="MIT",
        data="PubTables-1M test",
        figures={"ap": ap},
    )


PUBLISHED = (
    _detector("detr-resnet-50", "detr-r50-e632da11.pth", detr_resnet50(), 42.0),
    _detector("detr-resnet-50-dc5", "detr-r50-dc5-f0fb7ef5.pth", detr_resnet50_dc5(), 43.3),
    _detector("detr-resnet-101", "detr-r101-2c7b67e5.pth", detr_resnet101(), 43.5),
    _detector("detr-resnet-101-dc5", "detr-r101-dc5-a2e86def.pth", detr_resnet101_dc5(), 44.9),
    _panoptic(
        "detr-resnet-50-panoptic", "detr-r50-panoptic-00ce5173.pth", detr_resnet50_panoptic(),
        38.8, 31.1, 43.4, 79.3, 53.8, 48.2, 79.8, 59.5, 36.3, 78.5, 45.3,
    ),
    _panoptic(
        "detr-resnet-50-dc5-panoptic", "detr-r50-dc5-panoptic-da08f1b1.pth",
        detr_resnet50_dc5_panoptic(),
        40.2, 31.9, 44.6, 79.8, 55.0, 49.4, 80.5, 60.6, 37.3, 78.7, 46.5,
    ),
    _panoptic(
        "detr-resnet-101-panoptic", "detr-r101-panoptic-40021d53.pth", detr_resnet101_panoptic(),
        40.1, 33.0, 45.1, 79.9, 55.5, 50.5, 80.9, 61.7, 37.0, 78.5, 46.0,
    ),
    _table(
        "detection", "pubtables1m_detection_detr_r18.pth", 15, 800, "table, table rotated", 97.0
    ),
    _table(
        "structure-recognition", "pubtables1m_structure_detr_r18.pth", 125, 1000,
        "table, table column, table row, table column header, table projected row header, "
        "table spanning cell",
        90.2,
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
