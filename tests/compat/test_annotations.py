"""Annotations as people have them, which transformers refuses or reads wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from panodetr.compat import DetrImageProcessor
from panodetr.errors import DataError

from .conftest import noise

IMAGE = noise(80, 100)


def labels_of(*objects: dict[str, Any], image_id: Any = 1, **options: Any) -> Any:
    given = [
        {"category_id": place, "bbox": [10.0, 10.0, 20.0, 30.0], "area": 600.0, **one}
        for place, one in enumerate(objects)
    ]
    annotation = {"image_id": image_id, "annotations": given}
    processor = DetrImageProcessor(do_resize=False, do_convert_annotations=False)
    return processor(IMAGE, annotation, return_tensors="pt", **options)["labels"][0]


@pytest.mark.parametrize(
    ("segmentation", "pixels"),
    [
        ([], 0),
        ([[]], 0),
        (None, 0),
        ([[10, 10, 12, 12]], 0),
        ([[10, 10]], 0),
        ([10, 10, 30, 10, 30, 40], 300),
        ([[[10, 10], [30, 10], [30, 40]]], 300),
        ([[], [10, 10, 30, 10, 30, 40], [1, 1, 2, 2]], 300),
        (([10, 10, 30, 10, 30, 40],), 300),
        (np.array([[10, 10, 30, 10, 30, 40]]), 300),
        ({"size": [80, 100], "counts": [0, 600, 7400]}, 600),
        ({"size": [80, 100], "counts": "0hb0XW7"}, 600),
        ({"size": [80, 100], "counts": b"0hb0XW7"}, 600),
    ],
)
def test_every_form_of_a_segmentation_is_a_mask(segmentation: Any, pixels: int) -> None:
    full = {"segmentation": [[0, 0, 100, 0, 100, 80, 0, 80]]}
    labels = labels_of({"segmentation": segmentation}, full, return_segmentation_masks=True)
    assert labels["masks"].shape == (2, 80, 100)
    assert labels["masks"].flatten(1).sum(1).tolist() == [pixels, 8000]


@pytest.mark.parametrize("image_id", ["a-01", "e5b0c3e2-1", "39769 (copy)", (7, "b"), 2**63])
def test_an_image_id_that_is_no_number_is_kept(image_id: Any) -> None:
    labels = labels_of({}, image_id=image_id)
    assert labels["image_id"] == [image_id]
    assert labels.to("cpu", torch.float64)["image_id"] == [image_id]
    assert labels["boxes"].dtype == torch.float64


@pytest.mark.parametrize("image_id", [39769, "39769", np.int32(39769)])
def test_an_image_id_that_is_a_number(image_id: Any) -> None:
    assert labels_of({}, image_id=image_id)["image_id"].tolist() == [39769]


def test_an_image_id_that_is_missing_is_one_line() -> None:
    with pytest.raises(DataError, match='"image_id" is missing'):
        labels_of({}, image_id=None)


def test_keypoints_on_some_objects() -> None:
    points = [1.0, 2.0, 2.0, 3.0, 4.0, 1.0]
    labels = labels_of({}, {"keypoints": points}, {"bbox": [1, 1, 0, 0], "keypoints": points}, {})
    assert labels["class_labels"].tolist() == [0, 1, 3]
    assert labels["keypoints"].reshape(3, -1).tolist() == [[0.0] * 6, points, [0.0] * 6]
    again = labels_of({"keypoints": None}, {"keypoints": points}, {"keypoints": []})
    assert again["keypoints"].reshape(3, -1).tolist() == [[0.0] * 6, points, [0.0] * 6]
    for nothing in ({}, {"keypoints": None}, {"keypoints": [], "iscrowd": None}):
        assert "keypoints" not in labels_of({}, nothing)


@pytest.mark.parametrize(
    ("objects", "line"),
    [
        ([{"bbox": [1, 2, 3]}], "bbox of an annotation is not 4 numbers"),
        (
            [{"segmentation": {"size": [81, 100], "counts": [8100]}}],
            r"size is \[81, 100\]; expected the image's, \(80, 100\)",
        ),
        ([{"bbox": [1, 2, 3]}] * 4, "bbox of an annotation is not 4 numbers"),
        ([{"bbox": None}] * 4, "bbox of an annotation is not 4 numbers"),
        ([{"bbox": [1, 2, 3, float("nan")]}], "bbox of an annotation is not finite"),
        ([{"category_id": None}], '"category_id" is missing'),
        ([{}, {"area": None}], '"area" is missing'),
        ([{"keypoints": [1, 2, 1]}, {"keypoints": [1, 2]}], "keypoints of an annotation is not 3"),
    ],
)
def test_numbers_that_are_missing_are_one_line(objects: list[dict[str, Any]], line: str) -> None:
    with pytest.raises(DataError, match=line):
        labels_of(*objects, return_segmentation_masks="segmentation" in objects[0])
