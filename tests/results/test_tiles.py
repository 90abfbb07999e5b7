from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from panodetr.images.views import tile_boxes
from panodetr.results.panoptic import describe_segments, measure_segments
from panodetr.results.tiles import Tile, join_tiles
from panodetr.results.types import Segment

from .conftest import kinds

Ids = NDArray[np.int32]
THING, STUFF = 0, 1
CLASSES = [replace(kind, is_thing=kind.id != STUFF) for kind in kinds(4)]


def discs(random: np.random.Generator, size: tuple[int, int], radii: tuple[int, int]) -> Ids:
    """Draw discs that do not touch, as many of 80 as find room; 0 elsewhere."""
    ids = np.zeros(size, np.int32)
    y, x = np.mgrid[: size[0], : size[1]]
    for _ in range(80):
        cy, cx, r = random.integers(size[0]), random.integers(size[1]), random.integers(*radii)
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= r * r
        rim = (y - cy) ** 2 + (x - cx) ** 2 <= (r + 2) ** 2
        if disc.sum() > 20 and not ids[rim].any():
            ids[disc] = ids.max() + 1
    return ids


def describe(ids: Ids, classes: list[int], score: float = 0.9) -> tuple[Ids, list[Segment]]:
    """Number the ids of a map anew from 1, and list them; `classes` by old id."""
    present = np.unique(ids)
    new = np.searchsorted(present, ids).astype(np.int32) + 1
    categories = [CLASSES[classes[old]] for old in present]
    return new, describe_segments(new, categories, [score] * len(categories))


def cut(ids: Ids, tile: int, overlap: int) -> list[Tile]:
    """Cut a map, 0 being stuff, into tiles that each know the truth about their own pixels."""
    classes = [STUFF] + [THING] * int(ids.max())
    tiles: list[Tile] = []
    for box in tile_boxes((ids.shape[0], ids.shape[1]), tile, overlap):
        y0, x0, y1, x1 = box
        tiles.append((box, *describe(ids[y0:y1, x0:x1], classes)))
    return tiles


def same_partition(a: Ids, b: Ids) -> bool:
    pairs = {(int(i), int(j)) for i, j in zip(a.ravel(), b.ravel(), strict=True)}
    return len(pairs) == len({i for i, _ in pairs}) == len({j for _, j in pairs})


def best_ious(truth: Ids, joined: Ids) -> list[float]:
    """For each true disc the IoU of the segment that covers most of it."""
    ious: list[float] = []
    for number in range(1, int(truth.max()) + 1):
        disc = truth == number
        match = joined == np.bincount(joined[disc]).argmax()
        ious.append(float((disc & match).sum() / (disc | match).sum()))
    return ious


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(30, 200), st.integers(30, 200)),
    st.sampled_from([(3, 8), (5, 20), (15, 40), (30, 90)]),  # up to far larger than a tile
    st.sampled_from([(48, 24), (64, 32), (64, 16)]),
)
def test_a_known_map_comes_back_whole(
    seed: int, size: tuple[int, int], radii: tuple[int, int], tiling: tuple[int, int]
) -> None:
    truth = discs(np.random.default_rng(seed), size, radii)
    joined, segments = join_tiles(cut(truth, *tiling), size)
    again, same = join_tiles(cut(truth, *tiling), size)
    assert np.array_equal(again, joined)
    assert same == segments
    assert same_partition(joined, truth)
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    measured = measure_segments(joined, len(segments))
    assert measured == [(segment.area, segment.box) for segment in segments]
    for segment in segments:
        inside = truth[joined == segment.id]
        assert segment.is_thing == (inside[0] > 0)
        assert segment.score == pytest.approx(0.9)


def jittered(ids: Ids, random: np.random.Generator) -> Ids:
    """Move every border by a pixel at random: each pixel copies one near it."""
    y, x = np.mgrid[: ids.shape[0], : ids.shape[1]]
    y = np.clip(y + random.integers(-1, 2, ids.shape), 0, ids.shape[0] - 1)
    x = np.clip(x + random.integers(-1, 2, ids.shape), 0, ids.shape[1] - 1)
    return ids[y, x]


