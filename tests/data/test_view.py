from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from panodetr.data.augment import View
from panodetr.data.targets import Objects, view_target

HEIGHT, WIDTH = 40, 52


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any window of at least 2 pixels of an image of HEIGHT x WIDTH, at any size, laid any way."""
    edges: list[tuple[float, float]] = []
    for side in (HEIGHT, WIDTH):
        length = draw(st.floats(2, side))
        start = draw(st.floats(0, side - length))
        edges.append((start, min(float(side), start + length)))
    (y0, y1), (x0, x1) = edges
    return View(
        window=(y0, x0, y1, x1),
        size=(draw(st.integers(1, 90)), draw(st.integers(1, 90))),
        mirror=draw(st.booleans()),
        upside_down=draw(st.booleans()),
        swap=draw(st.booleans()),
    )


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Whole pixels x0, y0, x1, y1 within the image."""
    x0, y0 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return x0, y0, draw(st.integers(x0 + 1, WIDTH)), draw(st.integers(y0 + 1, HEIGHT))


def filled(box: tuple[int, int, int, int]) -> NDArray[np.int32]:
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[box[1] : box[3], box[0] : box[2]] = 1
    return ids


@given(views(), rectangles())
def test_a_box_lies_where_the_pixels_of_its_object_do(
    view: View, box: tuple[int, int, int, int]
) -> None:
    shown = view.boxes(np.array([box], np.float32))[0]
    ids = view.ids(filled(box))
    assert ids.shape == view.shape
    # A pixel is the object's exactly if its centre lies in the box.
    ys, xs = np.mgrid[: ids.shape[0], : ids.shape[1]] + 0.5
    x0, y0, x1, y1 = shown
    slack = 1e-3  # the box is float32
    inside = (xs > x0 + slack) & (xs < x1 - slack) & (ys > y0 + slack) & (ys < y1 - slack)
    outside = (xs < x0 - slack) | (xs > x1 + slack) | (ys < y0 - slack) | (ys > y1 + slack)
    assert (ids[inside] == 1).all()
    assert (ids[outside] == 0).all()
    assert 0 <= x0 <= x1 <= ids.shape[1]
    assert 0 <= y0 <= y1 <= ids.shape[0]


@given(views())
def test_image_and_ids_show_the_same_places(view: View) -> None:
    # Straight ramps are what bilinear resizing keeps, where its window does not reach the rim.
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[:HEIGHT, :WIDTH], np.uint8(7)), axis=-1)
    image = view.image((4 * ramp).astype(np.uint8))
    rows = view.ids(np.broadcast_to(ramp[..., 0], (HEIGHT, WIDTH)).astype(np.int32))
    columns = view.ids(np.broadcast_to(ramp[..., 1], (HEIGHT, WIDTH)).astype(np.int32))
    assert image.shape == (*view.shape, 3)
    y0, x0, y1, x1 = view.window
    reach = [1 + (y1 - y0) / view.size[0], 1 + (x1 - x0) / view.size[1]]
    for channel, ids, (low, high), far in (
        (0, rows, (y0, y1), reach[0]),
        (1, columns, (x0, x1), reach[1]),
    ):
        inner = (ids > low + far) & (ids < high - far - 1)
        # An id is that of the pixel below a centre, half a pixel off at most; colours are rounded.
        off = image[..., channel][inner] / 4 - ids[inner]
        assert np.abs(off).max(initial=0) <= 0.5 + 0.5


@given(views(), rectangles(), rectangles())
def test_annotated_boxes_are_clipped_and_dropped_when_nothing_is_left(
    view: View, one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    loose = np.array([one, other], np.float32) + np.array([-0.3, -0.2, 0.4, 0.1], np.float32)
    objects = Objects(
        classes=np.array([4, 5], np.int64), segment_ids=np.array([1, 2], np.int32), boxes=loose,
        ids=np.maximum(filled(one), 2 * filled(other)),
    )  # fmt: skip
    shown = view.boxes(loose)
    # With masks, a box stays as long as a pixel of its mask is left.
    target = view_target(objects, view)
    assert target.ids is not None
    kept = [place for place in (0, 1) if (target.ids == place + 1).any()]
    assert target.segment_ids.tolist() == [place + 1 for place in kept]
    np.testing.assert_array_equal(target.boxes, shown[np.array(kept, np.intp)])
    # Without, as long as anything is left of itself.
    bare = view_target(replace(objects, ids=None), view)
    assert bare.ids is None
    y0, x0, y1, x1 = view.window
    scale = np.prod(view.size) / ((y1 - y0) * (x1 - x0))
    for place, box in enumerate(loose):
        common = min(box[2], x1) - max(box[0], x0), min(box[3], y1) - max(box[1], y0)
        if min(common) > 1e-3:
            found = bare.boxes[bare.classes.tolist().index(4 + place)]
            area = np.prod(found[2:] - found[:2])
            np.testing.assert_allclose(area, common[0] * common[1] * scale, rtol=1e-2, atol=1e-2)
        elif min(common) <= 0:
            assert 4 + place not in bare.classes
    assert bare.segment_ids.size == bare.classes.size == len(bare.boxes)
    for boxes in (target.boxes, bare.boxes):
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_nearest_ids_are_those_of_the_pixels_below_the_centres() -> None:
    ids = np.arange(1, 9, dtype=np.int32).reshape(2, 4)
    view = View(window=(0, 0, 2, 4), size=(4, 2))
    assert view.ids(ids).tolist() == [[2, 4], [2, 4], [6, 8], [6, 8]]
