from __future__ import annotations

import pytest
import torch

from panodetr.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_values_are_dropped_with_their_probability_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(1001, 999)
    dropped = Dropout(p).train()(values)
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=2e-3)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    # Neighbours share a random number: not their fate.
    lost = (dropped == 0).float()
    for apart in (1, 2, 3, 4):
        both = (lost[:, apart:] * lost[:, :-apart]).mean().item()
        assert both == pytest.approx(p * p, abs=3e-3)


def test_gradients_pass_where_values_do() -> None:
    values = torch.randn(3, 5, 7, requires_grad=True)
    dropped = Dropout(0.5).train()(values)
    dropped.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad == 0, dropped == 0)
    assert torch.equal(values.grad[values.grad != 0].unique(), torch.tensor([2.0]))


def test_the_same_seed_drops_the_same() -> None:
    values, dropout = torch.randn(64, 3), Dropout(0.3).train()
    torch.manual_seed(5)
    first = dropout(values)
    torch.manual_seed(5)
    assert torch.equal(dropout(values), first)


@pytest.mark.parametrize("dropout", [Dropout(0.5).eval(), Dropout(0.0).train()])
def test_nothing_is_dropped_in_use_or_at_no_probability(dropout: Dropout) -> None:
    values = torch.randn(4, 4)
    assert torch.equal(dropout(values), values)
