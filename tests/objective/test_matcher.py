from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panodetr.objective.config import MatchCosts
from panodetr.objective.criterion import match, pair_costs
from panodetr.objective.targets import Targets

CLASSES = 3


def random_case(seed: int, queries: int, counts: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, len(counts), queries, CLASSES + 1, generator=random)
    boxes = torch.rand(2, len(counts), queries, 4, generator=random) * 0.4 + 0.1
    classes = torch.randint(0, CLASSES, (sum(counts),), generator=random)
    truth = torch.rand(sum(counts), 4, generator=random) * 0.4 + 0.1
    return logits, boxes, classes, truth


def targets_of(counts: tuple[int, ...], classes: torch.Tensor, boxes: torch.Tensor) -> Targets:
    nothing = torch.zeros(len(counts), 1, 1, dtype=torch.int16)
    return Targets(classes=classes, boxes=boxes, counts=counts, index_map=nothing)


def least_cost(cost: np.ndarray) -> float:
    """Of all ways to pair rows and columns."""
    if cost.shape[0] > cost.shape[1]:
        cost = cost.T
    rows = range(cost.shape[0])
    return min(
        cost[rows, list(chosen)].sum() for chosen in permutations(range(cost.shape[1]), len(rows))
    )


counts_of_images = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@given(st.integers(0, 10**6), st.integers(1, 5), counts_of_images)
def test_no_assignment_is_cheaper(seed: int, queries: int, counts: tuple[int, ...]) -> None:
    logits, boxes, classes, truth = random_case(seed, queries, counts)
    targets = targets_of(counts, classes, truth)
    costs = MatchCosts()
    found = match(logits, boxes, targets, costs)
    cost = pair_costs(logits, boxes, targets, costs).numpy()
    pairs = list(zip(*(each.tolist() for each in found), strict=True))
    assert pairs == sorted(pairs)  # by layer, image and query
    for layer in range(2):
        for image, count in enumerate(counts):
            own = found.where((found.layer == layer) & (found.image == image))
            place = own.object - targets.starts[image]
            assert len(own.query) == min(queries, count)
            assert len(set(own.query.tolist())) == len(set(place.tolist())) == len(own.query)
            if len(own.query):
                assert 0 <= place.min() <= place.max() < count
                paid = cost[layer, image, own.query, place].sum()
                assert paid == pytest.approx(least_cost(cost[layer, image, :, :count]), abs=1e-5)


@given(st.integers(0, 10**6), st.permutations(range(4)))
def test_the_order_of_the_objects_does_not_matter(seed: int, order: list[int]) -> None:
    logits, boxes, classes, truth = random_case(seed, 6, (4,))
    costs = MatchCosts()
    found = match(logits, boxes, targets_of((4,), classes, truth), costs)
    moved = match(logits, boxes, targets_of((4,), classes[order], truth[order]), costs)
    assert found.query.tolist() == moved.query.tolist()
    assert found.object.tolist() == torch.tensor(order)[moved.object].tolist()


def test_the_cost_is_the_papers() -> None:
    """Probability, L1 and generalised IoU of one pair, by hand."""
    logits = torch.tensor([[[[0.0, 2.0, 0.0]]]])
    boxes = torch.tensor([[[[0.25, 0.5, 0.5, 1.0]]]])  # the left half
    targets = targets_of((1,), torch.tensor([1]), torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    probability = np.exp(2) / (np.exp(2) + 2)
    expected = -1 * probability + 5 * 0.75 - 2 * 0.5
    cost = pair_costs(logits, boxes, targets, MatchCosts())
    assert cost.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_matches_last(bad: float) -> None:
    logits, boxes, classes, truth = random_case(0, 5, (2,))
    targets = targets_of((2,), classes, truth)
    boxes[0, 0, 0] = bad
    matches = match(logits, boxes, targets, MatchCosts())
    assert matches.layer.tolist() == [0, 0, 1, 1]
    assert 0 not in matches.where(matches.layer == 0).query.tolist()
    diverged = match(logits * bad, boxes, targets, MatchCosts())
    assert sorted(diverged.object.tolist()) == [0, 0, 1, 1]
