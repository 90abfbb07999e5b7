from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from panodetr.data.samples import InstanceCategory
from panodetr.evaluation.average_precision import (
    TWELVE,
    AveragePrecision,
    DetectionFigures,
    ObjectResult,
    Overlap,
)
from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage

from .conftest import precision

Noisy = Callable[[GroundTruthImage, Overlap], list[ObjectResult]]
CELL = (InstanceCategory(id=1, name="cell"),)


def counted(
    truth: GroundTruth, found: dict[int, list[ObjectResult]], kind: Overlap
) -> AveragePrecision:
    counter = AveragePrecision(truth.object_categories, kind)
    for image in truth.images:
        assert image.instances is not None
        own = found[image.image_id]
        counter.update(image.image_id, image.size, image.instances.objects, own)
    return counter


def detections(truth: GroundTruth, noisy: Noisy, kind: Overlap) -> dict[int, list[ObjectResult]]:
    return {image.image_id: noisy(image, kind) for image in truth.images}


def crowded(image: GroundTruthImage) -> bool:
    return image.instances is not None and any(o["iscrowd"] for o in image.instances.objects)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("images", ["crowded", pytest.param("all", marks=pytest.mark.slow)])
def test_pycocotools_gives_the_same_bits(
    kind: Overlap, images: str, coco: GroundTruth, noisy: Noisy, pycocotools: Callable[..., Any]
) -> None:
    part = coco if images == "all" else replace(coco, images=tuple(filter(crowded, coco.images)))
    assert len(part.images) >= 10
    found = detections(part, noisy, kind)
    figures = counted(part, found, kind).compute()
    expected = pycocotools([r for own in found.values() for r in own], list(found))
    of_all = expected.eval["precision"][..., 0, 2]
    # pycocotools says -1 where there is no truth
    stats = [-1 if value is None else value for value in (getattr(figures, n) for n in TWELVE)]
    assert stats == expected.stats.tolist()
    np.testing.assert_array_equal(precision(figures), of_all)
    assert 0.1 < (figures.ap or 0) < 0.9
    for row, of_class in enumerate(figures.per_class):
        own = of_all[:, :, row]
        assert of_class.ap == (own[own > -1].mean() if (own > -1).any() else None)


@pytest.mark.parity
def test_any_order_and_split_of_the_images_gives_the_same_bits(
    coco: GroundTruth, noisy: Noisy
) -> None:
    found = detections(coco, noisy, "bbox")
    whole = counted(coco, found, "bbox").compute()
    first, second, third = (counted(coco.share(r, 3), found, "bbox") for r in range(3))
    third.merge(pickle.loads(pickle.dumps(first)))
    third.merge(second)
    same(third.compute(), whole)
    same(third.compute(), whole)  # computing ends nothing


def same(one: DetectionFigures, other: DetectionFigures) -> None:
    for name in (*TWELVE, "per_class"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_array_equal(precision(one), precision(other))


def box(x: float, score: float, image_id: int = 1) -> ObjectResult:
    return {"image_id": image_id, "category_id": 1, "bbox": [x, 0, 10, 10], "score": score}


def truth(number: int, x: float, *, crowd: bool = False, side: float = 10) -> Any:
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [x, 0, side, 10],
        "area": side * 10,
        "iscrowd": int(crowd),
    }


def test_one_found_of_two() -> None:
    counter = AveragePrecision(CELL, "bbox")
    counter.update(1, (100, 100), [truth(1, 0), truth(2, 50)], [box(0, 0.9)])
    figures = counter.compute()
    assert figures.ap == pytest.approx(51 / 101)  # precision 1 up to recall 0.5
    assert figures.ar100 == 0.5
    assert figures.ap_large is None
    assert figures.per_class[0].truths == 2


def test_a_crowd_forgives_and_is_not_missed() -> None:
    counter = AveragePrecision(CELL, "bbox")
    crowd = truth(2, 30, crowd=True, side=60)
    found = [box(0, 0.5), box(40, 0.9), box(60, 0.8)]
    counter.update(1, (100, 100), [truth(1, 0), crowd], found)
    figures = counter.compute()
    assert (figures.ap, figures.ar100) == pytest.approx((1.0, 1.0))
    assert figures.per_class[0].truths == 1


def test_an_overlap_of_exactly_one_half_matches() -> None:
    counter = AveragePrecision(CELL, "bbox")
    counter.update(1, (100, 100), [truth(1, 0, side=20)], [box(0, 0.9)])  # 100 of 200 pixels
    assert counter.compute().ap50 == pytest.approx(1)


def test_nothing_at_all_has_no_figures() -> None:
    counter = AveragePrecision(CELL, "bbox")
    counter.update(1, (100, 100), [], [box(0, 0.9)])
    figures = counter.compute()
    assert all(getattr(figures, name) is None for name in TWELVE)
    assert figures.per_class[0].ap is None
