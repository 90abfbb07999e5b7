"""What is learned and how fast: freezing, AdamW with the backbone's own rate, and its course."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from panodetr.model.detr import Detr
    from panodetr.training.config import TrainConfig


def freeze(model: Detr, config: TrainConfig) -> None:
    """Keep what a run does not learn from having gradients."""
    model.requires_grad_(config.learned == "all")
    for part in _mask_parts(model) if config.learned == "masks" else ():
        part.requires_grad_(True)
    for part in frozen_backbone(model, config.frozen_stages):
        part.requires_grad_(False)


def set_modes(model: Detr, config: TrainConfig) -> None:
    """Put what is learned into train mode and what is frozen into eval mode.

    Dropout in a frozen part would disturb what it has learned, and live batch norms would drift
    away from it.
    """
    model.train(config.learned == "all")
    for part in _mask_parts(model) if config.learned == "masks" else ():
        part.train()
    for part in frozen_backbone(model, config.frozen_stages):
        part.eval()


def frozen_backbone(model: Detr, stages: int) -> list[nn.Module]:
    """The parts of the backbone that are frozen with so many of its stages: the stem is first."""
    if stages == 0:
        return []
    backbone = model.backbone
    return [backbone.stem_conv, backbone.stem_norm, *list(backbone.stages)[:stages]]


def _mask_parts(model: Detr) -> list[nn.Module]:
    assert model.attention_maps is not None
    assert model.mask_head is not None
    return [model.attention_maps, model.mask_head]


def make_optimizer(model: Detr, auxiliary: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; a group's `initial_lr` is its rate at the highest."""
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    names = {id(p) for p in backbone}
    rest = [
        p
        for part in (model, auxiliary)
        for p in part.parameters()
        if p.requires_grad and id(p) not in names
    ]
    groups = [
        {"params": rest, "initial_lr": config.learning_rate},
        {"params": backbone, "initial_lr": config.backbone_learning_rate},
    ]
    learned = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        learned, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """What the highest rate is multiplied by at a step, counted from 0.

    It rises, stays level, drops to a tenth, and falls to zero at the end: each where the run asks
    for it.
    """
    up = (step + 1) / (config.warmup + 1)
    down = (config.steps - step) / config.decay if config.decay else 1.0
    dropped = 0.1 if 0 < config.drop <= step else 1.0
    return dropped * min(1.0, up, down)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its highest rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
