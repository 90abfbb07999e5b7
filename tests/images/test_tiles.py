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
def test_equal_tiles_cover_every_pixel_evenly_and_none_could_be_spared(
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
    for axis, length in enumerate((height, width)):
        starts = sorted({box[axis] for box in boxes})
        if len(starts) > 1:
            steps = np.diff(starts)
            assert steps.max() <= tile - overlap
            assert steps.max() - steps.min() <= 1
            assert tile + (len(starts) - 2) * (tile - overlap) < length  # of one tile less


def test_an_image_that_fits_is_one_tile_and_a_wide_one_has_one_row() -> None:
    assert tile_boxes((100, 128), 128, 64) == [(0, 0, 100, 128)]
    assert tile_boxes((100, 192), 128, 64) == [(0, 0, 100, 128), (0, 64, 100, 192)]
