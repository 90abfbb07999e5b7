from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from panodetr.results.decode import keep_queries
from panodetr.results.masks import Frame, NumpyMasks
from panodetr.results.panoptic import (
    classify_pixels,
    describe_segments,
    keep_largest_component,
    measure_segments,
    merge_masks,
)
from panodetr.results.types import Segment
from panodetr.runtimes.torch import TorchMasks

from .conftest import kinds


@pytest.mark.parity
@pytest.mark.parametrize("image", [0, 1, 2])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_originals_panoptic_maps_to_the_pixel(golden: Path, image: int, library: str) -> None:
    """Its ids start at 0; ours at 1, because 0 is nothing."""
    with np.load(golden / "facebook-panoptic-merge.npz") as file:
        data = {key.split("/")[1]: file[key] for key in file.files if key.startswith(f"{image}/")}
    processed = (int(data["processed_size"][0]), int(data["processed_size"][1]))
    target = (int(data["target_size"][0]), int(data["target_size"][1]))
    queries, scores, classes = keep_queries(data["logits"], 0.85)
    kept = data["masks"][queries]
    masks = NumpyMasks(kept) if library == "numpy" else TorchMasks(torch.from_numpy(kept))
    categories = [kinds(10, things=7)[index] for index in classes]
    masks = masks.on(Frame(processed, target))
    segment_ids, segments = merge_masks(masks, scores, categories)()
    assert np.array_equal(segment_ids, data["ids"] + 1)
    assert [s.category_id for s in segments] == data["category"].tolist()
    assert [s.area for s in segments] == data["area"].tolist()
    assert [s.is_thing for s in segments] == (data["category"] < 7).tolist()


def merged(masks: np.ndarray[tuple[int, ...], np.dtype[np.float32]], classes: list[int]):
    size = (masks.shape[1], masks.shape[2])
    scores = np.linspace(0.9, 0.99, len(classes), dtype=np.float32)
    categories = [kinds(4, things=2)[index] for index in classes]
    return merge_masks(NumpyMasks(masks, Frame(size, size)), scores, categories)()


@pytest.mark.parametrize(
    ("masks", "classes"),
    [(np.zeros((0, 5, 6), np.float32), []), (np.ones((2, 2, 2), np.float32), [0, 2])],
    ids=["nothing kept", "an image of four pixels"],
)
def test_nothing_gives_nothing(masks: NDArray[np.float32], classes: list[int]) -> None:
    segment_ids, segments = merged(masks, classes)
    assert segments == []
    assert segment_ids.dtype == np.int32
    assert not segment_ids.any()


def test_one_mask_takes_every_pixel_four_are_dropped_and_five_are_not() -> None:
    segment_ids, segments = merged(np.full((1, 5, 6), -9, np.float32), [1])
    assert (segment_ids == 1).all()
    assert (segments[0].area, segments[0].box) == (30, (0, 0, 6, 5))
    for area, left in [(4, 1), (5, 2)]:
        masks = np.zeros((2, 6, 6), np.float32)
        masks[1, 0, :area] = 1
        segment_ids, segments = merged(masks, [0, 0])
        assert len(segments) == left
        assert set(np.unique(segment_ids)) == set(range(1, left + 1))


def test_a_second_segment_of_one_stuff_class_yields_to_the_next_highest_mask() -> None:
    # Columns 0 to 2 are won by query 0 (stuff 2), 3 to 5 by query 1 (the same stuff), and the last
    # row by query 2, a thing, which is second in column 3.
    masks = np.zeros((3, 6, 6), np.float32)
    masks[0, :, :3] = 3
    masks[1, :, 3:] = 3
    masks[0, :, 4:] = 1
    masks[2, :, 3] = 2
    masks[2, 5] = 9
    segment_ids, segments = merged(masks, [2, 2, 0])
    assert segment_ids[0].tolist() == [1, 1, 1, 2, 1, 1]
    assert [(s.category_id, s.is_thing, s.area) for s in segments] == [
        (2, False, 25),
        (0, True, 11),
    ]