@pytest.mark.parametrize("radii", [(6, 14), (10, 30), (40, 70)])
@pytest.mark.parametrize("seed", range(3))
def test_noisy_borders_still_give_each_object_once(radii: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = discs(random, (300, 260), radii)
    classes = [STUFF] + [THING] * int(truth.max())
    tiles: list[Tile] = []
    for box in tile_boxes((300, 260), 128, 64):
        y0, x0, y1, x1 = box
        noisy = jittered(truth[y0:y1, x0:x1], random)
        tiles.append((box, *describe(noisy, classes, score=float(random.uniform(0.8, 1)))))
    joined, segments = join_tiles(tiles, (300, 260))
    # A disc cut by the image's border to a sliver may get lost; nothing may be there twice.
    assert sum(s.is_thing for s in segments) <= truth.max()
    whole = [iou for n, iou in enumerate(best_ious(truth, joined), 1) if (truth == n).sum() > 60]
    assert min(whole) > 0.7
    assert np.mean(whole) > 0.8


def half(left: bool, kind: list[tuple[int, int, int]], score: float = 0.9) -> Tile:
    """A tile of 20 x 20 of an image of 20 x 30; `kind` lists class and the columns of a band."""
    ids = np.zeros((20, 20), np.int32)
    for number, (_, x0, x1) in enumerate(kind, start=1):
        ids[5:15, x0:x1] = number
    new, segments = describe(ids, [STUFF] + [category_id for category_id, _, _ in kind], score)
    x = 0 if left else 10
    return ((0, x, 20, x + 20), new, segments)


def things(segments: list[Segment]) -> list[tuple[int, tuple[float, ...]]]:
    return [(s.category_id, s.box) for s in segments if s.is_thing]


Band = tuple[int, int, int]
"""Class, and columns of a tile: what a tile has found, or None."""


@pytest.mark.parametrize(
    ("left", "right", "scores", "expected"),
    [
        # The left tile sees columns 16 to 19 of an object that the right one sees whole from 17 on.
        ((0, 16, 20), (0, 7, 13), (0.9, 0.9), (0, (17, 5, 23, 15))),
        # Whole views vote: what both have.
        ((0, 12, 18), (0, 3, 7), (0.8, 0.9), (0, (13, 5, 17, 15))),
        # An object that no tile sees whole is united.
        ((0, 5, 20), (0, 0, 10), (0.9, 0.6), (0, (5, 5, 20, 15))),
        # Views of different classes are not united, and the better one stays.
        ((0, 12, 18), (2, 2, 8), (0.8, 0.9), (2, (12, 5, 18, 15))),
        # A find of another class speaks for an object,
        ((0, 12, 18), (2, 2, 8), (0.7, 0.6), (0, (12, 5, 18, 15))),
        # which needs a high score where one of two tiles finds it.
        ((0, 12, 18), (0, 2, 8), (0.7, 0.6), (0, (12, 5, 18, 15))),
        ((0, 12, 18), None, (0.9, 1), (0, (12, 5, 18, 15))),
        ((0, 12, 18), None, (0.7, 1), None),
        (None, (0, 2, 8), (1, 0.81), (0, (12, 5, 18, 15))),
        # A tile that does not see a place, or sees an object there cut, does not count against it.
        ((0, 3, 8), None, (0.6, 1), (0, (3, 5, 8, 15))),
        ((0, 8, 13), None, (0.6, 1), (0, (8, 5, 13, 15))),
        # A fragment that the better placed tile does not see is dropped; here that is the left one.
        ((0, 8, 20), None, (0.9, 1), (0, (8, 5, 20, 15))),
        ((0, 16, 20), None, (0.9, 1), None),
    ],
)
def test_what_two_tiles_found_becomes_one_object_or_none(
    left: Band | None,
    right: Band | None,
    scores: tuple[float, float],
    expected: tuple[int, tuple[int, int, int, int]] | None,
) -> None:
    tiles = [half(True, [left] if left else [], scores[0])]
    tiles.append(half(False, [right] if right else [], scores[1]))
    _, segments = join_tiles(tiles, (20, 30))
    assert things(segments) == ([expected] if expected else [])
    if left and right and left[0] == right[0]:
        areas = (left[2] - left[1], right[2] - right[1])
        assert segments[0].score == pytest.approx(np.average(scores, weights=areas))


@pytest.mark.parametrize(("columns", "expected"), [((3, 7), (13, 17)), ((2, 8), (12, 18))])
def test_a_third_view_decides(columns: tuple[int, int], expected: tuple[int, int]) -> None:
    views = [(0, (12, 18)), (5, (8, 12)), (10, columns)]  # a tile's left edge, and columns in it
    tiles: list[Tile] = []
    for x, (first, last) in views:
        tiles.append(((0, x, 20, x + 20), *half(True, [(0, first, last)])[1:]))
    _, segments = join_tiles(tiles, (20, 30))
    assert things(segments) == [(0, (expected[0], 5, expected[1], 15))]


def test_a_strip_at_a_border_that_belongs_to_an_object_elsewhere_is_voted_down() -> None:
    # One mask has columns at its tile's border, far from the object, that others do not see.
    ids = np.zeros((20, 20), np.int32)
    ids[5:15, 8:13] = ids[8:12, 1:3] = 1
    strip: Tile = ((0, 4, 20, 24), *describe(ids, [STUFF, 0], score=0.95))
    tiles = [half(True, [(0, 12, 17)]), strip, half(False, [(0, 2, 7)])]
    _, segments = join_tiles(tiles, (20, 30))
    assert things(segments) == [(0, (12, 5, 17, 15))]


def test_stuff_becomes_one_segment_of_each_class_around_the_things() -> None:
    left, right = half(True, [(0, 2, 6)]), half(False, [(3, 8, 15)])
    sky = [s if s.category_id != 3 else replace(s, is_thing=False, score=0.7) for s in right[2]]
    joined, segments = join_tiles([left, (right[0], right[1], sky)], (20, 30))
    assert [s.category_id for s in segments] == [0, STUFF, 3]
    assert (joined > 0).all()
    # Columns 18 and 19 are sky to the right tile, 8 pixels from its border, and ground to the left
    # one, 2 and 1 pixels from its own.
    assert segments[2].box == (18, 5, 25, 15)
    # Where nobody has found anything there is nothing; one tile is given back as it is.
    empty = np.zeros((20, 20), np.int32)
    joined, segments = join_tiles([(left[0], empty, []), (right[0], empty, [])], (20, 30))
    assert (segments, joined.any()) == ([], False)
    joined, segments = join_tiles([left], (20, 20))
    assert joined is left[1]
    assert segments == left[2]


def test_hundreds_of_tiles_take_seconds_at_most() -> None:
    """It takes a quarter of a second on a free core; the limit allows for a busy machine."""
    tiles = cut(np.tile(discs(np.random.default_rng(0), (256, 256), (5, 12)), (4, 4)), 128, 64)
    assert len(tiles) == 225
    started = time.process_time()
    join_tiles(tiles, (1024, 1024))
    assert time.process_time() - started < 3
