from __future__ import annotations

import numpy as np

from panodetr.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize, pad


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