def test_a_stuff_segment_counts_its_seconds_pixels_before_they_are_gone() -> None:
    # The first of the class has 3 pixels of its own: alone it would go in the first round, before
    # the 6 that it inherits are its own.
    masks = np.zeros((3, 6, 6), np.float32)
    masks[2] = 1
    masks[0, 0, :3] = 5
    masks[1, 1] = 5
    masks[0, 1] = 4
    segment_ids, segments = merged(masks, [3, 3, 0])
    assert [(s.category_id, s.area) for s in segments] == [(3, 9), (0, 27)]
    assert (segment_ids[1] == 1).all()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_areas_and_boxes_are_those_of_the_pixels(
    height: int, width: int, count: int, seed: int
) -> None:
    ids = np.random.default_rng(seed).integers(0, count + 1, (height, width)).astype(np.int32)
    for number, (area, box) in enumerate(measure_segments(ids, count), start=1):
        y, x = np.nonzero(ids == number)
        assert area == len(y)
        tight = (x.min(), y.min(), x.max() + 1, y.max() + 1) if area else (0, 0, 0, 0)
        assert box == tight


def listed(ids: NDArray[np.int32], stuff: int = 0) -> list[Segment]:
    """Describe the segments 1 to the highest of a map; `stuff` is one that is no thing."""
    thing, other = kinds(2, things=1)
    categories = [other if n == stuff else thing for n in range(1, int(ids.max()) + 1)]
    return describe_segments(ids, categories, [0.9] * len(categories))


def test_of_a_thing_in_pieces_the_largest_stays() -> None:
    ids = np.full((8, 8), 3, np.int32)  # 3 is stuff, in pieces as it likes
    ids[:, 4] = 0
    ids[1:4, 1:4] = 1
    ids[6, 6] = ids[0, 7] = 1  # beside it to the right and below, and at a corner
    ids[5:7, 2] = 2
    left, segments = keep_largest_component(ids, listed(ids, stuff=3))
    assert np.argwhere(left == 1).tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert left[6, 6] == left[0, 7] == 0
    assert (left == 2).sum() == 2
    assert (left == 3).sum() == (ids == 3).sum()
    assert [(s.area, s.box) for s in segments] == measure_segments(left, 3)
    # Rows may part a thing only once columns have.
    ids = np.zeros((6, 6), np.int32)
    ids[0:2, 0:2] = ids[3:6, 0:2] = 1  # a gap at row 2, which the next pixel hides
    ids[2, 4] = 1
    left, _ = keep_largest_component(ids, listed(ids))
    assert np.argwhere(left).tolist() == [[y, x] for y in (3, 4, 5) for x in (0, 1)]


@given(st.integers(0, 2**32 - 1))
def test_what_stays_of_a_thing_is_part_of_it_and_stays_again(seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 4, (7, 9)).astype(np.int32)
    ids[ids == 3] = 0
    left, segments = keep_largest_component(ids, listed(ids))
    assert np.array_equal(np.unique(left[left > 0]), np.unique(ids[ids > 0]))
    assert (left[left > 0] == ids[left > 0]).all()
    assert [(s.area, s.box) for s in segments] == measure_segments(left, len(segments))
    again, same = keep_largest_component(left, segments)
    assert np.array_equal(again, left)
    assert same == segments


sides = st.integers(2, 24)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(0, 2**31))
def test_every_pixel_has_the_class_of_the_highest_sum(
    mask: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    noise = np.random.default_rng(seed)
    logits = noise.standard_normal((6, 5)).astype(np.float32) * 2
    masks = noise.standard_normal((6, *mask)).astype(np.float32) * 3
    masks[0] = -200  # far outside
    named = [kind for kind in kinds(4, things=2) if kind.index != 1]
    ids, segments = classify_pixels(NumpyMasks(masks, Frame(size, size)), logits, named)
    probabilities = torch.from_numpy(logits).softmax(-1)[:, :-1]
    values = torch.einsum("qc,qhw->chw", probabilities, torch.from_numpy(masks).sigmoid())
    values[1] = -1
    grown = F.interpolate(values[None], size, mode="bilinear")[0]
    class_of = np.array([-1, *(segment.category_id for segment in segments)])
    chosen = torch.from_numpy(class_of[ids])
    # Of values that are equal but for rounding either may win.
    short = grown.amax(0) - grown.gather(0, chosen[None])[0]
    assert short.max() < 1e-5
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    assert sum(segment.area for segment in segments) == size[0] * size[1]
    assert all(0 < segment.score < 1 for segment in segments)
