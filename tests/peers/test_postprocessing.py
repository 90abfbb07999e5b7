"""Reading outputs against transformers' own processor."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from panodetr.compat import DetrFeatureExtractor, DetrImageProcessor, DetrSegmentationOutput
from panodetr.errors import UsageError
from panodetr.evaluation.evaluate import score
from panodetr.evaluation.ground_truth import GroundTruth

pytestmark = pytest.mark.parity

OURS = DetrImageProcessor()
THEIRS: Any = DetrImageProcessorPil()


def outputs(seed: int, *, sure: float = 4.0) -> Any:
    """Two images, ten queries, six classes; smooth masks, so that segments have some size."""
    torch.manual_seed(seed)
    coarse = torch.randn(2, 10, 4, 5) * 5
    return DetrSegmentationOutput(
        logits=torch.randn(2, 10, 7) * sure,
        pred_boxes=torch.rand(2, 10, 4),
        pred_masks=torch.nn.functional.interpolate(coarse, (16, 20), mode="bilinear"),
    )


seeds = st.integers(0, 2**31)
targets = st.none() | st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=2, max_size=2
)


def equal(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(one[name], value, rtol=0, atol=0)
            else:
                assert one[name] == value


@given(seeds, targets, st.floats(0, 1))
def test_object_detection(seed: int, sizes: Any, threshold: float) -> None:
    found = outputs(seed)
    for given_sizes in (sizes, *(() if sizes is None else (torch.tensor(sizes) + 0.25,))):
        equal(
            OURS.post_process_object_detection(found, threshold, given_sizes),
            THEIRS.post_process_object_detection(found, threshold, given_sizes),
        )


@given(seeds, targets)
def test_semantic_segmentation(seed: int, sizes: Any) -> None:
    found = outputs(seed)
    theirs = THEIRS.post_process_semantic_segmentation(found, sizes, True)
    ours = OURS.post_process_semantic_segmentation(found, sizes, True)
    for one, other in zip(ours, theirs, strict=True):
        assert not isinstance(one, torch.Tensor)
        torch.testing.assert_close(one.segmentation_scores, other.segmentation_scores)
        # Of values that are equal but for rounding either class may win.
        values = other.segmentation_scores
        short = values.amax(0) - values.gather(0, one.segmentation[None])[0]
        assert short.max() < 1e-5


@given(seeds, targets, st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.1, 0.5, 0.8]))
def test_instance_segmentation(seed: int, sizes: Any, threshold: float, overlap: float) -> None:
    found = outputs(seed)
    for coded in (False, True):
        equal(
            OURS.post_process_instance_segmentation(
                found, threshold, 0.5, overlap, sizes, return_coco_annotation=coded
            ),
            THEIRS.post_process_instance_segmentation(
                found, threshold, 0.5, overlap, sizes, return_coco_annotation=coded
            ),
        )


@given(seeds, targets, st.sampled_from([0.0, 0.5, 0.9]), st.sets(st.integers(0, 5)))
def test_panoptic_segmentation(seed: int, sizes: Any, threshold: float, fused: set[int]) -> None:
    found = outputs(seed)
    equal(
        OURS.post_process_panoptic_segmentation(
            found, threshold, 0.4, 0.3, label_ids_to_fuse=fused, target_sizes=sizes
        ),
        THEIRS.post_process_panoptic_segmentation(
            found, threshold, 0.4, 0.3, label_ids_to_fuse=fused, target_sizes=sizes
        ),
    )


def test_an_overlap_of_exactly_the_threshold() -> None:
    # Five pixels claimed, four of them got: more than 0.8 in float32, as transformers counts.
    first, second = torch.full((1, 10), -9.0), torch.full((1, 10), -9.0)
    first[0, :5] = 3.0
    second[0, 4:] = 6.0
    logits = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0]]])
    found = SimpleNamespace(logits=logits, pred_masks=torch.stack([first, second])[None])
    ours = OURS.post_process_instance_segmentation(found)  # pyright: ignore[reportArgumentType]
    equal(ours, THEIRS.post_process_instance_segmentation(found))
    assert len(ours[0]["segments_info"]) == 2


def test_nothing_found() -> None:
    found = outputs(0, sure=0.1)
    for sizes in (None, [(8, 9), (7, 6)]):
        ours = OURS.post_process_panoptic_segmentation(found, 0.9, target_sizes=sizes)
        equal(
            ours,
            THEIRS.post_process_panoptic_segmentation(
                found, 0.9, label_ids_to_fuse=set(), target_sizes=sizes
            ),
        )
        assert ours[0]["segments_info"] == []


@pytest.mark.parametrize("size", [(1333, 800), (4001, 3000)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_of_half_precision_are_scaled_exactly(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    found = DetrSegmentationOutput(
        logits=torch.tensor([[[9.0, 0.0, 0.0]]], dtype=dtype),
        pred_boxes=torch.tensor([[[0.5, 0.5, 1.0, 1.0]]], dtype=dtype),
        pred_masks=torch.ones(1, 1, 2, 2, dtype=dtype),
    )
    theirs = THEIRS.post_process_object_detection(found, 0.5, [size])[0]["boxes"]
    for sizes in ([size], torch.tensor([size])):
        (ours,) = OURS.post_process_object_detection(found, 0.5, sizes)
        assert ours["boxes"].tolist() == theirs.tolist() == [[0.0, 0.0, size[1], size[0]]]
    for name in ("semantic", "instance", "panoptic"):
        assert getattr(OURS, f"post_process_{name}_segmentation")(found, target_sizes=[(4, 4)])


@pytest.mark.parametrize("name", ["object_detection", "semantic_segmentation"])
def test_both_refuse_sizes_for_other_images(name: str) -> None:
    for processor in (OURS, THEIRS):
        with pytest.raises(ValueError, match="size"):
            getattr(processor, f"post_process_{name}")(outputs(0), target_sizes=[(4, 4)])
    with pytest.raises(UsageError, match="expected a height and a width"):
        getattr(OURS, f"post_process_{name}")(outputs(0), target_sizes=[(4, 4, 3)] * 2)
    with pytest.raises(UsageError, match="expected a height and a width"):
        getattr(OURS, f"post_process_{name}")(outputs(0), target_sizes=(4, 4))


@pytest.mark.parametrize("name", ["object_detection", "semantic_segmentation"])
def test_sizes_in_every_form(name: str) -> None:
    sizes = [(50, 60), (70, 80)]
    expected = getattr(THEIRS, f"post_process_{name}")(outputs(0), target_sizes=sizes)
    forms: list[Any] = [tuple(sizes), np.array(sizes), torch.tensor(sizes).int()]
    for form in (*forms, [*torch.tensor(sizes)], [*np.array(sizes)], [*map(torch.Size, sizes)]):
        found = getattr(OURS, f"post_process_{name}")(outputs(0), target_sizes=form)
        torch.testing.assert_close(found, expected)


def test_a_panoptic_result_counts_from_0_and_is_evaluated(tmp_path: Path) -> None:
    """COCO's rule: only a 0 that is not listed means no segment."""
    masks = torch.full((2, 8, 8), -9.0)
    masks[0, :, :4] = masks[1, :, 4:] = 9.0
    found = DetrSegmentationOutput(
        logits=torch.tensor([[[9.0, 0, 0], [0, 9.0, 0]]]),
        pred_boxes=torch.zeros(1, 2, 4),
        pred_masks=masks[None],
    )
    (result,) = DetrFeatureExtractor().post_process_panoptic(found, [(32, 32)])
    assert [segment["id"] for segment in result["segments_info"]] == [0, 1]
    categories = [
        {"id": n, "name": name, "isthing": 1, "color": [n, 2, 3]}
        for n, name in enumerate(("left", "right"))
    ]
    ids = np.zeros((32, 32, 3), np.uint8)
    ids[:, :16, 0], ids[:, 16:, 0] = 1, 2
    segments = [{"id": n + 1, "category_id": n, "area": 512, "iscrowd": 0} for n in range(2)]
    entry = {"image_id": 1, "file_name": "a.png"}
    for folder, pixels, info in (
        ("truth", Image.fromarray(ids), segments),
        ("found", Image.open(io.BytesIO(result["png_string"])), result["segments_info"]),
    ):
        (tmp_path / folder).mkdir()
        pixels.save(tmp_path / folder / "a.png")
        document = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 32, "height": 32}],
            "categories": categories,
            "annotations": [{**entry, "segments_info": info}],
        }
        (tmp_path / f"{folder}.json").write_text(json.dumps(document))
    figures = score(tmp_path / "found.json", GroundTruth.read(tmp_path / "truth.json")).compute()
    assert figures.panoptic is not None
    assert figures.panoptic.all.pq == 1.0
