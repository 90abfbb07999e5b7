from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from panodetr.results import grow
from panodetr.results.grow import Grid, highest, highest_at
from panodetr.results.panoptic import merge_masks

Size = tuple[int, int]


def plainly(masks: NDArray[np.float32], processed: Size, target: Size) -> NDArray[np.float32]:
    """Grow all masks in torch, then pick Pillow's nearest pixels: (N, H, W)."""
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(masks)[None], size=processed, mode="bilinear", align_corners=False
    )[0].numpy()
    numbers = np.arange(processed[0] * processed[1], dtype=np.int32).reshape(processed)
    picked = Image.fromarray(numbers).resize((target[1], target[0]), Image.Resampling.NEAREST)
    return grown.reshape(len(masks), -1)[:, np.asarray(picked)]


def agree(winner: NDArray[np.integer], grown: NDArray[np.float32]) -> None:
    """The winner's value is the highest, to the rounding of torch's other order of operations."""
    value = np.take_along_axis(grown, winner[None], axis=0)[0]
    np.testing.assert_allclose(value, grown.max(axis=0), rtol=0, atol=1e-5)


sides = st.integers(1, 40)


@given(
    st.integers(1, 6),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.integers(0, 2**32 - 1),
)
def test_the_winner_is_that_of_growing_every_mask(
    count: int, size: Size, processed: Size, target: Size, seed: int
) -> None:
    masks = np.random.default_rng(seed).normal(size=(count, *size)).astype(np.float32)
    winner = highest(masks, Grid.between(size, processed, target))
    assert winner.shape == target
    agree(winner, plainly(masks, processed, target))


@pytest.mark.parametrize("count", [256, 257])
def test_as_many_masks_as_a_byte_can_tell_apart_and_one_more(count: int) -> None:
    masks = np.random.default_rng(0).normal(size=(count, 12, 30)).astype(np.float32)
    masks.reshape(count, -1)[np.arange(count), np.arange(count)] += 9  # each is the highest once
    grid = Grid.between((12, 30), (24, 60), (24, 60))
    winner = highest(masks, grid)
    agree(winner, plainly(masks, (24, 60), (24, 60)))
    assert set(winner.ravel().tolist()) >= set(range(count))
    assert np.array_equal(highest_at(masks, grid, np.arange(24 * 60)), winner.ravel())
    scores, classes = np.ones(count, np.float32), np.arange(count)
    ids, segments = merge_masks(
        np.kron(masks, np.ones((3, 3), np.float32)), scores, classes, np.ones(count, np.bool_),
        (36, 90), (36, 90),
    )  # fmt: skip
    assert len(segments) == count
    assert [segment.area for segment in segments] == np.bincount(ids.ravel())[1:].tolist()


@pytest.mark.parametrize("processed", [(96, 128), (100, 130), (24, 32)])
def test_smooth_masks_as_of_a_model(processed: Size) -> None:
    random = np.random.default_rng(0)
    masks = np.stack(
        [
            np.asarray(
                Image.fromarray(random.normal(size=(4, 5)).astype(np.float32)).resize((32, 24))
            )
            for _ in range(8)
        ]
    )
    grid = Grid.between((24, 32), processed, (70, 90))
    grown = plainly(masks, processed, (70, 90))
    winner = highest(masks, grid)
    agree(winner, grown)
    assert (winner == grown.argmax(axis=0)).mean() > 0.999
    assert np.array_equal(highest_at(masks, grid, np.arange(70 * 90)), winner.ravel())


def test_cells_in_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = np.random.default_rng(0).normal(size=(6, 11, 13)).astype(np.float32)
    grid = Grid.between((11, 13), (40, 50), (37, 60))
    pixels = np.arange(5, 37 * 60, 3)
    whole, some = highest(masks, grid), highest_at(masks, grid, pixels)
    agree(whole, plainly(masks, (40, 50), (37, 60)))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for many, cached in ((1, 1), (40, 7), (10**6, 5), (20, 10**6)):
        monkeypatch.setattr(grow, "MANY_CELLS", many)
        monkeypatch.setattr(grow, "CACHED_CELLS", cached)
        assert np.array_equal(highest(masks, grid), whole)
        assert np.array_equal(highest_at(masks, grid, pixels), some)


def test_of_equals_the_first_wins() -> None:
    masks = np.zeros((3, 4, 4), np.float32)
    masks[1:] = 1
    assert np.array_equal(highest(masks, Grid.between((4, 4), (9, 9), (9, 9))), np.ones((9, 9)))


def test_no_pixels_asked_for() -> None:
    masks = np.zeros((2, 3, 3), np.float32)
    grid = Grid.between((3, 3), (6, 6), (6, 6))
    assert highest_at(masks, grid, np.zeros(0, np.intp)).shape == (0,)
