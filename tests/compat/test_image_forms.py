"""Images of more than 8 bits, and arrays whose channels may be first or last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from panodetr.compat import DetrImageProcessor
from panodetr.errors import ImageError, ImageWarning, UsageError

AS_IT_IS = {"do_resize": False, "do_normalize": False, "do_rescale": False, "do_pad": False}
RAMP = np.tile(np.arange(256), (4, 1))


def pixels_of(image: Any, **options: Any) -> NDArray[Any]:
    found = DetrImageProcessor(**AS_IT_IS)(image, return_tensors="np", **options)
    return found["pixel_values"][0]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray((RAMP * 257).astype(np.uint16)),
        Image.fromarray((RAMP * 257).astype(np.int32)),
        Image.fromarray((RAMP / 255).astype(np.float32)),
        (RAMP * 257).astype(np.uint16),
        (np.stack([RAMP] * 3) * 257).astype(np.uint16),
    ],
    ids=["I;16", "I", "F", "grey uint16", "uint16"],
)
def test_more_than_8_bits_keep_their_levels(image: Any) -> None:
    pixels = pixels_of(image)
    assert pixels.shape == (3, 4, 256)
    assert len(np.unique(pixels)) == 256
    assert pixels.mean() == 127.5


def test_floats_are_fractions_and_grey_is_three_channels() -> None:
    whole = pixels_of(RAMP.astype(np.uint8))
    np.testing.assert_array_equal(whole, whole[[0, 0, 0]])
    np.testing.assert_array_equal(whole, pixels_of(Image.fromarray(RAMP.astype(np.uint8))))
    np.testing.assert_allclose(pixels_of(RAMP / np.float32(255)) * 255, whole, atol=1e-4)


def test_black_and_white_are_0_and_255() -> None:
    assert np.unique(pixels_of(RAMP > 100)).tolist() == [0, 255]
    assert np.unique(pixels_of(Image.fromarray(RAMP > 100))).tolist() == [0, 255]


@pytest.mark.parametrize("image", [RAMP * 257, RAMP - 1, RAMP.astype(np.float64) * 2])
def test_values_out_of_range_are_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"has values from .* expected 0 to 255"):
        pixels_of(image)


@pytest.mark.parametrize(
    ("shape", "expected", "warned"),
    [
        ((1, 1000, 3), (3, 1, 1000), True),
        ((4, 1000, 3), (3, 4, 1000), True),
        ((1, 1000, 4), (3, 1, 1000), True),
        ((3, 1000, 3), (3, 1000, 3), True),
        ((3, 8, 9), (3, 8, 9), False),
        ((8, 9, 3), (3, 8, 9), False),
        ((1, 8, 9), (3, 8, 9), False),
    ],
)
def test_channels_are_first_or_last(
    shape: tuple[int, ...], expected: tuple[int, ...], warned: bool
) -> None:
    image = np.zeros(shape, np.uint8)
    if warned:
        with pytest.warns(ImageWarning, match="input_data_format"):
            assert pixels_of(image).shape == expected
    else:
        assert pixels_of(image).shape == expected


def test_channels_are_where_the_caller_says() -> None:
    image = np.zeros((3, 1000, 3), np.uint8)
    assert pixels_of(image, input_data_format="channels_last").shape == (3, 3, 1000)
    assert pixels_of(image, input_data_format="channels_first").shape == (3, 1000, 3)
    with pytest.raises(UsageError, match="channels_first"):
        pixels_of(image, input_data_format="last")
    with pytest.raises(ImageError, match="has the shape"):
        pixels_of(np.zeros((3, 8, 9), np.uint8), input_data_format="channels_last")
