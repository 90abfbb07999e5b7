from __future__ import annotations

import json
import tarfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import nn
from torch.nn import functional as F

import panodetr
from panodetr import predict
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, ImageError, ImageWarning, UsageError
from panodetr.images import views
from panodetr.images.preprocess import Preprocessing, resize
from panodetr.images.read import read_image
from panodetr.images.sources import find_sources
from panodetr.images.views import READ_AHEAD, Batching
from panodetr.loading import predictor_of
from panodetr.model.detr import Detr
from panodetr.predict import Predictor
from panodetr.results.masks import Masks, NumpyMasks
from panodetr.results.result import PanopticResult
from panodetr.results.types import TASKS, Candidates, Task
from panodetr.runtimes.base import Prediction, Runtime
from panodetr.runtimes.torch import TorchRuntime, resize_images
from panodetr.threads import prefetch

WHOLE = Preprocessing(short_side=48, long_side=80)


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
        model.mask_head.convs[0].get_parameter("weight")[:, model.config.hidden_dim :] *= 300
        for parameter in model.mask_head.adapters.parameters():
            parameter *= 0.1
    return model


def candidates(model: Predictor, image: NDArray[np.uint8], *, masks: bool = False) -> Candidates:
    ((_, found),) = model.answer_each([image], masks=masks)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def predictor(tiny_spec: ModelSpec) -> Predictor:
    """Random weights; tiles of 64 that overlap by 16."""
    return predictor_of(tiny_spec, random_model(tiny_spec))


def noise(height: int, width: int, seed: int = 0, grain: int = 8) -> NDArray[np.uint8]:
    """An image of coarse noise, so that there is something to see."""
    shape = -(-height // grain), -(-width // grain), 3
    coarse = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return coarse.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]


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
    if size == (150, 90):
        kinds = {(s.label, s.category_id, s.is_thing) for s in result.segments}
        assert kinds == {("nucleus", 7, True), ("background", 9, False)}
        assert predictor.categories == result.categories


@pytest.mark.usefixtures("one_stream")
def test_images_are_resized_or_seen_in_tiles_and_results_are_as_they_were(
    tiny_spec: ModelSpec,
) -> None:
    predictor = predictor_of(tiny_spec, random_model(tiny_spec))
    seen = watch(predictor)
    small = predictor.with_rule(Preprocessing(short_side=64, long_side=96))
    assert small.segment(noise(30, 40)).segment_ids.shape == (30, 40)
    predictor.segment(noise(100, 64))
    assert seen == [(1, 3, 64, 85), (2, 3, 64, 64)]
    # Tiles and whole images of one size share a batch.
    seen.clear()
    predictor.segment([noise(100, 64), noise(30, 40), noise(64, 64)])
    assert sorted(seen) == [(1, 3, 30, 40), (3, 3, 64, 64)]
    # An image of one tile is as if there were no tiles.
    image, rule = noise(64, 50), replace(tiny_spec.preprocessing, tile=None, tile_overlap=0)
    whole = predictor.with_rule(rule).segment(image, threshold=0)
    assert_same(predictor.segment(image, threshold=0), whole)


