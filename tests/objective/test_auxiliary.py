from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.objective.scene import ARCHITECTURE, batch_of, make, totals_of
from torch import Tensor
from torch.testing import assert_close

from panodetr.model.transformer import SinePositions
from panodetr.objective.auxiliary import TokenHeads, place_queries_on_grid
from panodetr.objective.config import CriterionConfig, ObjectiveConfig
from panodetr.objective.criterion import compute_losses

RUN = ObjectiveConfig(mask_objects=100, query_groups=2, token_weight=1.0)


def test_the_models_own_queries_are_the_first_group_and_see_no_other() -> None:
    model, auxiliary = make(replace(RUN, query_groups=3))
    encoded = model.encode(batch_of(1, 2).pixels)
    own = model.decode(encoded)
    states = model.decode(encoded, auxiliary.queries(model)).unflatten(2, (3, -1))
    assert_close(states[:, :, 0], own)
    assert auxiliary.more_queries is not None
    with torch.no_grad():
        auxiliary.more_queries[1] += 1
    changed = model.decode(encoded, auxiliary.queries(model)).unflatten(2, (3, -1))
    assert_close(changed[:, :, :2], states[:, :, :2])
    assert not torch.allclose(changed[:, :, 2], states[:, :, 2])


def test_equal_groups_lose_what_one_loses() -> None:
    """Losses are means over groups: their number does not change what a weight means."""
    batch = batch_of(2, 0, 3)
    losses: list[dict[str, Tensor]] = []
    for groups in (1, 2):
        model, auxiliary = make(replace(RUN, query_groups=groups))
        if auxiliary.more_queries is not None:
            with torch.no_grad():
                auxiliary.more_queries.copy_(model.queries.weight.expand_as(auxiliary.more_queries))
        auxiliary.token_heads = None
        config = replace(RUN, query_groups=groups, token_weight=0.0)
        total, parts = compute_losses(model, auxiliary, batch, config, with_masks=True)
        losses.append(parts | {"total": total})
    assert losses[0].keys() == {"label", "l1", "giou", "focal", "dice", "total"}
    for name, loss in losses[0].items():
        assert_close(losses[1][name], loss, msg=lambda text, name=name: f"{name}: {text}")


def test_a_sample_of_the_masks_loses_the_same_in_the_mean() -> None:
    batch = batch_of(2, 4)
    run = replace(RUN, query_groups=1, token_weight=0.0)
    model, auxiliary = make(run)

    def dice(most: int) -> float:
        config = replace(run, mask_objects=most)
        return compute_losses(model, auxiliary, batch, config, with_masks=True)[1]["dice"].item()

    samples = torch.tensor([dice(2) for _ in range(60)])
    assert samples.std() > 0
    assert samples.mean().item() == pytest.approx(dice(6), rel=0.05)


@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
def test_batches_with_few_or_no_objects_can_be_learned_from(counts: tuple[int, ...]) -> None:
    model, auxiliary = make(replace(RUN, query_groups=2))
    total, parts = compute_losses(model, auxiliary, batch_of(*counts), RUN, with_masks=True)
    total.backward()
    assert total.isfinite()
    assert parts["tokens"].isfinite()
    gradients = [p.grad for part in (model, auxiliary) for p in part.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert model.queries.weight.grad is not None


def test_tokens_learn_the_object_at_their_centre() -> None:
    """Heads that answer rightly lose nothing, and ones that answer for the next object do."""
    heads = TokenHeads(ARCHITECTURE)
    targets = batch_of(8).targets
    totals = totals_of(targets.counts, RUN)
    rows = torch.linspace(0, 1, 9)[:-1] + 1 / 16
    # A token says its object's class and its box's logit; the heads hand that on.
    told = torch.zeros(1, 128, 8, 8)
    told[0, 0] = (20.0 * (1 - 2 * (torch.arange(8) % 2)))[:, None]
    told[0, 1] = rows.logit()[:, None]
    told[0, 2] = 1.0
    with torch.no_grad():
        for parameter in (*heads.class_head.parameters(), *heads.box_head.parameters()):
            parameter.zero_()
        heads.class_head.weight[0, 0], heads.class_head.weight[1, 0] = 1, -1
        heads.class_head.bias[2] = -50
        first, _, second, _, last = heads.box_head
        for linear in (first, second):
            weight = linear.get_parameter("weight")
            weight[0, 1 if linear is first else 0], weight[1, 2 if linear is first else 1] = 1, 1
        first.get_parameter("bias")[0] = 10  # keeps the logit above 0, where ReLU lets it pass
        weight, bias = last.get_parameter("weight"), last.get_parameter("bias")
        weight[1, 0] = 1
        bias.copy_(torch.tensor([0.0, -10, 20, -torch.tensor(7.0).log().item()]))
        right = heads.loss(told, targets, CriterionConfig(), totals)
        wrong = heads.loss(told.roll(1, 2), targets, CriterionConfig(), totals)
    assert right.item() == pytest.approx(0, abs=1e-4)
    assert wrong.item() > 10


def test_queries_start_as_positions_of_points_all_over_the_image() -> None:
    model, auxiliary = make(replace(RUN, query_groups=2))
    place_queries_on_grid(model, auxiliary)
    table = SinePositions(128)(torch.zeros(1, 256, 256, dtype=torch.bool))[0].flatten(1).T
    points: list[list[int]] = []
    for query in auxiliary.queries(model).flatten(0, 1):
        distance, place = (table - query).abs().amax(1).min(0)
        assert distance < 1e-5
        points.append([int(place) // 256, int(place) % 256])
    own = torch.tensor(points[:6]).float()
    assert own.amin(0).max() < 100
    assert own.amax(0).min() > 156
    assert torch.pdist(own).min() > 40
    assert points[:6] != points[6:]
    cross = model.decoder.layers[0].get_submodule("cross_attention")
    assert_close(
        cross.get_parameter("query.weight"), cross.get_parameter("key.weight"), rtol=0, atol=0
    )
