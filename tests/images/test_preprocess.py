from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from panodetr.images.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LARGE,
    normalize,
    pad,
    resize,
    resized_size,
)

sides = st.integers(1, 5000)
sizes = st.tuples(sides, sides)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 1066.67 is cut, not rounded
        ((640, 480), (1066, 800)),
        ((640, 256), (1332, 533)),  # 533 x 2.5 = 1332.5; transformers gives 1333
        ((800, 1000), (800, 1000)),
        ((1000, 800), (1000, 800)),
        ((300, 300), (800, 800)),
        ((100, 1000), (133, 1330)),
        ((1, 100_000), (1, 100_000)),
    ],
)
def test_the_original_rule_at_known_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(size, 800, 1333) == expected


@given(sizes, sides)
def test_sides_are_treated_alike_and_stay_within_their_limits(
    size: tuple[int, int], side: int
) -> None:
    assert resized_size(size, None, side) == resized_size(size, None, None) == size
    assert min(resized_size(size, side, None)) == side
    result = resized_size(size, 800, 1333)
    assert resized_size((size[1], size[0]), 800, 1333) == result[::-1]
    assume(max(size) <= 100 * min(size))
    scale = max(size) / min(size)
    assert min(result) <= 800
    # The short side is rounded: the long one may pass its limit by half a pixel of the short one.
    assert max(result) <= 1333 + scale / 2
    assert min(result) * scale - max(result) < 1 + 1e-6


@pytest.mark.parametrize(
    "size",
    [
        (1601, 1250),
        (1250, 1601),
        (1870, 1250),
        (3000, 1250),
        (1201, 2998),
        (700, 4000),
        (2048, 2048),
    ],
)
def test_large_images_are_resized_in_strips_to_the_same_bits(size: tuple[int, int]) -> None:
    assert size[0] * size[1] >= LARGE
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for target in (resized_size(size, 800, 1333), (700, 1100), (size[0], 800), (size[0] + 9, 640)):
        whole = Image.fromarray(image).resize((target[1], target[0]), Image.Resampling.BILINEAR)
        assert np.array_equal(resize(image, target), np.asarray(whole)), target


def test_normalize_is_the_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    got = normalize(image, IMAGENET_MEAN, IMAGENET_STD)
    expected = (image / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-6)


def test_pad_puts_images_in_the_corner() -> None:
    images = [np.full((3, 4, 6), 2, np.float32), np.full((3, 5, 3), 3, np.float32)]
    pixels, padding = pad(images)
    assert pixels.shape == (2, 3, 5, 6)
    assert padding.shape == (2, 5, 6)
    for image, canvas, blank in zip(images, pixels, padding, strict=True):
        h, w = image.shape[1:]
        assert np.array_equal(canvas[:, :h, :w], image)
        assert not blank[:h, :w].any()
        assert blank.sum() == 5 * 6 - h * w
        assert not canvas[:, blank].any()
    assert not pad(images[:1])[1].any()  # one image has no padding
