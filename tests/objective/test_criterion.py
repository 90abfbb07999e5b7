from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from panodetr.compat.labels import LabelTargets
from panodetr.objective.config import CriterionConfig, MatchCosts
from panodetr.objective.criterion import (
    Matches,
    detection_losses,
    dice_loss,
    focal_loss,
    mask_losses,
    match,
    pair_costs,
    weighted_sum,
)
from panodetr.objective.targets import Targets, count_totals

ORIGINAL_NAMES = {"label": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}


class Golden:
    """What the original's criterion was fed, and what it gave."""

    def __init__(self, file: dict[str, NDArray[Any]]) -> None:
        self.file = file
        self.logits = self.stacked("in/logits").requires_grad_()  # 3, 3, 20, 11
        self.boxes = self.stacked("in/boxes").requires_grad_()  # 3, 3, 20, 4
        self.masks = torch.from_numpy(file["in/masks"]).requires_grad_()  # 3, 20, 16, 20
        masks = [file[f"target/{image}/masks"] for image in range(3)]
        height, width = (max(m.shape[axis] for m in masks) for axis in (1, 2))
        self.padding = torch.ones(3, height, width, dtype=torch.bool)
        padded: list[NDArray[np.bool_]] = []
        for image, each in enumerate(masks):
            h, w = each.shape[1:]
            self.padding[image, :h, :w] = False
            beyond = ((0, 0), (0, height - h), (0, width - w))
            padded.append(np.pad(each.astype(np.bool_), beyond))
        self.targets = LabelTargets(  # masks are drawn at random, so they overlap
            classes=torch.from_numpy(self.joined("labels")),
            boxes=torch.from_numpy(self.joined("boxes")),
            counts=(5, 0, 3),
            index_map=torch.from_numpy(np.concatenate(padded)),
        )

    def stacked(self, name: str) -> Tensor:
        return torch.stack([torch.from_numpy(self.file[f"{name}_{layer}"]) for layer in range(3)])

    def joined(self, name: str) -> NDArray[Any]:
        return np.concatenate([self.file[f"target/{image}/{name}"] for image in range(3)])

    def loss(self, name: str) -> Tensor:
        return torch.from_numpy(self.file[f"loss/{name}"])

    def losses(self, config: CriterionConfig) -> tuple[dict[str, Tensor], Matches]:
        matches = match(self.logits, self.boxes, self.targets, config.costs)
        totals = count_totals((5, 0, 3), self.logits.shape[2], config.no_object)
        losses = detection_losses(self.logits, self.boxes, self.targets, matches, config, totals)
        last = matches.where(matches.layer == 2)
        masks = self.masks[last.image, last.query]
        return losses | mask_losses(masks, self.targets, last.object, self.padding, config, 8), last


@pytest.fixture
def golden_criterion(golden: Path) -> Golden:
    with np.load(golden / "facebook-criterion.npz") as file:
        return Golden(dict(file))


def test_matching_losses_and_gradients_are_the_originals(golden_criterion: Golden) -> None:
    given, config = golden_criterion, CriterionConfig(mask_padding=True)
    losses, last = given.losses(config)
    for image in range(3):
        own = last.where(last.image == image)
        assert own.query.tolist() == given.file[f"match/{image}/query"].tolist()
        place = own.object - given.targets.starts[image]
        assert place.tolist() == given.file[f"match/{image}/target"].tolist()

    for name, original in ORIGINAL_NAMES.items():  # of every layer
        expected = [given.loss(original + layer) for layer in ("_0", "_1", "")]
        assert_close(losses[name], torch.stack(expected), atol=1e-5, rtol=0)
    assert_close(losses["focal"], given.loss("loss_mask"), atol=1e-5, rtol=0)
    assert_close(losses["dice"], given.loss("loss_dice"), atol=1e-5, rtol=0)
    total = weighted_sum(losses, config)
    assert_close(total, given.loss("total"), atol=1e-5, rtol=0)

    total.backward()
    for name, fed in (("logits", given.logits), ("boxes", given.boxes)):
        assert_close(fed.grad, given.stacked(f"grad/{name}"), atol=1e-5, rtol=0)
    expected = torch.from_numpy(given.file["grad/masks"])
    assert expected.abs().max() > 1e-4  # else the next line would say nothing
    assert_close(given.masks.grad, expected, atol=1e-5, rtol=0)


def test_padding_counts_in_the_mask_losses_only_when_asked_for(golden_criterion: Golden) -> None:
    def losses(config: CriterionConfig, at_padding: float) -> list[float]:
        last = golden_criterion.losses(config)[1]
        masks = golden_criterion.masks.detach()[last.image, last.query]
        masks = torch.nn.functional.interpolate(masks[:, None], (64, 80), mode="bilinear")[:, 0]
        masks = masks.masked_fill(golden_criterion.padding[last.image], at_padding)
        args = (golden_criterion.targets, last.object, golden_criterion.padding, config, 8)
        return [loss.item() for loss in mask_losses(masks, *args).values()]

    ours, originals = CriterionConfig(), CriterionConfig(mask_padding=True)
    assert losses(ours, -9.0) == losses(ours, 9.0)
    assert losses(originals, -9.0) != losses(originals, 9.0)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_pixels_that_do_not_count_are_as_if_absent(
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 20), (torch.rand(3, 20) > 0.5).float()
    valid = torch.zeros(3, 20)
    valid[:, :12] = 1
    absent = loss(logits[:, :12], truth[:, :12], None)
    assert_close(loss(logits, truth * valid, valid), absent)
    assert loss(torch.where(truth > 0, 30.0, -30.0), truth, None).max() < 1e-6


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
