from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from typing import Any

import pytest
import torch
from tests.objective.scene import batch_of, make, part_of, totals_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from panodetr.objective.config import ObjectiveConfig
from panodetr.objective.criterion import compute_losses
from panodetr.objective.targets import Totals

TO_HOST = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item)


class Transfers(TorchFunctionMode):
    """Counts what leaves the device, by the shape of the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TO_HOST:
            self.shapes.append((func.__name__, tuple(args[0].shape)))
        return func(*args, **(kwargs or {}))


RUN = ObjectiveConfig(mask_objects=100, token_weight=1.0, attention_weight=1.0)


def test_a_step_brings_the_costs_of_all_layers_to_the_host_at_once() -> None:
    model, heads = make(RUN)
    with Transfers() as transfers:
        total, _ = compute_losses(model, heads, batch_of(2, 0, 3), RUN, with_masks=True)
        total.backward()
    layers, images, queries = 2, 3, 6
    costs = (layers, images, queries, 3)
    assert Counter(transfers.shapes) == Counter([("cpu", costs), ("numpy", costs)])


@pytest.mark.parametrize("split", [1, 2, 3])
def test_parts_of_a_step_add_up_to_the_whole(split: int) -> None:
    """As many objects here as none there: what a part is divided by is counted over the step."""
    batch = batch_of(2, 0, 3, 1)
    totals = totals_of(batch.targets.counts, RUN)
    gradients: list[Tensor] = []
    figures: list[dict[str, Tensor]] = []
    for parts in ([slice(0, 4)], [slice(0, split), slice(split, 4)]):
        model, heads = make(RUN)
        logged: list[dict[str, Tensor]] = []
        for images in parts:
            part = part_of(batch, images)
            total, shown = compute_losses(model, heads, part, RUN, with_masks=True, totals=totals)
            total.backward()
            logged.append(shown)
        figures.append({name: torch.stack([p[name] for p in logged]).sum() for name in logged[0]})
        gradient = model.project.weight.grad
        assert gradient is not None
        gradients.append(gradient)
    assert figures[0].keys() == {
        "label", "l1", "giou", "tokens", "focal", "dice", "attention", "total"
    }  # fmt: skip
    for name, figure in figures[0].items():
        assert_close(figures[1][name], figure, atol=1e-5, rtol=1e-5, msg=name)
    assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_a_sample_of_the_masks_loses_the_same_in_the_mean() -> None:
    batch = batch_of(2, 4)
    run = replace(RUN, token_weight=0.0)
    model, heads = make(run)

    def dice(most: int) -> float:
        config = replace(run, mask_objects=most)
        return compute_losses(model, heads, batch, config, with_masks=True)[1]["dice"].item()

    samples = torch.tensor([dice(2) for _ in range(60)])
    assert samples.std() > 0
    assert samples.mean().item() == pytest.approx(dice(6), rel=0.05)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3), (2, 0)])
def test_images_without_objects_teach_that_there_is_nothing(counts: tuple[int, ...]) -> None:
    model, heads = make(RUN)
    total, parts = compute_losses(model, heads, batch_of(*counts), RUN, with_masks=True)
    total.backward()
    assert all(loss.isfinite() for loss in parts.values())
    for name in ("l1", "giou", "focal", "dice", "attention"):
        assert (parts[name] > 0) == (sum(counts) > 0)
    for part in (model, heads):
        for name, parameter in part.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert model.class_head.bias.grad is not None
    if not sum(counts):
        assert model.class_head.bias.grad[-1] < 0  # more "no object" is better


def test_totals_of_parts_add_up() -> None:
    whole = totals_of((2, 0, 9), RUN)
    parts = [totals_of(counts, RUN) for counts in ((2,), (0, 9))]
    assert astuple(whole) == pytest.approx(
        [sum(pair) for pair in zip(*map(astuple, parts), strict=True)]
    )
    assert whole == Totals(objects=11, label_weight=8 + 0.1 * 10, images=3)  # 6 queries an image


@pytest.mark.parametrize("learned", ["all", "masks"])
def test_half_precision_of_the_network_leaves_losses_in_full(learned: str) -> None:
    config = RUN
    if learned == "masks":
        config = replace(RUN, learned="masks", token_weight=0.0)
    model, heads = make(config)
    found: list[Tensor] = []
    watched: list[nn.Module] = [model.class_head, model.box_head]
    if heads.token_heads is not None:
        watched += heads.token_heads.children()

    def keep(_head: nn.Module, _given: object, output: Tensor) -> None:
        found.append(output)

    for head in watched:
        head.register_forward_hook(keep)
    full, _ = compute_losses(model, heads, batch_of(2, 3), config, with_masks=True)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        total, parts = compute_losses(model, heads, batch_of(2, 3), config, with_masks=True)
    total.backward()
    assert len(found) >= 2 * len(watched)
    assert {output.dtype for output in found} == {torch.float32}
    assert {loss.dtype for loss in parts.values()} == {torch.float32}
    assert total.item() == pytest.approx(full.item(), rel=0.1)
