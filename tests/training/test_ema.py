from __future__ import annotations

import torch
from torch.testing import assert_close

from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.detr import Detr
from panodetr.training.state import average_weights


def test_it_is_the_weighted_mean_of_what_it_saw(tiny_spec: ModelSpec) -> None:
    model = Detr(tiny_spec.architecture)
    average = average_weights(model, 0.5)
    mean = average.module
    assert isinstance(mean, Detr)
    weight = model.queries.weight
    expected = weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(1.0)
            model.backbone.get_buffer("stem_norm.running_mean").add_(1.0)
        average.update_parameters(model)
        done = step - 1
        decay = min(0.5, (1 + done) / (10 + done)) if done else 0.0
        expected = decay * expected + (1 - decay) * weight.detach()
    assert_close(mean.queries.weight, expected)
    assert_close(mean.queries.weight, weight - 1.0, rtol=0, atol=1e-3)
    assert 27 < mean.backbone.get_buffer("stem_norm.running_mean").mean() < 29
    assert mean.backbone.get_buffer("stem_norm.num_batches_tracked") == 0


def test_it_is_a_model_of_its_own(tiny_spec: ModelSpec) -> None:
    model = Detr(tiny_spec.architecture).train()
    average = average_weights(model, 0.9)
    mean = average.module
    assert isinstance(mean, Detr)
    assert not mean.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in mean.parameters())
    with torch.no_grad():
        model.queries.weight.zero_()
    assert mean.queries.weight.abs().sum() > 0
