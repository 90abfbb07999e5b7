from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from panodetr.data.convert import join
from panodetr.data.masks import draw_mask
from panodetr.results.regions import rings

any_mask = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(any_mask)
def test_an_outline_fills_exactly_its_mask(mask: NDArray[np.bool_]) -> None:
    if not mask.any():
        assert rings(mask) == []
        return
    points = join(rings(mask))
    height, width = mask.shape
    np.testing.assert_array_equal(draw_mask([points], mask.shape), mask)
    # As fractions of nine digits, too.
    scale = [width, height] * (len(points) // 2)
    rounded = [float(f"{p / s:.9g}") * s for p, s in zip(points, scale, strict=True)]
    np.testing.assert_array_equal(draw_mask([rounded], mask.shape), mask)


def test_parts_are_joined_by_lines_there_and_back() -> None:
    loops = [[(0.0, 0.0), (2.0, 0.0), (2.0, 2.0)], [(5.0, 5.0), (8.0, 5.0), (8.0, 8.0)]]
    assert join(loops) == [0, 0, 2, 0, 2, 2, 0, 0, 5, 5, 8, 5, 8, 8, 5, 5, 0, 0]
    assert join(loops[:1]) == [0, 0, 2, 0, 2, 2]
