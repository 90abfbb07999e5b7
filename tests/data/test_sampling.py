from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panodetr.data.augment import CropAugmentation, PaperAugmentation, Sampler, Sampling, draw_view

SQUARES = CropAugmentation(size=12)


def sampler(sampling: Sampling, count: int = 10, batch_size: int = 4, seed: int = 0) -> Sampler:
    return Sampler([(20, 20)] * count, SQUARES, seed=seed, batch_size=batch_size, sampling=sampling)


@given(
    st.sampled_from(["epochs", "buckets"]),
    st.integers(1, 23),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_every_image_once_an_epoch(
    sampling: Sampling, count: int, batch_size: int, epoch: int
) -> None:
    one = sampler(sampling, count, batch_size)
    indexes = [one.draw(number).index for number in range(epoch * count, (epoch + 1) * count)]
    assert sorted(indexes) == list(range(count))


@pytest.mark.parametrize("sampling", ["area", "epochs", "buckets"])
def test_a_number_stands_for_the_same_whatever_was_asked_before(sampling: Sampling) -> None:
    one = sampler(sampling)
    draws = [one.draw(number) for number in range(40)]
    expected = [(draw.index, draw.rng.random()) for draw in draws]
    other = sampler(sampling)
    for number in (39, 0, 21, 21, 5):
        draw = other.draw(number)
        assert (draw.index, draw.rng.random()) == expected[number]
    assert len({chance for _, chance in expected}) == 40  # no two views alike
    order, next_epoch = [tuple(index for index, _ in expected[n : n + 10]) for n in (0, 10)]
    other_seed = tuple(sampler(sampling, seed=1).draw(number).index for number in range(10))
    assert len({order, next_epoch, other_seed}) == 3
    for number in range(10):  # later attempts come to other images
        attempts = [one.draw(number, attempt) for attempt in range(40)]
        assert len({draw.index for draw in attempts}) > 5
        assert len({draw.rng.random() for draw in attempts}) == 40


def test_large_images_are_drawn_more_often_by_the_root_of_their_area() -> None:
    sizes = [(20, 20), (40, 40), (16, 24)]
    one = Sampler(sizes, SQUARES, seed=0, batch_size=4, sampling="area")
    drawn = [one.draw(number).index for number in range(3000)]
    sides = np.sqrt([height * width for height, width in sizes])
    np.testing.assert_allclose(np.bincount(drawn) / 3000, sides / sides.sum(), atol=0.03)


def test_batches_of_like_sizes_need_less_padding() -> None:
    rng = np.random.default_rng(0)
    sizes = [(480, 640) if tall else (640, 480) for tall in rng.random(400) < 0.5]
    augmentation = PaperAugmentation()
    share: dict[Sampling, float] = {}
    for sampling in ("epochs", "buckets"):
        one = Sampler(sizes, augmentation, seed=0, batch_size=8, sampling=sampling)
        real = padded = 0
        for step in range(50):
            draws = [one.draw(number) for number in range(8 * step, 8 * step + 8)]
            shapes = np.array([draw_view(augmentation, sizes[d.index], d.rng).shape for d in draws])
            real += int(shapes.prod(axis=1).sum())
            padded += 8 * int(shapes.max(axis=0).prod())
        share[sampling] = 1 - real / padded
    assert share["epochs"] > 0.35
    assert share["buckets"] < 0.12


def test_batches_are_not_given_by_their_sizes() -> None:
    sizes = [(20 + number, 30) for number in range(40)]
    one = Sampler(sizes, PaperAugmentation(), seed=0, batch_size=4, sampling="buckets")
    heights = [sizes[one.draw(number).index][0] for number in range(0, 40, 4)]
    assert heights != sorted(heights)
