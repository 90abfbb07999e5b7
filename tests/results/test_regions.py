import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import Polygon, box, unary_union

from panodetr.results.regions import polygons, rings, signed_area

masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(masks)
def test_polygons_are_valid_and_cover_exactly_the_pixels(mask: NDArray[np.bool_]) -> None:
    parts = [Polygon(outer, holes) for outer, holes in polygons(mask)]
    assert all(part.is_valid for part in parts)
    pixels = unary_union([box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)])
    assert unary_union(parts).equals(pixels)
    assert sum(part.area for part in parts) == mask.sum()


@given(masks)
def test_signed_areas_of_rings_add_up_to_the_mask(mask: NDArray[np.bool_]) -> None:
    assert sum(signed_area(ring) for ring in rings(mask)) == mask.sum()


def test_a_ring_lies_where_the_image_has_it() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 2:5] = True
    [(outer, holes)] = polygons(mask, at=(10, 20))
    assert sorted(outer) == [(12, 21), (12, 23), (15, 21), (15, 23)]
    assert holes == []


def test_a_large_region_with_many_corners_takes_one_polygon() -> None:
    picture = Image.new("1", (600, 400))
    ImageDraw.Draw(picture).ellipse((20, 30, 550, 380), fill=1)
    [(outer, holes)] = polygons(np.asarray(picture))
    assert not holes
    assert signed_area(outer) == np.asarray(picture).sum()
