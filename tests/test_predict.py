from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import nn

from panodetr import predict
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import ImageError, UsageError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.detr import Detr
from panodetr.predict import Predictor
from panodetr.results.result import PanopticResult
from panodetr.runtimes.base import Prediction
from panodetr.runtimes.torch import TorchRuntime

CPU = torch.device("cpu")


def random_model(spec: ModelSpec) -> Detr:
    """Random weights, but a class head that answers to four of the queries, each with a class.

    To query 0 with index 0, surely; to 1 with index 2, less so; to 2 with index 1, which has no
    category; to 3 with "no object".
    """
    torch.manual_seed(0)
    model = Detr(spec.architecture).eval()
    with torch.no_grad():
        states = model.detect(torch.randn(4, 3, 64, 64)).states.mean(0)  # Q, D
        own = states - states.mean(0)
        head = model.class_head
        for index, (query, logit) in enumerate(((0, 6.0), (2, 3.0), (1, 2.0), (3, 3.0))):
            head.weight[index] = own[query] / own[query].square().sum() * logit
            head.bias[index] = -head.weight[index] @ states.mean(0)
        if model.mask_head is None:
            return model
        # Masks follow where each query looks. Fresh weights give all queries nearly the same mask,
        # and rounding, which differs with the batch size, would decide between them.
        model.mask_head.convs[0].get_parameter("weight")[:, spec.architecture.hidden_dim :] *= 300
        for parameter in model.mask_head.adapters.parameters():
            parameter *= 0.1
    return model


@pytest.fixture(scope="module")
def predictor(tiny_spec: ModelSpec) -> Predictor:
    """Random weights; tiles of 64 that overlap by 16."""
    return predictor_of(tiny_spec)


def predictor_of(spec: ModelSpec) -> Predictor:
    return Predictor(spec, TorchRuntime(random_model(spec), spec.preprocessing, CPU))


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image of coarse noise, so that there is something to see."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def watch(predictor: Predictor) -> list[tuple[int, ...]]:
    """A list of the shapes that the network is fed, filled as it runs."""
    seen: list[tuple[int, ...]] = []

    def see(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(tuple(given[0].shape))

    assert isinstance(predictor.runtime, TorchRuntime)
    predictor.runtime.model.backbone.register_forward_pre_hook(see)
    return seen


def assert_same(a: PanopticResult, b: PanopticResult) -> None:
    """Equal but for rounding, which may decide between equal scores and between equal masks.

    How many images share a batch changes the rounding. So segments are matched by their pixels.
    """
    assert len(a.segments) == len(b.segments)
    other_id = np.zeros(len(a.segments) + 1, np.int32)
    for segment in a.segments:
        there = b.segment_ids[a.segment_ids == segment.id]
        other_id[segment.id] = np.bincount(there).argmax()
        other = b.segments[other_id[segment.id] - 1]
        assert segment.label == other.label
        np.testing.assert_allclose(segment.score, other.score, atol=1e-4)
    assert len(set(other_id.tolist())) == len(other_id)
    assert np.mean(other_id[a.segment_ids] != b.segment_ids) < 1e-3


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.sampled_from([40, 52, 64, 90]), st.sampled_from([48, 56, 100])), max_size=5
    )
)
def test_a_list_gives_what_its_images_give_one_at_a_time(
    predictor: Predictor, sizes: list[tuple[int, int]]
) -> None:
    # Smaller images have one feature, and the same mask for every query, but for rounding.
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    together = predictor.segment(tuple(images), threshold=0)
    assert len(together) == len(images)
    for image, result in zip(images, together, strict=True):
        np.testing.assert_array_equal(result.image, image)
        assert_same(result, predictor.segment(image, threshold=0))


def test_frames_that_come_in_one_pil_image_are_told_apart(
    predictor: Predictor, tmp_path: Path
) -> None:
    frames = [noise(40, 56, seed) for seed in range(3)]
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    with Image.open(tmp_path / "a.tif") as file:
        results = list(predictor.segment_each(ImageSequence.Iterator(file), threshold=0))
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_array_equal(result.image, frame)
        assert_same(result, predictor.segment(frame, threshold=0))


