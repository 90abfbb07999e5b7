"""Preprocessing and labels against transformers' own processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from panodetr.compat import DetrImageProcessor
from panodetr.compat.options import ProcessorOptions

from .conftest import noise

pytestmark = pytest.mark.parity

SIZE = {"shortest_edge": 48, "longest_edge": 80}
CALL = ("masks_path", "return_segmentation_masks")
LEVEL = 1 / 255 / 0.224  # one grey level, after normalising with the least deviation


def both(*inputs: Any, size: Any = SIZE, format: str = "coco_detection", **options: Any) -> Any:
    """Give what our processor and theirs make of the same inputs."""
    call = {k: options.pop(k) for k in CALL if k in options}
    kinds: Any = (DetrImageProcessor, DetrImageProcessorPil)
    return [
        kind(size=size, format=format, **options)(*inputs, return_tensors="pt", **call)
        for kind in kinds
    ]


def same(ours: Any, theirs: Any, *, tolerance: float = LEVEL) -> None:
    assert torch.equal(ours["pixel_mask"], theirs["pixel_mask"])
    torch.testing.assert_close(
        ours["pixel_values"], theirs["pixel_values"].float(), rtol=0, atol=tolerance
    )
    if "labels" not in theirs:
        return
    for one, other in zip(ours["labels"], theirs["labels"], strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name].shape == value.shape, name
            torch.testing.assert_close(
                one[name].float(), value.float(), rtol=1e-5, atol=1e-6, msg=name
            )
            assert one[name].is_floating_point() == value.is_floating_point(), name


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_size_rule(height: int, width: int) -> None:
    expected = get_size_with_aspect_ratio((height, width), 800, 1333)
    assert ProcessorOptions().target_size((height, width)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 40, "width": 72}},
        {"size": {"max_height": 50, "max_width": 60}},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_resize": False},
        {"pad_size": {"height": 90, "width": 100}},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3]},
    ],
)
def test_images_under_every_option(options: dict[str, Any]) -> None:
    images = [Image.fromarray(noise(60, 90)), Image.fromarray(noise(70, 50))]
    ours, theirs = both(images, **options)
    same(ours, theirs, tolerance=1.001 if not options.get("do_rescale", True) else LEVEL)


def annotated(box: list[float], polygons: Any, points: list[int], **changes: Any) -> dict[str, Any]:
    area = {"category_id": 3, "area": 300.0, "iscrowd": 0}
    return {**area, "bbox": box, "segmentation": polygons, "keypoints": points, **changes}


OBJECTS = {
    "image_id": 5,
    "annotations": [
        annotated(
            [10.0, 5.0, 20.5, 30.0],
            [[10, 5, 30.5, 5, 30.5, 35, 10, 35]],
            [12, 7, 2, 20, 30, 1],
        ),
        annotated(
            [80.0, 50.0, 30.0, 30.0],  # out of the image
            [[80, 50, 89, 50, 89, 59], [1, 1, 5, 1, 5, 9]],
            [81, 51, 2, 85, 55, 2],
            category_id=8,
            area=50.0,
        ),
        annotated([4.0, 4.0, 0.0, 3.0], [[4, 4, 4, 7, 4, 7]], [4, 4, 0, 4, 4, 0]),  # empty
        annotated(
            [0.0, 0.0, 30.0, 30.0], {"size": [60, 90], "counts": [0, 5400]}, [0] * 6, iscrowd=1
        ),
    ],
}
NOTHING = {"image_id": 6, "annotations": []}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("options", [{}, {"do_convert_annotations": False}, {"do_resize": False}])
def test_detection_labels(masks: bool, options: dict[str, Any]) -> None:
    images, annotations = [noise(60, 90), noise(90, 60)], [OBJECTS, NOTHING]
    if masks:  # transformers cannot resize an empty list of masks
        images, annotations = [noise(60, 90), noise(60, 120)], [OBJECTS, OBJECTS]
    same(*both(images, annotations, return_segmentation_masks=masks, **options))


def test_panoptic_labels(official: Any) -> None:
    image = Image.open(official.image).convert("RGB")
    taller = Image.fromarray(noise(image.height, image.width)).rotate(90, expand=True)
    panoptic = {"format": "coco_panoptic", "masks_path": official.folder}
    same(*both([image], official.annotation, **panoptic))
    same(*both([image, taller], **panoptic))


def test_panoptic_labels_in_a_padded_batch(tmp_path: Path) -> None:
    ids = np.zeros((60, 90, 3), np.uint8)
    ids[10:30, 20:50, 0], ids[40:, :, 1] = 7, 3
    Image.fromarray(ids).save(tmp_path / "a.png")
    Image.fromarray(ids.transpose(1, 0, 2)).save(tmp_path / "b.png")
    segments = [
        {"id": 7, "category_id": 2, "iscrowd": 0, "area": 600},
        {"id": 3 * 256, "category_id": 5, "iscrowd": 1, "area": 1800},
    ]
    annotations = [
        {"image_id": n, "file_name": f"{name}.png", "segments_info": segments}
        for n, name in enumerate("ab")
    ]
    images = [noise(60, 90), noise(90, 60)]
    same(*both(images, annotations, masks_path=tmp_path, format="coco_panoptic"))


@pytest.mark.parametrize("panoptic", [False, True])
def test_the_published_configurations_are_read(panoptic: bool) -> None:
    published: dict[str, Any] = {
        "do_normalize": True,
        "do_resize": True,
        "format": "coco_panoptic" if panoptic else "coco_detection",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "max_size": 1333,
        "size": 800,
    }
    theirs = json.loads(DetrImageProcessorPil(**published).to_json_string())
    ours = DetrImageProcessor(**published).options
    for name in ("do_resize", "do_rescale", "do_normalize", "do_pad", "rescale_factor"):
        assert getattr(ours, name) == theirs[name]
    assert dict(ours.size) == {k: v for k, v in theirs["size"].items() if v is not None}
    assert list(ours.image_mean) == pytest.approx(theirs["image_mean"])
