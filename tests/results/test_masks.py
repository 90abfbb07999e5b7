"""Whose each pixel is, in NumPy and in torch: both as the original says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tests.process import python
from torch.nn import functional as F

from panodetr.results import masks as module
from panodetr.results.masks import Frame, Masks, NumpyMasks, Size, run_lengths
from panodetr.results.panoptic import merge_masks, paint_instances
from panodetr.results.types import CoarseMask
from panodetr.runtimes import torch as torch_runtime
from panodetr.runtimes.torch import TorchMasks

from .conftest import kinds

Array = NDArray[np.float32]
Make = Callable[[Array], Masks]


def in_torch(values: Array) -> TorchMasks:
    return TorchMasks(torch.from_numpy(values))


both = pytest.mark.parametrize("make", [NumpyMasks, in_torch])
sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)


def alike(*size: int) -> Frame:
    """An image that the model sees as large as it is."""
    return Frame((size[0], size[1]), (size[0], size[1]))


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def upsampled(masks: Array, processed: Size, target: Size) -> Array:
    """Upsample all masks in torch, then pick Pillow's nearest pixels: (N, H, W)."""
    values = F.interpolate(
        torch.from_numpy(masks)[None], size=processed, mode="bilinear", align_corners=False
    )[0].numpy()
    numbers = np.arange(processed[0] * processed[1], dtype=np.int32).reshape(processed)
    picked = Image.fromarray(numbers).resize((target[1], target[0]), Image.Resampling.NEAREST)
    return values.reshape(len(masks), -1)[:, np.asarray(picked)]


def assert_highest(winner: NDArray[np.integer], values: Array) -> None:
    """The winner's value is the highest, but for rounding in another order of operations."""
    value = np.take_along_axis(values, winner[None].astype(np.intp), axis=0)[0]
    np.testing.assert_allclose(value, values.max(axis=0), rtol=0, atol=1e-5)


@both
@given(st.integers(1, 6), sizes, sizes, sizes, seeds)
def test_the_highest_mask_is_that_of_the_original(
    make: Make, count: int, size: Size, processed: Size, target: Size, seed: int
) -> None:
    masks = noise(seed, count, *size)
    winner = make(masks).on(Frame(processed, target)).highest()
    assert winner.shape == target
    assert_highest(winner, upsampled(masks, processed, target))


@given(sizes, sizes, sizes, seeds)
def test_one_mask_at_the_images_size_is_the_originals(
    size: Size, processed: Size, target: Size, seed: int
) -> None:
    logits = noise(seed, *size)
    values = F.interpolate(torch.from_numpy(logits)[None, None], processed, mode="bilinear")
    inside = (values.sigmoid() > 0.5).float()
    expected = F.interpolate(inside, target, mode="nearest")[0, 0].bool().numpy()
    frame = Frame(processed, target)
    mask = CoarseMask(logits=logits, frame=frame, tile=(0, 0, *target), image_size=target)
    np.testing.assert_array_equal(mask.pixels(), expected)


@given(st.integers(1, 6), sizes, sizes, sizes, seeds)
def test_numpy_and_torch_agree(
    count: int, size: Size, processed: Size, target: Size, seed: int
) -> None:
    masks = noise(seed, count, *size)
    weights = noise(seed + 1, count, 3)
    frame = Frame(processed, target)
    ours, theirs = NumpyMasks(masks, frame), in_torch(masks).on(frame)
    np.testing.assert_array_equal(ours.topmost(), theirs.topmost())
    np.testing.assert_allclose(ours.mix(weights).logits(), theirs.mix(weights).logits(), atol=1e-5)
    order = np.arange(count)[::-1].copy()
    np.testing.assert_array_equal(ours.choose(order).logits(), theirs.choose(order).logits())


@both
@pytest.mark.parametrize("count", [255, 256, 257])
def test_as_many_masks_as_a_byte_can_tell_apart_and_one_more(make: Make, count: int) -> None:
    masks = noise(0, count, 12, 30)
    masks.reshape(count, -1)[np.arange(count), np.arange(count)] += 9  # each is the highest once
    winner = make(masks).on(alike(24, 60)).highest()
    assert_highest(winner, upsampled(masks, (24, 60), (24, 60)))
    assert set(winner.ravel().tolist()) >= set(range(count))
    large = make(np.kron(masks, np.ones((3, 3), np.float32)))
    large = large.on(alike(36, 90))
    ids, segments = merge_masks(large, np.ones(count, np.float32), kinds(count))()
    assert [segment.area for segment in segments] == np.bincount(ids.ravel())[1:].tolist()
    assert len(segments) == count
    none = make(np.full((count, 2, 2), -1, np.float32))
    assert (none.on(alike(4, 4)).topmost() == count).all()
    equal = np.ones((3, 4, 4), np.float32)
    equal[0] = 0  # of equals the first wins
    ones = make(equal).on(alike(9, 9))
    assert (ones.highest() == 1).all()
    assert (ones.topmost() == 1).all()


