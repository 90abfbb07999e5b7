from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from panodetr.data.augment import CropAugmentation, augment, flip, recolor, resize_both

Pair = tuple[NDArray[np.uint8], NDArray[np.int32]]

sides = st.integers(8, 70)
seeds = st.integers(0, 2**32 - 1)


def painted_with_its_ids(height: int, width: int, block: int = 1) -> Pair:
    """A photo whose colours are its ids; every block of pixels has an id of its own."""
    rows, columns = np.arange(height) // block, np.arange(width) // block
    ids = (rows[:, None] * (columns[-1] + 1) + columns + 1).astype(np.int32)
    photo = np.stack([ids % 256, ids // 256, np.full_like(ids, 7)], axis=-1)
    return photo.astype(np.uint8), ids


def painted(photo: NDArray[np.uint8]) -> NDArray[np.int32]:
    return photo.astype(np.int32) @ np.array([1, 256, 0], np.int32)


@given(sides, sides, st.integers(1, 40), seeds, st.booleans())
def test_pixels_keep_their_ids(height: int, width: int, size: int, seed: int, flips: bool) -> None:
    config = CropAugmentation(size=size, flip=flips)
    photo, ids = augment(*painted_with_its_ids(height, width), config, np.random.default_rng(seed))
    np.testing.assert_array_equal(painted(photo), ids)
    np.testing.assert_array_equal(photo[..., 2], 7)
    assert len(np.unique(ids)) == ids.size  # no pixel of the photo twice
    assert sorted(ids.shape) == sorted((min(size, height), min(size, width)))


@given(seeds, st.sampled_from([0.5, 0.8, 1.25, 2.0]))
def test_scaled_pixels_keep_their_ids_away_from_borders(seed: int, scale: float) -> None:
    config = CropAugmentation(size=48, least_scale=scale, most_scale=scale)
    height, width = 96, 80
    _, ids = painted_with_its_ids(height, width, block=16)
    photo = np.stack([ids * 8] * 3, axis=-1).astype(np.uint8)
    photo, ids = augment(photo, ids, config, np.random.default_rng(seed))
    # Smoothing reaches as far as the id of a neighbouring pixel differs, with some to spare.
    reach = 3
    inner = np.ones(ids.shape, np.bool_)
    for axis in (0, 1):
        for shift in range(-reach, reach + 1):
            inner &= np.roll(ids, shift, axis) == ids
    inner[:reach] = inner[-reach:] = inner[:, :reach] = inner[:, -reach:] = False
    assert inner.mean() > 0.05
    np.testing.assert_allclose(photo[inner][:, 0], ids[inner] * 8, atol=1)


@given(sides, sides, st.integers(1, 64), seeds, st.floats(0.3, 1), st.floats(1, 3))
def test_crops_have_at_most_their_size_and_only_the_photos_ids(
    height: int, width: int, size: int, seed: int, least: float, most: float
) -> None:
    config = CropAugmentation(size=size, least_scale=least, most_scale=most, color=0.3)
    before = painted_with_its_ids(height, width)
    photo, ids = augment(*before, config, np.random.default_rng(seed))
    assert photo.shape == (*ids.shape, 3)
    assert (photo.dtype, ids.dtype) == (np.uint8, np.int32)
    assert 1 <= min(ids.shape) <= max(ids.shape) <= size
    assert np.isin(ids, before[1]).all()


def test_a_crop_is_full_to_a_pixel_where_the_photo_is_large_enough() -> None:
    config = CropAugmentation(size=32, least_scale=0.8, most_scale=1.4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, ids = augment(*painted_with_its_ids(64, 48), config, rng)
        assert set(ids.shape) <= {31, 32}


def test_randomness_comes_from_the_generator_alone() -> None:
    config = CropAugmentation(size=16, least_scale=0.5, most_scale=2, color=0.2)
    before = painted_with_its_ids(40, 40)
    first, same, other = (
        augment(*before, config, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first[0], same[0])
    np.testing.assert_array_equal(first[1], same[1])
    assert not np.array_equal(first[1], other[1])


def test_all_eight_ways_to_lay_a_square_occur() -> None:
    before = painted_with_its_ids(3, 3)
    rng = np.random.default_rng(0)
    ways = {flip(*before, rng)[1].tobytes() for _ in range(200)}
    assert len(ways) == 8


def test_nearest_ids_are_those_of_the_pixels_below_the_centres() -> None:
    photo, ids = painted_with_its_ids(2, 4)
    assert resize_both(photo, ids, (4, 2))[1].tolist() == [[2, 4], [2, 4], [6, 8], [6, 8]]
    assert resize_both(photo, ids, (2, 4)) == (photo, ids)


def test_recolouring_is_bounded_and_changes_every_channel_in_one_direction() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(20):
        after = recolor(ramp, 0.2, np.random.default_rng(seed)).astype(int)
        assert (np.diff(after, axis=1) >= 0).all()  # order of levels is kept
        assert np.abs(after - ramp).max() <= 0.5 * 255


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"least_scale": 0.0},
        {"least_scale": 2.0},
        {"color": 1.0},
        {"color": -0.1},
    ],
)
def test_ranges_that_hold_nothing_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected a positive size"):
        replace(CropAugmentation(size=8), **change)  # pyright: ignore[reportArgumentType]
