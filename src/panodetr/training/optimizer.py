"""AdamW with the backbone's own rate, and the learning rate's course."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from panodetr.model.detr import Detr
    from panodetr.training.config import TrainConfig


def make_optimizer(model: Detr, scaffold: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; a group's `initial_lr` is its rate at the highest."""
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    names = {id(p) for p in backbone}
    rest = [
        p
        for part in (model, scaffold)
        for p in part.parameters()
        if p.requires_grad and id(p) not in names
    ]
    groups = [
        {"params": rest, "initial_lr": config.learning_rate},
        {"params": backbone, "initial_lr": config.backbone_learning_rate},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """What the highest rate is multiplied by at a step, counted from 0.

    It rises, stays level, and falls to zero at the end.
    """
    up = (step + 1) / (config.warmup + 1)
    down = (config.steps - step) / config.decay if config.decay else 1.0
    return min(1.0, up, down)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its highest rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
