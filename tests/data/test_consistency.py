"""Image, masks and boxes of whatever view an augmentation draws belong together."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.data.whole import masks

from panodetr.data.augment import Augmentation, CropAugmentation, PaperAugmentation, View, draw_view
from panodetr.data.loader import Example, ExampleReader, paste
from panodetr.data.samples import InstanceImage
from panodetr.data.targets import LEAST_AREA, Objects, Target, view_target

COLORS = np.array([[10, 60, 90], [250, 20, 40], [40, 200, 30], [60, 90, 240]], np.uint8)
"""Of the background and of the objects 1, 2 and 3."""

PAPER = PaperAugmentation(
    short_sides=(24, 40, 64), long_side=90, crop_short_sides=(30, 48), least_crop=12, most_crop=40
)
AUGMENTATIONS: dict[str, Augmentation] = {
    "crops": CropAugmentation(size=32, least_scale=0.5, most_scale=2.0),
    "paper": PAPER,
    "jitter": replace(PAPER, least_jitter=0.2, most_jitter=2.0),
}
every_augmentation = pytest.mark.parametrize(
    "augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS
)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def scenes(draw: st.DrawFn) -> NDArray[np.int32]:
    """An id map of up to three rectangles, the later ones on top."""
    height, width = draw(st.integers(8, 70)), draw(st.integers(8, 70))
    ids = np.zeros((height, width), np.int32)
    for number in (1, 2, 3):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        ids[top:bottom, left:right] = number
    return ids


def objects_of(ids: NDArray[np.int32], *, boxes: bool) -> Objects:
    """The objects that an id map shows, each of a class of its own; boxes as if annotated."""
    shown = np.array([n for n in (1, 2, 3) if (ids == n).any()], np.int32)
    annotated = np.array([tight(ids == n) for n in shown], np.float32).reshape(-1, 4)
    classes = shown.astype(np.int64) + 10
    return Objects(classes=classes, segment_ids=shown, boxes=annotated if boxes else None, ids=ids)


def size_of(ids: NDArray[np.int32]) -> tuple[int, int]:
    return ids.shape[0], ids.shape[1]


def tight(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def inner(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """The pixels that are so far from all that the mask doesn't cover, but for the image's rim."""
    padded = np.pad(mask, margin, constant_values=True)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * margin + 1,) * 2)
    return np.asarray(windows.all(axis=(2, 3)))


@every_augmentation
@given(scenes(), seeds)
def test_boxes_lie_around_their_masks_in_every_view(
    augmentation: Augmentation, ids: NDArray[np.int32], seed: int
) -> None:
    view = draw_view(augmentation, size_of(ids), np.random.default_rng(seed))
    target = view_target(objects_of(ids, boxes=False), view)
    assert target.ids is not None
    areas = {n: int((target.ids == n).sum()) for n in (1, 2, 3)}
    assert target.segment_ids.tolist() == [n for n in (1, 2, 3) if areas[n] >= LEAST_AREA]
    assert target.classes.tolist() == [n + 10 for n in target.segment_ids]
    for mask, box in zip(masks(target), target.boxes, strict=True):
        assert box.tolist() == tight(mask)

    annotated = view_target(objects_of(ids, boxes=True), view)
    assert annotated.segment_ids.tolist() == [n for n in (1, 2, 3) if areas[n]]
    for number, box in zip(annotated.segment_ids.tolist(), annotated.boxes, strict=True):
        found = np.array(tight(target.ids == number))
        # Every pixel of the mask has its centre in the box; of the rectangle on top, which is
        # whole, the mask has every pixel whose centre is there.
        assert (found[:2] + 0.5 >= box[:2] - 1e-3).all()
        assert (found[2:] - 0.5 <= box[2:] + 1e-3).all()
        assert number != 3 or np.abs(found - box).max() <= 0.5 + 1e-3


def scales(view: View) -> tuple[float, float]:
    """Pixels of the view for one of the image, down and across."""
    y0, x0, y1, x1 = view.window
    down, across = view.size[0] / (y1 - y0), view.size[1] / (x1 - x0)
    return (across, down) if view.swap else (down, across)


@every_augmentation
@given(scenes(), seeds, st.sampled_from([0.0, 0.3]))
def test_colours_stay_within_the_masks(
    augmentation: Augmentation, ids: NDArray[np.int32], seed: int, color: float
) -> None:
    reader = ExampleReader(
        augmentation=replace(augmentation, color=color), index_of={}, with_masks=True,
        cache={1: (COLORS[ids], objects_of(ids, boxes=False))},
    )  # fmt: skip
    sample = InstanceImage(image_id=1, path=None, objects=(), size=size_of(ids))  # pyright: ignore[reportArgumentType]
    example = reader[sample, np.random.default_rng(seed), None]
    assert isinstance(example, Example)
    shown, target, _ = example
    view = draw_view(augmentation, sample.size, np.random.default_rng(seed))
    assert target.ids is not None
    np.testing.assert_array_equal(target.ids, view.ids(ids))  # colour moves nothing
    # Bilinear resizing mixes what is a pixel apart, in the image or in the view.
    margin = ceil(max(1, *(1 / scale for scale in scales(view))))
    for number in range(4):
        pure = view.ids(inner(ids == number, margin).astype(np.int32)) == 1
        assert (target.ids[pure] == number).all()
        for seen in shown[pure][:1]:
            np.testing.assert_array_equal(shown[pure], np.broadcast_to(seen, (pure.sum(), 3)))
            if not color:
                assert seen.tolist() == COLORS[number].tolist()


@every_augmentation
@given(scenes(), seeds)
def test_a_mirrored_view_is_the_view_mirrored(
    augmentation: Augmentation, ids: NDArray[np.int32], seed: int
) -> None:
    view = draw_view(augmentation, size_of(ids), np.random.default_rng(seed))
    view = replace(view, mirror=False, swap=False)
    mirrored = replace(view, mirror=True)
    image, objects = COLORS[ids], objects_of(ids, boxes=True)
    np.testing.assert_array_equal(mirrored.image(image), view.image(image)[:, ::-1])
    one, other = view_target(objects, view), view_target(objects, mirrored)
    assert one.ids is not None
    assert other.ids is not None
    np.testing.assert_array_equal(other.ids, one.ids[:, ::-1])
    assert other.classes.tolist() == one.classes.tolist()
    flipped = one.boxes[:, [2, 1, 0, 3]]
    flipped[:, [0, 2]] = view.size[1] - flipped[:, [0, 2]]
    np.testing.assert_allclose(other.boxes, flipped, atol=1e-4)


@given(scenes(), scenes(), seeds, st.booleans())
def test_pasted_things_hide_what_lies_below(
    low: NDArray[np.int32], high: NDArray[np.int32], seed: int, boxes: bool
) -> None:
    """Class 3 is stuff, and id 2 of the upper scene a crowd: neither is pasted."""

    def shown(ids: NDArray[np.int32], first: int) -> tuple[NDArray[np.uint8], Target]:
        height, width = size_of(ids)
        objects = objects_of(ids, boxes=boxes)
        objects = replace(objects, classes=objects.segment_ids - 1 + first)
        view = View(window=(0, 0, height, width), size=(height, width))
        return COLORS[ids] + np.uint8(first), view_target(objects, view)

    under, (lent, lender) = shown(low, 0), shown(high, 3)
    kept = lender.segment_ids != 2
    lender = replace(
        lender, boxes=lender.boxes[kept], segment_ids=lender.segment_ids[kept],
        classes=lender.classes[kept],
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    things = (True, True, False) * 2
    image, target = paste(under, (lent, lender), things, rng)
    assert target.ids is not None
    of_pixel = {tuple(color + add): (n, add) for add in (0, 3) for n, color in enumerate(COLORS)}
    seen = np.array([of_pixel[tuple(pixel)] for pixel in image.reshape(-1, 3)])
    number, scene = seen.reshape(*image.shape[:2], 2).transpose(2, 0, 1)
    assert set(number[scene == 3].tolist()) <= {1}
    found = dict(zip(target.classes.tolist(), masks(target), strict=True))
    for add in (0, 3):
        for place in (1, 2, 3):
            mask = (number == place) & (scene == add)
            if mask.sum() < LEAST_AREA:
                assert place - 1 + add not in found
                continue
            np.testing.assert_array_equal(found[place - 1 + add], mask)
            box = target.boxes[target.classes.tolist().index(place - 1 + add)]
            assert box.tolist() == tight(mask)
