from __future__ import annotations

from dataclasses import replace
from operator import itemgetter

import pytest
import torch
from tests.objective.scene import ARCHITECTURE, batch_of, make, part_of, totals_of
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from panodetr.model.detr import Detr
from panodetr.model.transformer import SinePositions
from panodetr.objective import auxiliary
from panodetr.objective.auxiliary import (
    Denoiser,
    TokenHeads,
    add_noise,
    denoising_loss,
    place_queries_on_grid,
)
from panodetr.objective.config import CriterionConfig, ObjectiveConfig
from panodetr.objective.criterion import compute_losses
from panodetr.objective.targets import Batch

RUN = ObjectiveConfig(mask_objects=100, query_groups=2, token_weight=1.0)
DENOISED = ObjectiveConfig(denoising=3)


def test_the_models_own_queries_are_the_first_group_and_see_no_other() -> None:
    model, heads = make(replace(RUN, query_groups=3))
    encoded = model.encode(batch_of(1, 2).pixels)
    own = model.decode(encoded)
    states = model.decode(encoded, heads.queries(model)).unflatten(2, (3, -1))
    assert_close(states[:, :, 0], own)
    assert heads.more_queries is not None
    with torch.no_grad():
        heads.more_queries[1] += 1
    changed = model.decode(encoded, heads.queries(model)).unflatten(2, (3, -1))
    assert_close(changed[:, :, :2], states[:, :, :2])
    assert not torch.allclose(changed[:, :, 2], states[:, :, 2])


@pytest.mark.parametrize("masks", [True, False])
def test_tokens_learn_the_object_at_their_centre(
    monkeypatch: pytest.MonkeyPatch, masks: bool
) -> None:
    """Heads that answer rightly lose nothing, and ones that answer for the next object do."""
    heads, batch = TokenHeads(ARCHITECTURE), batch_of(8)
    targets = batch.targets
    below = torch.zeros(1, 128, 64, dtype=torch.bool)
    below[:, 64:] = True
    assert targets.index_map is not None
    index_map = F.pad(targets.index_map, (0, 0, 0, 64)) if masks else None
    batch = replace(
        batch, pixels=F.pad(batch.pixels, (0, 0, 0, 64)), padding=below,
        targets=replace(targets, index_map=index_map),
    )  # fmt: skip
    totals = totals_of(targets.counts, RUN)
    # A token says its row's logits and box, and the heads hand them on.
    logits_of = itemgetter((slice(None), slice(3)))
    boxes_of = itemgetter((slice(None), slice(3, 7)))
    monkeypatch.setattr(heads.class_head, "forward", logits_of)
    monkeypatch.setattr(heads.box_head, "forward", boxes_of)
    rows = F.pad(targets.classes, (0, 8), value=2)  # no object in the padding
    logits = 50 * F.one_hot(rows, 3) - 25.0
    boxes = F.pad(targets.boxes, (0, 0, 0, 8))
    told = torch.cat((logits, boxes, torch.zeros(16, 121)), dim=1)  # 16 rows, D
    told = told.T[None, :, :, None].repeat(1, 1, 1, 8)
    right = heads.loss(told, batch, CriterionConfig(), totals)
    wrong = heads.loss(told.roll(1, 2), batch, CriterionConfig(), totals)
    assert right.item() == pytest.approx(0, abs=1e-4)
    assert wrong.item() > 10


def test_queries_start_as_positions_of_points_all_over_the_image() -> None:
    model, heads = make(replace(RUN, query_groups=2))
    place_queries_on_grid(model, heads)
    table = SinePositions(128)(torch.zeros(1, 256, 256, dtype=torch.bool))[0].flatten(1).T
    points: list[list[int]] = []
    for query in heads.queries(model).flatten(0, 1):
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


def denoiser_and_model() -> tuple[Denoiser, Detr]:
    model, heads = make(DENOISED)
    assert heads.denoiser is not None
    return heads.denoiser, model


def loss_of(denoiser: Denoiser, model: Detr, batch: Batch) -> Tensor:
    totals, encoded = totals_of(batch.targets.counts, DENOISED), model.encode(batch.pixels)
    return denoising_loss(model, denoiser, encoded, batch.targets, DENOISED.criterion, totals)


def test_nothing_of_the_truth_reaches_the_models_own_queries() -> None:
    """Other noise, other labels, none at all: what is matched loses exactly the same."""
    batch = batch_of(2, 0, 3)
    losses: list[dict[str, Tensor]] = []
    for seed, groups in ((1, 3), (2, 3), (1, 0)):
        config = replace(DENOISED, denoising=groups)
        model, heads = make(config)
        torch.manual_seed(seed)
        losses.append(compute_losses(model, heads, batch, config, with_masks=False)[1])
    assert not torch.equal(losses[0]["denoising"], losses[1]["denoising"])
    for name in ("label", "l1", "giou"):
        assert_close(losses[0][name], losses[1][name], rtol=0, atol=0)
        assert_close(losses[0][name], losses[2][name], rtol=0, atol=0)


def test_gradients_reach_the_model_and_the_embeddings() -> None:
    denoiser, model = denoiser_and_model()
    loss_of(denoiser, model, batch_of(2, 3)).backward()
    for part in (model.backbone, model.encoder, model.decoder, model.class_head, model.box_head):
        assert any(p.grad.abs().max() > 0 for p in part.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in denoiser.parameters())
    assert model.queries.weight.grad is None  # they have no part in it


@torch.no_grad()
def test_images_and_groups_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch loses the mean of what its images lose, weighted by objects, however it is padded."""

    def leave(classes: Tensor, boxes: Tensor, _: int) -> tuple[Tensor, Tensor]:
        return classes, boxes

    monkeypatch.setattr(auxiliary, "add_noise", leave)
    denoiser, model = denoiser_and_model()
    both = batch_of(1, 4)
    whole = loss_of(denoiser, model, both)
    alone = [loss_of(denoiser, model, part_of(both, slice(n, n + 1))) for n in (0, 1)]
    denoiser.groups = 1
    one_group = loss_of(denoiser, model, both)
    assert_close(whole, (alone[0] + 4 * alone[1]) / 5, rtol=1e-5, atol=1e-5)
    assert_close(whole, one_group, rtol=1e-5, atol=1e-5)


def test_noise_stays_within_its_bounds_and_the_image() -> None:
    torch.manual_seed(0)
    classes, boxes = torch.full((4000,), 3), torch.tensor([0.5, 0.5, 0.2, 0.1]).repeat(4000, 1)
    noisy_classes, noisy = add_noise(classes, boxes, 10)
    changed = (noisy_classes != 3).float().mean().item()
    assert changed == pytest.approx(0.2 * 0.9, abs=0.02)
    assert 0 <= noisy_classes.min() <= noisy_classes.max() < 10
    shift = (noisy - boxes)[:, :2].abs() / boxes[:, 2:]
    scale = noisy[:, 2:] / boxes[:, 2:]
    assert 0.19 < shift.max() <= 0.2001  # 0.4 of half the size
    assert 0.6 - 1e-5 <= scale.min() < 0.61
    assert 1.39 < scale.max() <= 1.4 + 1e-5
    _, edge = add_noise(classes, torch.tensor([1.0, 0, 1, 1]).repeat(4000, 1), 10)
    assert 0 <= edge.min() <= edge.max() <= 1