@pytest.mark.parametrize("size", [(40, 56), (64, 64), (65, 64), (150, 90), (1, 1)])
def test_results_have_the_images_own_size(predictor: Predictor, size: tuple[int, int]) -> None:
    result = predictor.segment(noise(*size), threshold=0)
    assert result.segment_ids.shape == size
    assert result.segment_ids.dtype == np.int32
    ids = [segment.id for segment in result.segments]
    assert ids == list(range(1, len(ids) + 1))
    for segment in result.segments:
        rows, columns = np.nonzero(result.segment_ids == segment.id)
        assert segment.area == len(rows)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.box == tuple(float(side) for side in box)
        assert 0 < segment.score <= 1


def test_segments_carry_the_data_sets_own_names(predictor: Predictor) -> None:
    found = predictor.segment([noise(64, 64, seed) for seed in range(4)], threshold=0)
    kinds = {(s.label, s.category_id, s.is_thing) for r in found for s in r.segments}
    assert kinds == {("nucleus", 7, True), ("background", 9, False)}
    assert predictor.categories == found[0].categories


def test_images_are_resized_and_results_are_not(tiny_spec: ModelSpec) -> None:
    rule = Preprocessing(short_side=64, long_side=96)
    predictor = predictor_of(replace(tiny_spec, preprocessing=rule))
    seen = watch(predictor)
    result = predictor.segment(noise(30, 40))
    assert seen == [(1, 3, 64, 85)]
    assert result.segment_ids.shape == (30, 40)


def test_large_images_are_seen_in_tiles(tiny_spec: ModelSpec) -> None:
    predictor = predictor_of(tiny_spec)
    seen = watch(predictor)
    predictor.segment(noise(100, 64))
    assert seen == [(2, 3, 64, 64)]
    # Tiles and whole images of one size share a batch.
    seen.clear()
    predictor.segment([noise(100, 64), noise(30, 40), noise(64, 64)])
    assert sorted(seen) == [(1, 3, 30, 40), (3, 3, 64, 64)]


def test_features_are_let_go_of_before_segments_are_merged(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[bool] = []
    detect, merge = predictor.runtime.detect, predict.merge_masks
    features: list[weakref.ref[Prediction]] = []

    def watched(*images: Any) -> Prediction:
        found = detect(*images)
        features.append(weakref.ref(found))
        return found

    def merged(*masks: Any) -> Any:
        alive.append(features[-1]() is not None)
        return merge(*masks)

    monkeypatch.setattr(predictor.runtime, "detect", watched)
    monkeypatch.setattr(predict, "merge_masks", merged)
    predictor.segment([noise(64, 64), noise(64, 64)])
    assert alive == [False, False]


def test_a_image_of_one_tile_is_as_if_there_were_no_tiles(
    predictor: Predictor, tiny_spec: ModelSpec
) -> None:
    rule = replace(tiny_spec.preprocessing, tile=None, tile_overlap=0)
    whole = Predictor(replace(tiny_spec, preprocessing=rule), predictor.runtime)
    image = noise(64, 50)
    assert_same(predictor.segment(image, threshold=0), whole.segment(image, threshold=0))


def test_the_threshold_is_the_models_own_unless_given(tiny_spec: ModelSpec) -> None:
    spec = replace(tiny_spec, threshold=0.95)
    predictor = predictor_of(spec)
    images = [noise(64, 64, seed) for seed in range(4)]
    every, given, own = (
        [[s.score for s in r.segments] for r in predictor.segment(images, threshold=threshold)]
        for threshold in (0, 0.95, None)
    )
    assert own == given != every
    assert min(min(scores, default=1) for scores in every) < 0.95
    assert min(min(scores, default=1) for scores in own) > 0.95
    for result in predictor.segment(images, threshold=1):
        assert result.segments == ()
        assert not result.segment_ids.any()


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_is_a_score(predictor: Predictor, threshold: float) -> None:
    with pytest.raises(UsageError, match=r"threshold is .*; expected a score from 0 to 1"):
        predictor.segment(noise(24, 24), threshold=threshold)


def test_an_image_that_cannot_be_read_is_named(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.png"):
        predictor.segment([noise(24, 24), tmp_path / "broken.png"])
    with pytest.raises(ImageError):
        predictor.segment(np.zeros((0, 4, 3), np.uint8))
    for wrong in (None, 3, [None]):
        with pytest.raises(TypeError, match="is not an image; expected a path, bytes"):
            predictor.segment(wrong)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_images_are_read_only_as_they_are_needed(predictor: Predictor) -> None:
    taken: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for seed in range(6):
            taken.append(seed)
            yield noise(512, 1024, seed)

    results = predictor.segment_each(images(), threshold=1)
    next(results)
    assert len(taken) == 2  # a batch of a million pixels
    assert len(list(results)) == 5