@both
def test_parts_of_any_size_give_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = make(noise(0, 6, 11, 13)).on(Frame((40, 50), (37, 60)))
    highest, topmost = masks.highest(), masks.topmost()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for at_once in (1, 130, 10**6):
        monkeypatch.setattr(module, "BAND_PIXELS", at_once)
        monkeypatch.setattr(torch_runtime, "UPSAMPLED_VALUES", at_once * 20)
        assert np.array_equal(masks.highest(), highest)
        assert np.array_equal(masks.topmost(), topmost)


MEMORY = """
import resource, sys
import numpy as np, torch
from panodetr.results.masks import Frame, NumpyMasks
from panodetr.results.panoptic import merge_masks
from panodetr.results.types import Category
from panodetr.runtimes.torch import TorchMasks

count = 60 if sys.argv[1] == "numpy" else 12  # torch holds no more than 5 at a time
values = np.random.default_rng(0).normal(size=(count, 750, 1000)).astype(np.float32)
masks = NumpyMasks(values) if sys.argv[1] == "numpy" else TorchMasks(torch.from_numpy(values))
things = [
    Category(index=n, id=n, name="", is_thing=True, color=(0, 0, 0)) for n in range(count)
]
scores = np.ones(count, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge_masks(masks.on(Frame((3000, 4000), (3000, 4000))), scores, things)()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)  # KiB
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_sixty_masks_of_a_large_image_add_less_than_a_gibibyte(library: str) -> None:
    done = python("-c", MEMORY, library, more={"OMP_NUM_THREADS": "4"})
    assert int(done.stdout) < 1 << 20


def square(y0: int, x0: int, y1: int, x1: int) -> Array:
    mask = np.full((20, 20), -1, np.float32)
    mask[y0:y1, x0:x1] = 1
    return mask


def painted(*masks: Array, scores: list[float]) -> tuple[NDArray[np.int32], list[int]]:
    ids, segments = paint_instances(
        NumpyMasks(np.stack(masks), alike(20, 20)),
        np.array(scores, np.float32),
        kinds(len(masks)),
    )
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    for segment in segments:
        assert segment.area == np.count_nonzero(ids == segment.id)
    return ids, [segment.category_id for segment in segments]


def test_the_better_score_lies_on_top_and_the_rest_stays_empty() -> None:
    ids, classes = painted(square(0, 0, 10, 10), square(5, 5, 15, 15), scores=[0.6, 0.9])
    assert classes == [1, 0]
    assert (ids[7, 7], ids[2, 2], ids[18, 18]) == (1, 2, 0)
    assert np.count_nonzero(ids == 2) == 75
    # An instance of which four pixels are visible is dropped.
    hidden, seen = square(0, 0, 10, 10), square(0, 0, 10, 10)
    hidden[10, :4] = 1
    ids, classes = painted(hidden, seen, scores=[0.6, 0.9])
    assert classes == [1]
    assert ids[10, 0] == 0
    nothing = NumpyMasks(np.zeros((0, 5, 5), np.float32), Frame((20, 20), (30, 30)))
    ids, segments = paint_instances(nothing, np.zeros(0, np.float32), [])
    assert (ids.shape, ids.any(), segments) == ((30, 30), False, [])


@given(sizes, st.integers(0, 2**31), st.tuples(*[st.integers(0, 3)] * 4))
def test_run_lengths_are_cocos(size: Size, seed: int, around: tuple[int, int, int, int]) -> None:
    part = np.random.default_rng(seed).random(size) > 0.5
    top, left, bottom, right = around
    mask = np.pad(part, ((top, bottom), (left, right)))
    runs: Any = {"size": list(mask.shape), "counts": run_lengths(part, mask.shape, (top, left))}
    assert 0 not in runs["counts"][1:]
    decoded = coco_mask.decode(coco_mask.frPyObjects(runs, *mask.shape))
    np.testing.assert_array_equal(decoded.astype(bool), mask)
    for first in (True, False):  # empty pixels come first
        assert run_lengths(np.full((2, 2), first)) == ([0, 4] if first else [4])
