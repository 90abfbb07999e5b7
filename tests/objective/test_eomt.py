"""EoMT's losses, against transformers' on the same points, and what they read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from panodetr.model.config import EomtConfig, VitConfig
from panodetr.model.eomt import Eomt
from panodetr.objective.config import CriterionConfig, ObjectiveConfig
from panodetr.objective.eomt import compute_eomt_losses, masked_share, point_losses
from panodetr.objective.targets import Batch, Targets, count_totals

TINY = EomtConfig(
    backbone=VitConfig(hidden_dim=24, heads=2, layers=3, grid=4), num_classes=5, num_queries=7,
    query_blocks=2,
)  # fmt: skip
CRITERION = CriterionConfig(label=2.0, mask=5.0, dice=5.0, points=300)


def scene(counts: tuple[int, ...] = (3, 1, 0)) -> Batch:
    """Images of 64 pixels a side; objects are random boxes, those in front first."""
    random = torch.Generator().manual_seed(0)
    index_map = torch.zeros(len(counts), 64, 64, dtype=torch.int16)
    for image, count in enumerate(counts):
        for place in range(count):
            y, x = torch.randint(0, 40, (2,), generator=random).tolist()
            index_map[image, y : y + 20, x : x + 24] = place + 1
    total = sum(counts)
    return Batch(
        pixels=torch.randn(len(counts), 3, 64, 64, generator=random),
        padding=None,
        targets=Targets(
            classes=torch.randint(0, 5, (total,), generator=random),
            boxes=torch.rand(total, 4, generator=random),
            counts=counts,
            index_map=index_map,
        ),
    )


@pytest.mark.parity
@pytest.mark.parametrize("counts", [(3, 1, 2), (1, 0, 7)], ids=["some", "none-and-all"])
def test_losses_are_those_of_transformers_on_the_same_points(counts: tuple[int, ...]) -> None:
    transformers = pytest.importorskip("transformers")
    loss = pytest.importorskip("transformers.models.eomt.modeling_eomt").EomtLoss(
        config=transformers.EomtConfig(num_labels=5, train_num_points=300), weight_dict={}
    )
    targets = scene(counts).targets
    torch.manual_seed(1)
    logits, masks = torch.randn(3, 7, 6), torch.randn(3, 7, 16, 16)
    own = targets.masks(torch.arange(sum(counts))).split(list(counts))
    torch.manual_seed(2)
    expected: dict[str, Tensor] = loss(
        masks_queries_logits=masks,
        class_queries_logits=logits,
        mask_labels=list(own),
        class_labels=list(targets.classes.split(list(counts))),
    )
    torch.manual_seed(2)  # both draw in the same order
    found = point_losses(logits, masks, targets, CRITERION, count_totals(counts, 7, 0.1))
    names = {"label": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
    for name, theirs in names.items():
        torch.testing.assert_close(found[name], expected[theirs], rtol=1e-5, atol=1e-6)


def test_the_parts_of_a_step_add_up_to_the_step_and_every_weight_learns() -> None:
    torch.manual_seed(0)
    model, batch = Eomt(TINY).train(), scene((2, 1))
    config = ObjectiveConfig(criterion=CRITERION)
    total, losses = compute_eomt_losses(model, batch, config, progress=0.0)
    assert losses.keys() == {"label", "mask", "dice", "total"}
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    only_last = replace(config, masked_attention=False)
    alone, _ = compute_eomt_losses(model, batch, only_last, progress=0.0)
    assert alone < total  # each of the two query blocks has losses of its own


def test_masked_attention_ends_block_by_block_as_in_the_original() -> None:
    # Steps of the original's recipes for COCO, 12 epochs of L and 24 of S.
    for steps, begins, ends in (
        (88_692, [14_782, 29_564, 44_346, 59_128], [29_564, 44_346, 59_128, 73_910]),
        (177_384, [29_564, 73_910, 118_256], [59_128, 103_474, 147_820]),
    ):
        for block, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            shares = [
                masked_share(step / steps, len(begins))[block] for step in (begin, begin + 1, end)
            ]
            assert shares[0] == pytest.approx(1)
            assert 0 < shares[1] < 1
            assert shares[2] == pytest.approx(0, abs=1e-9)
    halfway = masked_share(0.25, 4)
    assert halfway[0] == pytest.approx(0.5**0.9)
    assert halfway[1:] == [1, 1, 1]
