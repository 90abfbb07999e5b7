from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.objective.scene import ARCHITECTURE, batch_of, make, part_of, totals_of
from torch import Tensor
from torch.testing import assert_close

from panodetr.model.detr import Detr
from panodetr.objective import auxiliary
from panodetr.objective.auxiliary import Denoiser, add_noise, denoising_loss
from panodetr.objective.config import ObjectiveConfig
from panodetr.objective.criterion import compute_losses
from panodetr.objective.targets import Batch

RUN = ObjectiveConfig(denoising=3)


def loss_of(model: Detr, denoiser: Denoiser, batch: Batch) -> Tensor:
    totals = totals_of(batch.targets.counts, RUN)
    encoded = model.encode(batch.pixels)
    return denoising_loss(model, denoiser, encoded, batch.targets, RUN.criterion, totals)


def test_the_trained_model_is_plain_detr() -> None:
    plain = Detr(ARCHITECTURE)
    model, heads = make(RUN)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert heads.denoiser is not None
    with torch.no_grad():
        before = model.detect(batch_of(2).pixels)
        for parameter in heads.parameters():
            parameter.fill_(torch.nan)
        after = model.detect(batch_of(2).pixels)
    assert_close(after.logits, before.logits, rtol=0, atol=0)


def test_nothing_of_the_truth_reaches_the_models_own_queries() -> None:
    """Other noise, other labels, none at all: what is matched loses exactly the same."""
    batch = batch_of(2, 0, 3)
    losses: list[dict[str, Tensor]] = []
    for seed, groups in ((1, 3), (2, 3), (1, 0)):
        config = replace(RUN, denoising=groups)
        model, heads = make(config)
        torch.manual_seed(seed)
        losses.append(compute_losses(model, heads, batch, config, with_masks=False)[1])
    assert not torch.equal(losses[0]["denoising"], losses[1]["denoising"])
    for name in ("label", "l1", "giou"):
        assert_close(losses[0][name], losses[1][name], rtol=0, atol=0)
        assert_close(losses[0][name], losses[2][name], rtol=0, atol=0)


def test_gradients_reach_the_model_and_the_embeddings() -> None:
    model, heads = make(RUN)
    assert heads.denoiser is not None
    loss_of(model, heads.denoiser, batch_of(2, 3)).backward()
    for part in (model.backbone, model.encoder, model.decoder, model.class_head, model.box_head):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert max(float(gradient.abs().max()) for gradient in gradients) > 0
    for parameter in heads.denoiser.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    assert model.queries.weight.grad is None  # they have no part in it


def test_images_and_groups_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch loses the mean of what its images lose, weighted by objects, however it is padded."""

    def leave(classes: Tensor, boxes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        return classes, boxes

    monkeypatch.setattr(auxiliary, "add_noise", leave)
    model, heads = make(RUN)
    assert heads.denoiser is not None
    both = batch_of(1, 4)
    with torch.no_grad():
        whole = loss_of(model, heads.denoiser, both)
        alone = [loss_of(model, heads.denoiser, part_of(both, slice(n, n + 1))) for n in (0, 1)]
        heads.denoiser.groups = 1
        one_group = loss_of(model, heads.denoiser, both)
    assert_close(whole, (alone[0] + 4 * alone[1]) / 5, rtol=1e-5, atol=1e-5)
    assert_close(whole, one_group, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3)])
def test_images_without_objects_have_nothing_to_find_again(counts: tuple[int, ...]) -> None:
    model, heads = make(RUN)
    assert heads.denoiser is not None
    loss = loss_of(model, heads.denoiser, batch_of(*counts))
    loss.backward()
    assert loss.isfinite()
    assert (loss > 0) == (sum(counts) > 0)
    for parameter in heads.denoiser.parameters():
        assert parameter.grad is not None  # part of every step, for processes that share one
        assert parameter.grad.isfinite().all()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


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
