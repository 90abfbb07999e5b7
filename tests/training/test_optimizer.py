from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.objective.scene import batch_of

from panodetr.model.detr import Detr
from panodetr.objective.auxiliary import AuxiliaryHeads
from panodetr.objective.criterion import compute_losses
from panodetr.training.config import TrainConfig
from panodetr.training.optimizer import (
    freeze,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
)
from panodetr.training.start import make_state

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("warmup", "drop", "decay", "course"),
    [
        (3, 0, 4, [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]),
        (0, 0, 0, [1] * 10),
        (1, 3, 2, [0.5, 1, 1, 0.1, 0.1, 0.05, 0]),
    ],
)
def test_the_rate_rises_drops_and_falls_to_zero(
    tiny_run: TrainConfig, warmup: int, drop: int, decay: int, course: list[float]
) -> None:
    steps = len(course) - (decay > 0)
    config = replace(tiny_run, steps=steps, warmup=warmup, drop=drop, decay=decay)
    found = [learning_rate_factor(step, config) for step in range(len(course))]
    assert found == pytest.approx(course)
    longer = replace(config, steps=steps + 20)  # until the decay it does not depend on the steps
    level = range(len(course))[: steps - decay + 1]
    assert found[: len(level)] == [learning_rate_factor(step, longer) for step in level]


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_frozen_stages_have_no_gradients_and_stay_in_eval_mode(
    tiny_run: TrainConfig, stages: int
) -> None:
    config = replace(tiny_run, frozen_stages=stages)
    model = Detr(config.spec.architecture)
    freeze(model, config)
    frozen = tuple(["backbone.stem", *(f"backbone.stages.{n}." for n in range(stages))])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != (stages > 0 and name.startswith(frozen)), name
    for number, stage in enumerate(model.backbone.stages):
        assert all(module.training == (number >= stages) for module in stage.modules())
    assert model.backbone.stem_norm.training == (stages == 0)
    assert model.encoder.training


def test_a_mask_step_leaves_everything_else_as_it_was(tiny_run: TrainConfig) -> None:
    """Live batch norms too: their running means would drift, without any gradient."""
    config = replace(tiny_run, learned="masks", token_weight=0.0, mask_start=0)
    torch.manual_seed(0)
    model = Detr(config.spec.architecture)
    freeze(model, config)
    mask_parts = ("attention_maps", "mask_head")
    for name, module in model.named_modules():
        if name not in ("", *mask_parts):
            assert module.training == name.startswith(mask_parts), name
    auxiliary = AuxiliaryHeads(model.config, config)
    optimizer = make_optimizer(model, auxiliary, config)
    assert [group["initial_lr"] for group in optimizer.param_groups] == [1e-3]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    total, parts = compute_losses(model, auxiliary, batch_of(2, 0), config, with_masks=True)
    total.backward()
    optimizer.step()
    assert parts.keys() == {"focal", "dice", "total"}
    after = model.state_dict()
    moved = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {*mask_parts}


def test_the_backbone_has_a_rate_of_its_own(tiny_run: TrainConfig) -> None:
    state = make_state(tiny_run, CPU, print)
    rising = replace(tiny_run, warmup=1, drop=0, decay=0)
    set_learning_rate(state.optimizer, 0, rising)
    rate = {id(p): group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    for name, parameter in state.learner.model.named_parameters():
        expected = 5e-4 if name.startswith("backbone.") else 1e-3
        assert rate.pop(id(parameter)) == pytest.approx(expected / 2)
    assert len(rate) == len(list(state.learner.auxiliary.parameters()))
    set_learning_rate(state.optimizer, 1, rising)
    assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([1e-3, 5e-4])
