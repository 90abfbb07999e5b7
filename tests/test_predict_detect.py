from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, UsageError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.detr import Detr
from panodetr.predict import Predictor, Task
from panodetr.runtimes.torch import TorchRuntime

CPU = torch.device("cpu")

WHOLE = Preprocessing(short_side=48, long_side=80)


def predictor(spec: ModelSpec) -> Predictor:
    torch.manual_seed(0)
    model = Detr(spec.architecture)
    with torch.no_grad():  # scores that differ from query to query
        model.class_head.weight *= 4
    return Predictor(spec, TorchRuntime(model, spec.preprocessing, CPU))


@pytest.fixture(scope="module")
def tiled(tiny_spec: ModelSpec) -> Predictor:
    return predictor(tiny_spec)


@pytest.fixture(scope="module")
def whole(tiny_spec: ModelSpec) -> Predictor:
    return predictor(replace(tiny_spec, preprocessing=WHOLE))


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_detections_are_things_above_the_threshold_the_best_first(whole: Predictor) -> None:
    everything = whole.detect(noise(60, 90), threshold=0)
    scores = [found.score for found in everything.detections]
    assert scores == sorted(scores, reverse=True)
    assert {(found.label, found.category_id) for found in everything.detections} == {("nucleus", 7)}
    assert len(set(scores)) > 1
    fewer = whole.detect(noise(60, 90), threshold=scores[-1])
    assert [found.score for found in fewer.detections] == [s for s in scores if s > scores[-1]]


def test_candidates_are_the_originals_of_every_query(whole: Predictor) -> None:
    image = noise(60, 90)
    (found,) = whole.candidates_each([image], masks=True)
    pixels = np.asarray(Image.fromarray(image).resize((72, 48), Image.Resampling.BILINEAR))
    rule = whole.spec.preprocessing
    values = torch.from_numpy(pixels.copy()) / 255 - torch.tensor(rule.mean)
    values /= torch.tensor(rule.std)
    model = whole.runtime.model  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert isinstance(model, Detr)
    with torch.inference_mode():
        answer = model.detect(values.permute(2, 0, 1)[None].float())
        every = torch.arange(5)
        masks = model.masks(answer.encoded, answer.states, torch.zeros_like(every), every)
    probabilities = answer.logits[0].softmax(-1)[:, [0, 2]]  # class 1 has no category
    scores, places = probabilities.max(-1)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    assert found.category_ids.tolist() == [(7, 9)[place] for place in places]
    x, y, w, h = (answer.boxes[0] * torch.tensor([90, 60, 90, 60])).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    np.testing.assert_allclose(found.boxes, corners, atol=1e-2)
    grown = F.interpolate(masks[None], (48, 72), mode="bilinear")
    inside = F.interpolate((grown > 0).float(), (60, 90), mode="nearest")[0].bool().numpy()
    for mask, expected in zip(found.masks(), inside, strict=True):
        assert np.mean(mask != expected) < 1e-3  # but for rounding at the rim


def test_queries_that_answer_for_one_object_are_one_where_the_model_needs_it(
    tiny_spec: ModelSpec,
) -> None:
    image = noise(60, 90)
    plain = predictor(replace(tiny_spec, preprocessing=WHOLE))
    spec = replace(tiny_spec, preprocessing=WHOLE, duplicate_iou=0.01)
    once = predictor(spec)
    assert len(plain.detect(image, threshold=0).detections) > 1
    assert len(once.detect(image, threshold=0).detections) == 1
    (everything,) = once.candidates_each([image])
    assert len(everything.scores) == spec.architecture.num_queries


def test_a_class_without_a_category_never_comes_out(tiny_spec: ModelSpec) -> None:
    model = predictor(replace(tiny_spec, preprocessing=WHOLE))
    runtime = model.runtime
    assert isinstance(runtime, TorchRuntime)
    with torch.no_grad():
        runtime.model.class_head.bias[1] = 3  # pyright: ignore[reportOptionalSubscript]
    image = noise(60, 90)
    (found,) = model.candidates_each([image])
    assert set(found.category_ids.tolist()) <= {7, 9}
    tasks: tuple[Task, ...] = ("panoptic", "instances")
    for task in tasks:
        result = model.segment(image, threshold=0, task=task)
        assert {segment.category_id for segment in result.segments} <= {7, 9}
    assert set(np.unique(model.segment(image, task="semantic").category_ids())) <= {7, 9}


def test_masks_are_made_when_asked_for(whole: Predictor) -> None:
    with_masks = whole.detect(noise(60, 90), threshold=0, masks=True)
    without = whole.detect(noise(60, 90), threshold=0)
    for found, bare in zip(with_masks.detections, without.detections, strict=True):
        assert found.mask is not None
        assert found.mask.shape == (60, 90)
        assert found.mask.dtype == np.bool_
        assert bare.mask is None
        assert found.box == bare.box


