from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from panodetr.results.draw import draw_overlay, segment_colors
from panodetr.results.labels import place_labels
from panodetr.results.types import PanopticResult

MakeResult = Callable[..., PanopticResult]


def grid(count: int, side: int = 800) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Ground with `count` x `count` squares, each as wide as its gap."""
    step = side // count
    y, x = np.mgrid[:side, :side]
    inside = (y % step < step // 2) & (x % step < step // 2)
    numbers = y // step * count + x // step + 1
    return np.where(inside, numbers, count * count + 1).astype(np.int32)


def changed(result: PanopticResult) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return (draw_overlay(result) != result.image).any(axis=2)


def test_every_segment_is_tinted_and_the_image_is_left(make_result: MakeResult) -> None:
    ids = grid(2)
    ids[:10] = 0
    result = make_result(ids)
    before = result.image.copy()
    assert np.array_equal(changed(result), ids > 0)
    assert np.array_equal(result.image, before)


def test_the_truth_is_labelled_without_scores(make_result: MakeResult) -> None:
    result = make_result(grid(2))
    colors = segment_colors(result)
    texts = [label.text for label in place_labels(result.segment_ids, result.segments, colors)]
    bare = place_labels(result.segment_ids, result.segments, colors, scores=False)
    assert {text.rpartition(" ")[0] for text in texts} == {label.text for label in bare}
    assert all(text.endswith("%") for text in texts)
    assert (draw_overlay(result) != draw_overlay(result, scores=False)).any()


def test_things_have_colours_of_their_own_and_stuff_its_categorys(make_result: MakeResult) -> None:
    result = make_result(grid(10))
    colors = segment_colors(result)
    assert len(set(colors)) == 101
    assert colors[-1] == (40, 40, 200)


def test_outlines_are_opaque(make_result: MakeResult) -> None:
    result = make_result(grid(2))
    overlay, colors = draw_overlay(result), segment_colors(result)
    assert tuple(overlay[0, 199]) == colors[0]
    assert tuple(overlay[199, 0]) == colors[0]
    assert tuple(overlay[0, 0]) != colors[0]


@pytest.mark.parametrize(("side", "scale"), [(100, 4), (256, 3), (384, 2), (600, 1), (2000, 1)])
def test_small_images_are_enlarged(make_result: MakeResult, side: int, scale: int) -> None:
    overlay = draw_overlay(make_result(np.ones((side, side // 2), np.int32)))
    assert overlay.shape == (side * scale, side // 2 * scale, 3)


def letters(result: PanopticResult) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The pixels that are nearly black or white, which neither the image nor a colour is."""
    overlay = draw_overlay(result)
    return (overlay.max(axis=2) < 30) | (overlay.min(axis=2) > 225)


def labelled(result: PanopticResult) -> list[int]:
    """The ids of segments that hold letters."""
    found = letters(result)
    return [s.id for s in result.segments if found[result.segment_ids == s.id].any()]


def test_labels_stand_where_there_is_room(make_result: MakeResult) -> None:
    assert labelled(make_result(grid(2))) == [1, 2, 3, 4, 5]
    assert labelled(make_result(grid(40))) == []  # neither squares nor gaps of 10 pixels


def test_labels_stay_within_their_segments(make_result: MakeResult) -> None:
    result = make_result(grid(10))
    assert labelled(result) == list(range(1, 102))
    in_ground = letters(result) & (result.segment_ids == 101)
    y, x = np.nonzero(in_ground)  # of one label: within a plate's size
    assert y.max() - y.min() < 20
    assert x.max() - x.min() < 80


@pytest.mark.parametrize("count", [0, 1])
def test_a_image_with_nothing_or_one_segment(make_result: MakeResult, count: int) -> None:
    result = make_result(np.full((800, 800), count, np.int32))
    assert changed(result).any() == (count == 1)


def test_hundreds_of_segments_keep_their_own_colours(make_result: MakeResult) -> None:
    result = make_result(grid(20))
    overlay, colors = draw_overlay(result), segment_colors(result)
    assert len(set(colors)) > 300
    for segment, color in zip(result.segments[:-1], colors, strict=False):
        _, _, x1, y1 = (int(side) for side in segment.box)
        assert tuple(overlay[y1 - 1, x1 - 1]) == color  # a corner of its outline
