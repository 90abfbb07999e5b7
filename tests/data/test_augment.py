from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panodetr.data.augment import CropAugmentation, PaperAugmentation, draw_view, recolor
from panodetr.images.preprocess import resized_size

sides = st.integers(8, 70)
seeds = st.integers(0, 2**32 - 1)
COCO = (480, 640)


def check_window(window: tuple[float, float, float, float], height: int, width: int) -> None:
    y0, x0, y1, x1 = window
    assert 0 <= y0 < y1 <= height
    assert 0 <= x0 < x1 <= width


@given(sides, sides, st.integers(1, 40), seeds, st.booleans())
def test_pixels_keep_their_ids(height: int, width: int, size: int, seed: int, flips: bool) -> None:
    config = CropAugmentation(size=size, flip=flips)
    # Every pixel has an id of its own, which its colour tells.
    ids = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    image = np.stack([ids % 256, ids // 256, np.full_like(ids, 7)], axis=-1).astype(np.uint8)
    view = draw_view(config, (height, width), np.random.default_rng(seed))
    image, ids = view.image(image), view.ids(ids)
    np.testing.assert_array_equal(image @ np.array([1, 256, 0], np.int32), ids)
    np.testing.assert_array_equal(image[..., 2], 7)
    assert len(np.unique(ids)) == ids.size  # no pixel of the image twice
    assert sorted(ids.shape) == sorted((min(size, height), min(size, width)))


@given(sides, sides, st.integers(1, 64), seeds, st.floats(0.3, 1), st.floats(1, 3))
def test_crops_have_their_size_unless_the_image_is_smaller(
    height: int, width: int, size: int, seed: int, least: float, most: float
) -> None:
    config = CropAugmentation(size=size, least_scale=least, most_scale=most, flip=False)
    view = draw_view(config, (height, width), np.random.default_rng(seed))
    check_window(view.window, height, width)
    y0, x0, y1, x1 = view.window
    for whole, part, shown in ((height, y1 - y0, view.shape[0]), (width, x1 - x0, view.shape[1])):
        assert 1 <= shown <= size
        if part < whole:
            assert shown == size


def test_all_eight_ways_to_lay_a_square_occur() -> None:
    config, rng = CropAugmentation(size=3), np.random.default_rng(0)
    ids = np.arange(9, dtype=np.int32).reshape(3, 3)
    ways = Counter(draw_view(config, (3, 3), rng).ids(ids).tobytes() for _ in range(800))
    assert len(ways) == 8
    assert min(ways.values()) > 60


def test_the_paper_resizes_half_of_the_images_as_a_whole() -> None:
    config, rng = PaperAugmentation(), np.random.default_rng(0)
    views = [draw_view(config, COCO, rng) for _ in range(4000)]
    whole = [view for view in views if view.window == (0, 0, *COCO)]
    assert 0.46 < len(whole) / len(views) < 0.54
    assert 0.46 < sum(view.mirror for view in views) / len(views) < 0.54
    assert not any(view.upside_down or view.swap for view in views)
    expected = {resized_size(COCO, short, 1333) for short in range(480, 801, 32)}
    assert {view.shape for view in whole} == expected
    assert len(expected) == 11


def test_the_paper_cuts_parts_of_384_to_600_pixels_out_of_the_resized_image() -> None:
    config, rng = PaperAugmentation(crop=1.0), np.random.default_rng(1)
    heights: list[float] = []
    for _ in range(3000):
        view = draw_view(config, COCO, rng)
        y0, x0, y1, x1 = view.window
        parts = [
            ((y1 - y0) * short / 480, (x1 - x0) * int(short * 4 / 3) / 640)
            for short in (400, 500, 600)
        ]
        fits = [
            part
            for part in parts
            if all(abs(side - round(side)) < 1e-6 and 384 <= round(side) <= 600 for side in part)
        ]
        assert fits  # a whole number of pixels at one of the three sizes
        heights += [round(part[0]) for part in fits[:1]]
        # The part keeps its shape, up to the rounding of the resized sides.
        aspect = fits[0][1] / fits[0][0]
        assert view.shape[1] / view.shape[0] == pytest.approx(aspect, rel=0.01)
        assert max(view.shape) <= 1333
        assert min(view.shape) in range(480, 801, 32)
    assert min(heights) == 384
    assert max(heights) > 590


@given(st.integers(1, 3000), st.integers(1, 3000), seeds, st.booleans())
def test_any_image_has_a_view_within_it(height: int, width: int, seed: int, jitter: bool) -> None:
    config = PaperAugmentation()
    if jitter:
        config = replace(config, long_side=640, least_jitter=0.1, most_jitter=2.0)
    view = draw_view(config, (height, width), np.random.default_rng(seed))
    check_window(view.window, height, width)
    assert min(view.shape) >= 1
    # The original rounds the short side, and the long one follows; a line's rounds to nothing.
    rounding = 0.5 * max(view.shape) / min(view.shape) + 1
    assert max(view.shape) <= config.long_side + rounding or min(height, width) == 1


def test_large_scale_jitter_fits_into_its_square_or_fills_it() -> None:
    config = PaperAugmentation(long_side=640, least_jitter=0.1, most_jitter=2.0, flip=False)
    rng = np.random.default_rng(0)
    views = [draw_view(config, COCO, rng) for _ in range(3000)]
    scales = [view.size[1] / (view.window[3] - view.window[1]) for view in views]
    assert 0.1 <= min(scales) < 0.11
    assert 1.99 < max(scales) <= 2.01
    assert np.mean(scales) == pytest.approx(1.05, abs=0.04)
    for view, scale in zip(views, scales, strict=True):
        # Rounded to whole pixels, of which the smallest have 48.
        assert view.shape[1] == min(640, round(640 * scale))
        assert view.shape[0] == pytest.approx(min(640, 480 * scale), abs=1)


def test_randomness_comes_from_the_generator_alone() -> None:
    for config in (CropAugmentation(size=16, most_scale=2), PaperAugmentation()):
        first, same, other = (
            [draw_view(config, (40, 60), rng) for _ in range(5)]
            for rng in (np.random.default_rng(seed) for seed in (5, 5, 6))
        )
        assert first == same
        assert first != other


def test_recolouring_is_bounded_and_changes_every_channel_in_one_direction() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(20):
        after = recolor(ramp, 0.2, np.random.default_rng(seed)).astype(int)
        assert (np.diff(after, axis=1) >= 0).all()  # order of levels is kept
        assert np.abs(after - ramp).max() <= 0.5 * 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size is 0; expected int >= 1"),
        ({"size": 8, "least_scale": 0.0}, r"least_scale is 0\.0; expected float > 0"),
        ({"size": 8, "least_scale": 2.0}, r"scale is 2\.0 to 1\.0; expected least_scale <="),
        ({"size": 8, "color": -0.1}, "color is -0.1"),
        ({"short_sides": ()}, "short_sides is .*; expected array of length >= 1"),
        ({"crop_short_sides": (400, 0)}, r"\[1\]: expected int >= 1"),
        ({"long_side": 0}, "long_side is 0"),
        ({"least_crop": 601}, "crop is 601 to 600; expected least_crop <= most_crop"),
        ({"crop": 1.5}, r"crop is 1\.5; expected float <= 1"),
        ({"color": 1.0}, r"color is 1\.0; expected float < 1"),
        ({"least_jitter": 0.0}, r"least_jitter is 0\.0"),
        ({"least_jitter": 2.0}, r"jitter is 2\.0 to 1\.0"),
    ],
)
def test_sizes_and_ranges_that_hold_nothing_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        (CropAugmentation if "size" in change else PaperAugmentation)(**change)
