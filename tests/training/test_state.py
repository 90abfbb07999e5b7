from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.shapes import detr_shape
from torch import Tensor
from torch.testing import assert_close

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import Dataset
from panodetr.model.detr import Detr
from panodetr.objective.targets import count_totals
from panodetr.training.config import TrainConfig
from panodetr.training.start import make_state
from panodetr.training.state import TrainState, average_weights, seed_step
from panodetr.training.step import collate_step, read_steps


def learned(config: TrainConfig, data: Dataset) -> tuple[TrainState, Tensor, int]:
    """Gradients of one step, its loss, and how many bytes it kept for the backward pass."""
    (batch,) = collate_step(config, data, next(read_steps(config, data)))
    state = make_state(config, torch.device("cpu"), print)
    seed_step(0, 0, 0)
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        totals = count_totals(batch.targets.counts, num_queries=6, no_object=0.1)
        total, _ = state.learner(batch, totals, with_masks=True)
    total.backward()
    return state, total, sum(kept)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_and_statistics_are_the_same_with_less_kept(
    tiny_run: TrainConfig, discs: Dataset, norm: str
) -> None:
    shape = detr_shape(tiny_run.spec.architecture)
    shape = replace(shape, backbone=replace(shape.backbone, norm=norm))
    config = replace(tiny_run, spec=replace(tiny_run.spec, architecture=shape))
    assert shape.dropout > 0
    plain, expected, most = learned(config, discs)
    again, found, least = learned(replace(config, checkpointing=True), discs)
    assert_close(found, expected, rtol=0, atol=0)
    wanted = dict(plain.learner.named_parameters())
    for name, parameter in again.learner.named_parameters():
        assert_close(parameter.grad, wanted[name].grad, rtol=1e-6, atol=1e-7)
    for name, tensor in again.learner.state_dict().items():
        assert torch.equal(tensor, plain.learner.state_dict()[name]), name
    assert least < most / 2


def test_the_average_is_the_weighted_mean_of_what_it_saw(tiny_spec: ModelSpec) -> None:
    model = Detr(tiny_spec.architecture).train()
    average = average_weights(model, 0.5)
    mean = average.module
    assert isinstance(mean, Detr)
    assert (mean.training, model.training) == (False, True)
    assert not any(parameter.requires_grad for parameter in mean.parameters())
    weight = model.queries.weight
    expected = weight.detach().clone()
    for done in range(29):
        with torch.no_grad():
            weight.add_(1.0)
            model.backbone.get_buffer("stem_norm.running_mean").add_(1.0)
        average.update_parameters(model)
        decay = min(0.5, (1 + done) / (10 + done)) if done else 0.0
        expected = decay * expected + (1 - decay) * weight.detach()
    assert_close(mean.queries.weight, expected)
    assert_close(mean.queries.weight, weight - 1.0, rtol=0, atol=1e-3)
    assert 27 < mean.backbone.get_buffer("stem_norm.running_mean").mean() < 29
    assert mean.backbone.get_buffer("stem_norm.num_batches_tracked") == 0
