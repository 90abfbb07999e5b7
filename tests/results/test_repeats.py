from __future__ import annotations

import numpy as np

from panodetr.results.repeats import drop_repeats

LEFT, RIGHT = (0, 0, 100, 100), (0, 60, 100, 160)  # y0, x0, y1, x1: 40 pixels shared
SIZE = (100, 160)

Found = tuple[int, tuple[float, float, float, float], float, int]
"""Tile, box, score, class."""


def kept(*found: Found, duplicate_iou: float | None = None) -> list[int]:
    tiles, boxes, scores, classes = (list(column) for column in zip(*found, strict=True))
    return drop_repeats(
        np.array(boxes, np.float32),
        np.array(scores, np.float32),
        np.array(classes, np.intp),
        np.array(tiles, np.intp),
        np.array([LEFT, RIGHT], np.intp),
        SIZE,
        duplicate_iou,
    ).tolist()


def test_an_object_that_both_tiles_saw_is_given_once_by_its_better_score() -> None:
    assert kept((0, (70, 10, 90, 30), 0.8, 0), (1, (71, 10, 91, 30), 0.9, 0)) == [1]


def test_boxes_of_one_tile_do_not_compete() -> None:
    assert kept((0, (70, 10, 90, 30), 0.8, 0), (0, (71, 10, 91, 30), 0.9, 0)) == [0, 1]


def test_boxes_of_one_tile_compete_where_the_model_needs_it() -> None:
    twice = ((0, (70, 10, 90, 30), 0.8, 0), (0, (71, 10, 91, 30), 0.9, 0))
    beside = (0, (88, 10, 98, 30), 0.7, 0)
    assert kept(*twice, beside, duplicate_iou=0.5) == [1, 2]


def test_boxes_of_two_classes_do_not_compete() -> None:
    assert kept((0, (70, 10, 90, 30), 0.8, 0), (1, (71, 10, 91, 30), 0.9, 1)) == [0, 1]


def test_a_fragment_gives_way_to_the_whole_also_with_the_better_score() -> None:
    fragment, whole = (80.0, 10.0, 100.0, 30.0), (80.0, 10.0, 140.0, 30.0)
    assert kept((0, fragment, 0.95, 0), (1, whole, 0.6, 0)) == [1]


def test_a_sure_fragment_is_not_lost_to_a_doubtful_whole() -> None:
    fragment, whole = (80.0, 10.0, 100.0, 30.0), (80.0, 10.0, 140.0, 30.0)
    assert 0 in kept((0, fragment, 0.95, 0), (1, whole, 0.05, 0))


def test_a_small_object_beside_a_large_one_stays() -> None:
    assert kept((0, (62, 5, 72, 15), 0.9, 0), (1, (62, 5, 130, 80), 0.8, 0)) == [0, 1]


def test_the_images_own_borders_cut_nothing() -> None:
    at_the_edge, larger = (0.0, 0.0, 90.0, 100.0), (62.0, 0.0, 95.0, 100.0)
    assert kept((0, at_the_edge, 0.9, 0), (1, larger, 0.8, 0)) == [0, 1]


def test_nothing_found_keeps_nothing() -> None:
    empty = np.zeros(0, np.float32)
    none = empty.astype(np.intp)
    places = np.array([LEFT, RIGHT], np.intp)
    assert drop_repeats(np.zeros((0, 4), np.float32), empty, none, none, places, SIZE).size == 0
