from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from panodetr.data.formats import things
from panodetr.evaluation.average_precision import (
    TWELVE,
    AveragePrecision,
    DetectionFigures,
    ObjectResult,
    Overlap,
)
from panodetr.evaluation.ground_truth import GroundTruth

from .conftest import Noisy, box, precision

CELL = things({1: "cell"})


def counted(
    truth: GroundTruth, found: dict[int, list[ObjectResult]], kind: Overlap
) -> AveragePrecision:
    counter = AveragePrecision(truth.object_categories, kind)
    for image in truth.images:
        own = found[image.image_id]
        counter.update(image.image_id, image.size, image.objects or (), own)
    return counter


def detections(truth: GroundTruth, noisy: Noisy, kind: Overlap) -> dict[int, list[ObjectResult]]:
    return {image.image_id: noisy(image, kind) for image in truth.images}


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pycocotools_gives_the_same_bits(
    kind: Overlap, coco: GroundTruth, noisy: Noisy, pycocotools: Callable[..., Any]
) -> None:
    objects = [o for i in coco.images for o in i.objects or ()]
    assert sum(o["iscrowd"] for o in objects) >= 10
    found = detections(coco, noisy, kind)
    figures = counted(coco, found, kind).compute()
    expected = pycocotools([r for own in found.values() for r in own], list(found))
    of_all = expected.eval["precision"][..., 0, 2]
    # pycocotools says -1 where there is no truth
    stats = [-1 if value is None else value for value in (getattr(figures, n) for n in TWELVE)]
    assert stats == expected.stats.tolist()
    np.testing.assert_array_equal(precision(figures), of_all)
    assert 0.1 < (figures.ap or 0) < 0.9
    for row, of_class in enumerate(figures.per_class.values()):
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


def test_one_found_of_two_and_nothing_at_all() -> None:
    truth = [box(1, 1, (0, 0, 10, 10)), box(2, 1, (50, 0, 60, 10))]
    found: list[ObjectResult] = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9}
    ]
    counter = AveragePrecision(CELL, "bbox")
    counter.update(1, (100, 100), truth, found)
    figures = counter.compute()
    assert figures.ap == pytest.approx(51 / 101)  # precision 1 up to recall 0.5
    assert figures.ar100 == 0.5
    assert figures.ap_large is None
    assert figures.per_class["cell"].truths == 2
    assert figures.per_class["cell"].best_threshold == 0.89  # a score at the threshold is dropped
    counter = AveragePrecision(CELL, "bbox")
    counter.update(1, (100, 100), [], found)
    figures = counter.compute()
    assert all(getattr(figures, name) is None for name in TWELVE)
    assert figures.per_class["cell"].ap is None
    assert figures.per_class["cell"].best_threshold is None


def test_the_best_threshold_keeps_what_is_right_and_drops_what_is_not() -> None:
    truth = [box(n, 1, (20 * n, 0, 20 * n + 10, 10)) for n in range(1, 5)]
    found: list[ObjectResult] = [
        {"image_id": 1, "category_id": 1, "bbox": [20 * n, 0, 10, 10], "score": 0.9 - 0.2 * n}
        for n in range(1, 4)
    ]
    wrong: list[ObjectResult] = [
        {"image_id": 1, "category_id": 1, "bbox": [20 * n, 50, 10, 10], "score": 0.25 - n / 1000}
        for n in range(9)
    ]
    counter = AveragePrecision(CELL, "bbox")
    counter.update(1, (100, 200), truth, found + wrong)
    assert counter.compute().per_class["cell"].best_threshold == pytest.approx(0.29)