def test_tiles_are_put_where_they_belong(tiled: Predictor) -> None:
    image = noise(64, 112)
    (left,) = tiled.candidates_each([image[:, :64]], masks=True)
    (both,) = tiled.candidates_each([image], masks=True)
    assert both.image_size == (64, 112)
    for box, mask in zip(both.boxes, both.masks(), strict=True):
        places = np.abs(left.boxes - box).max(axis=1)
        if places.min() < 1e-3:  # found by the left tile, whose mask ends with it
            assert not mask[:, 64:].any()
    right = both.boxes[both.boxes[:, 0] > 56]
    assert len(right)


def test_instances_are_things_where_their_masks_are(whole: Predictor) -> None:
    image = noise(60, 90)
    result = whole.segment(image, threshold=0, task="instances")
    found = whole.detect(image, threshold=0, masks=True)
    assert result.segments
    assert all(segment.is_thing for segment in result.segments)
    masks = [one.mask for one in found.detections if one.mask is not None]
    assert not (result.segment_ids > 0)[~np.any(masks, axis=0)].any()


def test_a_semantic_result_has_one_segment_a_class_and_no_gap(tiled: Predictor) -> None:
    result = tiled.segment(noise(100, 130), task="semantic")
    ids = [segment.category_id for segment in result.segments]
    assert len(set(ids)) == len(ids)
    assert (result.segment_ids > 0).all()
    assert set(np.unique(result.category_ids())) == set(ids)
    nothing = tiled.segment(noise(60, 90), threshold=1)
    assert (nothing.category_ids() == -1).all()


def test_a_model_without_masks_detects_and_says_what_it_cannot(tiny_spec: ModelSpec) -> None:
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    model = predictor(spec)
    assert model.detect(noise(40, 50), threshold=0).detections
    with pytest.raises(CheckpointError, match="has no mask head"):
        model.detect(noise(40, 50), masks=True)
    with pytest.raises(CheckpointError, match="model tiny has no mask head"):
        model.segment(noise(40, 50))


def test_what_cannot_be_meant_is_one_line(whole: Predictor) -> None:
    with pytest.raises(UsageError, match="threshold is 2"):
        whole.detect(noise(40, 50), threshold=2)
    with pytest.raises(UsageError, match="has no threshold"):
        whole.segment(noise(40, 50), threshold=0.5, task="semantic")
    with pytest.raises(UsageError, match="expected one of panoptic, instances, semantic"):
        whole.segment(noise(40, 50), task="instance")  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("masks", [False, True])
def test_detections_are_saved_beside_segments(
    whole: Predictor, tmp_path: Path, masks: bool
) -> None:
    image = tmp_path / "cells.png"
    Image.fromarray(noise(60, 90)).save(image)
    whole.segment(image, threshold=0).save(tmp_path / "out")
    result = whole.detect(image, threshold=0, masks=masks)
    result.save(tmp_path / "out")
    files = result.save(tmp_path / "out")  # over the first
    assert files.overlay.name == "cells_detections.png"
    assert len(list((tmp_path / "out").iterdir())) == 5
    with Image.open(files.overlay) as overlay:
        assert overlay.size == (90 * 4, 60 * 4)
    stored = json.loads(files.json.read_text("utf-8"))
    assert stored == result.to_dict()
    assert stored["source"] == str(image)
    for one, found in zip(stored["detections"], result.detections, strict=True):
        x, y, w, h = one["bbox"]
        np.testing.assert_allclose((x, y, x + w, y + h), found.box, atol=2e-3)
        if not masks:
            assert one["segmentation"] is None
            continue
        assert one["segmentation"]["size"] == [60, 90]
        assert sum(one["segmentation"]["counts"]) == 60 * 90


def test_masks_and_boxes_show_in_the_picture(whole: Predictor) -> None:
    black = np.zeros((60, 90, 3), np.uint8)
    result = whole.detect(noise(60, 90), threshold=0, masks=True)
    bare = tuple(replace(found, coarse_mask=None) for found in result.detections)
    lit = [
        np.count_nonzero(replace(result, image=black, detections=detections).draw())
        for detections in ((), bare, result.detections)
    ]
    assert lit[0] == 0 < lit[1] < lit[2]


def test_every_kind_of_image_is_detected_in(whole: Predictor, tmp_path: Path) -> None:
    pixels, path = noise(60, 90), tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1) / 255)  # 3, H, W
    with path.open("rb") as file:
        sources = [path, str(path), path.read_bytes(), file, pixels, Image.open(path), tensor]
        results = [*whole.detect(sources), whole.detect(tensor), whole.detect(path.read_bytes())]
    assert [result.source for result in results] == [path, path] + [None] * 7
    for result in results:
        assert np.array_equal(result.image, pixels)
        assert len(result.detections) == len(results[0].detections) > 0
