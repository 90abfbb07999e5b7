from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from panodetr.images.views import tile_boxes


@st.composite
def requests(draw: st.DrawFn) -> tuple[tuple[int, int], int, int]:
    tile = draw(st.integers(1, 200))
    overlap = draw(st.integers(0, tile - 1))
    # At most some dozen steps, so that a tile that barely advances does not make a million boxes.
    longest = tile + 12 * (tile - overlap)
    return (draw(st.integers(1, longest)), draw(st.integers(1, longest))), tile, overlap


@given(requests())
def test_every_pixel_is_covered_by_equal_tiles(
    request_: tuple[tuple[int, int], int, int],
) -> None:
    (height, width), tile, overlap = request_
    boxes = tile_boxes((height, width), tile, overlap)
    covered = np.zeros((height, width), bool)
    for y0, x0, y1, x1 in boxes:
        assert 0 <= y0 < y1 <= height
        assert 0 <= x0 < x1 <= width
        assert (y1 - y0, x1 - x0) == (min(tile, height), min(tile, width))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len(set(boxes)) == len(boxes)


@given(requests())
def test_neighbours_share_the_overlap_and_are_evenly_spread(
    request_: tuple[tuple[int, int], int, int],
) -> None:
    size, tile, overlap = request_
    boxes = tile_boxes(size, tile, overlap)
    for axis in (0, 1):
        starts = sorted({box[axis] for box in boxes})
        steps = np.diff(starts)
        if len(steps):
            assert steps.max() <= tile - overlap
            assert steps.max() - steps.min() <= 1


@given(requests())
def test_no_tile_could_be_spared(request_: tuple[tuple[int, int], int, int]) -> None:
    size, tile, overlap = request_
    rows = {box[0] for box in tile_boxes(size, tile, overlap)}
    if len(rows) > 1:
        reach = tile + (len(rows) - 2) * (tile - overlap)  # of one row less
        assert reach < size[0]


def test_a_image_that_fits_is_one_tile() -> None:
    assert tile_boxes((100, 128), 128, 64) == [(0, 0, 100, 128)]


def test_a_image_larger_in_one_direction_has_one_row() -> None:
    assert tile_boxes((100, 192), 128, 64) == [(0, 0, 100, 128), (0, 64, 100, 192)]
