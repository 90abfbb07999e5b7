from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from panodetr.model.detr import Detr
from panodetr.objective.auxiliary import AuxiliaryHeads
from panodetr.objective.criterion import Totals, count_totals
from panodetr.objective.objective import compute_losses
from panodetr.training.batch import Batch, Targets
from panodetr.training.config import TrainConfig

TO_HOST = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item)


class Transfers(TorchFunctionMode):
    """Counts what leaves the device, by the shape of the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in TO_HOST:
            tensor = args[0]
            assert isinstance(tensor, Tensor)
            self.shapes.append((func.__name__, tuple(tensor.shape)))
        return func(*args, **(kwargs or {}))


def batch_of(*counts: int) -> Batch:
    """Images of noise; object n of an image is row n of its 8 by 8 grid."""
    random = torch.Generator().manual_seed(2)
    index_map = torch.zeros(len(counts), 64, 64, dtype=torch.int16)
    boxes: list[list[float]] = []
    for image, count in enumerate(counts):
        for place in range(count):
            index_map[image, 8 * place : 8 * place + 8] = place + 1
            boxes.append([0.5, (place + 0.5) / 8, 1.0, 1 / 8])
    return Batch(
        pixels=torch.randn(len(counts), 3, 64, 64, generator=random),
        padding=None,
        targets=Targets(
            classes=torch.arange(sum(counts)) % 2,
            boxes=torch.tensor(boxes).reshape(-1, 4),
            counts=counts,
            index_map=index_map,
        ),
    )


def part_of(batch: Batch, images: slice) -> Batch:
    numbers = range(len(batch.pixels))[images]
    own = torch.isin(batch.targets.image, torch.tensor(numbers))
    assert batch.targets.index_map is not None
    return Batch(
        pixels=batch.pixels[images],
        padding=None,
        targets=Targets(
            classes=batch.targets.classes[own],
            boxes=batch.targets.boxes[own],
            counts=batch.targets.counts[images],
            index_map=batch.targets.index_map[images],
        ),
    )


def make(config: TrainConfig) -> tuple[Detr, AuxiliaryHeads]:
    torch.manual_seed(0)
    return Detr(config.spec.architecture).eval(), AuxiliaryHeads(config)


@pytest.fixture
def run(tiny_run: TrainConfig) -> TrainConfig:
    return replace(tiny_run, mask_objects=100, attention_weight=1.0)


def test_a_step_brings_the_costs_of_all_layers_to_the_host_at_once(run: TrainConfig) -> None:
    config = replace(run, denoising=2)
    model, scaffold = make(config)
    with Transfers() as transfers:
        total, _ = compute_losses(model, scaffold, batch_of(2, 0, 3), config, with_masks=True)
        total.backward()
    layers, images, queries = 2, 3 * config.query_groups, 6
    costs = (layers, images, queries, 3)
    assert Counter(transfers.shapes) == Counter([("cpu", costs), ("numpy", costs)])


@pytest.mark.parametrize("split", [1, 2, 3])
def test_parts_of_a_step_add_up_to_the_whole(run: TrainConfig, split: int) -> None:
    """As many objects here as none there: what a part is divided by is counted over the step."""
    batch = batch_of(2, 0, 3, 1)
    totals = count_totals(batch.targets.counts, run)
    gradients: list[Tensor] = []
    figures: list[dict[str, Tensor]] = []
    for parts in ([slice(0, 4)], [slice(0, split), slice(split, 4)]):
        model, scaffold = make(run)
        logged: list[dict[str, Tensor]] = []
        for images in parts:
            part = part_of(batch, images)
            total, shown = compute_losses(
                model, scaffold, part, run, with_masks=True, totals=totals
            )
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


def test_totals_of_parts_add_up(run: TrainConfig) -> None:
    whole = count_totals((2, 0, 9), run)
    parts = [count_totals(counts, run) for counts in ((2,), (0, 9))]
    assert astuple(whole) == pytest.approx(
        [sum(pair) for pair in zip(*map(astuple, parts), strict=True)]
    )
    assert whole == Totals(objects=11, label_weight=8 + 0.1 * 10, images=3)  # 6 queries an image


def test_a_whole_step_is_what_a_batch_alone_is_taken_for(run: TrainConfig) -> None:
    batch = batch_of(0, 0)
    model, scaffold = make(run)
    alone, _ = compute_losses(model, scaffold, batch, run, with_masks=True)
    given, _ = compute_losses(
        model, scaffold, batch, run, with_masks=True, totals=count_totals((0, 0), run)
    )
    assert_close(alone, given)


@pytest.mark.parametrize("learned", ["all", "masks"])
def test_half_precision_of_the_network_leaves_losses_in_full(
    run: TrainConfig, learned: str
) -> None:
    config = replace(run, denoising=1)
    if learned == "masks":
        config = replace(run, learned="masks", query_groups=1, token_weight=0.0, mask_start=0)
    model, scaffold = make(config)
    found: list[Tensor] = []

    def keep(_head: nn.Module, _given: object, output: Tensor) -> None:
        found.append(output)

    heads: list[nn.Module] = [model.class_head, model.box_head]
    if scaffold.token_heads is not None:
        heads += scaffold.token_heads.children()
    for head in heads:
        head.register_forward_hook(keep)
    full, _ = compute_losses(model, scaffold, batch_of(2, 3), config, with_masks=True)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        total, parts = compute_losses(model, scaffold, batch_of(2, 3), config, with_masks=True)
    total.backward()
    assert len(found) >= 2 * len(heads)
    assert {output.dtype for output in found} == {torch.float32}
    assert {loss.dtype for loss in parts.values()} == {torch.float32}
    assert total.item() == pytest.approx(full.item(), rel=0.1)