def test_streams_give_the_same_as_one(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(side, 64, side) for side in (64, 65, 90, 150, 64, 30)]
    with monkeypatch.context() as one:
        one.setattr(TorchRuntime, "streams", Runtime.streams)
        expected = list(predictor.segment_each(images, threshold=0))
    threads, used = torch.get_num_threads(), set[int]()
    detect = predictor.runtime.detect

    def watched(*given: Any) -> Prediction:
        used.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        return detect(*given)

    monkeypatch.setattr(predictor.runtime, "detect", watched)
    torch.set_num_threads(3)
    try:
        given = [*images, b"no image"]
        found = list(predictor.segment_each(given, threshold=0, refuse=lambda _, __: None))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert len(found) == len(expected)
    assert len(used) > 1
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_tiles_of_one_colour_run_once_and_give_what_they_give_alone(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of(tiny_spec, random_model(tiny_spec))
    seen = watch(predictor)
    image = np.full((200, 400, 3), 90, np.uint8)
    image[:64, :64] = noise(64, 64)
    image[:, 340:] = 10
    found = predictor.segment(image, threshold=0), predictor.detect(image, threshold=0)
    fed = sum(shape[0] for shape in seen)

    def none(_: NDArray[np.uint8]) -> None:
        return None

    monkeypatch.setattr(views, "_only_color", none)
    assert_same(found[0], predictor.segment(image, threshold=0))
    boxes = [detection.box for detection in predictor.detect(image, threshold=0).detections]
    np.testing.assert_allclose([d.box for d in found[1].detections], boxes, atol=1e-3)
    assert 2 * fed < sum(shape[0] for shape in seen) - fed


def test_tiles_are_counted_batch_by_batch_and_end_when_nobody_waits_for_them(
    predictor: Predictor,
) -> None:
    own = Predictor(predictor.spec, predictor.runtime, Batching(count=4))
    counted: list[tuple[int, int]] = []

    def told(done: int, count: int) -> None:
        counted.append((done, count))

    own.on_tiles = told
    own.segment(noise(160, 208))
    assert counted == [(4, 12), (8, 12), (12, 12)]
    waiting = prefetch(own.segment_each([noise(64, 64), noise(500, 500)]), 1)
    next(waiting)
    cast("Any", waiting).close()  # as Ctrl-C does
    done = len(counted)
    time.sleep(0.2)
    assert len(counted) == done
    assert counted[-1] != (100, 100)


@pytest.mark.usefixtures("one_stream")
def test_a_device_that_resizes_finds_what_the_processor_finds(tiny_spec: ModelSpec) -> None:
    predictor = predictor_of(replace(tiny_spec, preprocessing=WHOLE), random_model(tiny_spec))
    seen = watch(predictor)
    given = [noise(60, 90), noise(60, 90, 1), noise(120, 180)]  # two sizes that become one
    expected = predictor.segment(given, threshold=0.5)
    assert isinstance(predictor.runtime, TorchRuntime)
    assert not predictor.runtime.resizes
    predictor.runtime.resizes = True
    found = predictor.segment(given, threshold=0.5)
    assert [shape[0] for shape in seen] == [3, 2, 1]
    for a, b in zip(expected, found, strict=True):
        assert [one.label for one in a.segments] == [one.label for one in b.segments]
        assert np.mean(a.segment_ids != b.segment_ids) < 0.05  # weights are random


@pytest.mark.parametrize("size", [(48, 72), (30, 45), (150, 90)])
def test_a_device_resizes_to_one_grey_level(size: tuple[int, int]) -> None:
    image = noise(97, 131, grain=3)
    found = resize_images(torch.from_numpy(image[None]), size)[0].numpy()
    assert found.shape == (*size, 3)
    assert np.abs(found.astype(int) - resize(image, size)).max() <= 1


@pytest.mark.usefixtures("one_stream")
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


def test_the_threshold_is_the_models_own_unless_given(tiny_spec: ModelSpec) -> None:
    spec = replace(tiny_spec, threshold=0.95)
    predictor = predictor_of(spec, random_model(spec))
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


def test_classes_have_thresholds_of_their_own_unless_one_is_given(whole: Predictor) -> None:
    image = noise(64, 64, 0)
    every = whole.detect(image, threshold=0)
    middle = float(np.median([found.score for found in every.detections]))
    strict = {"nucleus": middle, "background": 1.0}
    own = Predictor(replace(whole.spec, class_thresholds=strict), whole.runtime)
    assert [d.score for d in own.detect(image).detections] == [
        d.score for d in every.detections if d.score > middle
    ]
    labels = {segment.label for segment in own.segment(image).segments}
    assert labels <= {"nucleus"}
    assert own.segment(image, threshold=0).segments == whole.segment(image, threshold=0).segments


class Told(Runtime):
    """A runtime that finds five nuclei in whatever it sees; the first fills all of it."""

    def detect(self, images: NDArray[np.uint8], padding: object) -> Told:
        count = len(images)
        self.logits = np.full((count, 5, 4), -9, np.float32)
        self.logits[..., 0] = 9
        self.boxes = np.full((count, 5, 4), 0.2, np.float32)
        self.boxes[:, 0] = (0.5, 0.5, 1, 1)
        return self

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        masks = np.full((5, 16, 16), -9, np.float32)
        masks[0] = 1
        for number in range(1, 5):
            masks[number, 2:6, 3 * number : 3 * number + 2] = 2
        return [NumpyMasks(masks[own]) for own in queries]


def test_the_mask_of_a_query_that_is_alone_is_not_computed(tiny_spec: ModelSpec) -> None:
    class One(Told):
        """Finds the first nucleus alone."""

        def detect(self, images: NDArray[np.uint8], padding: object) -> Told:
            super().detect(images, padding)
            self.logits[:, 1:] = (-9, -9, -9, 9)
            return self

        def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
            asked.append([len(own) for own in queries])
            return super().masks(queries)

    asked: list[list[int]] = []
    model = Predictor(tiny_spec, One())
    for task in TASKS:
        (segment,) = model.segment(noise(60, 50), task=task).segments
        assert (segment.label, segment.area) == ("nucleus", 60 * 50)
    assert asked == [[0], [1], [5]]


def test_warnings_say_where_objects_exceed_queries_or_tiles(tiny_spec: ModelSpec) -> None:
    model = Predictor(tiny_spec, Told())
    for find in (model.segment, model.detect):
        with pytest.warns(ImageWarning) as seen:
            find(noise(64, 200))
        texts = [str(warning.message) for warning in seen]
        assert texts == [
            "the image: 5 objects were found in a tile, and the model has 5 queries, so it cannot "
            "find many more; take smaller tiles: --tiles 32",
            "the image: 2 objects reach across their whole tile of 64x64 pixels, and larger ones "
            "are found in parts or not at all; take larger tiles: --tiles 128",
        ]
        with pytest.warns(ImageWarning, match="5 objects were found in it"):  # and nothing else
            find(noise(64, 64))


def test_a_predictor_is_shown_with_its_classes(predictor: Predictor) -> None:
    assert repr(predictor) == "Predictor(tiny: nucleus, background)"


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
    in_streams = 2 * torch.get_num_threads()

    def images() -> Iterator[NDArray[np.uint8]]:
        for seed in range(12 + in_streams):
            taken.append(seed)
            yield noise(512, 1024, seed)

    results = predictor.segment_each(images(), threshold=1)
    next(results)
    # A batch of a million pixels, and what waits.
    assert len(taken) <= 2 + READ_AHEAD + 1 + in_streams
    assert len(list(results)) == 11 + in_streams


def test_segment_each_and_detect_each_open_sources(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(noise(40, 50, ord(name))).save(tmp_path / f"{name}.png")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "d.png")
    one = tmp_path / "b.png"
    mixed = [str(tmp_path / "*.png"), one, noise(40, 50, 1), *find_sources([tmp_path / "c.tar"])]
    for each in (predictor.segment_each, predictor.detect_each):
        names = [result.source for result in each(tmp_path)]
        assert names == [tmp_path / "a.png", one]
        names = [result.source for result in each(mixed)]
        assert names == [tmp_path / "a.png", one, one, None, f"{tmp_path}/c.tar/d.png"]
    with pytest.raises(ImageError, match="folder"):
        predictor.segment(tmp_path)


fine = partial(noise, grain=1)


def fresh(spec: ModelSpec) -> Predictor:
    """Fresh weights, but for scores that differ from query to query."""
    torch.manual_seed(0)
    model = Detr(spec.architecture)
    with torch.no_grad():
        model.class_head.weight *= 4
    return predictor_of(spec, model)


@pytest.fixture(scope="module")
def tiled(tiny_spec: ModelSpec) -> Predictor:
    return fresh(tiny_spec)


@pytest.fixture(scope="module")
def whole(tiny_spec: ModelSpec) -> Predictor:
    return fresh(replace(tiny_spec, preprocessing=WHOLE))


def test_detections_are_things_above_the_threshold_the_best_first_with_masks_if_asked(
    whole: Predictor,
) -> None:
    everything = whole.detect(fine(60, 90), threshold=0)
    scores = [found.score for found in everything.detections]
    assert scores == sorted(scores, reverse=True)
    assert {(found.label, found.category_id) for found in everything.detections} == {("nucleus", 7)}
    assert len(set(scores)) > 1
    fewer = whole.detect(fine(60, 90), threshold=scores[-1])
    assert [found.score for found in fewer.detections] == [s for s in scores if s > scores[-1]]
    with_masks = whole.detect(fine(60, 90), threshold=0, masks=True)
    for found, bare in zip(with_masks.detections, everything.detections, strict=True):
        assert found.mask is not None
        assert (found.mask.shape, found.mask.dtype) == ((60, 90), np.bool_)
        assert bare.mask is None
        assert found.box == bare.box


def test_candidates_are_the_originals_of_every_query(whole: Predictor) -> None:
    image = fine(60, 90)
    found = candidates(whole, image, masks=True)
    pixels = np.asarray(Image.fromarray(image).resize((72, 48), Image.Resampling.BILINEAR))
    rule = whole.spec.preprocessing
    values = torch.from_numpy(pixels.copy()) / 255 - torch.tensor(rule.mean)
    values /= torch.tensor(rule.std)
    model = whole.runtime.model  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert isinstance(model, Detr)
    with torch.inference_mode():
        answer = model.detect(values.permute(2, 0, 1)[None].float())
        every = torch.arange(5)
        masks = model.masks(answer, torch.zeros_like(every), every)
    probabilities = answer.logits[0].softmax(-1)[:, [0, 2]]  # class 1 has no category
    scores, places = probabilities.max(-1)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    assert found.category_ids.tolist() == [(7, 9)[place] for place in places]
    x, y, w, h = (answer.boxes[0] * torch.tensor([90, 60, 90, 60])).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    np.testing.assert_allclose(found.boxes, corners, atol=1e-2)
    grown = F.interpolate(masks[None], (48, 72), mode="bilinear")
    inside = F.interpolate((grown > 0).float(), (60, 90), mode="nearest")[0].bool().numpy()
    for mask, expected in zip((mask.pixels() for mask in found.coarse_masks), inside, strict=True):
        assert np.mean(mask != expected) < 1e-3  # but for rounding at the rim


def test_queries_that_answer_for_one_object_are_one_where_the_model_needs_it(
    tiny_spec: ModelSpec,
) -> None:
    image = fine(60, 90)
    plain = fresh(replace(tiny_spec, preprocessing=WHOLE))
    spec = replace(tiny_spec, preprocessing=WHOLE, duplicate_iou=0.01)
    once = fresh(spec)
    assert len(plain.detect(image, threshold=0).detections) > 1
    assert len(once.detect(image, threshold=0).detections) == 1
    everything = candidates(once, image)
    assert len(everything.scores) == spec.architecture.num_queries


def test_a_class_without_a_category_never_comes_out(tiny_spec: ModelSpec) -> None:
    model = fresh(replace(tiny_spec, preprocessing=WHOLE))
    runtime = model.runtime
    assert isinstance(runtime, TorchRuntime)
    with torch.no_grad():
        runtime.model.class_head.bias[1] = 3  # pyright: ignore[reportOptionalSubscript]
    image = fine(60, 90)
    found = candidates(model, image)
    assert set(found.category_ids.tolist()) <= {7, 9}
    tasks: tuple[Task, ...] = ("panoptic", "instances")
    for task in tasks:
        result = model.segment(image, threshold=0, task=task)
        assert {segment.category_id for segment in result.segments} <= {7, 9}
    assert set(np.unique(model.segment(image, task="semantic").category_ids())) <= {7, 9}


def test_tiles_are_put_where_they_belong(tiled: Predictor) -> None:
    image = fine(64, 112)
    left = candidates(tiled, image[:, :64], masks=True)
    both = candidates(tiled, image, masks=True)
    assert both.image_size == (64, 112)
    for box, mask in zip(both.boxes, (mask.pixels() for mask in both.coarse_masks), strict=True):
        places = np.abs(left.boxes - box).max(axis=1)
        if places.min() < 1e-3:  # found by the left tile, whose mask ends with it
            assert not mask[:, 64:].any()
    right = both.boxes[both.boxes[:, 0] > 56]
    assert len(right)


def test_instances_are_things_where_their_masks_are(whole: Predictor) -> None:
    image = fine(60, 90)
    result = whole.segment(image, threshold=0, task="instances")
    found = whole.detect(image, threshold=0, masks=True)
    assert result.segments
    assert all(segment.is_thing for segment in result.segments)
    masks = [one.mask for one in found.detections if one.mask is not None]
    assert not (result.segment_ids > 0)[~np.any(masks, axis=0)].any()


def test_a_semantic_result_has_one_segment_a_class_and_no_gap(tiled: Predictor) -> None:
    result = tiled.segment(fine(100, 130), task="semantic")
    ids = [segment.category_id for segment in result.segments]
    assert len(set(ids)) == len(ids)
    assert (result.segment_ids > 0).all()
    assert set(np.unique(result.category_ids())) == set(ids)
    nothing = tiled.segment(fine(60, 90), threshold=1)
    assert (nothing.category_ids() == -1).all()


def test_a_model_without_masks_detects_and_says_what_it_cannot(tiny_spec: ModelSpec) -> None:
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    model = fresh(spec)
    assert model.detect(fine(40, 50), threshold=0).detections
    with pytest.raises(CheckpointError, match="has no mask head"):
        model.detect(fine(40, 50), masks=True)
    with pytest.raises(CheckpointError, match="model tiny has no mask head"):
        model.segment(fine(40, 50))


def test_what_cannot_be_meant_is_one_line(whole: Predictor) -> None:
    for threshold in (-0.1, 1.5, float("nan")):
        for predict_in in (whole.detect, whole.segment):
            with pytest.raises(UsageError, match=r"threshold is .*; expected a score from 0 to 1"):
                predict_in(fine(40, 50), threshold=threshold)
    with pytest.raises(UsageError, match="has no threshold"):
        whole.segment(fine(40, 50), threshold=0.5, task="semantic")
    with pytest.raises(UsageError, match="expected one of panoptic, instances, semantic"):
        whole.segment(fine(40, 50), task="instance")  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("masks", [False, True])
def test_detections_are_saved_beside_segments(
    whole: Predictor, tmp_path: Path, masks: bool
) -> None:
    image = tmp_path / "cells.png"
    Image.fromarray(fine(60, 90)).save(image)
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
    result = whole.detect(fine(60, 90), threshold=0, masks=True)
    bare = tuple(replace(found, coarse_mask=None) for found in result.detections)
    lit = [
        np.count_nonzero(replace(result, image=black, detections=detections).draw())
        for detections in ((), bare, result.detections)
    ]
    assert lit[0] == 0 < lit[1] < lit[2]


def test_tiles_that_share_features_give_nearly_the_same() -> None:
    model = panodetr.load("nuclei", device="cpu")
    rule = model.spec.preprocessing
    image = read_image(Path(str(files("panodetr.assets") / "samples" / "fluorescence.png")))
    alone = model.segment(image)  # it has too few tiles to share
    shared = model.with_rule(replace(rule, share_from=2)).segment(image)
    assert abs(len(shared.segments) - len(alone.segments)) <= 1
    nothing = [result.segment_ids == len(result.segments) for result in (shared, alone)]
    assert np.mean(nothing[0] == nothing[1]) > 0.98


def test_one_tile_of_a_region_is_what_it_is_alone(predictor: Predictor) -> None:
    image = noise(64, 64)
    runtime = predictor.runtime
    assert isinstance(runtime, TorchRuntime)
    alone = runtime.detect(image[None], None)
    tile = runtime.detect_tiles(image, [(0, 0)], (64, 64))
    np.testing.assert_allclose(tile.logits, alone.logits, atol=1e-5)
    kept = [np.array([0, 3])]
    for a, b in zip(alone.masks(kept), tile.masks(kept), strict=True):
        np.testing.assert_allclose(a.logits(), b.logits(), atol=1e-4)
