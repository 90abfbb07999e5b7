from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from panodetr.training.config import TrainConfig
from panodetr.training.loop import make_state
from panodetr.training.optimizer import learning_rate_factor, set_learning_rate

CPU = torch.device("cpu")


def test_the_rate_rises_stays_level_and_falls_to_zero(tiny_run: TrainConfig) -> None:
    config = replace(tiny_run, steps=10, warmup=3, decay=4)
    course = [learning_rate_factor(step, config) for step in range(11)]
    assert course == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_without_warmup_and_decay_the_rate_is_level(tiny_run: TrainConfig) -> None:
    config = replace(tiny_run, steps=10, warmup=0, decay=0)
    assert {learning_rate_factor(step, config) for step in range(10)} == {1.0}


def test_until_the_decay_the_rate_does_not_depend_on_the_number_of_steps(
    tiny_run: TrainConfig,
) -> None:
    short, long = (replace(tiny_run, steps=steps, warmup=4, decay=5) for steps in (20, 40))
    for step in range(16):
        assert learning_rate_factor(step, short) == learning_rate_factor(step, long)


def test_the_backbone_has_a_rate_of_its_own(tiny_run: TrainConfig) -> None:
    state = make_state(tiny_run, CPU)
    set_learning_rate(state.optimizer, 0.5)
    rate = {id(p): group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    for name, parameter in state.model.named_parameters():
        expected = 5e-4 if name.startswith("backbone.") else 1e-3
        assert rate.pop(id(parameter)) == pytest.approx(expected / 2)
    assert len(rate) == len(list(state.scaffold.parameters()))
    set_learning_rate(state.optimizer, 1.0)
    assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([1e-3, 5e-4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"query_groups": 0}, "query_groups is 0; expected at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected more than 0"),
        ({"clip": float("nan")}, "clip is nan; expected more than 0"),
        ({"token_weight": -1.0}, r"token_weight is -1\.0; expected 0 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
    ],
)
def test_runs_that_cannot_be_are_refused(
    tiny_run: TrainConfig, change: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_run, **change)  # pyright: ignore[reportArgumentType]
